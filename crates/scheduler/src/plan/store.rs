//! **Pure.** The backlog as bytes, to be stored beside the cursor that it has reached.
//!
//! Only what the log said is stored. Who lives, what is out and what is ready follows anew.

use std::{cmp::Reverse, time::Duration};

use common::{
    id::{QueueName, TaskKey},
    lifecycle::{Cause, Phase, State},
    task::On,
    time::Timestamp,
};

use super::{Alarm, Decision, Entry, Place, Planner, Rare, Ticket, Tombstone, carry::Carriage};
use crate::{graph::Edge, trim::Marks};

/// The whole backlog.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stored {
    #[prost(uint32, tag = "1")]
    /// The version of the fold that made it.
    pub fold_version: u32,
    #[prost(int64, tag = "2")]
    clock: i64,
    #[prost(string, optional, tag = "3")]
    paused: Option<String>,
    #[prost(message, repeated, tag = "4")]
    queues: Vec<StoredQueue>,
    #[prost(string, repeated, tag = "5")]
    kinds: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    open: Vec<StoredTask>,
    #[prost(message, repeated, tag = "7")]
    over: Vec<StoredEnd>,
    #[prost(message, repeated, tag = "8")]
    alarms: Vec<StoredAlarm>,
    /// Identity of the log, and the last message that is in here.
    #[prost(string, tag = "9")]
    pub stream: String,
    /// See `stream`.
    #[prost(uint64, tag = "10")]
    pub sequence: u64,
    #[prost(uint64, tag = "11")]
    floor: u64,
    #[prost(message, repeated, tag = "12")]
    carried_over: Vec<StoredCarriedOver>,
    #[prost(message, optional, tag = "13")]
    marks: Option<Marks>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredCarriedOver {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(uint64, tag = "2")]
    as_of: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct StoredCarriage {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint32, tag = "2")]
    index: u32,
    #[prost(uint64, tag = "3")]
    anchor: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredQueue {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, optional, tag = "2")]
    paused: Option<String>,
}

/// One open task.
#[expect(clippy::struct_excessive_bools, reason = "the flags of the fold's state")]
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredTask {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint32, tag = "3")]
    index: u32,
    #[prost(uint32, tag = "4")]
    phase: u32,
    #[prost(uint32, tag = "5")]
    ended: u32,
    #[prost(uint32, tag = "6")]
    tries: u32,
    #[prost(uint32, tag = "7")]
    losses: u32,
    #[prost(bool, tag = "8")]
    external: bool,
    #[prost(bool, tag = "9")]
    stub: bool,
    #[prost(bool, tag = "10")]
    cancel_requested: bool,
    #[prost(int64, tag = "11")]
    due: i64,
    #[prost(uint32, tag = "12")]
    priority: u32,
    #[prost(uint32, tag = "13")]
    queue: u32,
    #[prost(uint32, tag = "14")]
    kind: u32,
    #[prost(message, repeated, tag = "15")]
    edges: Vec<StoredEdge>,
    #[prost(string, optional, tag = "16")]
    holder: Option<String>,
    #[prost(uint64, tag = "17")]
    queue_timeout_us: u64,
    #[prost(uint32, tag = "18")]
    deciding: u32,
    #[prost(bool, tag = "19")]
    alone: bool,
    #[prost(message, optional, tag = "20")]
    carried: Option<StoredCarriage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredEdge {
    #[prost(bytes = "vec", tag = "1")]
    dependency: Vec<u8>,
    #[prost(uint32, tag = "2")]
    on: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredEnd {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint32, tag = "3")]
    index: u32,
    #[prost(uint32, tag = "4")]
    phase: u32,
    #[prost(uint64, tag = "5")]
    ended: u64,
    #[prost(uint64, tag = "6")]
    used: u64,
    /// Where the log first mentioned it, if not there.
    #[prost(message, optional, tag = "7")]
    created: Option<StoredCarriage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredAlarm {
    #[prost(int64, tag = "1")]
    at: i64,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(uint32, tag = "3")]
    alarm: u32,
}

const DECISIONS: [Decision; 9] = [
    Decision::Lost,
    Decision::AfterLoss,
    Decision::DependencyFailed,
    Decision::Skip,
    Decision::Cycle,
    Decision::Expired,
    Decision::TotalTimeout,
    Decision::DependencyMissing,
    Decision::Cancel,
];
const ALARMS: [Alarm; 5] =
    [Alarm::Due, Alarm::Queue, Alarm::Total, Alarm::Dependency, Alarm::Cancel];
const ONS: [On; 3] = [On::Success, On::Failure, On::End];
const PHASES: [Phase; 12] = [
    Phase::Pending,
    Phase::Verdict,
    Phase::Running,
    Phase::Completed,
    Phase::Cancelled,
    Phase::Skipped,
    Phase::Failed(Cause::Error),
    Phase::Failed(Cause::Timeout),
    Phase::Failed(Cause::Lost),
    Phase::Failed(Cause::Rejected),
    Phase::Failed(Cause::Dependency),
    Phase::Failed(Cause::Expired),
];

fn number<T: PartialEq>(all: &[T], one: &T) -> u32 {
    all.iter().position(|other| other == one).unwrap_or(0) as u32
}

fn numbered<T: Copy>(all: &[T], number: u32) -> Option<T> {
    all.get(number as usize).copied()
}

fn key(bytes: &[u8]) -> Option<TaskKey> {
    Some(TaskKey(u128::from_be_bytes(bytes.try_into().ok()?)))
}

fn key_bytes(key: TaskKey) -> Vec<u8> {
    key.0.to_be_bytes().to_vec()
}

fn store_end(key: TaskKey, end: Tombstone) -> StoredEnd {
    let (sequence, index) = end.created;
    let elsewhere = end.created != (end.sequence, end.index);
    StoredEnd {
        key: key_bytes(key),
        sequence: end.sequence,
        index: end.index,
        phase: number(&PHASES, &end.phase),
        ended: end.ended,
        used: end.used,
        created: elsewhere.then_some(StoredCarriage { sequence, index, anchor: 0 }),
    }
}

fn restore_end(end: &StoredEnd) -> Option<Tombstone> {
    Some(Tombstone {
        sequence: end.sequence,
        index: end.index,
        created: end.created.map_or((end.sequence, end.index), |c| (c.sequence, c.index)),
        ended: end.ended,
        used: end.used,
        phase: numbered(&PHASES, end.phase)?,
    })
}

impl Planner {
    /// The backlog as bytes can be made of it.
    pub fn store(&self) -> Stored {
        let mut kinds = vec![String::new(); self.durations.len()];
        for (word, id) in &self.kinds {
            if let Some(place) = kinds.get_mut(usize::from(*id)) {
                word.as_ref().clone_into(place);
            }
        }
        Stored {
            fold_version: common::lifecycle::FOLD_VERSION,
            clock: self.log_clock.micros(),
            paused: self.paused.clone(),
            queues: self
                .queues
                .iter()
                .map(|(name, q)| StoredQueue { name: name.to_string(), paused: q.paused.clone() })
                .collect(),
            kinds,
            open: self.entries.iter().map(|(t, entry)| self.store_task(t.slot, &entry)).collect(),
            over: self.over.iter().map(|(key, end)| store_end(key, end)).collect(),
            alarms: self
                .timers
                .iter()
                .filter_map(|Reverse(timer)| self.store_alarm(*timer))
                .collect(),
            stream: String::new(),
            sequence: 0,
            floor: self.floor,
            marks: Some(self.marks.clone()),
            carried_over: self
                .carried_over
                .iter()
                .map(|(key, as_of)| StoredCarriedOver { key: key_bytes(*key), as_of: *as_of })
                .collect(),
        }
    }

    fn store_alarm(&self, (at, ticket, alarm): (Timestamp, Ticket, Alarm)) -> Option<StoredAlarm> {
        let entry = self.entry(ticket)?;
        // The others are set anew when the task is settled.
        let lasting = matches!(alarm, Alarm::Total | Alarm::Dependency | Alarm::Cancel);
        lasting.then(|| StoredAlarm {
            at: at.micros(),
            key: key_bytes(entry.key),
            alarm: number(&ALARMS, &alarm),
        })
    }

    fn store_task(&self, slot: u32, entry: &Entry) -> StoredTask {
        let queue_timeout = self.rare.get(&slot).and_then(|r| r.queue_timeout).unwrap_or_default();
        StoredTask {
            key: key_bytes(entry.key),
            sequence: entry.sequence,
            index: entry.index,
            phase: number(&PHASES, &entry.state.phase),
            ended: entry.state.ended,
            tries: entry.state.tries.into(),
            losses: entry.state.losses.into(),
            external: entry.state.external,
            stub: entry.state.stub,
            cancel_requested: entry.state.cancel_requested,
            due: entry.due.micros(),
            priority: entry.priority.into(),
            queue: entry.queue,
            kind: entry.kind.into(),
            edges: self
                .graph
                .waits(slot)
                .iter()
                .map(|edge| StoredEdge {
                    dependency: key_bytes(edge.dependency),
                    on: number(&ONS, &edge.on),
                })
                .collect(),
            holder: self.holders.get(&slot).map(|h| h.worker.as_ref().to_owned()),
            queue_timeout_us: queue_timeout.as_micros() as u64,
            deciding: entry.deciding.map_or(0, |d| number(&DECISIONS, &d) + 1),
            alone: entry.alone,
            carried: self.carried.get(&slot).map(|carriage| StoredCarriage {
                sequence: carriage.created.0,
                index: carriage.created.1,
                anchor: carriage.anchor,
            }),
        }
    }

    /// The backlog that was stored; `None` when it is not one that this version can read.
    pub fn restore(stored: Stored) -> Option<Self> {
        if stored.fold_version != common::lifecycle::FOLD_VERSION {
            return None;
        }
        let mut planner = Self {
            clock: Timestamp::from_micros(stored.clock),
            log_clock: Timestamp::from_micros(stored.clock),
            paused: stored.paused,
            floor: stored.floor,
            marks: stored.marks.unwrap_or_default(),
            ..Self::default()
        };
        for queue in stored.queues {
            let id = planner.queue_id(&QueueName::parse(&queue.name).ok()?);
            planner.queue_mut(id).paused = queue.paused;
        }
        for kind in &stored.kinds {
            planner.kind_id(kind);
        }
        for end in stored.over {
            planner.over.insert(key(&end.key)?, restore_end(&end)?);
        }
        for carried in stored.carried_over {
            planner.carried_over.insert(key(&carried.key)?, carried.as_of);
        }
        let tickets = stored
            .open
            .iter()
            .map(|task| planner.restore_task(task))
            .collect::<Option<Vec<_>>>()?;
        for alarm in stored.alarms {
            if let Some((ticket, _)) = planner.entries.find(key(&alarm.key)?) {
                let at = Timestamp::from_micros(alarm.at);
                planner.alarm(at, ticket, numbered(&ALARMS, alarm.alarm)?);
            }
        }
        for ticket in tickets {
            planner.settle(ticket);
        }
        Some(planner)
    }

    fn restore_task(&mut self, task: &StoredTask) -> Option<Ticket> {
        let queue = Some(task.queue).filter(|queue| (*queue as usize) < self.queues.len())?;
        let state = State {
            phase: numbered(&PHASES, task.phase)?,
            ended: task.ended,
            tries: task.tries as u16,
            losses: task.losses as u16,
            external: task.external,
            stub: task.stub,
            cancel_requested: task.cancel_requested,
        };
        let entry = Entry {
            key: key(&task.key)?,
            sequence: task.sequence,
            index: task.index,
            state,
            due: Timestamp::from_micros(task.due),
            place: Place::Waiting,
            deciding: task.deciding.checked_sub(1).and_then(|n| numbered(&DECISIONS, n)),
            priority: task.priority as u8,
            alone: task.alone,
            queue,
            kind: task.kind as u16,
        };
        let ticket = self.adopt(entry, task.holder.as_deref().unwrap_or_default());
        if let Some(StoredCarriage { sequence, index, anchor }) = task.carried {
            self.carried.insert(ticket.slot, Carriage { created: (sequence, index), anchor });
        }
        if task.queue_timeout_us > 0 {
            let queue_timeout = Some(Duration::from_micros(task.queue_timeout_us));
            self.rare.insert(ticket.slot, Rare { queue_timeout, ..Rare::default() });
        }
        let edge = |edge: &StoredEdge| {
            Some(Edge { dependency: key(&edge.dependency)?, on: numbered(&ONS, edge.on)? })
        };
        self.graph.wait(ticket, task.edges.iter().map(edge).collect::<Option<Vec<_>>>()?);
        Some(ticket)
    }
}
