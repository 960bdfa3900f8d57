//! The tasks of one service: named, joined, and ended together.
//!
//! A service is up with all of its tasks or not at all. So a task that fails, panics or ends before
//! it was asked to is the end of the service; nothing is started again in here, because what starts
//! processes does that better.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, anyhow};
use common::limits;
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// When a task may return without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    AtShutdown,
    AnyTime,
}

/// Owns the tasks of one service.
pub struct Supervisor {
    service: &'static str,
    shutdown: CancellationToken,
    grace: Duration,
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, (&'static str, End)>,
}

impl Supervisor {
    /// No tasks yet. The first failure cancels the token, and with it every other task.
    pub fn new(service: &'static str, shutdown: CancellationToken) -> Self {
        Self {
            service,
            shutdown,
            grace: limits::SHUTDOWN_GRACE,
            tasks: JoinSet::new(),
            names: HashMap::new(),
        }
    }

    /// Time that the tasks have to end after the shutdown was asked for; then they are aborted.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Starts a task that lives as long as the service.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.start(name, End::AtShutdown, task);
    }

    /// Starts a task that may end when its work is done.
    pub fn spawn_once(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.start(name, End::AnyTime, task);
    }

    fn start(
        &mut self,
        name: &'static str,
        end: End,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        // Kept out of traces (see telemetry): a span that lives as long as the process is no trace.
        let span = tracing::info_span!(target: "jetmill::supervisor", "service", service = self.service, task = name);
        let handle: AbortHandle = self.tasks.spawn(task.instrument(span));
        self.names.insert(handle.id(), (name, end));
    }

    /// Waits until every task has ended, and returns the first failure.
    pub async fn join(mut self) -> anyhow::Result<()> {
        let mut first = Ok(());
        let mut deadline = None;
        while !self.tasks.is_empty() {
            let ended = match deadline {
                None => {
                    // Both arms are cancel-safe: `join_next` takes a result only when it returns it.
                    tokio::select! {
                        ended = self.tasks.join_next_with_id() => ended,
                        () = self.shutdown.cancelled() => {
                            deadline = Some(Instant::now() + self.grace);
                            continue;
                        }
                    }
                }
                Some(at) => match tokio::time::timeout_at(at, self.tasks.join_next_with_id()).await
                {
                    Ok(ended) => ended,
                    Err(_) => return first.and(self.abort().await),
                },
            };
            let Some(ended) = ended else { break };
            if let Err(error) = self.judge(ended) {
                self.shutdown.cancel();
                tracing::debug!(service = self.service, "a task failed: {error:#}");
                first = first.and(Err(error));
            }
        }
        first
    }

    /// What the end of a task means.
    fn judge(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> anyhow::Result<()> {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(died(error))),
        };
        let (name, end) = self.names.remove(&id).unwrap_or(("unknown", End::AnyTime));
        let outcome = match outcome {
            Ok(()) if end == End::AtShutdown && !self.shutdown.is_cancelled() => {
                Err(anyhow!("ended before it was asked to"))
            }
            outcome => outcome,
        };
        outcome.with_context(|| format!("task {name} of {} failed", self.service))
    }

    async fn abort(mut self) -> anyhow::Result<()> {
        let mut names = self.names.values().map(|(name, _)| *name).collect::<Vec<_>>();
        names.sort_unstable();
        self.tasks.shutdown().await;
        Err(anyhow!(
            "{} of {} did not end within {:?} and {} aborted",
            names.join(", "),
            self.service,
            self.grace,
            if names.len() == 1 { "was" } else { "were" },
        ))
    }
}

/// A panic as an error.
fn died(error: JoinError) -> anyhow::Error {
    match error.try_into_panic() {
        Err(_) => anyhow!("was aborted"),
        Ok(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            anyhow!("panicked: {}", text.unwrap_or("without a message"))
        }
    }
}

#[cfg(test)]
mod tests;
