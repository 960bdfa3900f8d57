//! Measures the product through its own doors.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::{
    id::{QueueName, TaskId},
    pb::TaskState,
    task::TaskSpec,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jetmill_sdk::Task;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    latency::Latency,
    load::{Load, QUEUE},
};

const TASK_WITHIN: Duration = Duration::from_secs(30);
/// Tasks between the first and the last of a diamond.
const WIDE: usize = 10;
const DIAMOND: usize = WIDE + 2;

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
    /// From the last event in the log to the last row in the ledger.
    pub(super) drain_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) accept: Option<Latency>,
}

impl Load {
    /// One task after the other: the time from the call to its outcome.
    pub(super) async fn idle(&self, count: usize) -> anyhow::Result<Latency> {
        let mut samples = Vec::with_capacity(count);
        for number in 0..count {
            let spec = self.spec(number)?;
            let start = Instant::now();
            self.ask(spec).await?;
            samples.push(start.elapsed());
        }
        Ok(Latency::of(samples))
    }

    /// Each task waits for the one before it: milliseconds a step.
    pub(super) async fn chain(&self, length: usize) -> anyhow::Result<f64> {
        let queue = QueueName::parse(QUEUE)?;
        let name = |n: usize| TaskId::parse(&format!("bench-chain-{n}"));
        let mut specs = Vec::with_capacity(length);
        for number in 0..length {
            let mut task = self.task(number, &queue).id(&name(number)?);
            if number > 0 {
                task = task.depends_on(&name(number - 1)?);
            }
            specs.push(task.build()?);
        }
        let last = specs.pop().context("a chain has a last task")?;
        let start = Instant::now();
        for answer in self.client.submit_all(specs).await {
            answer?;
        }
        let outcome = self.client.submit_and_wait(last, TASK_WITHIN).await?;
        ensure!(outcome.state() == TaskState::Completed, "the chain did not complete: {outcome:?}");
        Ok(start.elapsed().as_secs_f64() / length as f64 * 1e3)
    }

    /// Many tasks, a thousand a call.
    pub(super) async fn bulk(&self, count: usize) -> anyhow::Result<Run> {
        self.many(count, |number| self.spec(number)).await
    }

    /// Graphs of twelve tasks each: one, ten that wait for it, one that waits for these.
    pub(super) async fn diamonds(&self, count: usize) -> anyhow::Result<Run> {
        let queue = QueueName::parse(QUEUE)?;
        let run = self.client.bus().client().new_inbox();
        let run = run.rsplit('.').next().unwrap_or_default();
        let name = |diamond: usize, n: usize| TaskId::parse(&format!("bench-{run}-{diamond}-{n}"));
        let task = |number: usize| {
            let (diamond, place) = (number / DIAMOND, number % DIAMOND);
            let mut task: Task = self.task(number, &queue).id(&name(diamond, place)?);
            if place == DIAMOND - 1 {
                for before in 1..=WIDE {
                    task = task.depends_on(&name(diamond, before)?);
                }
            } else if place > 0 {
                task = task.depends_on(&name(diamond, 0)?);
            }
            Ok(task.build()?)
        };
        self.many(count * DIAMOND, task).await
    }

    async fn many(
        &self,
        count: usize,
        task: impl Fn(usize) -> anyhow::Result<TaskSpec>,
    ) -> anyhow::Result<Run> {
        let before = self.before().await?;
        let start = Instant::now();
        self.submit(count, task).await?;
        let accepted = start.elapsed();
        let finish = self.finished(&before, count as u64).await?;
        let run = summary(count, finish.stored.at - start, accepted);
        Ok(Run {
            rows: finish.stored.rows,
            executions: finish.executions,
            drain_seconds: rounded(finish.stored.drain),
            ..run
        })
    }

    /// Many callers that submit one task at a time.
    pub(super) async fn singles(&self, count: usize, callers: usize) -> anyhow::Result<Run> {
        let before = self.before().await?;
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
        let finish = self.finished(&before, count as u64).await?;
        let run = summary(count, finish.stored.at - start, accepted);
        Ok(Run {
            rows: finish.stored.rows,
            executions: finish.executions,
            drain_seconds: rounded(finish.stored.drain),
            accept: Some(Latency::of(samples)),
            ..run
        })
    }
}

impl Run {
    /// Whole diamonds a second.
    pub(super) fn diamonds_per_second(&self) -> f64 {
        (self.tasks_per_second / DIAMOND as f64).round()
    }

    /// What stands behind its rate.
    pub(super) fn how(&self) -> String {
        let Self { rows, seconds, executions, drain_seconds, .. } = self;
        let ran = format!("{rows} rows in {seconds:.2} s, ran {executions} times");
        format!("{ran}; the last row {drain_seconds:.2} s after the last event")
    }
}

fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

fn summary(tasks: usize, whole: Duration, accepted: Duration) -> Run {
    let rate = |time: Duration| (tasks as f64 / time.as_secs_f64()).round();
    Run {
        tasks,
        seconds: rounded(whole),
        tasks_per_second: rate(whole),
        accept_seconds: rounded(accepted),
        accepted_per_second: rate(accepted),
        rows: 0,
        executions: 0,
        drain_seconds: 0.0,
        accept: None,
    }
}
