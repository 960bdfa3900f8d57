//! Measures the product through its own doors.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use common::{
    id::{QueueName, TaskId},
    pb::{self, TaskState},
    task::TaskSpec,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jetmill_sdk::{Client, HandlerContext, HandlerError, Task, Worker};
use prost::Message as _;
use serde::Serialize;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::latency::Latency;

const QUEUE: &str = "bench";
const CHUNK: usize = 1_000;
const CHUNKS_IN_FLIGHT: usize = 4;
const TASK_WITHIN: Duration = Duration::from_secs(30);
/// A load that makes no progress for this long has lost something.
const STALL: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A run of many tasks.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    pub(super) tasks: usize,
    /// From the first submission to the last row in the ledger.
    pub(super) seconds: f64,
    pub(super) tasks_per_second: f64,
    /// From the first submission to the last answer to one.
    pub(super) accept_seconds: f64,
    pub(super) accepted_per_second: f64,
    /// The ledger has exactly these rows more, all completed.
    pub(super) rows: u64,
    /// How often the handler ran.
    pub(super) executions: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) accept: Option<Latency>,
}

/// The generator of the load: a client, and a worker of its own with a handler that does nothing.
pub(super) struct Load {
    client: Client,
    bus: bus::Bus,
    seed: u64,
    executed: Arc<AtomicU64>,
    progressed: Arc<Notify>,
}

fn queue() -> anyhow::Result<QueueName> {
    Ok(QueueName::parse(QUEUE)?)
}

impl Load {
    /// Connects: once as a client, once as a worker, as two programs would.
    pub(super) async fn new(url: &str, seed: u64) -> anyhow::Result<Self> {
        let client = Client::connect(url).await?;
        let bus = Client::connect(url).await?.bus().clone();
        let (executed, progressed) = (Arc::default(), Arc::new(Notify::new()));
        Ok(Self { client, bus, seed, executed, progressed })
    }

    /// The worker.
    pub(super) fn worker(&self, slots: u32) -> anyhow::Result<Worker> {
        let (executed, progressed) = (self.executed.clone(), self.progressed.clone());
        let handler = move |_: HandlerContext| {
            executed.fetch_add(1, Ordering::Relaxed);
            progressed.notify_one();
            async { Ok::<_, HandlerError>(serde_json::json!({ "ok": true })) }
        };
        Ok(Worker::builder(self.bus.clone())
            .queue(queue()?, slots)
            .drain_timeout(Duration::from_secs(1))
            .handler("noop", handler)
            .build())
    }

    fn task(&self, number: usize) -> anyhow::Result<Task> {
        // A text that is different for each task and the same for each run with this seed.
        let mut state = self.seed.wrapping_add(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let words = (0..4).map(|_| {
            state ^= state >> 31;
            state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
            format!("{state:016x}")
        });
        let data = words.collect::<String>();
        let task = Task::handler("noop").queue(&queue()?).task_type("bench").subsystem("bench");
        Ok(task.title("no-op").input(serde_json::json!({ "number": number, "data": data })))
    }

    fn spec(&self, number: usize) -> anyhow::Result<TaskSpec> {
        Ok(self.task(number)?.build()?)
    }

    /// Bytes of one submission on the wire.
    pub(super) fn payload_bytes(&self) -> usize {
        self.spec(1).map_or(0, |spec| spec.as_pb().encoded_len())
    }

    async fn ask(&self, number: usize) -> anyhow::Result<()> {
        let outcome = self.client.submit_and_wait(self.spec(number)?, TASK_WITHIN).await?;
        ensure!(
            outcome.state() == TaskState::Completed,
            "a no-op task did not complete: {outcome:?}"
        );
        Ok(())
    }

    /// Lets caches, connections and consumers come into being.
    pub(super) async fn warm_up(&self) -> anyhow::Result<()> {
        for number in 0..100 {
            self.ask(number).await?;
        }
        let before = self.stats().await?;
        self.submit_bulk(2_000).await?;
        self.finished(&before, 2_000).await?;
        Ok(())
    }

    /// One task after the other: the time from the call to its outcome.
    pub(super) async fn idle(&self, count: usize) -> anyhow::Result<Latency> {
        let mut samples = Vec::with_capacity(count);
        for number in 0..count {
            let start = Instant::now();
            self.ask(number).await?;
            samples.push(start.elapsed());
        }
        Ok(Latency::of(samples))
    }

    /// Each task waits for the one before it: milliseconds a step.
    pub(super) async fn chain(&self, length: usize) -> anyhow::Result<f64> {
        let start = Instant::now();
        let name = |n: usize| TaskId::parse(&format!("bench-chain-{n}"));
        let mut specs = Vec::with_capacity(length);
        for number in 0..length {
            let mut task = self.task(number)?.id(&name(number)?);
            if number > 0 {
                task = task.depends_on(&name(number - 1)?);
            }
            specs.push(task.build()?);
        }
        let last = specs.pop().context("a chain has a last task")?;
        for answer in self.client.submit_all(specs).await {
            answer?;
        }
        let outcome = self.client.submit_and_wait(last, TASK_WITHIN).await?;
        ensure!(outcome.state() == TaskState::Completed, "the chain did not complete: {outcome:?}");
        Ok((start.elapsed().as_secs_f64() / length as f64 * 1e5).round() / 1e2)
    }

    /// Many tasks, a thousand a call.
    pub(super) async fn bulk(&self, count: usize) -> anyhow::Result<Run> {
        let before = self.stats().await?;
        let executed = self.executed.load(Ordering::Relaxed);
        let start = Instant::now();
        self.submit_bulk(count).await?;
        let accepted = start.elapsed();
        let rows = self.finished(&before, count as u64).await?;
        let executions = self.executed.load(Ordering::Relaxed) - executed;
        Ok(Run { executions, ..summary(count, start.elapsed(), accepted, rows) })
    }

    async fn submit_bulk(&self, count: usize) -> anyhow::Result<()> {
        let chunks = (0..count).step_by(CHUNK).map(|first| {
            (first..(first + CHUNK).min(count))
                .map(|n| self.spec(n))
                .collect::<anyhow::Result<Vec<_>>>()
        });
        stream::iter(chunks)
            .map(|chunk| async {
                for answer in self.client.submit_all(chunk?).await {
                    answer?;
                }
                anyhow::Ok(())
            })
            .buffer_unordered(CHUNKS_IN_FLIGHT)
            .try_collect::<()>()
            .await
    }

    /// Many callers that submit one task at a time.
    pub(super) async fn singles(&self, count: usize, callers: usize) -> anyhow::Result<Run> {
        let before = self.stats().await?;
        let executed = self.executed.load(Ordering::Relaxed);
        let start = Instant::now();
        let samples = stream::iter(0..count)
            .map(|number| async move {
                let spec = self.spec(number)?;
                let start = Instant::now();
                self.client.submit(spec).await?;
                anyhow::Ok(start.elapsed())
            })
            .buffer_unordered(callers)
            .try_collect::<Vec<_>>()
            .await?;
        let accepted = start.elapsed();
        let rows = self.finished(&before, count as u64).await?;
        let executions = self.executed.load(Ordering::Relaxed) - executed;
        let accept = Some(Latency::of(samples));
        Ok(Run { executions, accept, ..summary(count, start.elapsed(), accepted, rows) })
    }

    async fn stats(&self) -> anyhow::Result<pb::StatsResponse> {
        let min_sequence = bus::streams::last_sequence(self.client.bus()).await?;
        Ok(self.client.stats(&pb::StatsRequest { min_sequence }).await?)
    }

    /// Waits until the ledger has so many completed rows more, and no other row more.
    async fn finished(&self, before: &pb::StatsResponse, count: u64) -> anyhow::Result<u64> {
        let completed =
            |stats: &pb::StatsResponse| stats.by_state.get("completed").copied().unwrap_or(0);
        let target = before.total + count;
        // Every row that there was has run. The ledger is asked only when all have: its answers are not
        // free.
        while self.executed.load(Ordering::Relaxed) < target {
            timeout(STALL, self.progressed.notified()).await.context("the load stands still")?;
        }
        let end = Instant::now() + STALL;
        loop {
            // Waits in the registry until the ledger has the log: to ask again and again would count
            // rows on the cores that are to write them.
            let Ok(stats) = self.stats().await else {
                ensure!(Instant::now() < end, "the ledger does not catch up");
                continue;
            };
            let done = completed(&stats) - completed(before);
            if done >= count {
                let rows = stats.total - before.total;
                ensure!(
                    done == count && rows == count,
                    "{rows} rows, {done} completed, of {count}"
                );
                return Ok(rows);
            }
            ensure!(Instant::now() < end, "{done} of {count} rows completed");
            sleep(LOOK_EVERY).await;
        }
    }
}

fn summary(tasks: usize, whole: Duration, accepted: Duration, rows: u64) -> Run {
    let rate = |time: Duration| (tasks as f64 / time.as_secs_f64()).round();
    let seconds = |time: Duration| (time.as_secs_f64() * 1e3).round() / 1e3;
    Run {
        tasks,
        seconds: seconds(whole),
        tasks_per_second: rate(whole),
        accept_seconds: seconds(accepted),
        accepted_per_second: rate(accepted),
        rows,
        executions: 0,
        accept: None,
    }
}
