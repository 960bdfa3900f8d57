//! **Pure.** The ledger's fold: messages of the log and what it knows of the tasks that they name,
//! to the rows that changed, the lines of the history and the dead letters.
//!
//! What a task's state becomes is decided by `common::lifecycle` alone. Applied twice, a message
//! changes nothing: the second time every event is ignored as a repeat.
//!
//! A fold keeps what it knows of open tasks from one batch to the next, and asks the ledger for
//! the others. It can be dropped at any time: another one begins where the ledger is.

mod cold;
mod known;
mod letters;

use std::collections::{HashMap, HashSet};

use bus::Message;
use common::{
    event::{Event, Kind, TaskEvent},
    id::{TaskId, TaskKey, Tenant},
    lifecycle::{self, Ignored, State, state_word},
    limits,
    pb::{self, DeadLetter},
    task::TaskSpec,
    time::Timestamp,
    wire::{self, NotAnEvent},
};

pub use self::{
    cold::Cold,
    letters::{TASK, UNDECODABLE},
};
use crate::{
    change, raw,
    row::{Change, Entry, Fixed, Live, Place, Row, UNKNOWN_EXECUTOR},
};
use cold::Carriage;
use known::Known;

/// Why an event changes nothing that a carried state has already.
const BEFORE: &str = "before what was carried";

/// What messages come to.
#[derive(Debug, Default)]
pub struct Changes {
    /// The tasks that are new or changed, as they are now.
    pub tasks: Vec<Change>,
    /// The history's new lines.
    pub entries: Vec<Entry>,
    /// What nobody will deal with unless somebody is told.
    pub dead: Vec<DeadLetter>,
    /// By how much the numbers of tasks change.
    pub counts: Counts,
    /// The tasks that changed, where somebody traces them.
    pub traces: Vec<Trace>,
    /// The fold's clock: the running maximum of the log's times.
    pub clock: Timestamp,
    /// What ended before this message is forgotten.
    pub floor: u64,
    /// The cut at which the fold began, while it is still to come; else 0.
    pub cold_until: u64,
}

/// By how much the number of tasks changes, by subsystem and the word of the state.
pub type Counts = HashMap<Box<str>, HashMap<&'static str, i64>>;

/// A task that changed, for whoever traces it.
#[derive(Debug)]
pub struct Trace {
    /// Its key.
    pub key: TaskKey,
    /// Its id.
    pub id: TaskId,
    /// W3C trace context of its submission.
    pub traceparent: String,
    /// Whether it ended.
    pub is_end: bool,
}

/// The number of messages before the first that needs a newer fold, and the version it needs.
pub fn known(messages: &[Message]) -> (usize, Option<u32>) {
    for (n, message) in messages.iter().enumerate() {
        for item in &message.items {
            if let Err(NotAnEvent::NewerFold(version)) = item {
                return (n, Some(*version));
            }
        }
    }
    (messages.len(), None)
}

/// The fold.
pub struct Fold {
    known: Known,
    out: Changes,
    /// What ended before this message is forgotten: its id is new.
    floor: u64,
    cold: Option<Cold>,
    /// Of the messages whose changes were not taken.
    bytes: usize,
    traced: bool,
}

impl Fold {
    /// Begins where a ledger is: at its clock, and with the newest of its ids.
    pub fn new(clock: Timestamp, newest: Option<&str>, traced: bool) -> Self {
        let out = Changes { clock, ..Changes::default() };
        Self { known: Known::new(newest), out, floor: 0, cold: None, bytes: 0, traced }
    }

    /// Forgets what ended before the floor of the ledger.
    #[must_use]
    pub fn counting_from(self, floor: u64) -> Self {
        Self { floor, ..self }
    }

    /// Whether so many more events of so many bytes are too much for one batch.
    pub fn is_full(&self, events: usize, bytes: usize) -> bool {
        self.out.entries.len() + events > limits::LEDGER_BATCH_EVENTS_MAX
            || self.bytes + bytes > limits::READ_BYTES_MAX
    }

    /// The tasks that the ledger must be asked for before these messages can be folded.
    pub fn missing(&self, messages: &[Message]) -> Vec<(Tenant, TaskId)> {
        let (mut missing, mut seen) = (Vec::new(), HashSet::new());
        for item in messages.iter().flat_map(|m| &m.items) {
            let Ok(Event::Task(event)) = item else { continue };
            let key = TaskKey::new(&event.tenant, &event.id);
            let is_missing = match self.known.get(&key) {
                // A repeat is compared with what was submitted, and a failure carries it.
                Some(slot) => {
                    slot.fixed.is_none()
                        && matches!(event.kind, Kind::Created(_) | Kind::Failed(_))
                        && !seen.contains(&key)
                }
                None => {
                    seen.insert(key)
                        && !self.known.is_forgotten(&key)
                        && !(matches!(event.kind, Kind::Created(_)) && self.known.is_new(&event.id))
                }
            };
            if is_missing {
                seen.insert(key);
                missing.push((event.tenant.clone(), event.id.clone()));
            }
        }
        missing
    }

    /// Takes what the ledger has of tasks; of several under one id the newest counts, unless it
    /// ended before the floor.
    pub fn load(&mut self, mut rows: Vec<Row>) {
        rows.sort_by_key(|row| std::cmp::Reverse(row.live.place));
        for row in rows {
            if let Some(cold) = &mut self.cold {
                cold.found(&row.key());
            }
            if row.live.ended_at.is_none_or(|ended| ended >= self.floor) {
                self.known.load(row);
            }
        }
    }

    /// Folds messages of which nothing is [`Fold::missing`] or [`Fold::wanted`].
    pub fn fold(&mut self, messages: Vec<Message>) {
        for mut message in messages {
            self.out.clock = self.out.clock.max(message.at);
            self.bytes += message.payload.len();
            let items = std::mem::take(&mut message.items);
            self.message(&message, items);
            self.passed(message.sequence);
        }
    }

    /// Takes what is to be written.
    pub fn take(&mut self) -> Changes {
        let mut taken = Changes { clock: self.out.clock, ..Changes::default() };
        std::mem::swap(&mut taken, &mut self.out);
        self.bytes = 0;
        self.known.take(&mut taken.counts, &mut taken.tasks);
        (taken.floor, taken.cold_until) = (self.floor, self.cold_until());
        taken
    }

    /// The log was cut: what ended before the floor is forgotten.
    fn trimmed(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        self.known.forget_before(self.floor, &mut self.out.counts, &mut self.out.tasks);
    }

    fn task(&mut self, message: &Message, index: u32, event: TaskEvent, raw: raw::Item) {
        let place = Place { sequence: message.sequence, index };
        let clock = self.out.clock;
        let key = TaskKey::new(&event.tenant, &event.id);
        let kind = event.kind.word();
        let carriage = self.carriage(&key, place);
        if carriage == Carriage::Source {
            return;
        }
        let is_before = carriage == Carriage::Before;
        if is_before && self.ends_carried(&key, place, &event) {
            self.poison_unknown(message, index, &event, key);
        }
        let slot = self.known.get(&key);
        let life = match slot.map(|s| s.live.life) {
            _ if is_before => Err(BEFORE),
            life => lifecycle::apply(life, &event.kind).map_err(Ignored::as_str),
        };
        let mut ignored = life.err().unwrap_or_default();
        let mut task = slot.map(|s| s.live.place);
        let bytes = raw.or_encode(|| wire::encode(&Event::Task(event.clone())));
        match life {
            // It is for those who begin here: to who knows the task it says nothing new.
            Ok(_) if matches!(event.kind, Kind::Carried(_)) => {}
            Ok(life) => {
                task = Some(self.change(key, place, life, &event));
                if matches!(event.kind, Kind::Failed(_)) {
                    self.poison(message, index, &event, key);
                }
                let traced = self.traced.then(|| event.id.clone());
                self.describe(key, place, event);
                if let (Some(id), Some(slot)) = (traced, self.known.get(&key)) {
                    let (traceparent, is_end) = (slot.trace.to_string(), life.phase.is_terminal());
                    self.out.traces.push(Trace { key, id, traceparent, is_end });
                }
            }
            Err(_) => {
                if let (Some(slot), Kind::Created(spec)) = (slot, &event.kind)
                    && slot.fixed.as_ref().is_some_and(|fixed| !is_same(fixed, spec))
                {
                    ignored = "another body under the same id";
                    self.conflict(message, index, &event);
                }
            }
        }
        self.entry(Entry {
            task,
            place,
            at: clock,
            kind: kind.into(),
            ignored: ignored.into(),
            event: bytes,
        });
    }

    /// Applies an event that takes the task to `life`, and returns the place of the task.
    fn change(&mut self, key: TaskKey, place: Place, life: State, event: &TaskEvent) -> Place {
        let clock = self.out.clock;
        if let Some(slot) = self.known.change(&key) {
            change::apply(&mut slot.live, life, event, place.sequence, clock);
            return slot.live.place;
        }
        let row = change::first(place, life, event, clock);
        let is_created = matches!(event.kind, Kind::Created(_));
        let stub = if is_created { None } else { change::stub(event) };
        let slot = self.known.insert(key, row, &event.id);
        if let Some(spec) = stub {
            slot.describe(event.tenant.clone(), event.id.clone(), spec, place);
        }
        place
    }

    /// A creation that took effect describes its task, and so does what its type made of it.
    fn describe(&mut self, key: TaskKey, place: Place, event: TaskEvent) {
        let spec = if let Kind::Created(spec) = event.kind {
            *spec
        } else if let Kind::Resolved(resolved) = event.kind {
            resolved.spec
        } else {
            return;
        };
        let Some(slot) = self.known.change(&key) else { return };
        if let Some(written) = slot.written {
            let (old, new) = (slot.live.subsystem.clone(), spec.as_pb().subsystem.as_str());
            count(&mut self.out.counts, &old, written, -1);
            count(&mut self.out.counts, new, written, 1);
        }
        slot.describe(event.tenant, event.id, spec, place);
    }

    fn entry(&mut self, entry: Entry) {
        self.out.entries.push(entry);
    }
}

/// Counts a task.
fn count(counts: &mut Counts, subsystem: &str, state: &'static str, by: i64) {
    if !counts.contains_key(subsystem) {
        counts.insert(subsystem.into(), HashMap::new());
    }
    if let Some(states) = counts.get_mut(subsystem) {
        *states.entry(state).or_default() += by;
    }
}

fn word(live: &Live) -> &'static str {
    state_word(live.life.phase.state())
}

/// Whether a second submission asks for what the task was submitted for.
fn is_same(fixed: &Fixed, spec: &TaskSpec) -> bool {
    // Where it is gone nobody can tell.
    fixed.executor == UNKNOWN_EXECUTOR
        || is_what_its_type_resolved(fixed, spec)
        || TaskSpec::parse(fixed.spec.clone()).is_ok_and(|first| first.digest() == spec.digest())
}

/// Whether the submission named no executor, and its type gave the task the one that it has: then the
/// type and the input say whether it is the same.
fn is_what_its_type_resolved(fixed: &Fixed, spec: &TaskSpec) -> bool {
    let (first, again) = (&fixed.spec, spec.as_pb());
    spec.is_external()
        && again.executor.is_none()
        && first.executor.is_some()
        && (&first.task_type, &first.input) == (&again.task_type, &again.input)
        && digest(first) == digest(again)
}

/// What a large input says; each submission puts it in again, under another name.
fn digest(spec: &pb::TaskSpec) -> Option<&str> {
    spec.input_object.as_ref().map(|object| object.digest.as_str())
}

#[cfg(test)]
mod cut_tests;
#[cfg(test)]
mod tests;
