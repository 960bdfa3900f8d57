//! The client of the benchmark: what it submits, and how it knows that the ledger has it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::{
    id::QueueName,
    pb::{self, TaskState},
    subject,
    task::TaskSpec,
    time::{Clock as _, Timestamp},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jetmill_sdk::{Client, Task};
use prost::Message as _;
use runtime::clock::SystemClock;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::worker::HANDLER;

/// The queue that the worker serves.
pub(super) const QUEUE: &str = "bench";
/// Tasks of one key that may be out at once.
const KEY_CONCURRENCY: u32 = 8;
const CHUNK: usize = 1_000;
const CHUNKS_IN_FLIGHT: usize = 4;
const TASK_WITHIN: Duration = Duration::from_secs(30);
/// A load that makes no progress for this long has lost something.
const STALL: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A worker that has told no other count for this long has run nothing meanwhile.
const COUNTS_WITHIN: Duration = Duration::from_millis(50);

/// The generator of the load.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) client: Client,
    pub(super) executed: watch::Receiver<u64>,
    seed: u64,
}

/// What the ledger and the worker had before a load.
pub(super) struct Before {
    stats: pb::StatsResponse,
    executed: u64,
}

/// How a load ended.
pub(super) struct Finish {
    pub(super) stored: Stored,
    /// How often the handler ran.
    pub(super) executions: u64,
}

/// What the ledger has of a load.
pub(super) struct Stored {
    /// When it had the last row.
    pub(super) at: Instant,
    /// Rows more, all of them completed.
    pub(super) rows: u64,
    /// From the last event in the log to the commit of the last row.
    pub(super) drain: Duration,
}

/// The end of the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct LogEnd {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: u64,
    pub(super) stored_at: Timestamp,
}

impl Load {
    pub(super) fn new(client: Client, executed: watch::Receiver<u64>, seed: u64) -> Self {
        Self { client, executed, seed }
    }

    /// A no-op task for a queue.
    pub(super) fn task(&self, number: usize, queue: &QueueName) -> Task {
        // A text that is different for each task and the same for each run with this seed.
        let mut state = self.seed.wrapping_add(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let words = (0..4).map(|_| {
            state ^= state >> 31;
            state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
            format!("{state:016x}")
        });
        let data = words.collect::<String>();
        let task = Task::handler(HANDLER).queue(queue).task_type("bench").subsystem("bench");
        task.title("no-op").input(serde_json::json!({ "number": number, "data": data }))
    }

    /// A no-op task as it is submitted.
    pub(super) fn spec(&self, number: usize) -> anyhow::Result<TaskSpec> {
        Ok(self.task(number, &QueueName::parse(QUEUE)?).build()?)
    }

    /// Bytes of one submission on the wire.
    pub(super) fn payload_bytes(&self) -> usize {
        self.spec(1).map_or(0, |spec| spec.as_pb().encoded_len())
    }

    /// Sets a limit for each of so many keys of the queue, or takes it away. It is wide enough that the
    /// slots bound the run, and not the limit.
    pub(super) async fn limit(&self, keys: Option<usize>) -> anyhow::Result<()> {
        let body = match keys {
            Some(keys) => pb::document::Body::Limit(pb::Limit {
                queue: QUEUE.into(),
                key: format!("input.number % {keys}"),
                concurrency: Some(KEY_CONCURRENCY),
                ..pb::Limit::default()
            }),
            None => pb::document::Body::Removed(pb::DocumentKind::Limit.into()),
        };
        let document =
            pb::Document { name: QUEUE.into(), body: Some(body), ..pb::Document::default() };
        let request = pb::ApplyPoliciesRequest {
            documents: vec![document],
            actor: "bench".into(),
            dry_run: false,
        };
        self.client.apply_policies(&request).await?;
        Ok(())
    }

    /// Submits a task and waits for its outcome.
    pub(super) async fn ask(&self, spec: TaskSpec) -> anyhow::Result<()> {
        let outcome = self.client.submit_and_wait(spec, TASK_WITHIN).await?;
        ensure!(outcome.state() == TaskState::Completed, "a task did not complete: {outcome:?}");
        Ok(())
    }

    /// Submits a thousand a call, some calls at a time.
    pub(super) async fn submit(
        &self,
        count: usize,
        task: impl Fn(usize) -> anyhow::Result<TaskSpec>,
    ) -> anyhow::Result<()> {
        let chunks = (0..count)
            .step_by(CHUNK)
            .map(|first| (first..(first + CHUNK).min(count)).map(&task).collect());
        stream::iter(chunks)
            .map(|chunk: anyhow::Result<Vec<_>>| async {
                for answer in self.client.submit_all(chunk?).await {
                    answer?;
                }
                anyhow::Ok(())
            })
            .buffer_unordered(CHUNKS_IN_FLIGHT)
            .try_collect::<()>()
            .await
    }

    /// Lets caches, connections and consumers come into being.
    pub(super) async fn warm_up(&self, tasks: usize) -> anyhow::Result<()> {
        for number in 0..tasks.min(100) {
            self.ask(self.spec(number)?).await?;
        }
        let before = self.before().await?;
        self.submit(tasks, |number| self.spec(number)).await?;
        self.finished(&before, tasks as u64).await?;
        Ok(())
    }

    /// Where the log ends now.
    pub(super) async fn log_end(&self) -> anyhow::Result<LogEnd> {
        let stream = bus::streams::get(self.client.bus(), subject::TASKS).await?;
        let state = &stream.cached_info().state;
        let time = state.last_timestamp;
        Ok(LogEnd {
            first: state.first_sequence,
            last: state.last_sequence,
            bytes: state.bytes,
            stored_at: Timestamp::from_unix(time.unix_timestamp(), time.nanosecond().cast_signed()),
        })
    }

    /// The sequence up to which the ledger has the log. Waits in the registry until that is at least
    /// the given one; it reads one row, where counting would read them all.
    pub(super) async fn committed(&self, min_sequence: u64) -> anyhow::Result<u64> {
        let request = pb::ListRequest { page_size: 1, min_sequence, ..pb::ListRequest::default() };
        Ok(self.client.list(&request).await?.sequence)
    }

    /// What there is before a load: the ledger has the whole log.
    pub(super) async fn before(&self) -> anyhow::Result<Before> {
        let end = Instant::now() + STALL;
        let last = self.log_end().await?.last;
        while let Err(error) = self.committed(last).await {
            ensure!(Instant::now() < end, "the ledger does not catch up: {error}");
        }
        // The worker tells its count now and then: what ran before is not to count here.
        let mut executed = self.executed.clone();
        executed.mark_unchanged();
        while timeout(COUNTS_WITHIN, executed.changed()).await.is_ok_and(|told| told.is_ok()) {}
        let stats = self.client.stats(&pb::StatsRequest::default()).await?;
        let executed = *executed.borrow();
        Ok(Before { stats, executed })
    }

    /// Waits until the handler ran so often more, and the ledger has as many rows more.
    pub(super) async fn finished(&self, before: &Before, count: u64) -> anyhow::Result<Finish> {
        // The ledger is asked only when all have run: its answers are not free.
        let mut executed = self.executed.clone();
        while *executed.borrow_and_update() < before.executed + count {
            let changed = timeout(STALL, executed.changed()).await;
            changed.context("the load stands still")?.context("the worker ended")?;
        }
        let stored = self.stored(before, count).await?;
        let executions = *executed.borrow_and_update() - before.executed;
        Ok(Finish { stored, executions })
    }

    /// Waits until the ledger has so many completed rows more, and no other row more.
    pub(super) async fn stored(&self, before: &Before, count: u64) -> anyhow::Result<Stored> {
        let completed =
            |stats: &pb::StatsResponse| stats.by_state.get("completed").copied().unwrap_or(0);
        let stall = Instant::now() + STALL;
        loop {
            let Ok((last, at)) = self.settled().await else {
                ensure!(Instant::now() < stall, "the ledger does not catch up");
                continue;
            };
            // Counted only now: to count takes the time of the cores that write the rows.
            let drain = SystemClock.now().since(last.stored_at).saturating_sub(at.elapsed());
            let stats = self.client.stats(&pb::StatsRequest::default()).await?;
            let done = completed(&stats).saturating_sub(completed(&before.stats));
            if done >= count {
                let rows = stats.total - before.stats.total;
                let fits = done == count && rows == count;
                ensure!(fits, "{rows} rows, {done} completed, of {count}");
                return Ok(Stored { at, rows, drain });
            }
            ensure!(Instant::now() < stall, "{done} of {count} rows completed");
        }
    }

    /// Waits until nothing is added to the log any more and the ledger has it.
    async fn settled(&self) -> anyhow::Result<(LogEnd, Instant)> {
        let mut last = self.log_end().await?;
        loop {
            sleep(LOOK_EVERY).await;
            let now = self.log_end().await?;
            if now == last {
                break;
            }
            last = now;
        }
        self.committed(last.last).await?;
        Ok((last, Instant::now()))
    }
}
