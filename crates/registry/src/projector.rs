//! The shell around the fold: reads the log on from the ledger's cursor and writes batch by batch.
//!
//! While one batch is written the next one is read and folded; it grows until the ledger is free
//! again, so a ledger that lags gets large batches and one that does not gets each event at once.
//!
//! Every failure that may pass has one remedy: wait, then begin again at the ledger's cursor. What
//! cannot pass ends the service (another log, a trimmed one), or the folding (a newer event).

mod batches;
mod begin;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use bus::{Cursor, ReadError, endpoint};
use common::{error::ErrorCode, limits, pb};
use opentelemetry::metrics::{Counter, Gauge, Histogram};
use runtime::{Context, telemetry};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tracing::Span;
use uuid::Uuid;

use crate::{
    dead,
    ledger::{self, Batch, Ledger, LedgerError, Position, within},
    project::{Changes, Trace},
};
use batches::{Batches, Written};
use begin::Begin;

/// How often the lag is measured.
const LAG_EVERY: Duration = Duration::from_secs(5);
/// How often a registry that does not write looks how far the one that does has come.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// What an operator can always do.
const MOVE_AWAY: &str = "move the ledger away: a new one begins at the floor of the log with the \
     tasks that were carried over it, and what it had besides (older tasks, their results and \
     histories) is lost";

/// Why the projection does not go on by itself.
#[derive(Debug, thiserror::Error)]
enum Stop {
    /// An event needs a newer fold.
    #[error("the log has events that need version {0} of the fold: upgrade this registry")]
    Upgrade(u32),
    /// It never will.
    #[error("the registry cannot go on")]
    Fatal(#[source] anyhow::Error),
    /// Another registry came first; this one follows it.
    #[error("another registry writes the ledger")]
    Superseded,
    /// It may after a while.
    #[error("the registry waits")]
    Again(#[source] anyhow::Error),
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Superseded => Self::Superseded,
            LedgerError::Away(_) => Self::Again(error.into()),
            LedgerError::Broken(_) => Self::Fatal(error.into()),
        }
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        let advice = match &error {
            ReadError::Nats(_) => "failed to read the log on from the ledger's cursor".to_owned(),
            ReadError::OtherLog { .. } => format!(
                "the ledger is of another log: restore the log that it is of, or {MOVE_AWAY}"
            ),
            ReadError::Gap { expected, found } if found > expected => format!(
                "the log was cut behind what the ledger has: restore a newer copy of the ledger, \
                 one that has the log up to {} at least, or {MOVE_AWAY}",
                found - 1
            ),
            ReadError::Gap { .. } => {
                format!("the log has lost what the ledger has: restore the log, or {MOVE_AWAY}")
            }
        };
        let transient = error.is_transient();
        let error = anyhow::Error::new(error).context(advice);
        if transient { Self::Again(error) } else { Self::Fatal(error) }
    }
}

struct Metrics {
    events: Counter<u64>,
    lag: Gauge<u64>,
    commit: Histogram<f64>,
}

impl Metrics {
    fn new() -> Self {
        let meter = opentelemetry::global::meter("jetmill");
        Self {
            // The exporter appends `_total` and `_seconds`.
            events: meter.u64_counter("jetmill_registry_events").build(),
            lag: meter.u64_gauge("jetmill_registry_lag_messages").build(),
            commit: meter.f64_histogram("jetmill_registry_commit").with_unit("s").build(),
        }
    }
}

/// The projection of the log into the ledger.
pub(crate) struct Projector {
    ctx: Context,
    ledger: Arc<dyn Ledger>,
    /// The sequence up to which the ledger has the log.
    committed: watch::Sender<u64>,
    metrics: Metrics,
}

/// Opens the ledger; waits while it is away. `None`: the shutdown came first.
pub(crate) async fn open(ctx: &Context, url: &str) -> anyhow::Result<Option<Arc<dyn Ledger>>> {
    let mut backoff = Backoff::default();
    loop {
        match ledger::open(url).await {
            Ok(ledger) => return Ok(Some(ledger)),
            Err(LedgerError::Away(error)) => {
                let error = runtime::chain(&error);
                tracing::warn!(error, "the ledger is away");
                ctx.health.not_ready(format!("the ledger is away: {error}"));
            }
            Err(error) => return Err(error).context("failed to open the ledger"),
        }
        if !backoff.wait(ctx).await {
            return Ok(None);
        }
    }
}

impl Projector {
    pub(crate) fn new(ctx: Context, ledger: Arc<dyn Ledger>) -> Self {
        Self { ctx, ledger, committed: watch::Sender::new(0), metrics: Metrics::new() }
    }

    /// Hears of the sequence up to which the ledger has the log.
    pub(crate) fn committed(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    /// Projects until the shutdown.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let before = *self.committed.borrow();
            // Dropped at any point: what is not committed is read again from the cursor.
            let stop = tokio::select! {
                () = self.ctx.shutdown.cancelled() => return Ok(()),
                stop = self.follow() => stop,
            };
            if *self.committed.borrow() > before {
                backoff = Backoff::default();
            }
            match stop {
                Stop::Fatal(error) => {
                    self.ctx.health.not_ready(runtime::chain(&error));
                    return Err(error);
                }
                Stop::Upgrade(_) => {
                    tracing::error!("{stop}");
                    self.ctx.health.not_ready(stop.to_string());
                    self.ctx.shutdown.cancelled().await;
                    return Ok(());
                }
                Stop::Superseded => {
                    tracing::debug!("{stop}");
                    backoff = Backoff(FOLLOW_EVERY);
                }
                Stop::Again(error) => {
                    let error = runtime::chain(&error);
                    tracing::warn!(error, "the ledger does not follow the log; trying again");
                    self.ctx
                        .health
                        .not_ready(format!("the ledger does not follow the log: {error}"));
                }
            }
            if !backoff.wait(&self.ctx).await {
                return Ok(());
            }
        }
    }

    /// Reads on from the ledger's cursor until something comes between.
    async fn follow(&self) -> Stop {
        match self.try_follow().await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn try_follow(&self) -> Result<std::convert::Infallible, Stop> {
        let Begin { fold, mut reader, from } = self.begin().await?;
        let mut batches = Batches::new(self, reader.cursor(), from, fold);
        let mut lag = tokio::time::interval(LAG_EVERY);
        lag.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.doors_open().await;
        self.ctx.health.ready();
        loop {
            batches.begin_writing().await?;
            // Every arm is cancel-safe; a message is taken only by the call that returns it.
            tokio::select! {
                written = batches.written() => written?,
                messages = reader.next(limits::LEDGER_BATCH_EVENTS_MAX), if !batches.is_full() => {
                    batches.fold(messages?).await?;
                }
                _ = lag.tick() => self.measure_lag().await,
            }
        }
    }

    /// Waits until the endpoints, which start beside this, are known to the server: who is ready
    /// answers. The request is one that is refused at once.
    async fn doors_open(&self) {
        let request = pb::GetRequest::default();
        loop {
            let answer =
                endpoint::request::<_, pb::Task>(&self.ctx.bus, "registry", "get", &request);
            match answer.await {
                Err(error) if error.code == ErrorCode::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(_) | Err(_) => return,
            }
        }
    }

    async fn write(
        &self,
        stream: Uuid,
        from: Option<Cursor>,
        to: u64,
        changes: Changes,
    ) -> Written {
        let begun = Instant::now();
        let spans = spans(&changes.traces);
        let to = Position::new(Cursor { stream, sequence: to }, &changes);
        let Changes { tasks, entries, dead, counts, .. } = changes;
        // Before the commit: a crash in between publishes them again, and DEAD drops the repeat.
        dead::publish(&self.ctx.bus, stream, &dead).await.map_err(Stop::Again)?;
        let (rows, events) = (tasks.len(), entries.len() as u64);
        within(self.ledger.record(Batch { from, to, tasks, entries, counts })).await?;
        drop(spans);
        self.committed.send_replace(to.cursor.sequence);
        self.metrics.events.add(events, &[]);
        self.metrics.commit.record(begun.elapsed().as_secs_f64(), &[]);
        tracing::trace!(sequence = to.cursor.sequence, rows, events, "batch recorded");
        Ok(())
    }

    async fn measure_lag(&self) {
        let asked = tokio::time::timeout(LAG_EVERY, bus::streams::last_sequence(&self.ctx.bus));
        // When NATS does not answer, the reader says so.
        if let Ok(Ok(last)) = asked.await {
            self.metrics.lag.record(last.saturating_sub(*self.committed.borrow()), &[]);
        }
    }
}

/// A span in each task's trace that lasts as long as the commit; none where nothing exports them.
fn spans(traces: &[Trace]) -> Vec<Span> {
    let span = |trace: &Trace| {
        let name = if trace.is_end { "record end" } else { "record" };
        let Trace { key, id, traceparent, .. } = trace;
        telemetry::task_span(name, "registry", *key, id.as_str(), traceparent)
    };
    traces.iter().map(span).collect()
}

/// Pauses that grow.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(100))
    }
}

impl Backoff {
    /// Pauses; false when the shutdown came first.
    async fn wait(&mut self, ctx: &Context) -> bool {
        let pause = self.0;
        self.0 = (pause * 2).min(limits::LEDGER_BACKOFF_MAX);
        tokio::select! {
            () = ctx.shutdown.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}
