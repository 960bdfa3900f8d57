//! A queue that nobody serves: what it takes of the scheduler, and what a takeover and a restart cost
//! with it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use common::id::QueueName;
use jetmill_sdk::{Client, pb};
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    load::Load,
    plan::{BACKLOG_BYTES, Ledger, Scenario, Services},
    process::{self, Part},
    report::{Report, Sheet},
    say,
    site::Site,
    worker::Hands,
};
use crate::{exit::Exit, output::Ui};

const QUEUE: &str = "bench-backlog";
/// A queue that is served, for one task that shows when releases begin again.
const PROBE: &str = "bench-probe";
const LOOK_EVERY: Duration = Duration::from_millis(5);
const ANSWER_WITHIN: Duration = Duration::from_millis(200);
const FOLDED_WITHIN: Duration = Duration::from_secs(120);
const QUIET_WITHIN: Duration = Duration::from_secs(60);
const LED_WITHIN: Duration = Duration::from_secs(120);
const LEDGER_WITHIN: Duration = Duration::from_secs(600);
/// How long a worker eats of the backlog at the end.
const EAT: Duration = Duration::from_secs(5);

/// How large, and beside what.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Tasks of the queue
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    tasks: u32,
    /// A registry as well, that writes all of them: `postgres`, or `postgres=URL` of an empty
    /// database [default: no registry]
    #[arg(long, value_name = "LEDGER", value_parser = Ledger::parse)]
    ledger: Option<Ledger>,
    /// Make nats-server flush each message to disk
    #[arg(long)]
    sync_always: bool,
    /// What the payloads are made of
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// What a full queue takes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Held {
    tasks: usize,
    submit_seconds: f64,
    submitted_per_second: f64,
    /// From the first submission until the leader has all of them in its queue.
    queued_seconds: f64,
    /// By process: empty, and with the queue.
    empty_mb: process::ByPart,
    full_mb: process::ByPart,
    nats_disk_mb: f64,
    bytes_a_task: f64,
}

impl Held {
    pub(super) fn put_down(&self, scenario: &Scenario, sheet: &mut Sheet) {
        let Self { tasks, submit_seconds, queued_seconds, full_mb, .. } = self;
        let how = format!(
            "{tasks} tasks that nobody serves; scheduler in a process of its own, {} MB",
            process::list(full_mb)
        );
        sheet.add(scenario, (BACKLOG_BYTES, "bytes"), self.bytes_a_task, how);
        let how = format!("in {submit_seconds:.1} s; all in the queue after {queued_seconds:.1} s");
        let rate = self.submitted_per_second;
        sheet.add(scenario, ("backlog, submitted", "tasks/s"), rate, how);
        sheet.detail(scenario, "backlog", json!(self));
    }
}

/// A scheduler and a full queue, for the table.
pub(super) async fn memory(tasks: usize, seed: u64) -> anyhow::Result<Held> {
    let scenario = nowhere();
    let mut site = Site::bare(&scenario).await?;
    site.serve("scheduler", "scheduler", &[]).await?;
    site.answers().await?;
    let load = load(&site, seed).await?;
    let held = fill(&site, &load, tasks).await;
    site.stop().await;
    held
}

fn nowhere() -> Scenario {
    let (services, ledger) = (Services::Separate, Ledger::Nowhere);
    Scenario { services, ledger, sync_always: false, rows: Vec::new() }
}

async fn load(site: &Site, seed: u64) -> anyhow::Result<Load> {
    let (_, nobody) = watch::channel(0);
    Ok(Load::new(Client::connect(&site.url).await?, nobody, seed))
}

/// Submits; returns when every scheduler has all of it.
async fn fill(site: &Site, load: &Load, tasks: usize) -> anyhow::Result<Held> {
    let queue = QueueName::parse(QUEUE)?;
    let parts = site.parts();
    quiet(&parts).await?;
    let empty_mb = process::memory(&parts);
    let start = Instant::now();
    load.submit(tasks, |number| Ok(load.task(number, &queue).build()?)).await?;
    let submitted = start.elapsed().as_secs_f64();
    let end = Instant::now() + FOLDED_WITHIN;
    loop {
        let queued = queued(load).await?;
        if queued == tasks as u64 {
            break;
        }
        ensure!(Instant::now() < end, "{queued} of {tasks} tasks are queued");
        sleep(LOOK_EVERY).await;
    }
    let queued_seconds = start.elapsed().as_secs_f64();
    quiet(&parts).await?;
    let full_mb = process::memory(&parts);
    let grown = process::difference(&full_mb, &empty_mb);
    let scheduler = grown.get("scheduler").copied().unwrap_or_default();
    Ok(Held {
        tasks,
        submit_seconds: submitted,
        submitted_per_second: (tasks as f64 / submitted).round(),
        queued_seconds,
        bytes_a_task: (scheduler * 1e6 / tasks as f64).round(),
        nats_disk_mb: site.disks().nats_mb(),
        empty_mb,
        full_mb,
    })
}

async fn queued(load: &Load) -> anyhow::Result<u64> {
    let queues = load.client.queues(&pb::QueuesRequest {}).await?.queues;
    Ok(queues.iter().find(|queue| queue.name == QUEUE).map_or(0, |queue| queue.queued))
}

/// Waits until the processes, of which a standby answers nobody, have nothing to do any more.
async fn quiet(parts: &[Part]) -> anyhow::Result<()> {
    /// Processor time of a second that is as good as none.
    const NONE: f64 = 0.05;
    let schedulers = parts.iter().filter(|part| part.name != "postgres" && part.name != "registry");
    let schedulers = schedulers.cloned().collect::<Vec<_>>();
    let end = Instant::now() + QUIET_WITHIN;
    let mut before = process::cpu(&schedulers);
    loop {
        sleep(Duration::from_secs(1)).await;
        let now = process::cpu(&schedulers);
        if process::difference(&now, &before).values().all(|used| *used <= NONE) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the processes do not become quiet");
        before = now;
    }
}

/// How a scheduler came to lead.
#[derive(Clone, Copy, Debug, Serialize)]
struct Led {
    /// Until it answers questions.
    answers_seconds: f64,
    /// Until the client knows the outcome of a task that was submitted at once.
    released_seconds: f64,
    /// Tasks of the full queue that it knows.
    queued: u64,
}

/// The whole story.
pub(super) async fn run(ui: Ui, args: Args) -> anyhow::Result<Exit> {
    super::warn_of_debug()?;
    let ledger = args.ledger.clone().unwrap_or(Ledger::Nowhere);
    let sync_always = args.sync_always;
    let scenario = Scenario { ledger, sync_always, ..nowhere() };
    let mut site = Box::pin(Site::bare(&scenario)).await?;
    site.serve("scheduler", "scheduler", &[]).await?;
    site.answers().await?;
    site.serve("scheduler", "standby", &[]).await?;
    let load = load(&site, args.seed).await?;
    let version = load.client.bus().client().server_info().version;
    let mut sheet = Sheet::default();
    let told = Box::pin(story(&mut site, &load, (&args, &scenario), &mut sheet)).await;
    site.stop().await;
    told?;
    let settings = BTreeMap::from([("tasks", args.tasks.into()), ("seed", args.seed)]);
    let about = super::about(version, settings);
    super::tell(ui, &Report { about, runs: 1, sheet })?;
    Ok(Exit::Done)
}

async fn story(
    site: &mut Site,
    load: &Load,
    (args, scenario): (&Args, &Scenario),
    sheet: &mut Sheet,
) -> anyhow::Result<()> {
    let tasks = args.tasks as usize;
    say(&format!("submitting {tasks} tasks to a queue that nobody serves"))?;
    let held = fill(site, load, tasks).await?;
    held.put_down(scenario, sheet);
    let standby = process::difference(&held.full_mb, &held.empty_mb);
    let standby = standby.get("standby").copied().unwrap_or_default() * 1e6 / tasks as f64;
    sheet.add(scenario, ("standby, a queued task", "bytes"), standby.round(), "");
    let nats = held.nats_disk_mb;
    sheet.add(scenario, ("nats-server, on disk", "MB"), nats, "all streams");
    if scenario.ledger != Ledger::Nowhere {
        say("waiting for the ledger")?;
        let (last, begun) = (load.log_end().await?.last, Instant::now());
        while load.committed(last).await.is_err() {
            ensure!(begun.elapsed() < LEDGER_WITHIN, "the ledger does not catch up");
        }
        let took = begun.elapsed().as_secs_f64();
        sheet.add(scenario, ("ledger has all, after that", "s"), took, "");
    }
    let hands = Hands::start(site, &load.client, (PROBE, 16)).await?;
    probe(load).await?;

    say("killing the leader")?;
    let begun = Instant::now();
    site.service("scheduler")?.kill9().await?;
    site.forget("scheduler");
    let led = led(load, begun).await?;
    put_down(scenario, sheet, "takeover after kill -9", (led, tasks))?;

    say("a cold start without a snapshot")?;
    site.service("standby")?.end().await;
    site.forget("standby");
    drop_snapshots(load).await?;
    let cold = start(site, load, "cold").await?;
    put_down(scenario, sheet, "cold start, no snapshot", (cold, tasks))?;

    say("a cold start with a snapshot")?;
    end(site, "cold").await?;
    make_snapshot(site, load).await?;
    let warm = start(site, load, "warm").await?;
    put_down(scenario, sheet, "cold start, snapshot", (warm, tasks))?;

    say("a worker for the queue")?;
    hands.leave().await;
    let begun = Instant::now();
    let mut hands = Hands::start(site, &load.client, (QUEUE, 1024)).await?;
    let first = timeout(LED_WITHIN, hands.executed.changed()).await;
    first.context("nothing is released")?.context("the worker ended")?;
    let first = begun.elapsed().as_secs_f64();
    let how = "from the start of the worker's process";
    sheet.add(scenario, ("first release of the backlog", "s"), first, how);
    let before = *hands.executed.borrow();
    sleep(EAT).await;
    let eaten = *hands.executed.borrow() - before;
    let rate = eaten as f64 / EAT.as_secs_f64();
    sheet.add(scenario, ("work on the backlog", "tasks/s"), rate, "run, in the first 5 s");
    hands.leave().await;
    Ok(())
}

fn put_down(
    scenario: &Scenario,
    sheet: &mut Sheet,
    what: &str,
    (led, tasks): (Led, usize),
) -> anyhow::Result<()> {
    ensure!(led.queued >= tasks as u64, "{what}: {} of {tasks} tasks are queued", led.queued);
    let how = format!("until it answers questions; it knows {} queued tasks", led.queued);
    sheet.add(scenario, (&format!("{what}, answers"), "s"), led.answers_seconds, how);
    let how = "until the outcome of a task that was submitted at once is known";
    sheet.add(scenario, (&format!("{what}, first release"), "s"), led.released_seconds, how);
    sheet.detail(scenario, what, json!(led));
    Ok(())
}

/// Submits a task to the queue that is served and waits for its outcome.
async fn probe(load: &Load) -> anyhow::Result<()> {
    load.ask(load.task(0, &QueueName::parse(PROBE)?).build()?).await
}

/// Waits until somebody leads again.
async fn led(load: &Load, begun: Instant) -> anyhow::Result<Led> {
    let answers = async {
        loop {
            // What is asked while nobody can answer is lost, so it is asked often.
            let asked = timeout(ANSWER_WITHIN, load.client.queues(&pb::QueuesRequest {}));
            if let Ok(Ok(_)) = asked.await {
                return begun.elapsed().as_secs_f64();
            }
            sleep(LOOK_EVERY).await;
        }
    };
    let released = async {
        probe(load).await?;
        anyhow::Ok(begun.elapsed().as_secs_f64())
    };
    let both = Box::pin(async { tokio::join!(answers, released) });
    let both = timeout(LED_WITHIN, both).await;
    let (answers_seconds, released) = both.context("nobody leads")?;
    Ok(Led { answers_seconds, released_seconds: released?, queued: queued(load).await? })
}

/// Starts a scheduler where there is none.
async fn start(site: &mut Site, load: &Load, name: &str) -> anyhow::Result<Led> {
    let begun = Instant::now();
    site.serve("scheduler", name, &[]).await?;
    led(load, begun).await
}

async fn end(site: &mut Site, name: &str) -> anyhow::Result<()> {
    site.service(name)?.end().await;
    site.forget(name);
    Ok(())
}

async fn drop_snapshots(load: &Load) -> anyhow::Result<()> {
    use futures::TryStreamExt as _;
    let store = bus::streams::snapshots(load.client.bus()).await?;
    let objects = store.list().await.context("failed to list snapshots")?;
    for object in objects.try_collect::<Vec<_>>().await.context("failed to list snapshots")? {
        store.delete(&object.name).await.context("failed to delete a snapshot")?;
    }
    Ok(())
}

/// Lets a scheduler store one, which it would do by itself only after more messages.
async fn make_snapshot(site: &mut Site, load: &Load) -> anyhow::Result<()> {
    use futures::TryStreamExt as _;
    let every = [("JETMILL_SCHEDULER__SNAPSHOT_EVERY_MESSAGES", "1")];
    site.serve_with("scheduler", "saver", (&[], &every)).await?;
    let store = bus::streams::snapshots(load.client.bus()).await?;
    let end_at = Instant::now() + LED_WITHIN;
    loop {
        let objects = store.list().await.context("failed to list snapshots")?;
        if !objects.try_collect::<Vec<_>>().await?.is_empty() {
            break;
        }
        ensure!(Instant::now() < end_at, "no snapshot is stored");
        sleep(Duration::from_millis(50)).await;
    }
    end(site, "saver").await
}
