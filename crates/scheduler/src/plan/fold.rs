//! **Pure.** What each event of the log does to the backlog.

use common::{
    event::{Event, Kind, Policy, TaskEvent},
    id::{QueueName, TaskKey},
    lifecycle::{self, Phase, State},
    task::{DEFAULT_QUEUE, TaskSpec},
    time::Timestamp,
};

use super::{Alarm, Decision, Entry, Found, Holder, Place, Planner, Rare, Ticket, Tombstone};
use crate::graph::{self, Edge, Verdict};

/// What the shell may want to know of a folded event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// A task to be dispatched was created here: its payload may be kept.
    pub created: Option<Ticket>,
    /// The task of this slot is over: its payload may go.
    pub ended: Option<Ticket>,
    /// A pause began or ended.
    pub policy: bool,
}

impl Planner {
    /// Takes in one event of the log.
    pub fn fold(
        &mut self,
        (sequence, index): (u64, u32),
        at: Timestamp,
        event: &Event,
        now_ms: u64,
    ) -> Folded {
        self.log_clock = self.log_clock.max(at);
        self.clock = self.clock.max(at);
        self.marks.read(sequence, self.log_clock);
        match event {
            Event::Policy(event) => {
                self.policy(sequence, &event.policy);
                let pauses = matches!(
                    event.policy,
                    Policy::Paused(_) | Policy::Resumed { .. } | Policy::Trimmed(_)
                );
                Folded { policy: pauses, ..Folded::default() }
            }
            Event::Task(event) => self.task((sequence, index), event, now_ms),
        }
    }

    fn task(&mut self, at: (u64, u32), event: &TaskEvent, now_ms: u64) -> Folded {
        let key = TaskKey::new(&event.tenant, &event.id);
        if let Kind::Created(spec) = &event.kind {
            // Its tick is decided, whatever becomes of the task.
            self.schedules.created(spec, at.0);
        }
        let known = match self.find(key) {
            _ if self.is_known(key, at.0) => return Folded::default(),
            Some(Found::Over(_)) => {
                if let Kind::Carried(body) = &event.kind {
                    self.carried_over(key, at, body);
                } else {
                    self.over.used(key, at.0);
                    self.touch(key);
                }
                return Folded::default();
            }
            Some(Found::Open(ticket, entry)) => Some((ticket, entry)),
            None => None,
        };
        let Ok(state) = lifecycle::apply(known.map(|(_, entry)| entry.state), &event.kind) else {
            return Folded::default();
        };
        match (known, &event.kind) {
            (None, Kind::Created(spec)) => self.created(key, at, state, spec),
            (None, _) => self.stub(key, at, state),
            (Some((ticket, entry)), Kind::Created(spec)) => {
                self.run_opened(key, spec);
                self.set_state(ticket, state);
                self.described(ticket, &entry, at);
                Folded::default()
            }
            (Some(before), kind) => self.moved(before, state, (at, kind), now_ms),
        }
    }

    fn created(&mut self, key: TaskKey, at: (u64, u32), state: State, spec: &TaskSpec) -> Folded {
        self.marks.created();
        self.run_opened(key, spec);
        let now = self.log_clock;
        let queue = self.queue_id(&spec.queue());
        let kind = self.kind_id(&spec.as_pb().task_type);
        let ticket = self.entries.insert(&Entry {
            key,
            sequence: at.0,
            index: at.1,
            state,
            due: spec.not_before(now).unwrap_or_default(),
            place: if state.external { Place::External } else { Place::Waiting },
            deciding: None,
            priority: spec.priority(),
            alone: false,
            queue,
            kind,
        });
        if state.external {
            return self.ask_type(ticket, spec);
        }
        self.queue_mut(queue).waiting += 1;
        self.begin(ticket, spec, at.0, now);
        Folded { created: Some(ticket), ..Folded::default() }
    }

    /// Begins to wait for what a task to be dispatched waits for.
    pub(super) fn begin(&mut self, ticket: Ticket, spec: &TaskSpec, at: u64, created: Timestamp) {
        let Some(Entry { key, queue, .. }) = self.entry(ticket) else { return };
        self.by_hand(ticket, spec);
        if let Some(keys) = self.keys_of(queue, spec) {
            self.enter_flow(ticket, Some(&keys));
            self.arrived(ticket, created, true);
        }
        let timeouts = spec.timeouts();
        if let Some(total) = timeouts.total {
            self.alarm(created.after(total), ticket, Alarm::Total);
        }
        if timeouts.queue.is_some() {
            self.rare
                .insert(ticket.slot, Rare { queue_timeout: timeouts.queue, ..Rare::default() });
        }
        self.link(ticket, key, at, spec);
        if let Some(wait) = timeouts.dependency
            && self.graph.waits(ticket.slot).iter().any(|edge| self.find(edge.dependency).is_none())
        {
            self.alarm(created.after(wait), ticket, Alarm::Dependency);
        }
        self.settle(ticket);
    }

    /// Puts the edges of a new task into the graph, and decides those that are settled already.
    fn link(&mut self, ticket: Ticket, key: TaskKey, at: u64, spec: &TaskSpec) {
        if spec.as_pb().depends_on.is_empty() {
            return;
        }
        let tenant = spec.tenant();
        let mut edges: Vec<Edge> = Vec::new();
        for dependency in spec.depends_on() {
            let edge =
                Edge { dependency: TaskKey::new(&tenant, &dependency.id), on: dependency.on };
            match self.over.get(edge.dependency) {
                Some(end) => {
                    self.over.used(edge.dependency, at);
                    self.touch(edge.dependency);
                    self.judge(ticket, edge.on, end.phase);
                }
                None if edges.contains(&edge) => {}
                None => edges.push(edge),
            }
        }
        if self.graph.closes_cycle(key, &edges, |key| self.entries.find(key).map(|(t, _)| t.slot)) {
            self.decide(ticket, Decision::Cycle);
        } else {
            self.graph.wait(ticket, edges);
        }
    }

    pub(super) fn judge(&mut self, ticket: Ticket, on: common::task::On, end: Phase) {
        match graph::judge(on, end) {
            Verdict::Met => {}
            Verdict::Fail => self.decide(ticket, Decision::DependencyFailed),
            Verdict::Skip => self.decide(ticket, Decision::Skip),
        }
    }

    /// A task that is known from a report only.
    fn stub(&mut self, key: TaskKey, at: (u64, u32), state: State) -> Folded {
        let queue = self.queue_id(&QueueName::parse(DEFAULT_QUEUE).expect("invariant: a token"));
        let ticket = self.entries.insert(&Entry {
            key,
            sequence: at.0,
            index: at.1,
            state,
            due: Timestamp::default(),
            place: Place::External,
            deciding: None,
            priority: common::task::PRIORITY,
            alone: false,
            queue,
            kind: 0,
        });
        if state.phase.is_terminal() {
            self.end(ticket, at.0);
        }
        Folded::default()
    }

    /// An event that took effect on an open task.
    fn moved(
        &mut self,
        (ticket, before): (Ticket, Entry),
        state: State,
        (at, kind): ((u64, u32), &Kind),
        now_ms: u64,
    ) -> Folded {
        self.set_state(ticket, state);
        let was_out = matches!(before.place, Place::Released(_) | Place::External);
        if state.ended > before.state.ended && !was_out {
            self.charge(ticket, before.queue);
        }
        match kind {
            Kind::Started(body) => {
                let holder = Holder { worker: body.worker.as_str().into(), since_ms: now_ms };
                self.holders.insert(ticket.slot, holder);
                // A late leader learns here that the attempt is out.
                if !was_out {
                    self.place(ticket, Place::Released(now_ms));
                }
            }
            Kind::Reprioritised(body) => {
                self.entries.update(ticket, |entry| entry.priority = body.priority as u8);
                if before.place == Place::Ready {
                    self.place(ticket, Place::Ready);
                }
            }
            Kind::Expedited(_) => {
                self.entries.update(ticket, |entry| entry.due = Timestamp::default());
                self.settle(ticket);
            }
            Kind::Completed(body) => self.learn(before, body.duration, now_ms),
            Kind::Failed(body) => self.learn(before, body.duration, now_ms),
            Kind::Cancelled(body) => self.learn(before, body.duration, now_ms),
            Kind::Retrying(body) => {
                self.learn(before, body.duration, now_ms);
                let delay =
                    body.delay.and_then(common::wire::time::Duration::to_std).unwrap_or_default();
                self.again(ticket, self.log_clock.after(delay));
            }
            Kind::Returned(_) => {
                self.set_alone(ticket);
                self.again(ticket, Timestamp::default());
            }
            Kind::Lost(_) => {
                self.set_alone(ticket);
                self.holders.remove(&ticket.slot);
                self.place(ticket, Place::Waiting);
                self.verdict(ticket);
            }
            Kind::CancelRequested(_) => self.cancel_requested(ticket),
            Kind::Carried(body) => self.carried(ticket, at, body),
            Kind::Resolved(body) => return self.resolved(ticket, &before, at, body),
            Kind::Created(_)
            | Kind::Progress(_)
            | Kind::Snapshot(_)
            | Kind::Updated(_)
            | Kind::Skipped(_) => {}
        }
        if state.phase.is_terminal() {
            self.end(ticket, at.0);
            return Folded { ended: Some(ticket), ..Folded::default() };
        }
        Folded::default()
    }

    /// An attempt ended and another may follow.
    fn again(&mut self, ticket: Ticket, due: Timestamp) {
        self.holders.remove(&ticket.slot);
        let Some(cancelled) = self.entry(ticket).map(|e| e.state.cancel_requested) else { return };
        self.entries.update(ticket, |entry| (entry.due, entry.deciding) = (due, None));
        self.place(ticket, Place::Waiting);
        if cancelled {
            self.decide(ticket, Decision::Cancel);
        } else {
            self.settle(ticket);
        }
    }

    /// An attempt was lost: decides what follows.
    pub(super) fn verdict(&mut self, ticket: Ticket) {
        let cancelled = self.entry(ticket).is_some_and(|e| e.state.cancel_requested);
        self.decide(ticket, if cancelled { Decision::Cancel } else { Decision::AfterLoss });
    }

    /// A request to end a task that is out is asked for again until nobody holds it.
    pub(super) fn cancel_requested(&mut self, ticket: Ticket) {
        let check = self.clock.after(common::limits::HEARTBEAT_EVERY * 2);
        self.alarm(check, ticket, Alarm::Cancel);
        // Who follows does not know that it was out: nobody gives it out again.
        if self.entry(ticket).is_some_and(|entry| entry.place == Place::Ready) {
            self.place(ticket, Place::Waiting);
        }
    }

    fn set_state(&mut self, ticket: Ticket, state: State) {
        let Some(before) = self.entry(ticket).filter(|entry| entry.state != state) else { return };
        self.entries.update(ticket, |entry| (entry.state, entry.deciding) = (state, None));
        // Its timer has rung. Another leader gave it out before that was said, so it rings again.
        match before.deciding {
            Some(Decision::TotalTimeout) => self.alarm(self.clock, ticket, Alarm::Total),
            Some(Decision::DependencyMissing) => self.alarm(self.clock, ticket, Alarm::Dependency),
            Some(_) | None => {}
        }
    }

    fn set_alone(&mut self, ticket: Ticket) {
        self.entries.update(ticket, |entry| entry.alone = true);
    }

    /// Makes a waiting task ready, if nothing holds it.
    pub(super) fn settle(&mut self, ticket: Ticket) {
        let Some(entry) = self.entry(ticket) else { return };
        let waits = entry.deciding.is_some()
            || entry.state.cancel_requested
            || entry.place != Place::Waiting
            || !matches!(entry.state.phase, Phase::Pending)
            || !self.graph.waits(ticket.slot).is_empty();
        if waits || self.type_holds(ticket, &entry) {
            return;
        }
        if entry.due > self.clock {
            self.alarm(entry.due, ticket, Alarm::Due);
            return;
        }
        self.place(ticket, Place::Ready);
        if let Some(rare) = self.rare.get_mut(&ticket.slot) {
            rare.ready_since = None;
        }
        self.wait_for_queue(ticket);
    }

    /// The task is over: tells those who wait for it, and keeps a tombstone.
    pub(super) fn end(&mut self, ticket: Ticket, ended: u64) {
        let Some(entry) = self.entry(ticket) else { return };
        self.place(ticket, Place::External);
        self.graph.forget(ticket);
        self.holders.remove(&ticket.slot);
        self.rare.remove(&ticket.slot);
        self.types.forget(ticket.slot, entry.key);
        let Entry { key, sequence, index, .. } = entry;
        let phase = entry.state.phase;
        let created = self.carried.remove(&ticket.slot).map_or((sequence, index), |c| c.created);
        self.marks.ended();
        self.schedules.ended(key);
        self.over.insert(key, Tombstone { sequence, index, created, ended, used: ended, phase });
        self.touch(key);
        self.entries.remove(ticket);
        for (dependent, on) in self.graph.take_dependents(entry.key) {
            let left = self.graph.met(dependent.slot, entry.key);
            self.judge(dependent, on, phase);
            if left == 0 {
                self.settle(dependent);
            }
        }
    }
}
