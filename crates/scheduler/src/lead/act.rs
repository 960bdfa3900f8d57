//! What a leader does with the planner's answers: publishes decisions and releases, tells workers
//! and waiting clients.

use async_nats::datetime::from_nanos;
use common::{event::Event, pb, subject};
use runtime::telemetry;
use tokio::task::JoinError;

use super::{Landed, Lead};
use crate::{
    office::{self, Released},
    outgoing::{self, Outgoing},
    plan::{Decision, Place, Release, Stopping, Ticket},
    verdict,
};

/// Tasks that are released together.
const RELEASE_MAX: usize = 512;
/// Messages that are released before the fence is moved to behind them.
const FENCE_MOVES_AFTER: usize = 2_000;
/// Pause after the work queue refused a release, as a full one does.
const REFUSED_PAUSE_MS: u64 = 50;
/// Releases that are under way at once.
const FLIGHTS_MAX: usize = 4;
/// Pause after a submission could not be read.
const TROUBLE_PAUSE_MS: u64 = 200;
/// Tasks whose keys are read together.
const KEYS_MAX: usize = 256;
/// Decisions that are published together.
const DECIDE_MAX: usize = 256;
/// An attempt that is out for this long and was not heard of is looked for.
const SUSPECT_AFTER_MS: u64 = 60_000;

impl Lead {
    /// Tells workers to end attempts; they are told again at each heartbeat that lists one.
    pub(crate) async fn stop(&self, stopping: Vec<Stopping>, why: &str) {
        for stale in [true, false] {
            let attempts = stopping.iter().filter(|s| s.stale == stale);
            let attempts = attempts
                .map(|s| pb::Attempt {
                    tenant: s.held.tenant.clone(),
                    task_id: s.held.task_id.clone(),
                    attempt: s.held.attempt,
                    queue: String::new(),
                })
                .collect::<Vec<_>>();
            if attempts.is_empty() {
                continue;
            }
            let reason = if stale { "the attempt is over" } else { why };
            let order = pb::Stop { attempts, reason: reason.into(), stale };
            // Rare, so in JSON: any worker can read it.
            let body = serde_json::to_vec(&order).unwrap_or_default();
            if let Err(error) = self.ctx.bus.client().publish(subject::STOP, body.into()).await {
                tracing::warn!(%error, "failed to tell workers to stop attempts");
            }
        }
    }

    /// Puts the planner's decisions into the log, and tells waiting clients of those that end a task.
    pub(super) async fn decide(&mut self) {
        let decisions = self.planner.take_decisions(DECIDE_MAX);
        if decisions.is_empty() {
            return;
        }
        let (mut events, mut notices) = (Vec::new(), Vec::new());
        let mut taken = Vec::new();
        for (ticket, decision) in decisions {
            match self.decision(ticket, decision).await {
                Ok(Some((event, notice))) => {
                    events.push(event);
                    notices.extend(notice);
                    taken.push((ticket, decision));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "failed to decide about a task");
                    self.planner.put_back(ticket, decision);
                }
            }
        }
        if let Err(error) = self.publisher.publish_all(events).await {
            tracing::warn!(%error, "failed to publish decisions");
            for (ticket, decision) in taken {
                self.planner.put_back(ticket, decision);
            }
            return;
        }
        for (subject, outcome) in notices {
            self.notify(subject, &outcome).await;
        }
    }

    async fn decision(
        &mut self,
        ticket: Ticket,
        decision: Decision,
    ) -> anyhow::Result<Option<(Event, Option<(String, pb::Outcome)>)>> {
        let Some(entry) = self.planner.entry(ticket) else { return Ok(None) };
        if entry.state.stub {
            let report = self.payloads.report(entry.sequence, entry.index).await?;
            return Ok(Some((Event::Task(verdict::stub_event(report.names)), None)));
        }
        let payload = self.payloads.get(ticket, entry.sequence, entry.index).await?;
        if decision == Decision::Cancel && matches!(entry.place, Place::Released(_)) {
            // It must not be delivered after its end.
            let (queue, _) = self.planner.queue_of(&entry);
            if let Some(id) = payload.spec.id() {
                let attempt = entry.state.attempt();
                let subject = subject::execution(queue, &payload.spec.tenant(), &id, attempt);
                self.dispatcher.withdraw(&subject).await?;
            }
        }
        let event = if decision == Decision::Resolve {
            verdict::resolved(&mut self.planner, ticket, &payload.spec, payload.created_at)
        } else {
            let random = rand::random();
            verdict::event(&self.planner, (ticket, &entry), &payload.spec, decision, random)
        };
        let Some(event) = event else { return Ok(None) };
        let notify = payload.spec.as_pb().notify.clone();
        let notice = verdict::outcome(&event).filter(|_| !notify.is_empty());
        tracing::info!(task.id = %event.id, decision = ?decision, "decided");
        Ok(Some((Event::Task(event), notice.map(|outcome| (notify, outcome)))))
    }

    pub(crate) async fn notify(&self, subject: String, outcome: &pb::Outcome) {
        let body = prost::Message::encode_to_vec(outcome);
        if let Err(error) = self.ctx.bus.client().publish(subject, body.into()).await {
            // The client's query is the fallback.
            tracing::debug!(%error, "failed to notify a waiting client");
        }
    }

    /// Reads the keys of tasks that were there before their limits.
    pub(super) async fn read_keys(&mut self) {
        if self.now_ms() < self.keys_at {
            return;
        }
        let unkeyed = self.planner.unkeyed(KEYS_MAX);
        let mut rest = unkeyed.into_iter();
        while let Some(ticket) = rest.next() {
            let Some(entry) = self.planner.entry(ticket) else { continue };
            match self.payloads.get(ticket, entry.sequence, entry.index).await {
                Ok(payload) => self.planner.keyed(ticket, &payload.spec),
                Err(error) => {
                    // The log or the network is in trouble: the next tick tries again.
                    tracing::warn!(error = format!("{error:#}"), "failed to read a limit's key");
                    self.keys_at = self.now_ms() + TROUBLE_PAUSE_MS;
                    for ticket in rest.by_ref().chain([ticket]) {
                        self.planner.not_keyed(ticket);
                    }
                    return;
                }
            }
        }
    }

    /// Releases what may go out now. The answers come while the log is read on.
    pub(super) async fn release(&mut self) {
        let now_ms = self.now_ms();
        if now_ms < self.releases_at {
            return;
        }
        while self.flights.len() < FLIGHTS_MAX && !self.doubts.is_unsure() {
            let releases = self.planner.release(now_ms, self.config.window_max, RELEASE_MAX);
            if releases.is_empty() {
                return;
            }
            if !self.lease.is_held() {
                self.take_back(releases.into_iter().map(|r| r.tickets).collect());
                return;
            }
            let (mut messages, mut groups) = (Vec::new(), Vec::new());
            let mut unprepared = Vec::new();
            let mut rest = releases.into_iter();
            while let Some(release) = rest.next() {
                match self.outgoing(&release).await {
                    Ok(Some(message)) => {
                        messages.push(message);
                        groups.push(self.planner.attempts(&release.tickets));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        // The log or the network is in trouble: the next tick tries again.
                        tracing::warn!(error = format!("{error:#}"), "failed to prepare a release");
                        unprepared.push(release.tickets);
                        unprepared.extend(rest.by_ref().map(|r| r.tickets));
                    }
                }
            }
            let in_trouble = !unprepared.is_empty();
            self.take_back(unprepared);
            let messages_len = messages.len();
            if messages_len > 0 {
                let answers = self.dispatcher.release(messages).await;
                self.released += messages_len;
                self.flights.spawn(async move { (answers.await, groups) });
            }
            if in_trouble {
                return;
            }
        }
    }

    /// Releases were answered.
    pub(super) fn landed(&mut self, landed: Result<Landed, JoinError>) {
        let Ok((outcomes, groups)) = landed else {
            // It cannot fail; if it does, what is out is found out anew.
            self.office.fenced_off(&mut self.planner);
            return;
        };
        let (mut refused, mut attempts): (Vec<Vec<_>>, _) = (Vec::new(), 0);
        for (outcome, tickets) in outcomes.into_iter().zip(groups) {
            match outcome {
                Released::Out => attempts += tickets.len(),
                Released::Refused => refused.push(tickets),
                Released::FencedOff => {
                    self.office.fenced_off(&mut self.planner);
                    refused.push(tickets);
                }
                Released::Unknown => self.doubts.unsure(tickets),
            }
        }
        self.metrics.released(attempts);
        if !refused.is_empty() {
            self.releases_at = self.now_ms() + REFUSED_PAUSE_MS;
            for (ticket, attempt) in refused.into_iter().flatten().rev() {
                self.planner.never_left(ticket, attempt);
            }
        }
    }

    /// Moves the fence along, now and then. Releases that are under way expect it where it is.
    pub(super) async fn move_fence(&mut self) {
        if self.released < FENCE_MOVES_AFTER {
            return;
        }
        self.land().await;
        match self.dispatcher.move_fence().await {
            Ok(()) => self.released = 0,
            // Whether it was moved is not known: what is out is found out anew.
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the fence was not moved");
                self.office.fenced_off(&mut self.planner);
            }
        }
    }

    /// Waits until nothing is under way to the work queue: before anything is said about what lies
    /// there.
    pub(super) async fn land(&mut self) {
        while let Some(landed) = self.flights.join_next().await {
            self.landed(landed);
        }
    }

    /// Puts releases that did not happen back to the front, in their order.
    fn take_back(&mut self, groups: Vec<Vec<Ticket>>) {
        for ticket in groups.into_iter().flatten().rev() {
            self.planner.unrelease(ticket);
        }
    }

    /// Finds out about releases whose answer never came. The others are ready again once the log is
    /// folded up to here.
    pub(super) async fn find_out(&mut self) {
        if !self.doubts.must_find_out() {
            return;
        }
        self.land().await;
        match self.dispatcher.take(&office::TAKE_OVER).await {
            Ok(sight) => self.doubts.found_out(&self.planner, &sight),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the work queue does not answer");
            }
        }
    }

    async fn outgoing(&mut self, release: &Release) -> anyhow::Result<Option<Outgoing>> {
        let mut items = Vec::with_capacity(release.tickets.len());
        for ticket in &release.tickets {
            let Some(entry) = self.planner.entry(*ticket) else { continue };
            let payload = self.payloads.get(*ticket, entry.sequence, entry.index).await?;
            let spec = payload.spec.as_pb();
            let span = telemetry::task_span(
                "release",
                "scheduler",
                entry.key,
                &spec.task_id,
                &spec.traceparent,
            );
            let traceparent = if telemetry::exporting() {
                telemetry::traceparent_of(&span)
            } else {
                spec.traceparent.clone()
            };
            let (queue, created_at) = (&release.queue, payload.created_at);
            items.push(outgoing::item(&entry, queue, &payload.spec, traceparent, created_at));
        }
        Ok(Outgoing::new(&release.queue, items, release.json))
    }

    /// Tells the doors which queues are full, and whether there are types.
    pub(super) async fn tell_doors(&mut self, now_ms: u64) {
        if !self.intake.is_due(now_ms) {
            return;
        }
        if let Some(intake) = self.intake.look(self.planner.intake(), now_ms)
            && let Err(error) = bus::intake::tell(&self.ctx.bus, &intake).await
        {
            // It is a hint: what is beyond the depth or does not fit is refused all the same.
            tracing::warn!(error = format!("{error:#}"), "the doors do not know what is taken");
            self.intake.not_told();
        }
    }

    /// Finds attempts that went out and are nowhere: not in the work queue, not with a worker, and
    /// without an end in the log. A worker acks after its report is stored, so a message that is gone
    /// without one was dropped.
    pub(super) async fn compare(&mut self) {
        let suspects = self.planner.suspects(self.now_ms(), SUSPECT_AFTER_MS);
        if suspects.is_empty() {
            return;
        }
        self.land().await;
        match self.dispatcher.take(&office::COMPARE).await {
            Ok(sight) => self.doubts.compared(suspects, &sight),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the work queue does not answer");
            }
        }
    }

    /// Holds and frees the queues' consumers, so that a pause also stops what is on its way.
    /// Says whether all of it was done; otherwise it is to be tried again.
    pub(super) async fn apply_pauses(&self) -> bool {
        let Ok(stream) = self.ctx.bus.jetstream().get_stream_no_info(subject::EXECUTIONS).await
        else {
            return false;
        };
        let mut complete = true;
        for (queue, held) in self.planner.pauses() {
            let consumer = subject::executions_consumer(&queue);
            // One that ends by itself is ended by the server, too.
            let until = held.and_then(|end| from_nanos(i128::from(end.micros()) * 1_000).ok());
            let outcome = match until {
                Some(until) => stream.pause_consumer(&consumer, until).await.map(|_| ()),
                None => stream.resume_consumer(&consumer).await.map(|_| ()),
            };
            match outcome {
                Ok(()) => {}
                // A queue that no worker has served yet has no consumer.
                Err(error) if error.to_string().contains("not found") => {}
                Err(error) => {
                    tracing::warn!(queue = %queue, %error, "a pause did not reach its consumer yet");
                    complete = false;
                }
            }
        }
        complete
    }
}
