//! **Pure.** What the ledger holds of a task and of its history.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use common::{
    id::{TaskId, TaskKey, Tenant},
    lifecycle::State,
    pb,
    time::Timestamp,
};

/// A place in the log: a message, and an item of it. Places order tasks and events as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The message.
    pub sequence: u64,
    /// The item of the message, less than [`Place::INDEX_END`].
    pub index: u32,
}

impl Place {
    const INDEX_BITS: u32 = 20;
    /// The first index that has no place.
    pub const INDEX_END: u32 = 1 << Self::INDEX_BITS;

    /// As the ledger's one number.
    pub fn number(self) -> i64 {
        (self.sequence << Self::INDEX_BITS) as i64 | i64::from(self.index)
    }

    /// From the ledger's one number.
    pub fn from_number(number: i64) -> Self {
        let index = number as u32 & (Self::INDEX_END - 1);
        Self { sequence: number as u64 >> Self::INDEX_BITS, index }
    }
}

/// Whether the work was found to be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// It has not ended.
    Pending,
    /// Its reporter says so.
    Passed,
    /// Its reporter says that it was not.
    Failed,
    /// Nobody looked.
    Skipped,
}

impl Verification {
    const ALL: [Self; 4] = [Self::Pending, Self::Passed, Self::Failed, Self::Skipped];

    /// The word of the ledger and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.as_str() == word)
    }
}

/// A task.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What may change.
    pub live: Live,
    /// What its creation fixed.
    pub fixed: Fixed,
}

/// What of a task may change, and what a fold needs to know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// Where the log first mentions it: its creation, or for a stub the first report.
    pub place: Place,
    /// The event that has what was submitted, its creation or what was carried; for a stub the
    /// first report.
    pub spec_at: Place,
    /// Its state as the fold sees it.
    pub life: State,
    /// 1 to 10, 10 first.
    pub priority: u8,
    /// Part of which system it is.
    pub subsystem: Box<str>,
    /// Who ran it last; may be empty.
    pub worker: Box<str>,
    /// When the log took it.
    pub created_at: Timestamp,
    /// When its current or last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// The message that ended it: once the log is cut behind it, the id is new.
    pub ended_at: Option<u64>,
    /// How long its last attempt took.
    pub duration: Option<Duration>,
    /// Whether the work was found to be good.
    pub verification: Verification,
    /// What was reported: result, error, usage, metadata and progress; nothing else is set.
    pub report: Option<Box<pb::Task>>,
}

/// The executor's word where the submission is gone.
pub const UNKNOWN_EXECUTOR: &str = "unknown";

/// What of a task its creation fixes.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    /// Whose it is.
    pub tenant: Tenant,
    /// Its id.
    pub id: TaskId,
    /// Whose workers may run it.
    pub queue: String,
    /// The executor's word.
    pub executor: Cow<'static, str>,
    /// When it is due.
    pub deadline: Option<Timestamp>,
    /// What was submitted.
    pub spec: pb::TaskSpec,
}

impl Row {
    /// The key under which folds know it.
    pub fn key(&self) -> TaskKey {
        TaskKey::new(&self.fixed.tenant, &self.fixed.id)
    }
}

/// What is to be written of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// As it is now, without the report.
    pub live: Live,
    /// What was reported, encoded.
    pub report: Vec<u8>,
    /// What creation fixes, where the ledger does not have it.
    pub fixed: Option<Box<Fixed>>,
    /// Whether the ledger does not have the task.
    pub is_new: bool,
    /// The names of its large input and result in the object store.
    pub objects: Vec<String>,
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The task that it is about, by its place; `None` is none that the ledger knows.
    pub task: Option<Place>,
    /// Where it lies in the log.
    pub place: Place,
    /// When the log took it.
    pub at: Timestamp,
    /// The word of its kind.
    pub kind: Cow<'static, str>,
    /// Why it changed nothing; empty when it took effect.
    pub ignored: Cow<'static, str>,
    /// The event, encoded.
    pub event: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_their_order_as_numbers() {
        let check = |sequence, index| {
            let place = Place { sequence, index };
            assert_eq!(Place::from_number(place.number()), place);
            place.number()
        };
        let numbers = [
            check(0, 1),
            check(1, 0),
            check(1, Place::INDEX_END - 1),
            check(2, 0),
            check(1 << 42, 7),
        ];
        assert!(numbers.is_sorted());
    }
}
