//! **Pure.** The limits in the planner: which tasks they hold, and what they are told of these.
//!
//! Where the fold moves a task, its limits count it, so that what they know follows from the log and
//! from what is out, after a take-over too. A task's keys are read from its submission when that is
//! folded. Those of tasks that were there before the limit are read later, by
//! [`Planner::unkeyed`] and [`Planner::keyed`]; until then these wait, so that no limit is exceeded.

mod judge;
mod kept;
mod keys;
mod show;
mod ttl;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use common::{id::QueueName, limits, policy::limit::Limit, task::TaskSpec, time::Timestamp};

use super::{Decision, Entry, Place, Planner, Ticket, entries::Entries};
use crate::flow::{Flow, Named, Next, Stand, UNKNOWN};

/// Every limit, and what the queues that have some do with them.
#[derive(Debug, Default)]
pub(super) struct Control {
    limits: BTreeMap<Box<str>, Named>,
    flows: HashMap<u32, Flow>,
    /// The lanes of tasks in these queues, by slot.
    lanes: HashMap<u32, u32>,
    /// Since when those were ready that were taken off their lanes and are out.
    taken: HashMap<u32, i64>,
    /// What is put into its lane now was ready before.
    restoring: bool,
    /// This process leads, and has judged nothing yet.
    takes_over: bool,
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
                flow.set(here, now);
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
        flow.renew_rates(old.as_ref().map_or(&[], Flow::limits), now);
        let is_limited = !flow.limits().is_empty();
        // Looking costs as much as there are open tasks, for each document: mostly there are none here.
        let has_tasks = self.queue_mut(id).tasks() > 0;
        let open = has_tasks.then(|| self.entries.iter()).into_iter().flatten();
        for (ticket, entry) in open.filter(|(_, entry)| entry.queue == id) {
            let Some(stand) = stand(entry.place) else { continue };
            let lane = self.control.lanes.remove(&ticket.slot);
            if !is_limited {
                self.control.taken.remove(&ticket.slot);
            }
            if is_limited && !is_refused(&entry) {
                let keys = keys_before(&flow, old.as_ref().zip(lane));
                self.control.lanes.insert(ticket.slot, flow.enter(&keys, stand));
            }
        }
        let arrivals = old.as_ref().map(Flow::arrivals).unwrap_or_default();
        let mut ready = old.map(|old| old.ready()).unwrap_or_default();
        while let Some((priority, ticket)) = self.queue_mut(id).pop() {
            ready.push((self.since(ticket), 0, priority, ticket));
        }
        if is_limited {
            self.control.flows.insert(id, flow);
        }
        for (since, _, priority, ticket) in ready {
            if self.entries.is_ready(ticket, priority)
                && !self.line_up(ticket, id, priority, Some(since))
            {
                self.queue_mut(id).push(priority, ticket);
            }
        }
        let entries = &self.entries;
        for (limit, arrival) in arrivals {
            if let Some(lane) = self.control.lanes.get(&arrival.ticket.slot)
                && let Some(flow) = self.control.flows.get_mut(&id)
            {
                flow.arrived(*lane, arrival, Some(&limit), |ticket| entries.waits(ticket));
            }
        }
    }

    /// Puts a ready task of a queue with limits into its lane.
    fn line_up(&mut self, ticket: Ticket, id: u32, priority: u8, since: Option<i64>) -> bool {
        let now = self.clock.micros();
        let since = since.or_else(|| self.control.restoring.then(|| self.since(ticket)));
        let lane = self.control.lanes.get(&ticket.slot);
        let flow = self.control.flows.get_mut(&id);
        let Some((flow, lane)) = flow.zip(lane) else { return false };
        match since {
            Some(since) => flow.push_since(*lane, (priority, ticket), since.min(now), now),
            None => flow.push(*lane, priority, ticket, now),
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
        let Some(entry) = self.entry(ticket).filter(|entry| !is_refused(entry)) else { return };
        let Some(stand) = stand(entry.place) else { return };
        let Some(flow) = self.control.flows.get_mut(&entry.queue) else { return };
        let unknown = unknown_keys(flow);
        let keys = keys.filter(|keys| keys.len() == unknown.len()).unwrap_or(&unknown);
        self.control.lanes.insert(ticket.slot, flow.enter(keys, stand));
    }

    /// The keys of a submission, for the limits of its queue.
    pub(super) fn keys_of(&self, queue: u32, spec: &TaskSpec) -> Option<Vec<Box<str>>> {
        let flow = self.control.flows.get(&queue)?;
        let keys = flow.limits().iter().filter_map(|named| named.limit.key.as_ref());
        Some(keys.map(|key| key.of(spec).unwrap_or_default()).collect())
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
            if to != Place::Ready {
                return false;
            }
            // A limit had refused it, and something else came in between.
            let lane = flow.enter(&unknown_keys(flow), Stand::Ready);
            self.control.lanes.insert(ticket.slot, lane);
            return self.line_up(ticket, queue, priority, None);
        };
        match (stand(from), stand(to)) {
            (Some(from), Some(to)) => {
                if from == Stand::Out {
                    self.control.taken.remove(&ticket.slot);
                }
                flow.moved(lane, from, to, now);
                to == Stand::Ready && self.line_up(ticket, queue, priority, None)
            }
            (Some(from), None) => {
                flow.leave(lane, from, now);
                self.control.lanes.remove(&ticket.slot);
                self.control.taken.remove(&ticket.slot);
                false
            }
            (None, _) => false,
        }
    }

    /// Since when a task was ready before it was taken off its lane.
    pub(super) fn was_ready_since(&self, ticket: Ticket) -> i64 {
        self.control.taken.get(&ticket.slot).copied().unwrap_or_else(|| self.since(ticket))
    }

    /// A release did not happen: the task goes back to where it was taken from.
    pub(super) fn line_up_first(
        &mut self,
        ticket: Ticket,
        (queue, priority): (u32, u8),
        since: i64,
    ) -> bool {
        let now = self.clock.micros();
        let lane = self.control.lanes.get(&ticket.slot);
        let flow = self.control.flows.get_mut(&queue);
        let Some((flow, lane)) = flow.zip(lane) else { return false };
        flow.moved(*lane, Stand::Waiting, Stand::Ready, now);
        flow.push_front(*lane, (priority, ticket), since, now);
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
        if flow.unknown_are_out() {
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
            self.control.taken.insert(next.ticket.slot, next.since);
        }
        self.place(candidate.ticket(), Place::Released(now_ms));
    }

    /// The candidate does not go now.
    pub(super) fn pass_over(&mut self, id: u32, candidate: Candidate) {
        if let Candidate::Plain(priority, ticket) = candidate {
            self.queue_mut(id).push_front(priority, ticket);
        }
    }

    /// One that follows keeps these small as well.
    pub(super) fn compact_flows(&mut self) {
        let now = self.clock.micros();
        let entries: &Entries = &self.entries;
        for flow in self.control.flows.values_mut() {
            flow.compact(|t, p| entries.is_ready(t, p), |t| entries.waits(t));
            flow.tick(now);
        }
    }

    /// When a limit lets something go on by itself.
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        let now = self.clock.micros();
        let wakes = self.control.flows.values().filter_map(|flow| flow.next_wake(now));
        wakes.min().map(Timestamp::from_micros)
    }
}

fn is_refused(entry: &Entry) -> bool {
    matches!(entry.deciding, Some(Decision::Refused(_)))
}

/// Keys of which none is known.
fn unknown_keys(flow: &Flow) -> Vec<Box<str>> {
    let keyed = flow.limits().iter().filter(|named| named.limit.key.is_some());
    keyed.map(|_| UNKNOWN.into()).collect()
}

/// The keys of a task for other limits than before, as far as they are known.
fn keys_before(flow: &Flow, before: Option<(&Flow, u32)>) -> Vec<Box<str>> {
    let known = before.map_or_else(Vec::new, |(old, lane)| {
        let keyed = old.limits().iter().filter(|named| named.limit.key.is_some());
        keyed.zip(old.keys(lane)).collect()
    });
    let key = |named: &Named| {
        let same = |other: &Named| other.name == named.name && other.limit.key == named.limit.key;
        let known = known.iter().find(|(other, _)| same(other));
        known.map_or_else(|| UNKNOWN.into(), |(_, key)| key.clone())
    };
    let keyed = flow.limits().iter().filter(|named| named.limit.key.is_some());
    keyed.map(key).collect()
}
