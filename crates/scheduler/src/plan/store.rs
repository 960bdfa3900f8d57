//! **Pure.** The backlog as bytes, to be stored beside the cursor that it has reached.
//!
//! Only what the log said is stored. Who lives, what is out and what is ready follows anew.

mod stored;

use std::{cmp::Reverse, time::Duration};

use common::{
    event::Pause,
    id::{QueueName, TaskKey},
    lifecycle::{Cause, Phase, State},
    task::On,
    time::Timestamp,
};
use prost::Message as _;

pub use self::stored::Stored;
pub(super) use self::stored::StoredRate;
use self::stored::{
    StoredAlarm, StoredCarriage, StoredCarriedOver, StoredDocument, StoredEdge, StoredEnd,
    StoredKey, StoredPause, StoredQueue, StoredTask,
};
pub(super) use self::stored::{StoredClaim, StoredResolving, StoredTypes};
pub(super) use self::stored::{StoredRun, StoredSchedule};
use super::{Alarm, Decision, Entry, Place, Planner, Rare, Ticket, Tombstone, carry::Carriage};
use crate::{flow::Refusal, graph::Edge};

/// Tasks that become bytes together.
const PIECE: usize = 1_024;

const DECISIONS: [Decision; 13] = [
    Decision::Lost,
    Decision::AfterLoss,
    Decision::DependencyFailed,
    Decision::Skip,
    Decision::Cycle,
    Decision::Expired,
    Decision::TotalTimeout,
    Decision::DependencyMissing,
    Decision::Cancel,
    Decision::Resolve,
    Decision::Refused(Refusal::Superseded),
    Decision::Refused(Refusal::Duplicate),
    Decision::Refused(Refusal::TooMany),
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

pub(super) fn key(StoredKey { high, low }: StoredKey) -> TaskKey {
    TaskKey(u128::from(high) << 64 | u128::from(low))
}

pub(super) fn stored_key(key: TaskKey) -> StoredKey {
    StoredKey { high: (key.0 >> 64) as u64, low: key.0 as u64 }
}

fn store_end(key: TaskKey, end: Tombstone) -> StoredEnd {
    let (sequence, index) = end.created;
    let elsewhere = end.created != (end.sequence, end.index);
    StoredEnd {
        key: stored_key(key),
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

fn store_pause(pause: &Pause) -> StoredPause {
    StoredPause { reason: pause.reason.clone(), until: pause.until.map(Timestamp::micros) }
}

fn restore_pause(queue: Option<&QueueName>, stored: StoredPause) -> Pause {
    let until = stored.until.map(Timestamp::from_micros);
    Pause { queue: queue.cloned(), reason: stored.reason, until }
}

impl Planner {
    /// The backlog as bytes, as it is after a message of the log with this identity.
    ///
    /// A [`Stored`] in pieces: protobuf reads messages that follow one another as one, so that the
    /// backlog needs no second copy in memory to become bytes.
    pub fn store(&self, stream: String, sequence: u64) -> Vec<u8> {
        let mut bytes = Stored { stream, sequence, ..self.store_rest() }.encode_to_vec();
        let mut piece = Stored::default();
        let mut open = self.entries.iter().map(|(t, entry)| self.store_task(t.slot, &entry));
        let mut over = self.over.iter().map(|(key, end)| store_end(key, end));
        loop {
            piece.open.extend(open.by_ref().take(PIECE));
            piece.over.extend(over.by_ref().take(PIECE));
            if piece.open.is_empty() && piece.over.is_empty() {
                return bytes;
            }
            bytes.extend(piece.encode_to_vec());
            piece.open.clear();
            piece.over.clear();
        }
    }

    /// How many tasks [`Planner::store`] writes.
    pub fn stored_tasks(&self) -> usize {
        self.entries.len() + self.over.len()
    }

    /// Everything but the tasks.
    fn store_rest(&self) -> Stored {
        let mut kinds = vec![String::new(); self.durations.len()];
        for (word, id) in &self.kinds {
            if let Some(place) = kinds.get_mut(usize::from(*id)) {
                word.as_ref().clone_into(place);
            }
        }
        Stored {
            fold_version: common::lifecycle::FOLD_VERSION,
            clock: self.log_clock.micros(),
            paused: self.paused.as_ref().map(store_pause),
            queues: self
                .queues
                .iter()
                .map(|(name, q)| StoredQueue {
                    name: name.to_string(),
                    paused: q.paused.as_ref().map(store_pause),
                })
                .collect(),
            kinds,
            alarms: self
                .timers
                .iter()
                .filter_map(|Reverse(timer)| self.store_alarm(*timer))
                .collect(),
            floor: self.floor,
            marks: Some(self.marks.clone()),
            carried_over: self
                .carried_over
                .iter()
                .map(|(key, as_of)| StoredCarriedOver { key: stored_key(*key), as_of: *as_of })
                .collect(),
            types: Some(self.store_types()),
            rates: self.store_rates(),
            documents: self
                .policies
                .all()
                .map(|(known, anchor)| StoredDocument {
                    document: (&known.document).into(),
                    sequence: known.sequence,
                    anchor,
                })
                .collect(),
            schedules: self.store_schedules(),
            ..Stored::default()
        }
    }

    fn store_alarm(&self, (at, ticket, alarm): (Timestamp, Ticket, Alarm)) -> Option<StoredAlarm> {
        let entry = self.entry(ticket)?;
        // The others are set anew when the task is settled.
        let lasting = matches!(alarm, Alarm::Total | Alarm::Dependency | Alarm::Cancel);
        lasting.then(|| StoredAlarm {
            at: at.micros(),
            key: stored_key(entry.key),
            alarm: number(&ALARMS, &alarm),
        })
    }

    fn store_task(&self, slot: u32, entry: &Entry) -> StoredTask {
        let queue_timeout = self.rare.get(&slot).and_then(|r| r.queue_timeout).unwrap_or_default();
        StoredTask {
            key: stored_key(entry.key),
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
                    dependency: stored_key(edge.dependency),
                    on: number(&ONS, &edge.on),
                })
                .collect(),
            holder: self.holders.get(&slot).map(|h| h.worker.as_ref().to_owned()),
            queue_timeout_us: queue_timeout.as_micros() as u64,
            deciding: entry.deciding.map_or(0, |d| number(&DECISIONS, &d) + 1),
            alone: entry.alone,
            keys: self.keys_in_flow(slot, entry),
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
            paused: stored.paused.map(|pause| restore_pause(None, pause)),
            floor: stored.floor,
            marks: stored.marks.unwrap_or_default(),
            ..Self::default()
        };
        for queue in stored.queues {
            let name = QueueName::parse(&queue.name).ok()?;
            let pause = queue.paused.map(|pause| restore_pause(Some(&name), pause));
            planner.set_pause(Some(&name), pause);
        }
        for kind in &stored.kinds {
            planner.kind_id(kind);
        }
        for StoredDocument { document, sequence, anchor } in stored.documents {
            planner.policies.restore(document.try_into().ok()?, sequence, anchor);
        }
        planner.policies_restored();
        planner.restore_schedules(stored.schedules)?;
        for end in stored.over {
            planner.over.insert(key(end.key), restore_end(&end)?);
        }
        for carried in stored.carried_over {
            planner.carried_over.insert(key(carried.key), carried.as_of);
        }
        let tickets = stored
            .open
            .iter()
            .map(|task| planner.restore_task(task))
            .collect::<Option<Vec<_>>>()?;
        planner.documents_known();
        planner.restore_types(stored.types.unwrap_or_default());
        for alarm in stored.alarms {
            if let Some((ticket, _)) = planner.entries.find(key(alarm.key)) {
                let at = Timestamp::from_micros(alarm.at);
                planner.alarm(at, ticket, numbered(&ALARMS, alarm.alarm)?);
            }
        }
        planner.restore_rates(&stored.rates);
        planner.restoring(true);
        for ticket in tickets {
            planner.settle(ticket);
        }
        planner.restoring(false);
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
            key: key(task.key),
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
        let keys = task.keys.iter().map(|key| key.as_str().into()).collect::<Vec<_>>();
        let holder = task.holder.as_deref().unwrap_or_default();
        let ticket = self.adopt(entry, (holder, Some(&keys)));
        if let Some(StoredCarriage { sequence, index, anchor }) = task.carried {
            self.carried.insert(ticket.slot, Carriage { created: (sequence, index), anchor });
        }
        self.arrived(ticket, Timestamp::from_micros(self.since(ticket)), false);
        if task.queue_timeout_us > 0 {
            let queue_timeout = Some(Duration::from_micros(task.queue_timeout_us));
            self.rare.insert(ticket.slot, Rare { queue_timeout, ..Rare::default() });
        }
        let edge = |edge: &StoredEdge| {
            Some(Edge { dependency: key(edge.dependency), on: numbered(&ONS, edge.on)? })
        };
        self.graph.wait(ticket, task.edges.iter().map(edge).collect::<Option<Vec<_>>>()?);
        Some(ticket)
    }
}
