//! `jetmill bench`: what this build does on this machine, beside what `JetStream` alone does.
//!
//! It starts its own `jetmill dev` as a process in a temporary folder, so that the figures are those
//! of the product as it is started, not of a special build. Every figure counts rows of the ledger
//! or outcomes: a task that was only accepted is not done.

mod instance;
mod latency;
mod machine;
mod measure;
mod raw;
mod report;

use std::time::Duration;

use anyhow::Context as _;
use common::error::{ApiError, ErrorCode};
use jetmill_sdk::Client;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::Global,
    exit::Exit,
    output::{self, Ui},
};
use instance::Instance;
use measure::Load;
use report::Report;

/// It never takes longer.
const LONGEST: Duration = Duration::from_secs(570);
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Tasks of the bulk run
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..=5_000_000))]
    tasks: u32,
    /// Callers that submit one task at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    callers: u32,
    /// Attempts that the no-op worker runs at once
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4096))]
    slots: u32,
    /// What the payloads are made of
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// sqlite, or the address of a PostgreSQL database that is empty
    #[arg(long, value_name = "LEDGER", default_value = "sqlite")]
    ledger: String,
    /// Make nats-server flush each message to disk
    #[arg(long)]
    sync_always: bool,
}

/// Measures and reports; the last line is one JSON object with every figure.
pub(crate) async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let ui = Ui { json: global.json };
    if args.ledger != "sqlite" && !args.ledger.starts_with("postgres") {
        let told =
            ApiError::invalid_field("--ledger", "must be sqlite or postgres://user@host/database");
        return Err(told.into());
    }
    let measured = timeout(LONGEST, Box::pin(measure_all(&args))).await.map_err(|_| {
        ApiError::new(ErrorCode::Unavailable, format!("it took longer than {LONGEST:?}"))
            .hint("measure with fewer --tasks")
    });
    let report = measured??;
    if !ui.json {
        output::line(report.text())?;
    }
    output::json(&report)?;
    Ok(Exit::Done)
}

async fn measure_all(args: &Args) -> anyhow::Result<Report> {
    let say = |what: &str| output::note(format_args!("bench: {what}"));
    if cfg!(debug_assertions) {
        say("this is a debug build: its figures say nothing about a release build")?;
    }
    say("starting jetmill dev in a temporary folder")?;
    let instance = Instance::start(args).await?;
    let client = Client::connect(&instance.addresses.nats).await?;
    let nats_version = client.bus().client().server_info().version;
    let load = Load::new(&instance.addresses.nats, args.seed).await?;
    let leave = CancellationToken::new();
    let mut workers = JoinSet::new();
    workers.spawn(load.worker(args.slots)?.run(leave.clone()));
    say("warming up")?;
    load.warm_up().await?;
    say("500 tasks one after the other")?;
    let idle = load.idle(500).await?;
    say("a chain of 40 tasks")?;
    let chain_step = load.chain(40).await?;
    say(&format!("{} tasks in bulk", args.tasks))?;
    let bulk = load.bulk(args.tasks as usize).await?;
    let singles = (args.tasks as usize / 5).max(args.callers as usize);
    say(&format!("{singles} tasks by {} callers", args.callers))?;
    let single = load.singles(singles, args.callers as usize).await?;
    leave.cancel();
    let _ = timeout(LEAVE_WITHIN, workers.join_next()).await;
    let raw_tasks = (args.tasks as usize).min(50_000);
    say(&format!("{raw_tasks} tasks through bare JetStream"))?;
    let raw = raw::pipeline(&instance.addresses.nats, raw_tasks, load.payload_bytes()).await?;
    let memory = instance.memory();
    instance.stop().await.context("failed to stop jetmill dev")?;
    Ok(Report {
        machine: machine::look(),
        jetmill: env!("CARGO_PKG_VERSION"),
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        nats_server: nats_version,
        rustc: option_env!("JETMILL_RUSTC").unwrap_or("unknown"),
        sync: if args.sync_always { "always" } else { "2m (nats-server's default)" },
        ledger: if args.ledger == "sqlite" { "sqlite" } else { "postgres" },
        seed: args.seed,
        slots: args.slots,
        callers: args.callers,
        payload_bytes: load.payload_bytes(),
        bulk,
        idle,
        single,
        chain_step_ms: chain_step,
        raw,
        memory,
    })
}
