//! **Pure.** The limits in the planner: which tasks they hold, and what they are told of these.
//!
//! Where the fold moves a task, its limits count it, so that what they know follows from the log and
//! from what is out, after a take-over too. A task's keys are read from its submission when that is
//! folded. Those of tasks that were there before the limit are read later, by
//! [`Planner::unkeyed`] and [`Planner::keyed`]; until then these wait, so that no limit is exceeded.

mod kept;
mod keys;
mod show;
mod ttl;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use common::{id::QueueName, limits, policy::limit::Limit, task::TaskSpec, time::Timestamp};

use super::{Decision, Entry, Place, Planner, Ticket, entries::Entries};
use crate::flow::{Arrival, Flow, Named, Next, Stand};

/// Every limit, and what the queues that have some do with them.
#[derive(Debug, Default)]
pub(super) struct Control {
    limits: BTreeMap<Box<str>, Named>,
    flows: HashMap<u32, Flow>,
    /// The lanes of tasks in these queues, by slot.
    lanes: HashMap<u32, u32>,
    /// What is out and whose keys are not known.
    unkeyed_out: HashMap<u32, VecDeque<Ticket>>,
    /// What is put into its lane now was ready before.
    restoring: bool,
}

/// The next task of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) enum Candidate {
    /// It was taken off its queue.
    Plain(u8, Ticket),
    /// It still stands in its lane.
    Lane(Next),
}

impl Candidate {
    pub(super) fn ticket(self) -> Ticket {
        match self {
            Self::Plain(_, ticket) => ticket,
            Self::Lane(next) => next.ticket,
        }
    }
}

fn stand(place: Place) -> Option<Stand> {
    match place {
        Place::External => None,
        Place::Waiting => Some(Stand::Waiting),
        Place::Ready => Some(Stand::Ready),
        Place::Released(_) => Some(Stand::Out),
    }
}

fn has_keys(flow: &Flow) -> bool {
    flow.limits().iter().any(|named| named.limit.key.is_some())
}

/// Whether tasks keep their lanes when one list of limits replaces the other.
fn same_shape(old: &[Named], new: &[Named]) -> bool {
    let shape = |named: &Named| (named.name.clone(), named.limit.key.clone());
    old.len() == new.len() && old.iter().zip(new).all(|(a, b)| shape(a) == shape(b))
}

impl Planner {
    /// Sets a limit, or takes it away. What is out stays out; from here on the new numbers hold, for
    /// tasks that wait already as well.
    pub(super) fn set_limit(&mut self, name: &str, limit: Option<Limit>, since: u64) {
        let before = self.control.limits.get(name).map(|named| (&named.limit, named.since));
        if before == limit.as_ref().map(|limit| (limit, since)) {
            return;
        }
        let mut queues = BTreeSet::new();
        queues.extend(self.control.limits.remove(name).map(|named| named.limit.queue));
        if let Some(limit) = limit {
            queues.insert(limit.queue.clone());
            self.control.limits.insert(name.into(), Named { name: name.into(), limit, since });
        }
        for queue in queues {
            self.limits_changed(&queue);
        }
    }

    /// The limits of a task's queue.
    pub fn limits_of(&self, entry: &Entry) -> &[Named] {
        self.control.flows.get(&entry.queue).map_or(&[], Flow::limits)
    }

    fn limits_changed(&mut self, queue: &QueueName) {
        let id = self.queue_id(queue);
        let here = self.control.limits.values().filter(|named| named.limit.queue == *queue);
        let here = here.take(limits::LIMITS_OF_QUEUE_MAX).cloned().collect::<Vec<_>>();
        let now = self.clock.micros();
        match self.control.flows.remove(&id) {
            Some(mut flow) if same_shape(flow.limits(), &here) => {
                flow.set(here);
                flow.look_again(now);
                self.control.flows.insert(id, flow);
            }
            old => self.rebuild(id, old, here),
        }
        self.arm_ttl(id);
    }

    /// Puts every task of a queue into the lanes of other limits.
    fn rebuild(&mut self, id: u32, old: Option<Flow>, limits: Vec<Named>) {
        let now = self.clock.micros();
        let mut flow = Flow::new(limits);
        for state in old.iter().flat_map(|old| old.states(std::iter::empty())) {
            flow.restore(&state, now);
        }
        let is_limited = !flow.limits().is_empty();
        let mut unkeyed = VecDeque::new();
        let here = self.entries.iter().filter(|(_, entry)| entry.queue == id);
        for (ticket, entry) in here {
            let Some(stand) = stand(entry.place) else { continue };
            let lane = self.control.lanes.remove(&ticket.slot);
            let before = old.as_ref().zip(lane);
            if !is_limited {
                // It goes back to its priority.
            } else if let Some(keys) = keys_before(&flow, before) {
                self.control.lanes.insert(ticket.slot, flow.enter(&keys, stand));
            } else if stand == Stand::Out {
                unkeyed.push_back(ticket);
            }
        }
        let arrivals = old.as_ref().map(Flow::arrivals).unwrap_or_default();
        let ready = old.map(|old| old.ready()).unwrap_or_default();
        let mut plain = Vec::new();
        while let Some(one) = self.queue_mut(id).pop() {
            plain.push(one);
        }
        for (since, _, priority, ticket) in ready {
            if self.entries.is_ready(ticket, priority) {
                match self.control.lanes.get(&ticket.slot) {
                    Some(lane) => flow.push_since(*lane, priority, ticket, since, now),
                    None => plain.push((priority, ticket)),
                }
            }
        }
        if is_limited {
            self.control.flows.insert(id, flow);
            self.control.unkeyed_out.insert(id, unkeyed);
        } else {
            self.control.unkeyed_out.remove(&id);
        }
        for (priority, ticket) in plain {
            if self.entries.is_ready(ticket, priority) && !self.line_up(ticket, id, priority) {
                self.queue_mut(id).push(priority, ticket);
            }
        }
        for Arrival { ticket, at, is_new } in arrivals {
            self.arrived(ticket, Timestamp::from_micros(at), is_new);
        }
    }

    /// Puts a ready task of a queue with limits into its lane, if its keys are known.
    fn line_up(&mut self, ticket: Ticket, id: u32, priority: u8) -> bool {
        let now = self.clock.micros();
        let since = if self.control.restoring { self.since(ticket) } else { now };
        let lane = self.control.lanes.get(&ticket.slot);
        let flow = self.control.flows.get_mut(&id);
        let Some((flow, lane)) = flow.zip(lane) else { return false };
        if since < now {
            flow.push_since(*lane, priority, ticket, since, now);
        } else {
            flow.push(*lane, priority, ticket, now);
        }
        true
    }

    /// Since when a task could start, as far as is known.
    pub(super) fn since(&self, ticket: Ticket) -> i64 {
        let Some(entry) = self.entry(ticket) else { return self.clock.micros() };
        let carried = self.carried.get(&ticket.slot);
        let sequence = carried.map_or(entry.sequence, |carriage| carriage.created.0);
        let created = self.marks.clock_at(sequence);
        // Who began where the log was trimmed has read nothing before.
        let created = if created == Timestamp::default() { self.clock } else { created };
        created.max(entry.due).min(self.clock).micros()
    }

    /// Whether what is put into its lane was ready before.
    pub(super) fn restoring(&mut self, is_so: bool) {
        self.control.restoring = is_so;
    }

    /// A task was created in a queue, or came back from a snapshot with its keys.
    pub(super) fn enter_flow(&mut self, ticket: Ticket, keys: Option<&[Box<str>]>) {
        let Some(entry) = self.entry(ticket) else { return };
        let Some(stand) = stand(entry.place) else { return };
        let Some(flow) = self.control.flows.get_mut(&entry.queue) else { return };
        let count = flow.limits().iter().filter(|named| named.limit.key.is_some()).count();
        if let Some(keys) = keys.filter(|keys| keys.len() == count) {
            self.control.lanes.insert(ticket.slot, flow.enter(keys, stand));
        } else if count == 0 {
            self.control.lanes.insert(ticket.slot, flow.enter(&[], stand));
        } else if stand == Stand::Out {
            self.control.unkeyed_out.entry(entry.queue).or_default().push_back(ticket);
        }
    }

    /// The keys of a submission, for the limits of its queue.
    pub(super) fn keys_of(&self, queue: u32, spec: &TaskSpec) -> Option<Vec<Box<str>>> {
        let flow = self.control.flows.get(&queue)?;
        let keys = flow.limits().iter().filter_map(|named| named.limit.key.as_ref());
        Some(keys.map(|key| key.of(spec).unwrap_or_default()).collect())
    }

    /// A task came, at that time: its limits may have something to say.
    pub(super) fn arrived(&mut self, ticket: Ticket, at: Timestamp, is_new: bool) {
        let Some(entry) = self.entry(ticket) else { return };
        if let Some(lane) = self.control.lanes.get(&ticket.slot)
            && let Some(flow) = self.control.flows.get_mut(&entry.queue)
        {
            flow.arrived(*lane, Arrival { ticket, at: at.micros(), is_new });
        }
    }

    /// A task moves; says whether it stands in its lane now.
    pub(super) fn moved_in_flow(
        &mut self,
        ticket: Ticket,
        queue: u32,
        (from, to): (Place, Place),
        priority: u8,
    ) -> bool {
        let now = self.clock.micros();
        let Some(flow) = self.control.flows.get_mut(&queue) else { return false };
        let Some(lane) = self.control.lanes.get(&ticket.slot).copied() else {
            if matches!(to, Place::Released(_)) {
                self.control.unkeyed_out.entry(queue).or_default().push_back(ticket);
            }
            return false;
        };
        match (stand(from), stand(to)) {
            (Some(from), Some(to)) => {
                flow.moved(lane, from, to, now);
                to == Stand::Ready && self.line_up(ticket, queue, priority)
            }
            (Some(from), None) => {
                flow.leave(lane, from, now);
                self.control.lanes.remove(&ticket.slot);
                false
            }
            (None, _) => false,
        }
    }

    /// A release did not happen: the task goes back to where it was taken from.
    pub(super) fn line_up_first(&mut self, ticket: Ticket, queue: u32, priority: u8) -> bool {
        let now = self.clock.micros();
        let lane = self.control.lanes.get(&ticket.slot);
        let flow = self.control.flows.get_mut(&queue);
        let Some((flow, lane)) = flow.zip(lane) else { return false };
        flow.moved(*lane, Stand::Waiting, Stand::Ready, now);
        flow.push_front(*lane, priority, ticket, now);
        true
    }

    /// An attempt ended that this process did not know to be out.
    pub(super) fn charge(&mut self, ticket: Ticket, queue: u32) {
        if let Some(lane) = self.control.lanes.get(&ticket.slot)
            && let Some(flow) = self.control.flows.get_mut(&queue)
        {
            flow.charge(*lane, self.log_clock.micros());
        }
    }

    /// What a queue has to go next; `None` when nothing may.
    pub(super) fn candidate(&mut self, id: u32) -> Option<Candidate> {
        let Some(flow) = self.control.flows.get_mut(&id) else {
            while let Some((priority, ticket)) = self.queue_mut(id).pop() {
                if self.is_ready(ticket, priority) {
                    return Some(Candidate::Plain(priority, ticket));
                }
            }
            return None;
        };
        let unknown = self.control.unkeyed_out.get(&id);
        if unknown.is_some_and(|out| has_keys(flow) && !out.is_empty()) {
            return None;
        }
        let entries: &Entries = &self.entries;
        let is_ready = |ticket, priority| entries.is_ready(ticket, priority);
        flow.next(self.clock.micros(), is_ready).map(Candidate::Lane)
    }

    /// The candidate goes.
    pub(super) fn take(&mut self, id: u32, candidate: Candidate, now_ms: u64) {
        if let Candidate::Lane(next) = candidate
            && let Some(flow) = self.control.flows.get_mut(&id)
        {
            flow.take(next, self.clock.micros());
        }
        self.place(candidate.ticket(), Place::Released(now_ms));
    }

    /// The candidate does not go now.
    pub(super) fn pass_over(&mut self, id: u32, candidate: Candidate) {
        if let Candidate::Plain(priority, ticket) = candidate {
            self.queue_mut(id).push_front(priority, ticket);
        }
    }

    /// Time passes for the limits, and who leads judges what arrived.
    pub(super) fn tick_flows(&mut self) {
        let now = self.clock.micros();
        let mut refused = Vec::new();
        for flow in self.control.flows.values_mut() {
            flow.tick(now);
            let entries: &Entries = &self.entries;
            refused.extend(flow.judge(|ticket| entries.waits(ticket)));
        }
        // The same facts give the same decisions in the same order.
        refused.sort_unstable_by_key(|(ticket, _)| *ticket);
        for (ticket, refusal) in refused {
            self.leave_flow(ticket);
            self.decide(ticket, Decision::Refused(refusal));
        }
    }

    /// The task will never start: it does not count any more.
    fn leave_flow(&mut self, ticket: Ticket) {
        let Some(entry) = self.entry(ticket) else { return };
        let now = self.clock.micros();
        if let Some(lane) = self.control.lanes.remove(&ticket.slot)
            && let Some(flow) = self.control.flows.get_mut(&entry.queue)
            && let Some(stand) = stand(entry.place)
        {
            flow.leave(lane, stand, now);
        }
    }

    pub(super) fn compact_flows(&mut self) {
        let entries: &Entries = &self.entries;
        for flow in self.control.flows.values_mut() {
            flow.compact(|t, p| entries.is_ready(t, p), |t| entries.waits(t));
        }
    }

    /// When a limit lets something go on by itself.
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        let now = self.clock.micros();
        let wakes = self.control.flows.values().filter_map(|flow| flow.next_wake(now));
        wakes.min().map(Timestamp::from_micros)
    }
}

/// The keys of a task for other limits than before; `None` when its submission has to be read.
fn keys_before(flow: &Flow, before: Option<(&Flow, u32)>) -> Option<Vec<Box<str>>> {
    let mut keys = Vec::new();
    for named in flow.limits().iter().filter(|named| named.limit.key.is_some()) {
        let (old, lane) = before?;
        let mut known = old.limits().iter().filter(|n| n.limit.key.is_some()).zip(old.keys(lane));
        let same = |other: &Named| other.name == named.name && other.limit.key == named.limit.key;
        keys.push(known.find(|(other, _)| same(other))?.1);
    }
    Some(keys)
}
