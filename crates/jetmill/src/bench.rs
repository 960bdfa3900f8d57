//! `jetmill bench`: what this build does on this machine, beside what `JetStream` alone does.
//!
//! The platform, the worker and the client are processes of their own in a temporary folder, so that
//! the figures are those of the product as it is started, not of a special build. Every figure counts
//! rows of the ledger or outcomes: a task that was only accepted is not done.

mod backlog;
mod latency;
mod load;
mod machine;
mod measure;
mod open_loop;
mod plan;
mod process;
mod raw;
mod report;
mod rows;
mod service;
mod shell;
mod site;
mod steady;
mod watch;
mod worker;

use std::{collections::BTreeMap, time::Duration};

use common::error::{ApiError, ErrorCode};
use tokio::time::timeout;

use crate::{
    cli::Global,
    exit::{Exit, bad_input},
    output::{self, Ui},
};
use plan::{Asked, Ledger, Row, Services};
use report::{About, Report, Sheet};
use rows::{Found, Sizes};

/// One run of everything never takes longer.
const LONGEST: Duration = Duration::from_secs(570);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    platform: Platform,
    /// Only these rows [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rows: Vec<Row>,
    /// How often everything is measured; figures are then medians with the least and the most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    runs: u32,
    #[command(flatten)]
    sizes: Sizes,
}

/// On which platform. Without any of these: together on SQLite in full, and what is held to goals of
/// its own (fsync always; separate on PostgreSQL) in short.
#[derive(Clone, Debug, clap::Args)]
struct Platform {
    /// How the services run [default: together]
    #[arg(long, value_name = "HOW")]
    services: Option<Services>,
    /// `sqlite`; `postgres`, started for the time from the machine's programs; or
    /// `postgres=postgres://user@host/database`, an empty one [default: sqlite]
    #[arg(long, value_name = "LEDGER", value_parser = Ledger::parse)]
    ledger: Option<Ledger>,
    /// Make nats-server flush each message to disk
    #[arg(long)]
    sync_always: bool,
}

/// What takes longer and has a report of its own.
#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Fill a queue that nobody serves, kill the leader, start again
    Backlog(backlog::Args),
    /// Load at one rate for long, and look whether anything grows
    Steady(steady::Args),
    #[command(hide = true)]
    Worker(worker::Args),
}

/// Measures and reports; the last line is one JSON object with every figure.
pub(crate) async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let ui = Ui { json: global.json };
    match args.command {
        Some(Command::Worker(args)) => {
            worker::run(args).await?;
            return Ok(Exit::Done);
        }
        Some(Command::Backlog(args)) => return Box::pin(backlog::run(ui, args)).await,
        Some(Command::Steady(args)) => return Box::pin(steady::run(ui, args)).await,
        None => {}
    }
    let runs = args.runs;
    if let (Some(Ledger::At(_)), 2..) = (&args.platform.ledger, runs) {
        let why = "a database is empty only once: measure it with --runs 1";
        return Err(bad_input(why).into());
    }
    if let (Some(Services::Separate), Some(Ledger::Sqlite)) =
        (args.platform.services, &args.platform.ledger)
    {
        let why = "a SQLite ledger is for one process with all services";
        return Err(bad_input(why).hint("use --ledger postgres, or --services together").into());
    }
    warn_of_debug()?;
    let measured = timeout(LONGEST * runs, Box::pin(measure_all(&args))).await.map_err(|_| {
        ApiError::new(ErrorCode::Unavailable, format!("a run took longer than {LONGEST:?}"))
            .hint("measure with fewer --tasks, or only some --rows")
    });
    let (report, whole) = measured??;
    tell(ui, &report)?;
    Ok(if whole { Exit::Done } else { Exit::Failed })
}

async fn measure_all(args: &Args) -> anyhow::Result<(Report, bool)> {
    let Platform { services, ledger, sync_always } = args.platform.clone();
    let asked = Asked { services, ledger, sync_always, rows: args.rows.clone() };
    let (mut sheet, mut found, mut whole) = (Sheet::default(), Found::default(), true);
    for run in 1..=args.runs {
        for scenario in plan::plan(&asked) {
            if args.runs > 1 {
                say(&format!("run {run} of {}", args.runs))?;
            }
            whole &= rows::measure(&scenario, &args.sizes, &mut sheet, &mut found).await?;
        }
    }
    let settings = BTreeMap::from([
        ("tasks", args.sizes.tasks.into()),
        ("callers", args.sizes.callers.into()),
        ("rate", args.sizes.rate.into()),
        ("slots", args.sizes.slots.into()),
        ("seed", args.sizes.seed),
        ("bytes a task", found.payload_bytes as u64),
    ]);
    let about = about(found.nats_server, settings);
    Ok((Report { about, runs: args.runs as usize, sheet }, whole))
}

fn about(nats_server: String, settings: BTreeMap<&'static str, u64>) -> About {
    About {
        machine: machine::look(),
        jetmill: env!("CARGO_PKG_VERSION"),
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        nats_server,
        postgres: site::postgres_programs().ok().and_then(|programs| programs.version().ok()),
        rustc: option_env!("JETMILL_RUSTC").unwrap_or("unknown"),
        settings,
    }
}

fn tell(ui: Ui, report: &Report) -> anyhow::Result<()> {
    if !ui.json {
        output::line(report.text())?;
    }
    output::json(report)
}

fn warn_of_debug() -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        say("this is a debug build: its figures say nothing about a release build")?;
    }
    Ok(())
}

fn say(what: &str) -> anyhow::Result<()> {
    Ok(output::note(format_args!("bench: {what}"))?)
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = common::time::parse_duration(text).filter(|length| !length.is_zero());
    duration.ok_or_else(|| "must be a duration such as 20s or 1h".into())
}

fn size(text: &str) -> Result<u64, String> {
    runtime::config::parse_size(text).ok_or_else(|| "must be a size such as 1GiB".into())
}
