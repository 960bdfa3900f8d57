//! **Pure.** What outlives a trim of the log.
//!
//! Before the log is cut at a *floor*, every open task that was first mentioned below it is carried:
//! its state and its submission are appended again. So are finished tasks that something at or above
//! the floor was judged by. `policy.trimmed` then says that the log counts from the floor on, and
//! every planner forgets what ended before it.
//! How a planner begins at a floor is in `plan/cold.rs`.

use common::{
    event::{Carried, Policy, Trimmed},
    id::TaskKey,
    policy::{self, schedule::Advanced},
    task::TaskSpec,
    time::Timestamp,
};

use super::{Entry, Found, Planner, Ticket, Tombstone};
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
    /// Limits, schedules and task types.
    pub documents: Vec<policy::Id>,
    /// Where schedules stand.
    pub schedules: Vec<Advanced>,
    /// Open tasks about which something is being decided: their turn comes after that.
    pub undecided: usize,
}

impl Pass {
    /// Whether nothing is to be appended now.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
            && self.over.is_empty()
            && self.documents.is_empty()
            && self.schedules.is_empty()
    }

    /// Whether the log can be cut.
    pub fn is_done(&self) -> bool {
        self.is_empty() && self.undecided == 0
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
        pass.documents = self.policies.to_carry(floor);
        pass.schedules = self.schedules.to_state(floor);
        pass
    }

    /// The first message that an open task needs: a cut below it carries none.
    pub fn oldest_open(&self) -> Option<u64> {
        self.entries.iter().map(|(ticket, entry)| self.anchor(ticket, &entry)).min()
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

    /// What is left to be carried of the cut at `floor`. It looks only at what was left before and at
    /// what came since the cut was begun: on a busy log there is little time before something comes
    /// again.
    pub fn look_again(&mut self, floor: u64) -> Pass {
        let Some(Cut { open, over, .. }) = self.cut.take_if(|cut| cut.floor == floor) else {
            return self.begin_cut(floor);
        };
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
        let documents = self.policies.to_carry(floor);
        let schedules = self.schedules.to_state(floor);
        let (over_left, undecided) = (over.clone(), undecided.len());
        let pass = Pass { open: ready, over: over_left, documents, schedules, undecided };
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

    /// A document as it holds after the message `as_of`.
    pub fn carry_document(&self, id: &policy::Id, as_of: u64) -> Option<Policy> {
        self.policies.carry(id, as_of).map(|document| Policy::Document(Box::new(document)))
    }

    /// What is said when the log is cut at `floor`, after the message `as_of`.
    pub fn trim_at(&self, floor: u64, as_of: u64) -> Trimmed {
        // The clock is that at the floor: who begins there adds delays to it.
        let clock = self.marks.clock_at(floor);
        let (pauses, rates) = (self.lasting_pauses(), self.used_rates());
        Trimmed { floor, as_of, clock, pauses, rates }
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
        self.types.forget_before(trimmed.floor);
        self.policies.trimmed(trimmed.floor);
        if trimmed.as_of < self.pauses_known {
            // An older cut than the one that it began at.
            return;
        }
        if trimmed.as_of == self.pauses_known {
            // The cut that it began at. It has skipped starts that carried states contain.
            self.rates_known(&trimmed.rates);
        }
        self.floor = trimmed.floor.max(self.floor);
        self.schedules.trimmed();
        self.carried_over.clear();
        self.known.clear();
        self.pauses_known = 0;
    }
}
