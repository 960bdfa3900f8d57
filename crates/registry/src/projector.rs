//! The shell around the fold: reads the log on from the ledger's cursor and writes batch by batch.
//!
//! Every failure that may pass has one remedy: wait, then begin again at the ledger's cursor. What
//! cannot pass ends the service (another log, a trimmed one), or the folding (a newer event).

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use bus::{Message, ReadError, Reader, endpoint};
use common::{error::ErrorCode, limits, pb, time::Timestamp};
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
    project,
    row::Row,
};

/// How often the lag is measured.
const LAG_EVERY: Duration = Duration::from_secs(5);
/// How often a registry that does not write looks how far the one that does has come.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

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
        let transient = error.is_transient();
        let error =
            anyhow::Error::new(error).context("failed to read the log on from the ledger's cursor");
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
                Stop::Fatal(error) => return Err(error),
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
        let mut position = within(self.ledger.position()).await?;
        self.committed.send_replace(position.map_or(0, |p| p.cursor.sequence));
        let mut reader = Reader::open(&self.ctx.bus, position.map(|p| p.cursor)).await?;
        let stream = reader.stream();
        let mut lag = tokio::time::interval(LAG_EVERY);
        lag.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.doors_open().await;
        self.ctx.health.ready();
        loop {
            // Both arms are cancel-safe; a message is taken only by the call that returns it.
            let messages = tokio::select! {
                messages = reader.next(limits::LEDGER_BATCH_EVENTS_MAX) => messages?,
                _ = lag.tick() => {
                    self.measure_lag().await;
                    continue;
                }
            };
            for batch in batches(&messages) {
                position = Some(self.apply(position, stream, batch).await?);
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

    async fn apply(
        &self,
        from: Option<Position>,
        stream: Uuid,
        messages: &[Message],
    ) -> Result<Position, Stop> {
        let (known, newer) = project::known(messages);
        let mut reached = from;
        if let Some(last) = known.last() {
            let begun = Instant::now();
            let named = project::named(known);
            let rows = if named.is_empty() {
                Vec::new()
            } else {
                within(self.ledger.load(&named)).await?
            };
            let clock = from.map_or(Timestamp::default(), |p| p.clock);
            let projection = project::project(rows, clock, known);
            let spans = spans(&projection.rows);
            // Before the commit: a crash in between publishes them again, and DEAD drops the repeat.
            dead::publish(&self.ctx.bus, stream, &projection.dead).await.map_err(Stop::Again)?;
            let cursor = bus::Cursor { stream, sequence: last.sequence };
            let to = Position { cursor, clock: projection.clock };
            let (rows, entries) = (projection.rows.as_slice(), projection.entries.as_slice());
            within(self.ledger.record(Batch { from: from.map(|p| p.cursor), to, rows, entries }))
                .await?;
            drop(spans);
            self.committed.send_replace(last.sequence);
            self.metrics.events.add(entries.len() as u64, &[]);
            self.metrics.commit.record(begun.elapsed().as_secs_f64(), &[]);
            tracing::trace!(sequence = last.sequence, rows = rows.len(), "batch recorded");
            reached = Some(to);
        }
        match (newer, reached) {
            (Some(version), _) => Err(Stop::Upgrade(version)),
            (None, Some(position)) => Ok(position),
            (None, None) => Err(Stop::Again(anyhow::anyhow!("the log gave nothing"))),
        }
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
fn spans(rows: &[Row]) -> Vec<Span> {
    if !telemetry::exporting() {
        return Vec::new();
    }
    let span = |row: &Row| {
        let name = if row.life.phase.is_terminal() { "record end" } else { "record" };
        telemetry::task_span(name, "registry", row.key(), row.id.as_str(), &row.spec.traceparent)
    };
    rows.iter().map(span).collect()
}

/// Cuts messages into batches of a bounded number of events and bytes, at least one message each.
fn batches(messages: &[Message]) -> Vec<&[Message]> {
    let mut batches = Vec::new();
    let (mut start, mut events, mut bytes) = (0, 0, 0);
    for (n, message) in messages.iter().enumerate() {
        let full = events + message.items.len() > limits::LEDGER_BATCH_EVENTS_MAX
            || bytes + message.payload.len() > limits::READ_BYTES_MAX;
        if n > start && full {
            batches.extend(messages.get(start..n));
            (start, events, bytes) = (n, 0, 0);
        }
        events += message.items.len();
        bytes += message.payload.len();
    }
    batches.extend(messages.get(start..).filter(|rest| !rest.is_empty()));
    batches
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
