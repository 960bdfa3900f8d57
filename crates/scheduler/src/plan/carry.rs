//! **Pure.** What outlives a trim of the log, and how a planner begins where the log was trimmed.
//!
//! Before the log is cut at a *floor*, every open task that was first mentioned below it is carried:
//! its state and its submission are appended again. So are finished tasks that something at or above
//! the floor was judged by. `policy.trimmed` then says that the log counts from the floor on, and
//! every planner forgets what ended before it.
//!
//! A planner that begins at a floor takes in everything that was carried before it reads, in a pass
//! over the log of its own, and skips what the carried states contain already. After the
//! `policy.trimmed` of its floor it knows what one knows that has read everything.

use common::{
    event::{Carried, Pause, Trimmed},
    id::{QueueName, TaskKey},
    lifecycle::Phase,
    task::{DEFAULT_QUEUE, TaskSpec},
    time::Timestamp,
};

use super::{Alarm, Entry, Found, Holder, Place, Planner, Rare, Ticket, Tombstone};
use crate::{graph::Edge, trim::Marks};

/// Where a task comes from whose submission does not lie where the log first mentioned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Carriage {
    /// Where the log first mentioned it.
    pub(super) created: (u64, u32),
    /// Who reads the log from here on knows the task.
    pub(super) anchor: u64,
}

/// What has to be appended again before the log can be cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Open tasks, oldest submission first.
    pub open: Vec<Ticket>,
    /// Finished tasks.
    pub over: Vec<TaskKey>,
    /// Open tasks about which something is being decided: their turn comes after that.
    pub undecided: usize,
}

impl Pass {
    /// Whether the log can be cut.
    pub fn is_done(&self) -> bool {
        self.open.is_empty() && self.over.is_empty() && self.undecided == 0
    }
}

/// A cut that is being made: what may have to be carried since it was looked at.
#[derive(Debug, Default)]
pub(super) struct Cut {
    floor: u64,
    open: Vec<Ticket>,
    over: Vec<TaskKey>,
}

impl Planner {
    /// The first message that the log counts.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// How the log grew.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Whether it knows all that the log says: not while it reads what it began from.
    pub fn is_settled(&self) -> bool {
        self.known.is_empty()
    }

    /// What has to be carried before the log is cut at `floor`.
    pub fn to_carry(&self, floor: u64) -> Pass {
        let mut pass = Pass::default();
        let mut open = Vec::new();
        for (ticket, entry) in self.entries.iter() {
            if self.anchor(ticket, &entry) >= floor {
                continue;
            }
            match entry.deciding {
                Some(_) => pass.undecided += 1,
                None => open.push((entry.sequence, ticket)),
            }
        }
        open.sort_unstable();
        pass.open = open.into_iter().map(|(_, ticket)| ticket).collect();
        let over = self.over.iter().filter(|(key, end)| {
            end.created.0 < floor && end.used >= floor && !self.is_carried_over(*key, floor)
        });
        pass.over = over.map(|(key, _)| key).collect();
        pass
    }

    /// Begins to cut the log at `floor`: what has to be carried first. From here on it remembers what
    /// changes about that, for [`Planner::look_again`].
    pub fn begin_cut(&mut self, floor: u64) -> Pass {
        let open = self.entries.iter().filter(|(ticket, e)| self.anchor(*ticket, e) < floor);
        let open = open.map(|(ticket, _)| ticket).collect();
        let pass = self.to_carry(floor);
        self.cut = Some(Cut { floor, open, over: pass.over.clone() });
        pass
    }

    /// What is left to be carried of the cut that was begun. It looks only at what was left before
    /// and at what came since: on a busy log there is little time before something comes again.
    pub fn look_again(&mut self) -> Pass {
        let Some(Cut { floor, open, over }) = self.cut.take() else { return Pass::default() };
        let left = |ticket: &Ticket| {
            self.entry(*ticket).is_some_and(|entry| self.anchor(*ticket, &entry) < floor)
        };
        let open = open.into_iter().filter(left).collect::<Vec<_>>();
        let left = |key: &TaskKey| {
            let end = self.over.get(*key);
            end.is_some_and(|end| end.created.0 < floor && end.used >= floor)
                && !self.is_carried_over(*key, floor)
        };
        let over = over.into_iter().filter(left).collect::<Vec<_>>();
        let decided = |ticket: &Ticket| self.entry(*ticket).is_some_and(|e| e.deciding.is_none());
        let (ready, undecided): (Vec<_>, Vec<_>) = open.iter().copied().partition(decided);
        let pass = Pass { open: ready, over: over.clone(), undecided: undecided.len() };
        self.cut = Some(Cut { floor, open, over });
        pass
    }

    /// The cut was made, or given up.
    pub fn end_cut(&mut self) {
        self.cut = None;
    }

    /// Something was read with the end of this task in mind.
    pub(super) fn touch(&mut self, key: TaskKey) {
        if let Some(cut) = &mut self.cut {
            cut.over.push(key);
        }
    }

    fn anchor(&self, ticket: Ticket, entry: &Entry) -> u64 {
        self.carried.get(&ticket.slot).map_or(entry.sequence, |carriage| carriage.anchor)
    }

    fn is_carried_over(&self, key: TaskKey, floor: u64) -> bool {
        self.carried_over.get(&key).is_some_and(|as_of| as_of + 1 >= floor)
    }

    /// An open task as it is after the message `as_of`. A task that is known from reports only has no
    /// submission, and one about which something is being decided is not
    /// carried.
    pub fn carry(
        &self,
        ticket: Ticket,
        spec: Option<&TaskSpec>,
        created_at: Timestamp,
        as_of: u64,
    ) -> Option<Carried> {
        let entry = self.entry(ticket).filter(|entry| entry.deciding.is_none())?;
        let created = self.carried.get(&ticket.slot).map(|carriage| carriage.created);
        let waits = self.graph.waits(ticket.slot);
        let waits_on = spec.map_or_else(Vec::new, |spec| {
            let tenant = spec.tenant();
            let keys = spec.depends_on().into_iter().map(|d| (TaskKey::new(&tenant, &d.id), d.on));
            let waiting = |(dependency, on)| waits.contains(&Edge { dependency, on });
            (0..).zip(keys).filter(|(_, edge)| waiting(*edge)).map(|(place, _)| place).collect()
        });
        Some(Carried {
            place: created.unwrap_or((entry.sequence, entry.index)),
            created_at,
            as_of,
            state: entry.state,
            due: entry.due,
            priority: entry.priority,
            alone: entry.alone,
            worker: self.holder(ticket).unwrap_or_default().to_owned(),
            waits_on,
            spec: spec.map(|spec| Box::new(spec.clone())),
            ended_at: 0,
        })
    }

    /// A finished task as it is after the message `as_of`. Its attempts are of no use any more.
    pub fn carry_over(&self, key: TaskKey, as_of: u64) -> Option<Carried> {
        let Some(Found::Over(end)) = self.find(key) else { return None };
        let mut state = common::lifecycle::State::created(false);
        state.phase = end.phase;
        Some(Carried {
            place: end.created,
            created_at: Timestamp::default(),
            as_of,
            state,
            due: Timestamp::default(),
            priority: common::task::PRIORITY,
            alone: false,
            worker: String::new(),
            waits_on: Vec::new(),
            spec: None,
            ended_at: end.ended,
        })
    }

    /// What is said when the log is cut at `floor`, after the message `as_of`.
    pub fn trim_at(&self, floor: u64, as_of: u64) -> Trimmed {
        let all = self.paused.iter().map(|reason| Pause { queue: None, reason: reason.clone() });
        let held = self.queues.iter().filter_map(|(name, queue)| {
            Some(Pause { queue: Some(name.clone()), reason: queue.paused.clone()? })
        });
        // The clock is that at the floor: who begins there adds delays to it.
        let clock = self.marks.clock_at(floor);
        Trimmed { floor, as_of, clock, pauses: all.chain(held).collect() }
    }

    /// A task that the log has already told of was carried.
    pub(super) fn carried(&mut self, ticket: Ticket, at: (u64, u32), body: &Carried) {
        let Some(entry) = self.entry(ticket) else { return };
        // One that was composed before the last is of no use: it would take the anchor back.
        if body.as_of < self.anchor(ticket, &entry) {
            return;
        }
        let created = self.carried.get(&ticket.slot).map(|carriage| carriage.created);
        let created = created.unwrap_or((entry.sequence, entry.index));
        self.carried.insert(ticket.slot, Carriage { created, anchor: body.as_of + 1 });
        // One that was submitted while it was carried as a stub is read where it was submitted.
        if body.spec.is_some() || entry.state.stub {
            self.entries.update(ticket, |entry| (entry.sequence, entry.index) = at);
        }
    }

    /// A finished task was carried. What it was is read there from now on: its submission is about
    /// to be purged.
    pub(super) fn carried_over(&mut self, key: TaskKey, at: (u64, u32), body: &Carried) {
        let as_of = self.carried_over.entry(key).or_default();
        *as_of = body.as_of.max(*as_of);
        if let Some(end) = self.over.get(key) {
            self.over.insert(key, Tombstone { sequence: at.0, index: at.1, ..end });
        }
    }

    /// A task that was known from reports was submitted: its submission lies there, and the first
    /// report is what one must have read to know of it.
    pub(super) fn described(&mut self, ticket: Ticket, before: &Entry, at: (u64, u32)) {
        let first = (before.sequence, before.index);
        self.carried.entry(ticket.slot).or_insert(Carriage { created: first, anchor: first.0 });
        self.entries.update(ticket, |entry| (entry.sequence, entry.index) = at);
    }

    /// The log was cut: what ended before the floor is forgotten.
    pub(super) fn trimmed(&mut self, at: u64, trimmed: &Trimmed) {
        self.marks.cut(at);
        self.over.forget_before(trimmed.floor);
        if trimmed.as_of < self.pauses_known {
            // An older cut than the one that it began at.
            return;
        }
        self.floor = trimmed.floor.max(self.floor);
        self.carried_over.clear();
        self.known.clear();
        self.pauses_known = 0;
    }

    /// Begins where the log was trimmed; everything that was carried comes next.
    pub fn begin_at(trimmed: &Trimmed) -> Self {
        let mut planner = Self {
            floor: trimmed.floor,
            pauses_known: trimmed.as_of,
            log_clock: trimmed.clock,
            clock: trimmed.clock,
            ..Self::default()
        };
        for Pause { queue, reason } in &trimmed.pauses {
            match queue {
                None => planner.paused = Some(reason.clone()),
                Some(name) => {
                    let id = planner.queue_id(name);
                    planner.queue_mut(id).paused = Some(reason.clone());
                }
            }
        }
        planner
    }

    /// Takes in a carried task that lies there, before the log is read on from the floor.
    pub fn preload(&mut self, at: (u64, u32), key: TaskKey, carried: &Carried) {
        let newer = self.known.get(&key).is_none_or(|as_of| *as_of < carried.as_of);
        if carried.as_of + 1 < self.floor || !newer {
            return;
        }
        if let Some(Found::Open(ticket, _)) = self.find(key) {
            self.drop_preloaded(ticket);
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
        let ticket = self.adopt(entry, &carried.worker);
        let carriage = Carriage { created: carried.place, anchor: carried.as_of + 1 };
        self.carried.insert(ticket.slot, carriage);
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
    pub(super) fn adopt(&mut self, entry: Entry, holder: &str) -> Ticket {
        let external = entry.state.external;
        let running = entry.state.phase == Phase::Running && !external;
        let place = if external { Place::External } else { Place::Waiting };
        let ticket = self.entries.insert(&Entry { place, ..entry });
        if !external {
            self.queue_mut(entry.queue).waiting += 1;
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
    }

    /// Whether the carried state of the task contains this message.
    pub(super) fn is_known(&self, key: TaskKey, sequence: u64) -> bool {
        self.known.get(&key).is_some_and(|as_of| sequence <= *as_of)
    }
}
