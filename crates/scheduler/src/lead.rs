//! The loop around the planner: take in what came, decide, apply.
//!
//! It runs at its own pace: whatever arrived while it published becomes the next batch. A standby
//! runs the same loop and only folds.

mod act;

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::kv;
use bus::{Cursor, Message, ReadError, Reader, heartbeat, streams};
use common::{
    event::{Event, Kind},
    id::TaskKey,
    wire::NotAnEvent,
};
use futures::{StreamExt as _, stream::BoxStream};
use runtime::Context;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    Config,
    admin::Commands,
    dispatch::Dispatcher,
    lease::Lease,
    metrics::Metrics,
    payload::Payloads,
    plan::{Planner, Ticket},
    snapshot,
};

/// Messages of the log that are folded before something is decided again.
const FOLD_MAX: usize = 500;
/// Time between two comparisons of the work queue with the backlog.
const COMPARE_EVERY_MS: u64 = 30_000;
/// A loop that took this long to come round may have missed heartbeats.
const DEAF_AFTER_MS: u64 = 4_000;
/// The longest time between two looks at the clock.
const TICK: Duration = Duration::from_millis(200);

/// Everything that one scheduler process holds.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub(crate) struct Lead {
    pub(crate) ctx: Context,
    pub(crate) config: Config,
    pub(crate) planner: Planner,
    pub(crate) publisher: bus::Publisher,
    pub(crate) payloads: Payloads,
    pub(crate) dispatcher: Dispatcher,
    lease: Lease,
    metrics: Metrics,
    cursor: Cursor,
    born: Instant,
    /// The sequence up to which a new leader folds before it decides.
    leads_at: Option<u64>,
    leading: bool,
    stored_at: u64,
    folded: watch::Sender<u64>,
    /// What a new leader found in the work queue and has yet to tell the planner.
    pending_out: Vec<(TaskKey, u32)>,
    pauses_changed: bool,
    /// When the work queue is compared with the backlog again, in monotonic milliseconds.
    compare_at: u64,
    /// When the loop last came round, in monotonic milliseconds.
    acted_ms: u64,
    missing: Option<act::Missing>,
    /// Releases whose answer never came.
    unsure: Vec<Ticket>,
    absent: Option<act::Missing>,
    ready: bool,
    /// No snapshot says yet which log this is.
    unknown: bool,
}

type Heartbeats = BoxStream<'static, Result<kv::Entry, kv::WatcherError>>;

pub(crate) async fn run(
    ctx: Context,
    config: Config,
    lease: Lease,
    publisher: bus::Publisher,
    mut commands: Commands,
) -> anyhow::Result<()> {
    let (planner, from) = snapshot::load(&ctx.bus).await.unzip();
    let unknown = from.is_none();
    let mut reader = open(&ctx, from).await?;
    let cursor = reader.cursor();
    let mut lead = Lead {
        payloads: Payloads::new(ctx.bus.clone(), reader.stream()),
        dispatcher: Dispatcher::new(ctx.bus.clone()),
        planner: planner.unwrap_or_default(),
        publisher,
        lease,
        metrics: Metrics::new(),
        cursor,
        born: Instant::now(),
        leads_at: None,
        leading: false,
        stored_at: cursor.sequence,
        folded: commands.folded.clone(),
        pending_out: Vec::new(),
        pauses_changed: false,
        compare_at: 0,
        acted_ms: 0,
        missing: None,
        unsure: Vec::new(),
        absent: None,
        ready: false,
        unknown,
        config,
        ctx,
    };
    lead.folded.send_replace(cursor.sequence);
    let mut leadership = lead.lease.watch();
    let mut heartbeats = watch_workers(&lead.ctx).await?;
    let shutdown = lead.ctx.shutdown.clone();
    while !shutdown.is_cancelled() {
        // Every arm is cancel-safe: what is not returned is not taken.
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = leadership.changed() => {
                changed.context("the lease has ended")?;
                let leads = leadership.borrow_and_update().is_some();
                lead.lead_or_follow(leads).await;
            }
            batch = reader.next(FOLD_MAX) => match batch {
                Ok(batch) => lead.fold(batch)?,
                Err(error) if error.is_transient() => {
                    tracing::warn!(error = describe(&error), "reading the log again");
                    reader = open(&lead.ctx, Some(lead.cursor)).await?;
                    // Silence from a watch that is gone would pass for the death of every worker.
                    heartbeats = watch_workers(&lead.ctx).await?;
                }
                Err(error) => return Err(error.into()),
            },
            beat = heartbeats.next() => match beat {
                Some(Ok(entry)) => lead.heard(entry).await,
                Some(Err(_)) | None => heartbeats = watch_workers(&lead.ctx).await?,
            },
            command = commands.inbox.recv() => match command {
                Some(command) => lead.obey(command).await,
                None => break,
            },
            () = sleep(lead.until_next_alarm()) => {}
        }
        lead.act().await;
    }
    if lead.leading {
        lead.save().await;
    }
    Ok(())
}

/// Opens the log, for as long as that is a matter of time.
async fn open(ctx: &Context, from: Option<Cursor>) -> Result<Reader, ReadError> {
    let mut pause = Duration::from_millis(100);
    loop {
        match Reader::open(&ctx.bus, from).await {
            Err(error) if error.is_transient() && !ctx.shutdown.is_cancelled() => {
                ctx.health.not_ready("the log does not answer");
                tracing::warn!(error = describe(&error), "the log does not answer");
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            outcome => return outcome,
        }
    }
}

fn describe(error: &ReadError) -> String {
    match error {
        ReadError::Nats(cause) => format!("{error}: {cause:#}"),
        ReadError::OtherLog { .. } | ReadError::Gap { .. } => error.to_string(),
    }
}

async fn watch_workers(ctx: &Context) -> anyhow::Result<Heartbeats> {
    let mut pause = Duration::from_millis(100);
    loop {
        let watched = match streams::workers(&ctx.bus).await {
            Ok(bucket) => bucket.watch_with_history(">").await.context("failed to watch workers"),
            Err(error) => Err(error),
        };
        match watched {
            Ok(watch) => return Ok(watch.boxed()),
            Err(error) if ctx.shutdown.is_cancelled() => return Err(error),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the heartbeats cannot be watched");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

impl Lead {
    pub(crate) fn now_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    fn until_next_alarm(&self) -> Duration {
        if !self.leading {
            return TICK;
        }
        let now = self.ctx.clock.now();
        self.planner.next_alarm().map_or(TICK, |at| at.since(now).min(TICK))
    }

    /// The lease came or went.
    async fn lead_or_follow(&mut self, leads: bool) {
        self.leading = false;
        self.metrics.leads(false);
        self.leads_at = None;
        self.unsure.clear();
        (self.absent, self.missing) = (None, None);
        self.planner.follow();
        if !leads {
            return;
        }
        match self.take_over().await {
            Ok(last) => self.leads_at = Some(last),
            Err(error) => {
                // The lease goes on; the next pass tries again.
                tracing::warn!(error = format!("{error:#}"), "failed to take over the work queue");
            }
        }
    }

    /// Fences the work queue, reads back what is out, and learns how far the log must be folded.
    async fn take_over(&mut self) -> anyhow::Result<u64> {
        let out = self.dispatcher.take_over().await?;
        let last = streams::last_sequence(&self.ctx.bus).await?;
        tracing::info!(out = out.len(), last, folded = self.cursor.sequence, "taking over");
        self.pending_out = out;
        Ok(last)
    }

    fn fold(&mut self, batch: Vec<Message>) -> anyhow::Result<()> {
        let now_ms = self.now_ms();
        for message in batch {
            for (index, item) in (0..).zip(&message.items) {
                match item {
                    Ok(event) => self.fold_event(&message, index, event, now_ms),
                    Err(NotAnEvent::NewerFold(version)) => {
                        self.ctx.health.not_ready("upgrade: the log needs a newer version");
                        anyhow::bail!(
                            "the log has events of fold version {version}, which this version does not know: \
                             upgrade jetmill"
                        );
                    }
                    Err(NotAnEvent::Undecodable(_) | NotAnEvent::UnknownInformational) => {}
                }
            }
            self.cursor.sequence = message.sequence;
        }
        self.folded.send_replace(self.cursor.sequence);
        Ok(())
    }

    fn fold_event(&mut self, message: &Message, index: u32, event: &Event, now_ms: u64) {
        let folded = self.planner.fold((message.sequence, index), message.at, event, now_ms);
        if let Some(ticket) = folded.created
            && let Event::Task(event) = event
            && let Kind::Created(spec) = &event.kind
        {
            self.payloads.keep(ticket, spec, message.at);
        }
        if let Some(ticket) = folded.ended {
            self.payloads.drop(ticket);
        }
        if folded.policy {
            self.pauses_changed = true;
        }
    }

    async fn heard(&mut self, entry: kv::Entry) {
        let now_ms = self.now_ms();
        if entry.operation != kv::Operation::Put {
            self.planner.worker_left(&entry.key);
            return;
        }
        match heartbeat::decode(&entry.value) {
            Ok(beat) => {
                let stopping = self.planner.heard(beat, now_ms);
                if self.leading && !stopping.is_empty() {
                    self.stop(stopping, "the task is to be cancelled").await;
                }
            }
            Err(error) => tracing::warn!(worker = entry.key, %error, "unreadable heartbeat"),
        }
    }

    /// Decides and applies, if this process leads.
    async fn act(&mut self) {
        let (now, now_ms) = (self.ctx.clock.now(), self.now_ms());
        // Who did not listen may not say that nobody spoke: heartbeats wait to be read.
        if now_ms.saturating_sub(self.acted_ms) > DEAF_AFTER_MS {
            self.planner.was_deaf(now_ms);
        }
        self.acted_ms = now_ms;
        self.planner.tick(now, now_ms);
        if let Some(last) = self.leads_at
            && self.cursor.sequence >= last
        {
            self.leads_at = None;
            self.leading = true;
            self.metrics.leads(true);
            for (key, attempt) in std::mem::take(&mut self.pending_out) {
                self.planner.is_out(key, attempt, now_ms);
            }
            self.planner.lead(now, now_ms);
            self.pauses_changed = true;
            tracing::info!(open = self.planner.open_tasks(), "leading");
            // A log made anew must not be taken for this one by a scheduler that is started again.
            if std::mem::take(&mut self.unknown) {
                self.save().await;
            }
        }
        self.report_ready();
        if !self.leading {
            if self.leads_at.is_none() && self.lease.is_held() {
                self.lead_or_follow(true).await;
            }
            return;
        }
        if !self.lease.is_held() {
            return;
        }
        self.decide().await;
        self.release().await;
        self.find_out().await;
        if now_ms >= self.compare_at {
            self.compare_at = now_ms + COMPARE_EVERY_MS;
            self.compare().await;
        }
        self.give_up_missing();
        if std::mem::take(&mut self.pauses_changed) {
            self.pauses_changed = !self.apply_pauses().await;
        }
        if self.cursor.sequence >= self.stored_at + self.config.snapshot_every_messages {
            self.save().await;
        }
    }

    /// Whether this process decides: it leads, has caught up, and its lease is fresh.
    pub(crate) fn decides(&self) -> bool {
        self.leading && self.lease.is_held()
    }

    /// Ready is a scheduler that leads, or that sees another one lead.
    fn report_ready(&mut self) {
        let ready = self.leading || self.lease.another_leads();
        if ready != self.ready {
            self.ready = ready;
            if ready {
                self.ctx.health.ready();
            } else {
                self.ctx
                    .health
                    .not_ready("no scheduler leads; a standby takes over within a lease");
            }
        }
    }

    async fn save(&mut self) {
        self.stored_at = self.cursor.sequence;
        let stored = snapshot::stored(&self.planner, self.cursor);
        if let Err(error) = snapshot::save(&self.ctx.bus, stored).await {
            tracing::warn!(error = format!("{error:#}"), "failed to store a snapshot");
        }
    }
}
