//! Runs the rows of one scenario and puts down what they found.

use std::time::Duration;

use anyhow::Context as _;
use common::error::ApiError;
use jetmill_sdk::Client;
use serde_json::json;
use tokio::time::sleep;

use super::{
    backlog,
    latency::{Latency, Samples},
    load::{Load, QUEUE},
    open_loop::{self, Arrivals},
    plan::{self, Row, Scenario},
    process::{self, ByPart},
    raw,
    report::Sheet,
    say,
    shell::{Shells, Steady},
    site::Site,
    watch::{Seen, Watch},
    worker::Hands,
};

/// Keys of the limit.
const KEYS: usize = 1_000;

/// How much of everything.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Sizes {
    /// Tasks of the bulk run
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=5_000_000))]
    pub(super) tasks: u32,
    /// Tasks of the run with one submit a call [default: half of --tasks]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(64..=5_000_000))]
    single_tasks: Option<u32>,
    /// Callers that submit one task at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) callers: u32,
    /// Tasks one after the other
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    idle_tasks: u32,
    /// Tasks of the chain
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(2..=1_000))]
    chain_tasks: u32,
    /// Arrivals a second of the steady run
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) rate: u32,
    /// How long the steady run lasts
    #[arg(long = "for", value_name = "DURATION", default_value = "20s", value_parser = super::duration)]
    length: Duration,
    /// Graphs of the diamond runs
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "200,2000", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    diamonds: Vec<u32>,
    /// Commands that arrive a second, each of which takes one
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    shell_rate: u32,
    /// Tasks of the queue that nobody serves
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    backlog_tasks: u32,
    /// Attempts that the no-op worker runs at once
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) slots: u32,
    /// What the payloads are made of
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

/// What is known only of a running platform.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) nats_server: String,
    pub(super) payload_bytes: usize,
}

/// A running platform with its load.
struct Rig<'a> {
    scenario: &'a Scenario,
    sizes: &'a Sizes,
    site: Site,
    hands: Hands,
    load: Load,
    idle: ByPart,
}

/// Measures a scenario; what cannot be measured is put down with the reason. Whether all was
/// measured that the machine allows.
pub(super) async fn measure(
    scenario: &Scenario,
    sizes: &Sizes,
    sheet: &mut Sheet,
    found: &mut Found,
) -> anyhow::Result<bool> {
    let mut rows = scenario.rows.clone();
    let backlog = rows.contains(&Row::Backlog);
    rows.retain(|row| *row != Row::Backlog);
    let mut whole = true;
    if !rows.is_empty() {
        say(&format!("{scenario}: starting"))?;
        match Box::pin(Rig::start(scenario, sizes)).await {
            Ok(mut rig) => {
                found.nats_server = rig.load.client.bus().client().server_info().version;
                found.payload_bytes = rig.load.payload_bytes();
                whole = rig.run(&rows, sheet).await?;
                rig.stop().await;
            }
            Err(error) => {
                let why = why(&error);
                for row in &rows {
                    sheet.miss(scenario, word(*row), why.clone());
                }
                // What the machine does not have is no failure of the benchmark.
                whole = error.downcast_ref::<ApiError>().is_some();
            }
        }
    }
    if backlog {
        let tasks = sizes.backlog_tasks;
        say(&format!("a queue of {tasks} tasks that nobody serves"))?;
        let measured = backlog::memory(tasks as usize, sizes.seed);
        match Box::pin(measured).await {
            Ok(held) => held.put_down(scenario, sheet),
            Err(error) => {
                sheet.miss(scenario, word(Row::Backlog), why(&error));
                whole = false;
            }
        }
    }
    Ok(whole)
}

/// An error as one line, with what to do about it.
fn why(error: &anyhow::Error) -> String {
    let hint = error.downcast_ref::<ApiError>().map(|error| error.hint.clone());
    let hint = hint.filter(|hint| !hint.is_empty()).map(|hint| format!("; {hint}"));
    format!("{error:#}{}", hint.unwrap_or_default())
}

fn word(row: Row) -> &'static str {
    match row {
        Row::Idle => "idle",
        Row::Chain => "chain",
        Row::Steady => "steady",
        Row::Bulk => "bulk",
        Row::Limits => "limits",
        Row::Callers => "callers",
        Row::Diamonds => "diamonds",
        Row::Raw => "raw",
        Row::Shell => "shell",
        Row::Backlog => "backlog",
    }
}

impl<'a> Rig<'a> {
    async fn start(scenario: &'a Scenario, sizes: &'a Sizes) -> anyhow::Result<Self> {
        let site = Box::pin(Site::start(scenario)).await?;
        let client = Client::connect(&site.url).await?;
        let hands = Hands::start(&site, &client, (QUEUE, sizes.slots)).await?;
        // What a start allocates and gives back is no memory of an idle platform.
        sleep(Duration::from_secs(1)).await;
        let mut parts = site.parts();
        parts.push(hands.part());
        let idle = process::memory(&parts);
        let load = Load::new(client, hands.executed.clone(), sizes.seed);
        load.warm_up((sizes.tasks as usize).min(2_000)).await.context("the warm-up failed")?;
        Ok(Self { scenario, sizes, site, hands, load, idle })
    }

    async fn stop(self) {
        self.hands.leave().await;
        self.site.stop().await;
    }

    async fn run(&mut self, rows: &[Row], sheet: &mut Sheet) -> anyhow::Result<bool> {
        for (place, row) in rows.iter().enumerate() {
            say(&format!("{}: {}", self.scenario, word(*row)))?;
            if let Err(error) = self.row(*row, sheet).await {
                sheet.miss(self.scenario, word(*row), why(&error));
                for row in rows.iter().skip(place + 1) {
                    sheet.miss(self.scenario, word(*row), "a row before it failed");
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn row(&mut self, row: Row, sheet: &mut Sheet) -> anyhow::Result<()> {
        match row {
            Row::Idle => self.idle(sheet).await,
            Row::Chain => {
                let length = self.sizes.chain_tasks;
                let step = self.load.chain(length as usize).await?;
                let how = format!("{length} tasks, each waits for the last");
                sheet.add(self.scenario, (plan::CHAIN, "ms"), step, how);
                Ok(())
            }
            Row::Steady => self.steady(sheet).await,
            Row::Bulk => Box::pin(self.bulk(sheet)).await,
            Row::Limits => Box::pin(self.limits(sheet)).await,
            Row::Callers => self.callers(sheet).await,
            Row::Diamonds => self.diamonds(sheet).await,
            Row::Raw => self.raw(sheet).await,
            Row::Shell => Box::pin(self.shell(sheet)).await,
            // It has a platform of its own.
            Row::Backlog => Ok(()),
        }
    }

    async fn idle(&self, sheet: &mut Sheet) -> anyhow::Result<()> {
        let idle = self.load.idle(self.sizes.idle_tasks as usize).await?;
        sheet.add(self.scenario, (plan::IDLE_P50, "ms"), idle.p50_ms, idle.how());
        sheet.add(self.scenario, (plan::IDLE_P99, "ms"), idle.p99_ms, "");
        sheet.detail(self.scenario, "idle", json!(idle));
        Ok(())
    }

    async fn steady(&self, sheet: &mut Sheet) -> anyhow::Result<()> {
        let arrivals = Arrivals { rate: self.sizes.rate, length: self.sizes.length };
        let mut samples = Samples::default();
        let spec = |number| self.load.spec(number as usize);
        let totals = open_loop::run(&self.load, arrivals, spec, |took| samples.add(took)).await?;
        let latency = samples.latency();
        anyhow::ensure!(
            totals.completed == arrivals.count(),
            "{} completed and {} failed of {}",
            totals.completed,
            totals.failed,
            arrivals.count()
        );
        let how =
            format!("{} arrivals/s, from the intended time: {}", arrivals.rate, latency.how());
        sheet.add(self.scenario, ("steady, p50", "ms"), latency.p50_ms, how);
        sheet.add(self.scenario, ("steady, p95", "ms"), latency.p95_ms, "");
        sheet.add(self.scenario, (plan::STEADY_P99, "ms"), latency.p99_ms, "");
        sheet.detail(self.scenario, "steady", json!(latency));
        Ok(())
    }

    async fn bulk(&self, sheet: &mut Sheet) -> anyhow::Result<()> {
        let mut parts = self.site.parts();
        parts.push(self.hands.part());
        let watch = Watch::start(&self.load, parts);
        let run = self.load.bulk(self.sizes.tasks as usize).await?;
        let seen = watch.end().await?;
        let s = self.scenario;
        sheet.add(s, (plan::BULK, "tasks/s"), run.tasks_per_second, run.how());
        sheet.add(s, ("bulk, accepted", "tasks/s"), run.accepted_per_second, "");
        let lag = "messages in the log that the ledger had not; most are bundles";
        sheet.add(s, ("bulk, ledger's lag, most", "messages"), seen.lag_max as f64, lag);
        sheet.add(s, ("bulk, ledger's drain", "s"), run.drain_seconds, "last event to last row");
        let idle = process::list(&self.idle);
        sheet.add(s, (plan::MEMORY_IDLE, "MB"), self.idle.values().sum(), idle);
        let peak = process::list(&seen.peak_mb);
        sheet.add(s, (plan::MEMORY_LOAD, "MB"), seen.peak_sum_mb, peak);
        processors(s, &seen, run.tasks, sheet);
        let found = json!({ "run": run, "seen": seen, "idle_mb": self.idle });
        sheet.detail(s, "bulk", found);
        Ok(())
    }

    /// The same load without a limit and with one: both here, one after the other.
    async fn limits(&self, sheet: &mut Sheet) -> anyhow::Result<()> {
        let tasks = self.sizes.tasks as usize;
        let without = self.load.bulk(tasks).await?;
        self.load.limit(Some(KEYS)).await?;
        let with = self.load.bulk(tasks).await;
        self.load.limit(None).await?;
        let with = with?;
        let s = self.scenario;
        let (plain, limited) = (without.tasks_per_second, with.tasks_per_second);
        sheet.add(s, ("bulk, no limit", "tasks/s"), plain, without.how());
        sheet.add(s, ("bulk with a limit on 1,000 keys", "tasks/s"), limited, with.how());
        sheet.add(s, (plan::LIMITS, "%"), 100.0 * limited / plain, "");
        sheet.detail(s, "limits", json!({ "run": with, "without": without }));
        Ok(())
    }

    async fn callers(&self, sheet: &mut Sheet) -> anyhow::Result<()> {
        let callers = self.sizes.callers as usize;
        let tasks = self.sizes.single_tasks.unwrap_or(self.sizes.tasks / 2) as usize;
        let run = self.load.singles(tasks.max(callers), callers).await?;
        let how = format!("{callers} callers: {}", run.how());
        sheet.add(self.scenario, (plan::CALLERS, "tasks/s"), run.tasks_per_second, how);
        let how = run.accept.as_ref().map(Latency::how).unwrap_or_default();
        let name = "one submit a call, accepted";
        sheet.add(self.scenario, (name, "tasks/s"), run.accepted_per_second, how);
        sheet.detail(self.scenario, "callers", json!(run));
        Ok(())
    }

    async fn diamonds(&self, sheet: &mut Sheet) -> anyhow::Result<()> {
        for count in &self.sizes.diamonds {
            let run = self.load.diamonds(*count as usize).await?;
            let name = format!("{count} {}", plan::DIAMONDS);
            let value = run.diamonds_per_second();
            sheet.add(self.scenario, (&name, "workflows/s"), value, run.how());
            sheet.detail(self.scenario, &name, json!(run));
        }
        Ok(())
    }

    async fn raw(&self, sheet: &mut Sheet) -> anyhow::Result<()> {
        let tasks = (self.sizes.tasks as usize).min(50_000);
        let raw = raw::pipeline(&self.site.url, tasks, self.load.payload_bytes()).await?;
        let how = format!("{tasks} tasks in {:.2} s, {} in flight", raw.seconds, raw.window);
        sheet.add(self.scenario, ("bare JetStream", "tasks/s"), raw.tasks_per_second, how);
        if let Some(bulk) = sheet.median(self.scenario, plan::BULK) {
            let ratio = bulk / raw.tasks_per_second;
            sheet.add(self.scenario, ("bulk / bare JetStream", "x"), ratio, "");
        }
        sheet.detail(self.scenario, "raw", json!(raw));
        Ok(())
    }

    async fn shell(&self, sheet: &mut Sheet) -> anyhow::Result<()> {
        let rate = self.sizes.shell_rate;
        let shells = Shells::start(&self.site, &self.load).await?;
        let most = shells.most(rate).await?;
        let steady = shells.steady(Arrivals { rate, length: self.sizes.length }).await?;
        shells.leave().await;
        let s = self.scenario;
        let how = format!("{} rows in {:.2} s, a process each", most.rows, most.seconds);
        sheet.add(s, (plan::SHELL_MOST, "tasks/s"), most.tasks_per_second, how);
        let Steady { tasks, tasks_per_second, beyond, .. } = &steady;
        let how = format!("{rate} arrivals/s, {tasks} completed");
        sheet.add(s, ("commands of a second each", "tasks/s"), *tasks_per_second, how);
        let how = format!("the median of looks; at most {}", steady.out_most);
        sheet.add(s, (plan::SHELL_OUT, "tasks"), steady.out_median as f64, how);
        let how = format!("beside its second: {}", beyond.how());
        sheet.add(s, ("commands of a second each, p99", "ms"), beyond.p99_ms, how);
        let how = "of all processes of this machine, the commands among them";
        let each = steady.cpu_seconds_each * 1e3;
        sheet.add(s, ("commands of a second each, CPU", "ms/task"), each, how);
        sheet.detail(s, "shell", json!({ "run": most, "steady": steady }));
        Ok(())
    }
}

/// The time on the processors of a bulk run.
fn processors(scenario: &Scenario, seen: &Seen, tasks: usize, sheet: &mut Sheet) {
    let each = |seconds: f64| seconds * 1e6 / tasks as f64;
    let busy = |seconds: f64| 100.0 * seconds / seen.seconds;
    for (name, seconds) in &seen.cpu {
        let mut how = format!("{seconds:.2} s, {:.0}% of one core", busy(*seconds));
        if name == "jetmill" {
            let threads = seen.cpu_by_thread.iter().filter(|(_, seconds)| busy(**seconds) >= 1.0);
            let threads = threads.map(|(name, s)| format!("{name} {:.0}%", busy(*s)));
            let threads = threads.collect::<Vec<_>>().join(", ");
            how = format!("{how}; its services share one process. By thread: {threads}");
        }
        sheet.add(scenario, (&format!("bulk, CPU of {name}"), "µs/task"), each(*seconds), how);
    }
    let sum = seen.cpu.values().sum::<f64>();
    let how = format!("{:.0}% of one core, the benchmark's client among them", busy(sum));
    sheet.add(scenario, ("bulk, CPU of all", "µs/task"), each(sum), how);
    let share = 100.0 * seen.others / seen.all.max(f64::MIN_POSITIVE);
    let how = "of all cores; above a few, the rates say less than µs/task";
    sheet.add(scenario, ("bulk, other work on this machine", "%"), share, how);
}
