//! **Pure.** The planner: the backlog as the log tells it, and what follows from it now.
//!
//! [`Planner::fold`] takes the log's events, [`Planner::heard`] the workers' heartbeats,
//! [`Planner::tick`] the time. [`Planner::release`] says which attempts to start,
//! [`Planner::take_decisions`] which tasks the scheduler itself must end or move. What was handed
//! out and failed is put back; what succeeded comes back through the log.
//!
//! Nothing here reads a clock: `now` is the wall's time, for delays and timeouts; `now_ms` is a
//! monotonic count of milliseconds, for heartbeats and pace.

mod carry;
mod cold;
mod decide;
mod entries;
mod flow;
mod fold;
mod learn;
mod policy;
mod schedules;
mod store;
mod types;
mod watch;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    time::Duration,
};

use common::{
    event::Pause,
    id::{QueueName, TaskKey},
    lifecycle::{Phase, State},
    policy::Policies,
    time::Timestamp,
};

use self::entries::{Entries, Tombstones};
pub use self::{
    carry::Pass, decide::Release, fold::Folded, store::Stored, types::Known, watch::Stopping,
};
use crate::{
    flow::Refusal,
    graph::Graph,
    queue::{Queue, window},
    schedule::Schedules,
    trim::Marks,
    workers::{Service, Workers},
};

/// A reference to an open task that notices when its slot has been reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    /// Where the task is kept.
    pub slot: u32,
    /// Which of the slot's tasks it is.
    pub generation: u32,
}

/// Where an open task is, in the scheduler's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Reported by another system: nothing to schedule.
    External,
    /// It waits for a dependency, a time, or a decision.
    Waiting,
    /// It could start.
    Ready,
    /// Its attempt is out since then, in monotonic milliseconds.
    Released(u64),
}

/// Something that the scheduler alone decides about a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Its attempt's worker is gone: the attempt is lost.
    Lost,
    /// Its attempt was lost: try again or give up.
    AfterLoss,
    /// A dependency did not end as it should: it fails.
    DependencyFailed,
    /// There is no need for it any more.
    Skip,
    /// It is part of a cycle.
    Cycle,
    /// It waited too long to start.
    Expired,
    /// It took too long as a whole.
    TotalTimeout,
    /// Nobody submitted a dependency in time.
    DependencyMissing,
    /// Somebody asked to end it, and nobody runs it.
    Cancel,
    /// It names a type and no executor: it gets what the type says.
    Resolve,
    /// A limit of its queue does not let it wait.
    Refused(Refusal),
}

/// An open task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its identity.
    pub key: TaskKey,
    /// Where its submission lies in the log.
    pub sequence: u64,
    /// Which item of that message it is.
    pub index: u32,
    /// The fold's state.
    pub state: State,
    /// Not before this time.
    pub due: Timestamp,
    /// Where it is.
    pub place: Place,
    /// What the scheduler has to decide about it, if anything.
    pub deciding: Option<Decision>,
    /// 1 to 10, 10 first.
    pub priority: u8,
    /// It travels alone, since it was lost or handed back once.
    pub alone: bool,
    queue: u32,
    kind: u16,
}

/// A task that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Where its submission lies in the log.
    pub sequence: u64,
    /// Which item of that message it is.
    pub index: u32,
    /// Where the log first mentioned it.
    pub created: (u64, u32),
    /// The message that ended it.
    pub ended: u64,
    /// The last message that would be read otherwise by who does not know of it.
    pub used: u64,
    /// How it ended.
    pub phase: Phase,
}

/// A task, open or over.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// Still open.
    Open(Ticket, Entry),
    /// Over.
    Over(Tombstone),
}

/// Why a timer rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Due,
    Queue,
    Total,
    Dependency,
    Cancel,
}

/// Who began an attempt.
#[derive(Clone, Debug)]
struct Holder {
    worker: Box<str>,
    /// Since when its heartbeats are expected to list it, in monotonic milliseconds.
    since_ms: u64,
}

/// What few tasks have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rare {
    queue_timeout: Option<Duration>,
    ready_since: Option<Timestamp>,
}

/// How long the attempts of one task type take: a window of the last durations.
#[derive(Clone, Debug, Default)]
struct Durations {
    recent: VecDeque<u32>,
    p95_us: Option<u32>,
    since: u32,
}

/// The backlog and what is known about those who work it off.
#[derive(Debug, Default)]
pub struct Planner {
    entries: Entries,
    over: Tombstones,
    /// What was carried into the part of the log that is read.
    carried: HashMap<u32, carry::Carriage>,
    /// Finished tasks that were carried since the log was last cut, and as of which message.
    carried_over: HashMap<TaskKey, u64>,
    /// How far the state of tasks that were known before their part of the log was read goes.
    known: HashMap<TaskKey, u64>,
    /// The same of the pauses.
    pauses_known: u64,
    /// Limits, schedules and task types.
    policies: Policies,
    schedules: Schedules,
    /// The first message that the log counts.
    floor: u64,
    /// How the log grew.
    marks: Marks,
    /// The cut that is being made.
    cut: Option<carry::Cut>,
    graph: Graph,
    queues: Vec<(QueueName, Queue)>,
    queue_ids: HashMap<QueueName, u32>,
    /// The limits, and the queues that have some.
    control: flow::Control,
    kinds: HashMap<Box<str>, u16>,
    durations: Vec<Durations>,
    rare: HashMap<u32, Rare>,
    /// Who began the attempt of a running task.
    holders: HashMap<u32, Holder>,
    timers: BinaryHeap<Reverse<(Timestamp, Ticket, Alarm)>>,
    /// How many timers there were when those of no use were looked for, and how many may be kept by
    /// the number of tasks.
    timers_looked: (usize, usize),
    decisions: VecDeque<(Ticket, Decision)>,
    workers: Workers,
    paused: Option<Pause>,
    /// The log's time: the running maximum of its messages'.
    log_clock: Timestamp,
    /// The later of the log's time and, while this process leads, the wall's.
    clock: Timestamp,
    /// Queues with something out that nobody serves, and since when, in monotonic milliseconds.
    unserved: HashMap<u32, u64>,
    /// Since when this process leads, in monotonic milliseconds.
    leading_since: Option<u64>,
    /// The task types, and what they hold.
    types: types::Types,
}

impl Planner {
    /// The task with this key.
    pub fn find(&self, key: TaskKey) -> Option<Found> {
        entries::find(&self.entries, &self.over, key)
    }

    /// The task that a ticket is for, if it is still open.
    pub fn entry(&self, ticket: Ticket) -> Option<Entry> {
        self.entries.get(ticket)
    }

    /// The queue of a task.
    pub fn queue_of(&self, entry: &Entry) -> (&QueueName, &Queue) {
        let (name, queue) =
            self.queues.get(entry.queue as usize).expect("invariant: an entry's queue is known");
        (name, queue)
    }

    /// Every queue that has had a task or has a worker, with who serves it.
    pub fn queues(&self) -> Vec<(String, Queue, Service)> {
        let mut all = self
            .queues
            .iter()
            .map(|(name, queue)| {
                (name.to_string(), queue.clone(), self.workers.service(name.as_str()))
            })
            .collect::<Vec<_>>();
        for name in self.workers.queues() {
            if !all.iter().any(|(known, ..)| known == name) {
                all.push((name.to_owned(), Queue::default(), self.workers.service(name)));
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Limits, schedules and task types.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// What the task waits for in the graph.
    pub fn edges(&self, ticket: Ticket) -> &[crate::graph::Edge] {
        self.graph.waits(ticket.slot)
    }

    /// The worker that said it began the task's attempt.
    pub fn holder(&self, ticket: Ticket) -> Option<&str> {
        self.holders.get(&ticket.slot).map(|holder| holder.worker.as_ref())
    }

    /// Tasks that would be released before this one, if it is ready.
    pub fn ahead(&self, ticket: Ticket) -> Option<u64> {
        let entry = self.entry(ticket)?;
        if let Some(ahead) = self.ahead_in_lane(ticket, &entry) {
            return Some(ahead);
        }
        let (_, queue) = self.queue_of(&entry);
        let before = queue.ahead(entry.priority).take_while(|(_, other)| *other != ticket);
        Some(before.filter(|(priority, other)| self.is_ready(*other, *priority)).count() as u64)
    }

    /// How many open tasks there are.
    pub fn open_tasks(&self) -> usize {
        self.entries.len()
    }

    /// How many finished tasks are remembered.
    pub fn finished_tasks(&self) -> usize {
        self.over.len()
    }

    /// The window of a queue as it is now.
    pub fn window(&self, name: &str, queue: &Queue, window_max: u32) -> u32 {
        window(self.workers.service(name).slots, queue.pace, window_max)
    }

    fn is_ready(&self, ticket: Ticket, priority: u8) -> bool {
        self.entries.is_ready(ticket, priority)
    }

    fn queue_mut(&mut self, id: u32) -> &mut Queue {
        &mut self.queues.get_mut(id as usize).expect("invariant: an entry's queue is known").1
    }

    fn queue_id(&mut self, name: &QueueName) -> u32 {
        if let Some(id) = self.queue_ids.get(name) {
            return *id;
        }
        let id = self.queues.len() as u32;
        self.queues.push((name.clone(), Queue::default()));
        self.queue_ids.insert(name.clone(), id);
        id
    }

    /// Moves a task and keeps its queue's counts.
    fn place(&mut self, ticket: Ticket, place: Place) {
        let Some(Entry { place: before, queue: id, priority, .. }) = self.entry(ticket) else {
            return;
        };
        self.entries.update(ticket, |entry| entry.place = place);
        let is_lined_up = self.moved_in_flow(ticket, id, (before, place), priority);
        let queue = self.queue_mut(id);
        match before {
            Place::External => {}
            Place::Waiting => queue.waiting = queue.waiting.saturating_sub(1),
            Place::Ready => queue.queued = queue.queued.saturating_sub(1),
            Place::Released(_) => queue.outstanding = queue.outstanding.saturating_sub(1),
        }
        match place {
            Place::External => {}
            Place::Waiting => queue.waiting += 1,
            Place::Ready => {
                queue.queued += 1;
                if !is_lined_up {
                    queue.push(priority, ticket);
                }
            }
            Place::Released(_) => queue.outstanding += 1,
        }
    }

    fn alarm(&mut self, at: Timestamp, ticket: Ticket, alarm: Alarm) {
        self.timers.push(Reverse((at, ticket, alarm)));
    }

    fn decide(&mut self, ticket: Ticket, decision: Decision) {
        let leading = self.leading_since.is_some();
        let Some(entry) = self.entry(ticket) else { return };
        // Another system runs it: nothing but a request to end it is the scheduler's to decide, and
        // whether its type runs it after all.
        let external = entry.place == Place::External
            && !matches!(decision, Decision::Cancel | Decision::Resolve);
        if external || entry.deciding == Some(decision) {
            return;
        }
        self.entries.update(ticket, |entry| entry.deciding = Some(decision));
        let released = matches!(entry.place, Place::Released(_));
        if !released && entry.place != Place::External {
            self.place(ticket, Place::Waiting);
        }
        if leading {
            self.decisions.push_back((ticket, decision));
        }
    }
}

#[cfg(test)]
mod carry_tests;
#[cfg(test)]
mod schedule_tests;
#[cfg(test)]
mod tests;
