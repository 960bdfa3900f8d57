//! A worker's life: it shows itself, serves its queues, and leaves in order.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use bus::{Bus, Publisher};
use common::{
    event::{Event, Kind, TaskEvent},
    id::{QueueName, WorkerName},
    limits, pb,
    time::{Clock, Timestamp},
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    attempt::Stop, control, execution::Execution, executor::Executor, queue, run::KILL_MARGIN,
    running::Running,
};

/// How long one heartbeat may take.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long handing back what was stopped may take at the end of a drain.
const HAND_BACK_MAX: Duration = Duration::from_secs(5);

/// Who a worker is and what it serves.
#[derive(Clone)]
pub struct Options {
    /// Its name, unique among the living workers.
    pub name: WorkerName,
    /// The queues it serves, and how many attempts of each it runs at once.
    pub queues: Vec<(QueueName, u32)>,
    /// The handlers it has, for people to see.
    pub handlers: Vec<String>,
    /// The executors it has besides, for people to see.
    pub executors: Vec<String>,
    /// How long running work may go on after the worker was told to leave.
    pub drain_timeout: Duration,
    /// How long an attempt runs before it says what it has used so far, and then at least between
    /// two times that it does.
    pub snapshot_every: Duration,
    /// Hears what a metric may want to count.
    pub observe: Observe,
}

/// Hears what the engine does.
pub type Observe = Arc<dyn Fn(Observed) + Send + Sync>;

/// What the engine did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// An attempt ended; the word of the event that says so, or `stale`.
    Ended(&'static str),
    /// So many attempts are held now.
    Holds(usize),
    /// The worker is known and takes work.
    Ready,
    /// The worker takes no more work.
    Draining,
}

pub(super) struct Engine<E> {
    pub(super) bus: Bus,
    pub(super) options: Options,
    pub(super) executor: Arc<E>,
    pub(super) publisher: Publisher,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) running: Arc<Running>,
    /// Fires when no further work is taken.
    pub(super) draining: CancellationToken,
    started_at: Timestamp,
}

impl<E> Engine<E> {
    /// A fact about an attempt, as this worker states it.
    pub(super) fn event(&self, execution: &Execution, kind: Kind) -> Event {
        Event::Task(TaskEvent {
            at: Some(self.clock.now()),
            traceparent: execution.traceparent.clone(),
            ..TaskEvent::new(
                execution.tenant.clone(),
                execution.id.clone(),
                self.options.name.as_str(),
                kind,
            )
        })
    }

    fn heartbeat(&self) -> pb::Heartbeat {
        let queues = self.options.queues.iter().map(|(name, slots)| (name.to_string(), *slots));
        pb::Heartbeat {
            worker: self.options.name.to_string(),
            queues: queues.collect(),
            running: self.running.list(),
            draining: self.draining.is_cancelled(),
            host: host(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: Some(self.started_at.into()),
            encoding: "protobuf".into(),
            handlers: self.options.handlers.clone(),
            executors: self.options.executors.clone(),
        }
    }

    async fn beat(&self) -> anyhow::Result<()> {
        let heartbeat = self.heartbeat();
        let put = bus::heartbeat::put(&self.bus, &heartbeat);
        timeout(HEARTBEAT_TIMEOUT, put).await.context("no answer in time")?
    }
}

/// The machine's name, as far as it can be known without asking anyone.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().chars().take(limits::NAME_BYTES_MAX).collect()
}

/// Runs a worker until shutdown, or until somebody drains it; returns when it has left.
pub async fn run<E: Executor>(
    bus: Bus,
    options: Options,
    executor: E,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (publisher, pump) = Publisher::new(&bus);
    let engine = Arc::new(Engine {
        started_at: clock.now(),
        bus,
        options,
        executor: Arc::new(executor),
        publisher,
        clock,
        running: Arc::default(),
        draining: shutdown.child_token(),
    });
    let mut helpers = JoinSet::new();
    helpers.spawn(async move {
        pump.await;
        Ok(())
    });
    let ears = control::listen(&engine).await?;
    helpers.spawn(control::obey(engine.clone(), ears));
    if !show_up(&engine).await {
        return Ok(());
    }
    (engine.options.observe)(Observed::Ready);
    helpers.spawn(keep_beating(engine.clone()));
    let mut queues = JoinSet::new();
    for (queue, slots) in engine.options.queues.clone() {
        queues.spawn(queue::serve(engine.clone(), queue, slots));
    }
    let served = async {
        while let Some(ended) = queues.join_next().await {
            ended.context("a queue of the worker broke off")?;
        }
        Ok(())
    };
    // None of these is resumed after the first has ended.
    let outcome = tokio::select! {
        outcome = served => outcome,
        Some(helper) = helpers.join_next() => helper.context("a part of the worker broke off")?,
        () = overtime(&engine) => {
            tracing::warn!(running = engine.running.len(), "left with work that did not stop");
            Ok(())
        }
    };
    queues.shutdown().await;
    // No heartbeat may follow the worker's leave.
    helpers.shutdown().await;
    leave(&engine).await;
    outcome
}

/// Shows the worker to the scheduler before it takes its first work; says whether it did.
async fn show_up<E: Executor>(engine: &Engine<E>) -> bool {
    loop {
        let Err(error) = engine.beat().await else { return true };
        tracing::warn!(%error, "the first heartbeat failed; trying again");
        tokio::select! {
            () = sleep(Duration::from_secs(1)) => {}
            () = engine.draining.cancelled() => return false,
        }
    }
}

/// Says every two seconds, and when the worker begins to drain, that it lives and what it holds.
async fn keep_beating<E: Executor>(engine: Arc<Engine<E>>) -> anyhow::Result<()> {
    let mut ticks = interval(limits::HEARTBEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = engine.draining.cancelled(), if !told => {
                told = true;
                (engine.options.observe)(Observed::Draining);
                tracing::info!(worker = %engine.options.name, running = engine.running.len(), "draining");
            }
        }
        (engine.options.observe)(Observed::Holds(engine.running.len()));
        if let Err(error) = engine.beat().await {
            tracing::warn!(%error, "a heartbeat failed");
        }
    }
}

/// Ends when a drain took its time and what was stopped then did not end either.
async fn overtime<E: Executor>(engine: &Engine<E>) {
    engine.draining.cancelled().await;
    sleep(engine.options.drain_timeout).await;
    engine.running.stop_all(&Stop::Return("the worker leaves".into()));
    sleep(limits::CANCEL_GRACE + KILL_MARGIN + HAND_BACK_MAX).await;
}

/// Takes the worker off the list, so that nobody waits for its heartbeat to lapse.
async fn leave<E: Executor>(engine: &Engine<E>) {
    let gone =
        timeout(HEARTBEAT_TIMEOUT, bus::heartbeat::delete(&engine.bus, &engine.options.name));
    match gone.await {
        Ok(Ok(())) => tracing::info!(worker = %engine.options.name, "left"),
        Ok(Err(error)) => tracing::warn!(%error, "could not take the worker off the list"),
        Err(_) => tracing::warn!("could not take the worker off the list in time"),
    }
}
