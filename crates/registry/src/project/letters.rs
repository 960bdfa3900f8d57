//! **Pure.** The dead letters of the fold, and the items that are none of its events.

use bus::Message;
use common::{
    event::{Event, Kind, Policy, TaskEvent},
    id::TaskKey,
    lifecycle::{Cause, Phase},
    limits,
    pb::{self, DeadLetter},
    wire::{self, NotAnEvent},
};

use super::Fold;
use crate::{
    raw,
    row::{Entry, Place, UNKNOWN_EXECUTOR},
};

/// Kind of a dead letter with an item that could not be read.
pub const UNDECODABLE: &str = "undecodable";
/// Kind of a dead letter with a task that did not end well.
pub const TASK: &str = "task";

impl Fold {
    pub(super) fn message(&mut self, message: &Message, items: Vec<Result<Event, NotAnEvent>>) {
        let mut unread = 0;
        let mut raws = raw::items(message);
        for (index, item) in (0..).zip(items) {
            let raw = raws.next(&item);
            match item {
                Ok(_) if index >= Place::INDEX_END => unread += 1,
                Ok(Event::Task(event)) => self.task(message, index, event, raw),
                Ok(Event::Policy(event)) => {
                    if let Policy::Trimmed(trimmed) = &event.policy {
                        self.trimmed(trimmed.floor);
                    }
                    self.entry(Entry {
                        task: None,
                        place: Place { sequence: message.sequence, index },
                        at: self.out.clock,
                        kind: event.policy.word().into(),
                        ignored: "".into(),
                        event: raw.or_encode(|| wire::encode(&Event::Policy(event.clone()))),
                    });
                }
                Err(NotAnEvent::Undecodable(_)) if unread >= limits::DEAD_ITEMS_MAX => unread += 1,
                Err(NotAnEvent::Undecodable(error)) => {
                    unread += 1;
                    let original = message.item(index).unwrap_or_else(|| message.payload.to_vec());
                    self.undecodable(message, index, original, error);
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

    pub(super) fn conflict(&mut self, message: &Message, index: u32, event: &TaskEvent) {
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
    pub(super) fn poison(
        &mut self,
        message: &Message,
        index: u32,
        event: &TaskEvent,
        key: TaskKey,
    ) {
        let Some(slot) = self.known.get(&key) else { return };
        let Phase::Failed(cause) = slot.live.life.phase else { return };
        let by_itself = match cause {
            Cause::Error | Cause::Timeout | Cause::Lost | Cause::Rejected => true,
            Cause::Dependency | Cause::Expired => false,
        };
        if slot.live.life.external || !by_itself {
            return;
        }
        let error = match slot.live.report.as_ref().and_then(|report| report.error.as_ref()) {
            Some(pb::TaskError { code, message }) if code.is_empty() => message.clone(),
            Some(pb::TaskError { code, message }) => format!("{code}: {message}"),
            None => cause.as_str().to_owned(),
        };
        let letter = DeadLetter {
            tenant: event.tenant.to_string(),
            task_id: event.id.to_string(),
            spec: slot
                .fixed
                .as_ref()
                .filter(|fixed| fixed.executor != UNKNOWN_EXECUTOR)
                .map(|fixed| fixed.spec.clone()),
            cause: cause.to_pb().into(),
            ..letter(TASK, message, index, &error)
        };
        self.dead(letter);
    }

    /// A dead letter for a task of which only the end is known: only a worker names an attempt.
    pub(super) fn poison_unknown(
        &mut self,
        message: &Message,
        index: u32,
        event: &TaskEvent,
        key: TaskKey,
    ) {
        if let Kind::Failed(body) = &event.kind
            && body.attempt > 0
        {
            self.poison(message, index, event, key);
        }
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

/// A letter must fit into a message, or it would stop the ledger: what is cut off, its error says.
fn cut(original: &mut Vec<u8>, error: &mut String) {
    let len = original.len();
    if len > limits::DEAD_ORIGINAL_BYTES_MAX {
        original.truncate(limits::DEAD_ORIGINAL_BYTES_MAX);
        *error = format!("{error} (of its {len} bytes the first {} are here)", original.len());
    }
}
