//! **Pure.** The ledger's fold: messages of the log and the rows that they name, to the rows that
//! changed, the lines of the history and the dead letters.
//!
//! What a task's state becomes is decided by `common::lifecycle` alone. Applied twice, a batch
//! changes nothing: the second time every event is ignored as a repeat.

use std::collections::HashMap;

use bus::Message;
use common::{
    event::{Event, Kind, TaskEvent},
    id::{TaskId, TaskKey, Tenant},
    lifecycle::{self, Cause, Ignored, Phase},
    limits,
    pb::{self, DeadLetter},
    task::TaskSpec,
    time::Timestamp,
    wire::{self, NotAnEvent},
};

use crate::{
    change,
    row::{Entry, Place, Row},
};

/// Kind of a dead letter with an item that could not be read.
pub const UNDECODABLE: &str = "undecodable";
/// Kind of a dead letter with a task that did not end well.
pub const TASK: &str = "task";

/// What a batch of messages comes to.
#[derive(Debug, Default)]
pub struct Projection {
    /// The rows that changed, as they are now.
    pub rows: Vec<Row>,
    /// The history's new lines.
    pub entries: Vec<Entry>,
    /// What nobody will deal with unless somebody is told.
    pub dead: Vec<DeadLetter>,
    /// The fold's clock: the running maximum of the log's times.
    pub clock: Timestamp,
}

/// The messages before the first that needs a newer fold, and the version that it needs.
pub fn known(messages: &[Message]) -> (&[Message], Option<u32>) {
    for (n, message) in messages.iter().enumerate() {
        for item in &message.items {
            if let Err(NotAnEvent::NewerFold(version)) = item {
                return (messages.get(..n).unwrap_or_default(), Some(*version));
            }
        }
    }
    (messages, None)
}

/// The tasks that the messages name.
pub fn named(messages: &[Message]) -> Vec<(Tenant, TaskId)> {
    let mut tasks = HashMap::new();
    for item in messages.iter().flat_map(|m| &m.items) {
        if let Ok(Event::Task(event)) = item {
            let key = TaskKey::new(&event.tenant, &event.id);
            tasks.entry(key).or_insert_with(|| (event.tenant.clone(), event.id.clone()));
        }
    }
    tasks.into_values().collect()
}

/// Folds messages over the rows of the tasks that they name.
pub fn project(rows: Vec<Row>, clock: Timestamp, messages: &[Message]) -> Projection {
    let mut fold =
        Fold { slots: HashMap::new(), out: Projection { clock, ..Projection::default() } };
    for row in rows {
        let slot = fold.slots.entry(row.key());
        // Of several tasks under one id the newest counts.
        slot.and_modify(|old| {
            if old.row.place < row.place {
                old.row = row.clone();
            }
        })
        .or_insert(Slot { row, changed: false });
    }
    for message in messages {
        fold.message(message);
    }
    let changed = fold.slots.into_values().filter(|s| s.changed).map(|s| s.row);
    fold.out.rows = changed.collect();
    fold.out.rows.sort_by_key(|row| row.place);
    fold.out
}

struct Slot {
    row: Row,
    changed: bool,
}

struct Fold {
    slots: HashMap<TaskKey, Slot>,
    out: Projection,
}

impl Fold {
    fn message(&mut self, message: &Message) {
        self.out.clock = self.out.clock.max(message.at);
        let mut unread = 0;
        for (index, item) in (0..).zip(&message.items) {
            match item {
                Ok(_) if index >= Place::INDEX_END => unread += 1,
                Ok(whole @ Event::Task(event)) => self.task(message, index, whole, event),
                Ok(event @ Event::Policy(_)) => {
                    self.entry(None, Place { sequence: message.sequence, index }, "", event);
                }
                Err(NotAnEvent::Undecodable(_)) if unread >= limits::DEAD_ITEMS_MAX => unread += 1,
                Err(NotAnEvent::Undecodable(error)) => {
                    unread += 1;
                    let original = message.item(index).unwrap_or_else(|| message.payload.to_vec());
                    self.undecodable(message, index, original, error.clone());
                }
                Err(NotAnEvent::UnknownInformational | NotAnEvent::NewerFold(_)) => {}
            }
        }
        if unread > limits::DEAD_ITEMS_MAX {
            let more = unread - limits::DEAD_ITEMS_MAX;
            let error = format!("{more} more items of this message cannot be read");
            self.undecodable(message, Place::INDEX_END, message.payload.to_vec(), error);
        }
    }

    fn task(&mut self, message: &Message, index: u32, whole: &Event, event: &TaskEvent) {
        let place = Place { sequence: message.sequence, index };
        let clock = self.out.clock;
        let key = TaskKey::new(&event.tenant, &event.id);
        let slot = self.slots.get_mut(&key);
        let life = lifecycle::apply(slot.as_ref().map(|s| s.row.life), &event.kind);
        let mut ignored = life.err().map(Ignored::as_str).unwrap_or_default();
        let task = match (slot, life) {
            (Some(slot), Ok(life)) => {
                change::apply(&mut slot.row, life, event, clock);
                slot.changed = true;
                Some(slot.row.place)
            }
            (None, Ok(life)) => {
                let row = change::first(place, life, event, clock);
                self.slots.insert(key, Slot { row, changed: true });
                Some(place)
            }
            (Some(slot), Err(_)) => {
                if let Kind::Created(spec) = &event.kind
                    && !is_same(&slot.row, spec)
                {
                    ignored = "another body under the same id";
                    let task = slot.row.place;
                    self.conflict(message, index, event);
                    Some(task)
                } else {
                    Some(slot.row.place)
                }
            }
            (None, Err(_)) => None,
        };
        if life.is_ok() {
            self.poison(message, index, event, key);
        }
        self.entry(task, place, ignored, whole);
    }

    fn entry(&mut self, task: Option<Place>, place: Place, ignored: &str, event: &Event) {
        let kind = match event {
            Event::Task(event) => event.kind.word(),
            Event::Policy(event) => event.policy.word(),
        };
        self.out.entries.push(Entry {
            task,
            place,
            at: self.out.clock,
            kind: kind.to_owned(),
            ignored: ignored.to_owned(),
            event: wire::encode(event),
        });
    }

    fn conflict(&mut self, message: &Message, index: u32, event: &TaskEvent) {
        let mut original = message.item(index).unwrap_or_default();
        let mut error = format!(
            "conflict: task {:?} is there already with another body; \
             submit this one under another id",
            event.id.as_str()
        );
        cut(&mut original, &mut error);
        let letter = letter(UNDECODABLE, message, index, &error);
        let (tenant, task_id) = (event.tenant.to_string(), event.id.to_string());
        self.dead(DeadLetter { original, tenant, task_id, ..letter });
    }

    fn undecodable(
        &mut self,
        message: &Message,
        index: u32,
        mut original: Vec<u8>,
        mut error: String,
    ) {
        cut(&mut original, &mut error);
        self.dead(DeadLetter { original, ..letter(UNDECODABLE, message, index, &error) });
    }

    /// A dead letter for a dispatched task that ended badly by itself: not for want of a
    /// dependency, and not because it waited too long.
    fn poison(&mut self, message: &Message, index: u32, event: &TaskEvent, key: TaskKey) {
        let Some(Slot { row, .. }) = self.slots.get(&key) else { return };
        let Phase::Failed(cause) = row.life.phase else { return };
        let by_itself = match cause {
            Cause::Error | Cause::Timeout | Cause::Lost | Cause::Rejected => true,
            Cause::Dependency | Cause::Expired => false,
        };
        if row.life.external || !by_itself {
            return;
        }
        let error = match &row.report.error {
            Some(pb::TaskError { code, message }) if code.is_empty() => message.clone(),
            Some(pb::TaskError { code, message }) => format!("{code}: {message}"),
            None => cause.as_str().to_owned(),
        };
        let letter = DeadLetter {
            tenant: event.tenant.to_string(),
            task_id: event.id.to_string(),
            spec: Some(row.spec.clone()),
            cause: cause.to_pb().into(),
            ..letter(TASK, message, index, &error)
        };
        self.dead(letter);
    }

    fn dead(&mut self, letter: DeadLetter) {
        let at = Some(self.out.clock.into());
        self.out.dead.push(DeadLetter { at, ..letter });
    }
}

fn letter(kind: &str, message: &Message, index: u32, error: &str) -> DeadLetter {
    let end = error.floor_char_boundary(limits::TEXT_BYTES_MAX);
    DeadLetter {
        kind: kind.into(),
        subject: message.subject.clone(),
        sequence: message.sequence,
        index,
        error: error.get(..end).unwrap_or_default().to_owned(),
        ..DeadLetter::default()
    }
}

/// Whether a second submission asks for what the task was submitted for.
fn is_same(row: &Row, spec: &TaskSpec) -> bool {
    TaskSpec::parse(row.spec.clone()).is_ok_and(|first| first.digest() == spec.digest())
}

/// A letter must fit into a message, or it would stop the ledger: what is cut off, its error says.
fn cut(original: &mut Vec<u8>, error: &mut String) {
    let len = original.len();
    if len > limits::DEAD_ORIGINAL_BYTES_MAX {
        original.truncate(limits::DEAD_ORIGINAL_BYTES_MAX);
        *error = format!("{error} (of its {len} bytes the first {} are here)", original.len());
    }
}

#[cfg(test)]
mod tests;
