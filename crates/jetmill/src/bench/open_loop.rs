//! Arrivals at a fixed rate, whatever became of those before.
//!
//! A client that waits for answers before it submits again hides the time in which the platform did
//! nothing. Here every task has a time at which it was to be submitted, and its latency counts from
//! there, whenever that became possible.

use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use common::{
    pb::{self, TaskState},
    task::TaskSpec,
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::load::Load;

/// How long the last outcomes may take.
const LAST_WITHIN: Duration = Duration::from_secs(20);
/// Arrivals that may wait for us: more than any pause is long.
const WAITING_MAX: usize = 1 << 20;

/// When something is to arrive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrivals {
    pub(super) rate: u32,
    pub(super) length: Duration,
}

impl Arrivals {
    pub(super) fn count(self) -> u64 {
        (self.length.as_secs_f64() * f64::from(self.rate)).round() as u64
    }

    fn at(self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / f64::from(self.rate))
    }
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// Outcomes that were heard and are "completed".
    pub(super) completed: u64,
    /// Refused, or ended otherwise.
    pub(super) failed: u64,
}

/// Submits at the rate and tells of every completed task how long it took from its intended time.
pub(super) async fn run(
    load: &Load,
    arrivals: Arrivals,
    task: impl Fn(u64) -> anyhow::Result<TaskSpec>,
    mut heard: impl FnMut(Duration),
) -> anyhow::Result<Totals> {
    let bus = load.client.bus().client().clone();
    let inbox = bus.new_inbox();
    let mut outcomes = bus.subscribe(format!("{inbox}.*")).await.context("failed to subscribe")?;
    bus.flush().await.context("failed to subscribe")?;
    let start = Instant::now();
    let (mut due, pace) = pace(arrivals, start);
    let (mut submits, mut totals, mut open) = (FuturesUnordered::new(), Totals::default(), true);
    let mut late = Instant::now();
    while open || !submits.is_empty() || totals.completed + totals.failed < arrivals.count() {
        // All arms are cancel-safe: each takes one thing from a queue, or nothing.
        tokio::select! {
            number = due.recv(), if open => {
                open = number.is_some();
                late = Instant::now();
                submits.extend(number.map(|number| submit(load, &inbox, (number, task(number)))));
            }
            Some(answer) = submits.next() => {
                if let Err(error) = answer {
                    tracing::warn!(%error, "a submission failed");
                    totals.failed += 1;
                }
            }
            message = outcomes.next() => {
                let message = message.context("the connection is closed")?;
                let outcome = pb::Outcome::decode(message.payload).context("no outcome")?;
                let number = message.subject.rsplit('.').next().and_then(|n| n.parse().ok());
                let intended = start + arrivals.at(number.context("a strange outcome")?);
                if outcome.state() == TaskState::Completed {
                    totals.completed += 1;
                    heard(intended.elapsed());
                } else {
                    totals.failed += 1;
                }
            }
            () = tokio::time::sleep_until(late + LAST_WITHIN), if !open => break,
        }
    }
    drop(due);
    let ended = tokio::task::spawn_blocking(move || pace.join());
    let ended = timeout(LAST_WITHIN, ended).await.context("the pace does not end")??;
    ensure!(ended.is_ok(), "the pace failed");
    Ok(totals)
}

async fn submit(
    load: &Load,
    inbox: &str,
    (number, task): (u64, anyhow::Result<TaskSpec>),
) -> anyhow::Result<()> {
    let mut spec = task?.into_pb();
    spec.notify = format!("{inbox}.{number}");
    let spec = TaskSpec::parse(spec).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    load.client.submit(spec).await?;
    Ok(())
}

/// Says of each arrival that it is due. A thread of its own: the timers of the runtime are a
/// millisecond coarse, which is as long as what is measured.
fn pace(arrivals: Arrivals, start: Instant) -> (mpsc::Receiver<u64>, JoinHandle<()>) {
    let (sender, due) = mpsc::channel(WAITING_MAX);
    let thread = thread::spawn(move || {
        for number in 0..arrivals.count() {
            thread::sleep((start + arrivals.at(number)).saturating_duration_since(Instant::now()));
            if sender.blocking_send(number).is_err() {
                return;
            }
        }
    });
    (due, thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_evenly_spread() {
        let arrivals = Arrivals { rate: 2_000, length: Duration::from_millis(1_500) };
        assert_eq!(arrivals.count(), 3_000);
        assert_eq!(arrivals.at(0), Duration::ZERO);
        assert_eq!(arrivals.at(2_000), Duration::from_secs(1));
    }
}
