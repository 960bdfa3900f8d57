//! One rate for long: nothing may grow that does not have to.

mod verdict;

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use common::subject;
use jetmill_sdk::{Client, pb};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    latency::{Latency, Samples},
    load::{Load, QUEUE},
    open_loop::{self, Arrivals},
    plan::{Ledger, Scenario, Services},
    process::{self, Part},
    report::About,
    say,
    site::{Disks, Site},
    worker::Hands,
};
use crate::{
    exit::Exit,
    output::{self, Ui},
};
use verdict::{Line, Verdict};

/// The rate, how long, and where the lines go.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Arrivals a second
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// For how long
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = super::duration)]
    length: Duration,
    /// How the services run
    #[arg(long, value_name = "HOW", default_value = "together")]
    services: Services,
    /// `sqlite`, `postgres` or `postgres=URL` of an empty database [default: sqlite, or postgres for
    /// separate services]
    #[arg(long, value_name = "LEDGER", value_parser = Ledger::parse)]
    ledger: Option<Ledger>,
    /// Make nats-server flush each message to disk
    #[arg(long)]
    sync_always: bool,
    /// Most bytes of the log, as 1GiB [default: the platform's own]
    #[arg(long, value_name = "SIZE", value_parser = super::size)]
    log_bytes_max: Option<u64>,
    /// A line of figures for each look, for scripts/chart.py
    #[arg(long, value_name = "FILE")]
    csv: PathBuf,
    /// Time between two looks
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = super::duration)]
    every: Duration,
    /// Looks between two counts of the ledger's rows, which read them all
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    count_every: u32,
    /// Attempts that the no-op worker runs at once
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4096))]
    slots: u32,
    /// What the payloads are made of
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Everything that was found, as the last line.
#[derive(Clone, Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    about: About,
    scenario: String,
    submitted: u64,
    completed: u64,
    failed: u64,
    /// Rows of the ledger beyond those that were there before, and completed ones among them.
    rows: u64,
    rows_completed: u64,
    executions: u64,
    latency: Latency,
    verdict: Verdict,
}

/// Loads, looks and judges.
pub(super) async fn run(ui: Ui, args: Args) -> anyhow::Result<Exit> {
    super::warn_of_debug()?;
    let usual = match args.services {
        Services::Together => Ledger::Sqlite,
        Services::Separate => Ledger::Postgres,
    };
    let scenario = Scenario {
        services: args.services,
        ledger: args.ledger.clone().unwrap_or(usual),
        sync_always: args.sync_always,
        rows: Vec::new(),
    };
    let csv = File::create(&args.csv)
        .with_context(|| format!("failed to write {}", args.csv.display()))?;
    say(&format!("{scenario}: starting"))?;
    let site = Box::pin(Site::start(&scenario)).await?;
    let report = Box::pin(load_and_look(&args, &scenario, &site, csv)).await;
    site.stop().await;
    let report = report?;
    if !ui.json {
        output::line(report.verdict.text())?;
    }
    output::json(&report)?;
    let whole = report.failed == 0 && report.completed == report.submitted;
    Ok(if whole && report.verdict.holds() { Exit::Done } else { Exit::Failed })
}

async fn load_and_look(
    args: &Args,
    scenario: &Scenario,
    site: &Site,
    csv: File,
) -> anyhow::Result<Report> {
    let client = Client::connect(&site.url).await?;
    let version = client.bus().client().server_info().version;
    let hands = Hands::start(site, &client, (QUEUE, args.slots)).await?;
    let load = Load::new(client, hands.executed.clone(), args.seed);
    if let Some(bytes) = args.log_bytes_max {
        bound_log(&load, bytes).await?;
    }
    load.warm_up(2_000).await.context("the warm-up failed")?;
    let arrivals = Arrivals { rate: args.rate, length: args.length };
    let before = load.client.stats(&pb::StatsRequest::default()).await?;
    let executed = *load.executed.borrow();
    let mut parts = site.parts();
    parts.push(hands.part());
    parts.push(Part::new("client", std::process::id()));
    let window = Arc::new(Mutex::new(Samples::default()));
    let end = CancellationToken::new();
    let looker = Looker {
        load: load.clone(),
        parts,
        disks: site.disks(),
        window: window.clone(),
        begun: Instant::now(),
        last: Instant::now(),
        completed: 0,
        count_every: args.count_every,
        csv,
    };
    let mut looks = JoinSet::new();
    looks.spawn(looker.run(args.every, end.clone()));
    say(&format!("{} tasks a second for {:?}", args.rate, args.length))?;
    let mut all = Samples::default();
    let heard = |took| {
        window.lock().unwrap_or_else(PoisonError::into_inner).add(took);
        all.add(took);
    };
    let totals = open_loop::run(&load, arrivals, |number| load.spec(number as usize), heard).await;
    end.cancel();
    let lines = looks.join_next().await.context("nobody looked")???;
    let totals = totals?;
    // The ledger has everything before it is counted.
    load.before().await?;
    let after = load.client.stats(&pb::StatsRequest::default()).await?;
    let done = |stats: &pb::StatsResponse| stats.by_state.get("completed").copied().unwrap_or(0);
    let executions = *load.executed.borrow() - executed;
    hands.leave().await;
    let settings = BTreeMap::from([
        ("rate", args.rate.into()),
        ("seconds", args.length.as_secs()),
        ("log bytes, at most", args.log_bytes_max.unwrap_or_default()),
        ("bytes a task", load.payload_bytes() as u64),
    ]);
    Ok(Report {
        about: super::about(version, settings),
        scenario: scenario.to_string(),
        submitted: arrivals.count(),
        completed: totals.completed,
        failed: totals.failed,
        rows: after.total.saturating_sub(before.total),
        rows_completed: done(&after).saturating_sub(done(&before)),
        executions,
        latency: all.latency(),
        verdict: verdict::judge(&lines),
    })
}

/// Sets the size of the log as an operator does, whoever made the stream.
async fn bound_log(load: &Load, bytes: u64) -> anyhow::Result<()> {
    let stream = bus::streams::get(load.client.bus(), subject::TASKS).await?;
    let mut config = stream.cached_info().config.clone();
    config.max_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let updated = load.client.bus().jetstream().update_stream(config).await;
    updated.context("failed to set the size of the log")?;
    Ok(())
}

/// Looks from time to time.
struct Looker {
    load: Load,
    parts: Vec<Part>,
    disks: Disks,
    window: Arc<Mutex<Samples>>,
    begun: Instant,
    last: Instant,
    completed: u64,
    count_every: u32,
    csv: File,
}

impl Looker {
    async fn run(mut self, every: Duration, end: CancellationToken) -> anyhow::Result<Vec<Line>> {
        let mut tick = interval_at(self.begun + every, every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut lines, mut looks) = (Vec::<Line>::new(), 0);
        loop {
            // Both arms are cancel-safe.
            tokio::select! {
                () = end.cancelled() => return Ok(lines),
                _ = tick.tick() => {}
            }
            looks += 1;
            let line = self.look(looks % self.count_every == 0).await?;
            if lines.is_empty() {
                writeln!(self.csv, "{}", line.head()).context("failed to write the CSV")?;
            }
            writeln!(self.csv, "{}", line.row()).context("failed to write the CSV")?;
            say(&line.short())?;
            lines.push(line);
        }
    }

    async fn look(&mut self, count: bool) -> anyhow::Result<Line> {
        let samples =
            std::mem::take(&mut *self.window.lock().unwrap_or_else(PoisonError::into_inner));
        let since = std::mem::replace(&mut self.last, Instant::now()).elapsed();
        let latency = samples.latency();
        self.completed += latency.samples as u64;
        let log = self.load.log_end().await?;
        let ledger = self.load.committed(0).await?;
        let mut line = Line::default();
        line.add("seconds", self.begun.elapsed().as_secs_f64());
        line.add("completed", self.completed as f64);
        line.add("tasks_per_second", latency.samples as f64 / since.as_secs_f64());
        line.add("p50_ms", latency.p50_ms);
        line.add("p95_ms", latency.p95_ms);
        line.add("p99_ms", latency.p99_ms);
        line.add("max_ms", latency.max_ms);
        line.add("lag_messages", log.last.saturating_sub(ledger) as f64);
        line.add("log_first", log.first as f64);
        line.add("log_last", log.last as f64);
        line.add("log_mb", log.bytes as f64 / 1e6);
        line.add("nats_disk_mb", self.disks.nats_mb());
        line.add_known("ledger_mb", self.disks.ledger_mb());
        let rows = if count {
            Some(self.load.client.stats(&pb::StatsRequest::default()).await?.total as f64)
        } else {
            None
        };
        line.add_known("ledger_rows", rows);
        for (name, value) in process::memory(&self.parts) {
            line.add(&format!("pss_mb {name}"), value);
        }
        Ok(line)
    }
}
