//! The loop around the planner: take in what came, decide, apply.
//!
//! It runs at its own pace: whatever arrived while it published becomes the next batch. A standby
//! runs the same loop and only folds.

mod act;
mod begin;
mod fire;
mod recall;
mod save;
mod trim;

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::kv;
use bus::{Cursor, Message, Reader, heartbeat};
use common::{
    event::{Event, Policy, PolicyEvent},
    wire::NotAnEvent,
};
use futures::StreamExt as _;
use runtime::Context;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    Config,
    admin::{Asking, Commands},
    dispatch::Dispatcher,
    intake::Intake,
    lease::Lease,
    metrics::Metrics,
    office::{self, Doubts, Office, Released},
    payload::{self, Payloads},
    plan::{Planner, Ticket},
    snapshot,
};

/// Messages of the log that are folded before something is decided again: of 256 events each.
const FOLD_MAX: usize = 32;
/// Time between two comparisons of the work queue with the backlog.
const COMPARE_EVERY_MS: u64 = 30_000;
/// A loop that took this long to come round may have missed heartbeats.
const DEAF_AFTER_MS: u64 = 4_000;
/// The longest time between two looks at the clock.
const TICK: Duration = Duration::from_millis(200);

/// Everything that one scheduler process holds.
pub(crate) struct Lead {
    pub(crate) ctx: Context,
    pub(crate) config: Config,
    pub(crate) planner: Planner,
    pub(crate) publisher: bus::Publisher,
    pub(crate) payloads: Payloads,
    pub(crate) dispatcher: Dispatcher,
    lease: Lease,
    metrics: Metrics,
    pub(crate) cursor: Cursor,
    born: Instant,
    office: Office,
    stored_at: u64,
    /// The last message that is in a stored snapshot.
    saved_at: u64,
    folded: watch::Sender<u64>,
    pauses_changed: bool,
    /// The change of policy that was asked for here and is on its way back from the log.
    pub(crate) asked: Option<Asking>,
    /// When the work queue is compared with the backlog again, in monotonic milliseconds.
    compare_at: u64,
    /// When queues that nobody serves are looked for again.
    recall_at: u64,
    /// When the loop last came round, in monotonic milliseconds.
    acted_ms: u64,
    doubts: Doubts,
    ready: bool,
    trimmer: trim::Trimmer,
    intake: Intake,
    /// Releases that are not answered yet.
    flights: JoinSet<Landed>,
    /// The snapshot that is being stored.
    saves: JoinSet<anyhow::Result<Cursor>>,
    /// Messages that were released since the fence was put.
    released: usize,
    /// Nothing is released before, in monotonic milliseconds: the work queue refused something.
    releases_at: u64,
    /// Whether a snapshot says which log this is.
    is_known: bool,
    /// No keys of limits are read before, in monotonic milliseconds: a submission could not be read.
    keys_at: u64,
}

/// What became of the messages of one release, and whose they were.
type Landed = (Vec<Released>, Vec<Vec<(Ticket, u32)>>);

pub(crate) async fn run(
    ctx: Context,
    config: Config,
    lease: Lease,
    publisher: bus::Publisher,
    commands: Commands,
) -> anyhow::Result<()> {
    let (planner, reader, is_known) = begin::planner(&ctx).await?;
    let cursor = reader.cursor();
    let lead = Lead {
        payloads: Payloads::new(ctx.bus.clone(), reader.stream()),
        dispatcher: Dispatcher::new(ctx.bus.clone()),
        planner,
        publisher,
        lease,
        metrics: Metrics::new(),
        cursor,
        born: Instant::now(),
        office: Office::default(),
        stored_at: cursor.sequence,
        saved_at: cursor.sequence,
        folded: commands.folded.clone(),
        pauses_changed: false,
        asked: None,
        compare_at: 0,
        recall_at: 0,
        acted_ms: 0,
        doubts: Doubts::default(),
        ready: false,
        trimmer: trim::Trimmer::default(),
        intake: Intake::default(),
        flights: JoinSet::new(),
        saves: JoinSet::new(),
        released: 0,
        releases_at: 0,
        is_known,
        keys_at: 0,
        config,
        ctx,
    };
    lead.folded.send_replace(cursor.sequence);
    Box::pin(turn(lead, reader, commands)).await
}

/// Takes in what comes and acts, until shutdown is requested.
async fn turn(mut lead: Lead, mut reader: Reader, mut commands: Commands) -> anyhow::Result<()> {
    let mut leadership = lead.lease.watch();
    let mut heartbeats = begin::heartbeats(&lead.ctx).await?;
    let shutdown = lead.ctx.shutdown.clone();
    while !shutdown.is_cancelled() {
        let pause = lead.until_next_alarm();
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
                    tracing::warn!(error = begin::describe(&error), "reading the log again");
                    reader = begin::open(&lead.ctx, Some(lead.cursor)).await?;
                    // Silence from a watch that is gone would pass for the death of every worker.
                    heartbeats = begin::heartbeats(&lead.ctx).await?;
                }
                Err(error) => return Err(error.into()),
            },
            Some(landed) = lead.flights.join_next() => lead.landed(landed),
            Some(saved) = lead.saves.join_next() => lead.saved(saved),
            beat = heartbeats.next() => match beat {
                Some(Ok(entry)) => lead.heard(entry).await,
                Some(Err(_)) | None => heartbeats = begin::heartbeats(&lead.ctx).await?,
            },
            command = commands.inbox.recv() => match command {
                Some(command) => lead.obey(command).await,
                None => break,
            },
            () = sleep(pause) => {}
        }
        lead.act().await;
    }
    if lead.office.leads() {
        lead.save_now().await;
    }
    Ok(())
}

impl Lead {
    pub(crate) fn now_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    fn until_next_alarm(&self) -> Duration {
        if !self.office.leads() {
            return TICK;
        }
        if self.planner.has_unkeyed() {
            return Duration::from_millis(self.keys_at.saturating_sub(self.now_ms()));
        }
        let now = self.ctx.clock.now();
        self.planner.next_alarm().map_or(TICK, |at| at.since(now).min(TICK))
    }

    /// The lease came or went.
    async fn lead_or_follow(&mut self, leads: bool) {
        self.metrics.leads(false);
        self.trimmer = trim::Trimmer::default();
        self.intake = Intake::default();
        self.planner.end_cut();
        self.land().await;
        self.office.lease(leads, &mut self.planner);
        self.take_over().await;
    }

    /// Makes the work queue this leader's, reads what is out, and learns how far the log must be
    /// folded.
    async fn take_over(&mut self) {
        if !self.office.must_take_over() {
            return;
        }
        // What is under way would be answered when it is ready, or out, once more.
        self.land().await;
        match self.dispatcher.take(&office::TAKE_OVER).await {
            Ok(sight) => {
                let (out, folded) = (sight.out.len(), self.cursor.sequence);
                tracing::info!(out, last = sight.last, folded, "taking over");
                self.office.took_over(sight, &mut self.doubts);
            }
            Err(error) => {
                // The lease goes on; the next pass tries again.
                tracing::warn!(error = format!("{error:#}"), "failed to take over the work queue");
            }
        }
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
        self.answer_asked();
        Ok(())
    }

    fn fold_event(&mut self, message: &Message, index: u32, event: &Event, now_ms: u64) {
        let folded = self.planner.fold((message.sequence, index), message.at, event, now_ms);
        if let Some(ticket) = folded.created
            && let Event::Task(event) = event
            && let Some((spec, created_at)) = payload::submitted(&event.kind, message.at)
        {
            self.payloads.drop(ticket);
            self.payloads.keep(ticket, spec, created_at);
        }
        if let Some(ticket) = folded.ended {
            self.payloads.drop(ticket);
        }
        if folded.policy {
            self.pauses_changed = true;
        }
        if let Event::Policy(PolicyEvent { policy: Policy::Document(document), .. }) = event {
            self.document_folded(document);
        }
    }

    async fn heard(&mut self, entry: kv::Entry) {
        let now_ms = self.now_ms();
        self.was_awake(now_ms);
        if entry.operation != kv::Operation::Put {
            self.planner.worker_left(&entry.key);
            return;
        }
        match heartbeat::decode(&entry.value) {
            Ok(beat) => {
                let stopping = self.planner.heard(beat, now_ms);
                if self.office.leads() && !stopping.is_empty() {
                    self.stop(stopping, "the task is to be cancelled").await;
                }
            }
            Err(error) => tracing::warn!(worker = entry.key, %error, "unreadable heartbeat"),
        }
    }

    /// Who did not listen may not say that nobody spoke: heartbeats wait to be read.
    fn was_awake(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.acted_ms) > DEAF_AFTER_MS {
            self.planner.was_deaf(now_ms);
        }
        self.acted_ms = now_ms;
    }

    /// Decides and applies, if this process leads.
    async fn act(&mut self) {
        let (now, now_ms) = (self.ctx.clock.now(), self.now_ms());
        self.was_awake(now_ms);
        self.planner.tick(now, now_ms);
        if self.office.caught_up(self.cursor.sequence, &mut self.planner, now, now_ms) {
            self.metrics.leads(true);
            self.pauses_changed = true;
            tracing::info!(open = self.planner.open_tasks(), "leading");
            // A log made anew must not be taken for this one by a scheduler that is started again.
            if !std::mem::replace(&mut self.is_known, true) {
                self.save_now().await;
            }
        }
        self.report_ready();
        if !self.office.leads() {
            if self.lease.is_held() {
                self.take_over().await;
            }
            return;
        }
        if !self.lease.is_held() {
            return;
        }
        self.decide().await;
        self.read_keys().await;
        self.fire().await;
        self.release().await;
        self.move_fence().await;
        self.find_out().await;
        if now_ms >= self.compare_at {
            self.compare_at = now_ms + COMPARE_EVERY_MS;
            self.compare().await;
        }
        self.recall(now_ms).await;
        self.doubts.settle(&mut self.planner, self.cursor.sequence);
        if std::mem::take(&mut self.pauses_changed) {
            self.pauses_changed = !self.apply_pauses().await;
        }
        self.tell_doors(now_ms).await;
        self.trim().await;
        let messages = self.config.snapshot_every_messages;
        let every = snapshot::every(messages, self.planner.stored_tasks());
        if self.cursor.sequence >= self.stored_at + every {
            self.save();
        }
    }

    /// Whether this process decides: it leads, has caught up, and its lease is fresh.
    pub(crate) fn decides(&self) -> bool {
        self.office.leads() && self.lease.is_held()
    }

    /// Ready is a scheduler that leads, or that sees another one lead.
    fn report_ready(&mut self) {
        let ready = self.office.leads() || self.lease.another_leads();
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
}
