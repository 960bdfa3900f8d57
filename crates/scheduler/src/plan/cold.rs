//! **Pure.** How a planner begins where the log was trimmed.
//!
//! It takes in everything that was carried before it reads, in a pass over the log of its own, and
//! skips what the carried states contain already. After the `policy.trimmed` of its floor it knows
//! what one knows that has read everything.

use common::{
    event::{Carried, Event, Kind, Policy, Trimmed},
    id::{QueueName, TaskKey},
    lifecycle::Phase,
    task::{DEFAULT_QUEUE, TaskSpec},
};

use super::{
    Alarm, Entry, Found, Holder, Place, Planner, Rare, Ticket, Tombstone, carry::Carriage,
};
use crate::graph::Edge;

impl Planner {
    /// Begins where the log was trimmed; everything that was carried comes next.
    pub fn begin_at(trimmed: &Trimmed) -> Self {
        let mut planner = Self {
            floor: trimmed.floor,
            pauses_known: trimmed.as_of,
            log_clock: trimmed.clock,
            clock: trimmed.clock,
            ..Self::default()
        };
        for pause in &trimmed.pauses {
            planner.set_pause(pause.queue.as_ref(), Some(pause.clone()));
        }
        planner
    }

    /// Takes in what was carried, if this event carries something, before the log is read on from the
    /// floor.
    pub fn preload(&mut self, at: (u64, u32), event: &Event) {
        match event {
            Event::Task(event) => {
                if let Kind::Carried(carried) = &event.kind {
                    self.preload_task(at, TaskKey::new(&event.tenant, &event.id), carried);
                }
            }
            Event::Policy(event) => match &event.policy {
                Policy::Document(document) => {
                    self.policies.preload(self.floor, document);
                    self.policy_changed(&document.id());
                }
                Policy::ScheduleAdvanced(advanced) => self.schedules.preload(advanced),
                Policy::Paused { .. } | Policy::Resumed { .. } | Policy::Trimmed(_) => {}
            },
        }
    }

    /// Takes in a carried task that lies there.
    fn preload_task(&mut self, at: (u64, u32), key: TaskKey, carried: &Carried) {
        let newer = self.known.get(&key).is_none_or(|as_of| *as_of < carried.as_of);
        if carried.as_of + 1 < self.floor || !newer {
            return;
        }
        if let Some(Found::Open(ticket, _)) = self.find(key) {
            self.drop_preloaded(ticket);
            self.schedules.ended(key);
        }
        self.known.insert(key, carried.as_of);
        if carried.state.phase.is_terminal() {
            let (sequence, index) = at;
            let ended = carried.ended_at;
            let end = Tombstone {
                sequence,
                index,
                created: carried.place,
                ended,
                used: ended.max(carried.as_of),
                phase: carried.state.phase,
            };
            self.over.insert(key, end);
            self.carried_over.insert(key, carried.as_of);
            return;
        }
        let queue = carried.spec.as_ref().map_or_else(
            || QueueName::parse(DEFAULT_QUEUE).expect("invariant: a token"),
            |spec| spec.queue(),
        );
        let kind = carried.spec.as_ref().map_or(0, |s| self.kind_id(&s.as_pb().task_type));
        let entry = Entry {
            key,
            sequence: at.0,
            index: at.1,
            state: carried.state,
            due: carried.due,
            place: Place::Waiting,
            deciding: None,
            priority: carried.priority,
            alone: carried.alone,
            queue: self.queue_id(&queue),
            kind,
        };
        let keys = carried.spec.as_ref().and_then(|spec| self.keys_of(entry.queue, spec));
        let ticket = self.adopt(entry, (&carried.worker, keys.as_deref()));
        self.run_carried(key, carried);
        let carriage = Carriage { created: carried.place, anchor: carried.as_of + 1 };
        self.carried.insert(ticket.slot, carriage);
        self.arrived(ticket, carried.created_at, false);
        let Some(spec) = &carried.spec else { return };
        if !carried.state.external {
            self.preload_waits(ticket, carried, spec);
        }
    }

    fn preload_waits(&mut self, ticket: Ticket, carried: &Carried, spec: &TaskSpec) {
        let tenant = spec.tenant();
        let depends_on = spec.depends_on();
        let edge = |place: &u32| {
            let dependency = depends_on.get(*place as usize)?;
            Some(Edge { dependency: TaskKey::new(&tenant, &dependency.id), on: dependency.on })
        };
        let mut edges = Vec::new();
        for edge in carried.waits_on.iter().filter_map(edge) {
            // One that was asked for twice is waited for once.
            if !edges.contains(&edge) {
                edges.push(edge);
            }
        }
        self.graph.wait(ticket, edges);
        self.by_hand(ticket, spec);
        let timeouts = spec.timeouts();
        if let Some(total) = timeouts.total {
            self.alarm(carried.created_at.after(total), ticket, Alarm::Total);
        }
        if let Some(wait) = timeouts.dependency
            && !carried.waits_on.is_empty()
        {
            self.alarm(carried.created_at.after(wait), ticket, Alarm::Dependency);
        }
        if timeouts.queue.is_some() {
            let rare = Rare { queue_timeout: timeouts.queue, ..Rare::default() };
            self.rare.insert(ticket.slot, rare);
        }
        if carried.state.cancel_requested {
            self.cancel_requested(ticket);
        }
    }

    /// Puts a task back that was stored or carried; settle it when all are there.
    pub(super) fn adopt(
        &mut self,
        entry: Entry,
        (holder, keys): (&str, Option<&[Box<str>]>),
    ) -> Ticket {
        let external = entry.state.external;
        let running = entry.state.phase == Phase::Running && !external;
        let place = if external { Place::External } else { Place::Waiting };
        let ticket = self.entries.insert(&Entry { place, ..entry });
        if !external {
            self.queue_mut(entry.queue).waiting += 1;
            self.enter_flow(ticket, keys);
        }
        if running {
            self.place(ticket, Place::Released(0));
        }
        if !holder.is_empty() {
            self.holders.insert(ticket.slot, Holder { worker: holder.into(), since_ms: 0 });
        }
        ticket
    }

    fn drop_preloaded(&mut self, ticket: Ticket) {
        self.place(ticket, Place::External);
        self.graph.forget(ticket);
        self.holders.remove(&ticket.slot);
        self.rare.remove(&ticket.slot);
        self.carried.remove(&ticket.slot);
        self.entries.remove(ticket);
    }

    /// Everything that was carried is there: what does not wait is ready.
    pub fn preloaded(&mut self) {
        self.documents_known();
        self.learn_schedules();
        self.restoring(true);
        let tickets = self.entries.iter().map(|(ticket, _)| ticket).collect::<Vec<_>>();
        for ticket in tickets {
            for edge in self.graph.waits(ticket.slot).to_vec() {
                // Carried at different times, so that the end of one may come before the other.
                if let Some(end) = self.over.get(edge.dependency) {
                    self.graph.take_dependents(edge.dependency);
                    self.graph.met(ticket.slot, edge.dependency);
                    self.judge(ticket, edge.on, end.phase);
                }
            }
            self.settle(ticket);
            if self.entry(ticket).is_some_and(|e| e.state.phase == Phase::Verdict) {
                self.verdict(ticket);
            }
        }
        self.restoring(false);
    }

    /// Whether the carried state of the task contains this message.
    pub(super) fn is_known(&self, key: TaskKey, sequence: u64) -> bool {
        self.known.get(&key).is_some_and(|as_of| sequence <= *as_of)
    }
}
