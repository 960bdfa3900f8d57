//! Commands: a process each, in the worker that is part of the product.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::{id::QueueName, task::TaskSpec};
use jetmill_sdk::{Task, pb};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    latency::{Latency, Samples},
    load::Load,
    open_loop::{self, Arrivals},
    process,
    service::Service,
    site::Site,
};

/// The queue of commands.
const QUEUE: &str = "bench-shell";
/// The name of its worker.
const WORKER: &str = "shell-worker";
/// A quarter more than run at once: what a command takes beside its time must not be the limit.
const SLOTS: u32 = 128;
/// Commands of the run that asks for as many as possible, for each arrival a second of the other.
const COMMANDS_EACH: u32 = 20;
/// What each command of the steady run does: so many a second are as many at once.
const TAKES: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const KNOWN_WITHIN: Duration = Duration::from_secs(20);
const EMPTY_WITHIN: Duration = Duration::from_mins(2);

/// A worker that runs commands, in a process of its own.
pub(super) struct Shells<'a> {
    load: &'a Load,
    service: Service,
}

/// Commands that end at once, as many as go.
#[derive(Debug, Serialize)]
pub(super) struct Most {
    pub(super) tasks: u32,
    pub(super) seconds: f64,
    pub(super) tasks_per_second: f64,
    /// The ledger has exactly these rows more, all completed.
    pub(super) rows: u64,
}

/// Commands that arrive at a rate and take a second each.
#[derive(Debug, Serialize)]
pub(super) struct Steady {
    pub(super) tasks: u64,
    /// Arrivals that completed, for each second from the first to the last of them.
    pub(super) tasks_per_second: f64,
    /// From the intended submission to the outcome, less what the command takes.
    pub(super) beyond: Latency,
    /// Released and not ended, as the scheduler told ten times a second: the median and the most.
    pub(super) out_median: u64,
    pub(super) out_most: u64,
    /// Seconds of processor time of the machine, a task: nothing else is to run on it.
    pub(super) cpu_seconds_each: f64,
}

impl<'a> Shells<'a> {
    /// Starts it; returns when the scheduler knows it.
    pub(super) async fn start(site: &Site, load: &'a Load) -> anyhow::Result<Self> {
        let queues = format!("{QUEUE}={SLOTS}");
        let args = ["serve", "worker-pool", "--nats-url", &site.url, "--name", WORKER];
        let args = [&args[..], &["--http-addr", "127.0.0.1:0", "--queues", &queues]].concat();
        let mut service = site.spawn(WORKER, &args).await?;
        let end = Instant::now() + KNOWN_WITHIN;
        while queue(load).await?.is_none_or(|queue| queue.workers == 0) {
            service.check()?;
            ensure!(Instant::now() < end, "the scheduler does not know the worker of commands");
            sleep(LOOK_EVERY).await;
        }
        let shells = Self { load, service };
        load.ask(command(&["true"])?).await?;
        Ok(shells)
    }

    /// So many commands that end at once, all submitted first.
    pub(super) async fn most(&self, rate: u32) -> anyhow::Result<Most> {
        let tasks = rate * COMMANDS_EACH;
        let before = self.load.before().await?;
        let start = Instant::now();
        self.load.submit(tasks as usize, |_| command(&["true"])).await?;
        let end = start + EMPTY_WITHIN;
        while queue(self.load).await?.is_some_and(|q| q.queued + q.waiting + q.outstanding > 0) {
            ensure!(Instant::now() < end, "{tasks} commands take longer than {EMPTY_WITHIN:?}");
            sleep(LOOK_EVERY).await;
        }
        let stored = self.load.stored(&before, tasks.into()).await?;
        let seconds = (stored.at - start).as_secs_f64();
        let tasks_per_second = f64::from(tasks) / seconds;
        Ok(Most { tasks, seconds, tasks_per_second, rows: stored.rows })
    }

    /// Commands of a second each that arrive at this rate.
    pub(super) async fn steady(&self, arrivals: Arrivals) -> anyhow::Result<Steady> {
        let (worked, _) = process::machine_cpu();
        let (end, mut looks) = (CancellationToken::new(), JoinSet::new());
        looks.spawn(out(self.load.clone(), end.clone()));
        let seconds = TAKES.as_secs().to_string();
        let spec = |_| command(&["sleep", &seconds]);
        let (mut beyond, mut first, mut last) = (Samples::default(), None, None);
        let heard = |took: Duration| {
            beyond.add(took.saturating_sub(TAKES));
            last = Some(Instant::now());
            first = first.or(last);
        };
        let totals = open_loop::run(self.load, arrivals, spec, heard).await?;
        end.cancel();
        let ended = timeout(EMPTY_WITHIN, looks.join_next()).await.context("nobody looked")?;
        let mut out = ended.context("nobody looked")??;
        out.sort_unstable();
        let (count, failed) = (totals.completed, totals.failed);
        ensure!(count == arrivals.count(), "{count} completed and {failed} failed");
        let span = first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        Ok(Steady {
            tasks: count,
            tasks_per_second: (count - 1) as f64 / span.max(f64::MIN_POSITIVE),
            beyond: beyond.latency(),
            out_median: out.get(out.len() / 2).copied().unwrap_or(0),
            out_most: out.last().copied().unwrap_or(0),
            cpu_seconds_each: (process::machine_cpu().0 - worked) / count as f64,
        })
    }

    /// Sends the worker away.
    pub(super) async fn leave(mut self) {
        self.service.end().await;
    }
}

fn command(argv: &[&str]) -> anyhow::Result<TaskSpec> {
    let task = Task::shell(argv.iter().copied()).queue(&QueueName::parse(QUEUE)?);
    Ok(task.task_type("bench").subsystem("bench").build()?)
}

async fn queue(load: &Load) -> anyhow::Result<Option<pb::Queue>> {
    let queues = load.client.queues(&pb::QueuesRequest {}).await?.queues;
    Ok(queues.into_iter().find(|queue| queue.name == QUEUE))
}

/// How many are out, each time that it was looked.
async fn out(load: Load, end: CancellationToken) -> Vec<u64> {
    let (mut seen, mut tick) = (Vec::new(), interval(LOOK_EVERY));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            () = end.cancelled() => return seen,
            _ = tick.tick() => {}
        }
        if let Ok(Some(queue)) = queue(&load).await {
            seen.push(queue.outstanding);
        }
    }
}
