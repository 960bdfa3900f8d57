//! **Pure.** The messages of a snapshot.

use common::pb;

use crate::trim::Marks;

/// The whole backlog.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stored {
    #[prost(uint32, tag = "1")]
    /// The version of the fold that made it.
    pub fold_version: u32,
    #[prost(int64, tag = "2")]
    pub(super) clock: i64,
    #[prost(message, optional, tag = "23")]
    pub(super) paused: Option<StoredPause>,
    #[prost(message, repeated, tag = "4")]
    pub(super) queues: Vec<StoredQueue>,
    #[prost(string, repeated, tag = "5")]
    pub(super) kinds: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub(super) open: Vec<StoredTask>,
    #[prost(message, repeated, tag = "7")]
    pub(super) over: Vec<StoredEnd>,
    #[prost(message, repeated, tag = "8")]
    pub(super) alarms: Vec<StoredAlarm>,
    /// Identity of the log, and the last message that is in here.
    #[prost(string, tag = "9")]
    pub stream: String,
    /// See `stream`.
    #[prost(uint64, tag = "10")]
    pub sequence: u64,
    #[prost(uint64, tag = "11")]
    pub(super) floor: u64,
    #[prost(message, repeated, tag = "12")]
    pub(super) carried_over: Vec<StoredCarriedOver>,
    #[prost(message, optional, tag = "13")]
    pub(super) marks: Option<Marks>,
    #[prost(message, optional, tag = "20")]
    pub(super) types: Option<StoredTypes>,
    #[prost(message, repeated, tag = "14")]
    pub(super) documents: Vec<StoredDocument>,
    #[prost(message, repeated, tag = "22")]
    pub(super) rates: Vec<StoredRate>,
    #[prost(message, repeated, tag = "15")]
    pub(super) schedules: Vec<StoredSchedule>,
}

/// Where a schedule stands.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::plan) struct StoredSchedule {
    #[prost(string, tag = "1")]
    pub(in crate::plan) name: String,
    #[prost(int64, optional, tag = "2")]
    pub(in crate::plan) decided: Option<i64>,
    #[prost(uint64, tag = "3")]
    pub(in crate::plan) stated: u64,
    #[prost(int64, optional, tag = "4")]
    pub(in crate::plan) last: Option<i64>,
    #[prost(message, repeated, tag = "5")]
    pub(in crate::plan) runs: Vec<StoredRun>,
    #[prost(int64, tag = "6")]
    pub(in crate::plan) since: i64,
}

/// An open run of a schedule.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::plan) struct StoredRun {
    #[prost(message, required, tag = "1")]
    pub(in crate::plan) key: StoredKey,
    #[prost(string, tag = "2")]
    pub(in crate::plan) id: String,
}

/// What is known of task types beside their documents.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::plan) struct StoredTypes {
    /// Tasks that get what their type said when they came.
    #[prost(message, repeated, tag = "1")]
    pub(in crate::plan) resolving: Vec<StoredResolving>,
    /// Tasks that run although their type is disabled.
    #[prost(message, repeated, tag = "2")]
    pub(in crate::plan) by_hand: Vec<StoredKey>,
    #[prost(message, repeated, tag = "3")]
    pub(in crate::plan) claims: Vec<StoredClaim>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::plan) struct StoredResolving {
    #[prost(message, required, tag = "1")]
    pub(in crate::plan) key: StoredKey,
    #[prost(uint64, tag = "2")]
    pub(in crate::plan) version: u64,
    #[prost(message, required, tag = "3")]
    pub(in crate::plan) task_type: common::pb::TaskType,
}

/// Who has the place of a key and a period.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::plan) struct StoredClaim {
    #[prost(message, required, tag = "1")]
    pub(in crate::plan) unique: StoredKey,
    #[prost(message, required, tag = "2")]
    pub(in crate::plan) holder: StoredKey,
    #[prost(uint64, tag = "3")]
    pub(in crate::plan) sequence: u64,
    #[prost(int64, tag = "4")]
    pub(in crate::plan) until: i64,
    #[prost(string, tag = "5")]
    pub(in crate::plan) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredDocument {
    #[prost(message, required, tag = "1")]
    pub(super) document: pb::Document,
    #[prost(uint64, tag = "2")]
    pub(super) sequence: u64,
    #[prost(uint64, tag = "3")]
    pub(super) anchor: u64,
}

/// A key as two words: it takes no memory of its own.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::plan) struct StoredKey {
    #[prost(fixed64, tag = "1")]
    pub(super) high: u64,
    #[prost(fixed64, tag = "2")]
    pub(super) low: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct StoredCarriedOver {
    #[prost(message, required, tag = "1")]
    pub(super) key: StoredKey,
    #[prost(uint64, tag = "2")]
    pub(super) as_of: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct StoredCarriage {
    #[prost(uint64, tag = "1")]
    pub(super) sequence: u64,
    #[prost(uint32, tag = "2")]
    pub(super) index: u32,
    #[prost(uint64, tag = "3")]
    pub(super) anchor: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredQueue {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "3")]
    pub(super) paused: Option<StoredPause>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredPause {
    #[prost(string, tag = "1")]
    pub(super) reason: String,
    #[prost(int64, optional, tag = "2")]
    pub(super) until: Option<i64>,
}

/// One open task.
#[expect(clippy::struct_excessive_bools, reason = "the flags of the fold's state")]
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredTask {
    #[prost(message, required, tag = "1")]
    pub(super) key: StoredKey,
    #[prost(uint64, tag = "2")]
    pub(super) sequence: u64,
    #[prost(uint32, tag = "3")]
    pub(super) index: u32,
    #[prost(uint32, tag = "4")]
    pub(super) phase: u32,
    #[prost(uint32, tag = "5")]
    pub(super) ended: u32,
    #[prost(uint32, tag = "6")]
    pub(super) tries: u32,
    #[prost(uint32, tag = "7")]
    pub(super) losses: u32,
    #[prost(bool, tag = "8")]
    pub(super) external: bool,
    #[prost(bool, tag = "9")]
    pub(super) stub: bool,
    #[prost(bool, tag = "10")]
    pub(super) cancel_requested: bool,
    #[prost(int64, tag = "11")]
    pub(super) due: i64,
    #[prost(uint32, tag = "12")]
    pub(super) priority: u32,
    #[prost(uint32, tag = "13")]
    pub(super) queue: u32,
    #[prost(uint32, tag = "14")]
    pub(super) kind: u32,
    #[prost(message, repeated, tag = "15")]
    pub(super) edges: Vec<StoredEdge>,
    #[prost(string, optional, tag = "16")]
    pub(super) holder: Option<String>,
    #[prost(uint64, tag = "17")]
    pub(super) queue_timeout_us: u64,
    #[prost(uint32, tag = "18")]
    pub(super) deciding: u32,
    #[prost(bool, tag = "19")]
    pub(super) alone: bool,
    #[prost(message, optional, tag = "20")]
    pub(super) carried: Option<StoredCarriage>,
    /// For the limits of its queue that have a key, in their order.
    #[prost(string, repeated, tag = "21")]
    pub(super) keys: Vec<String>,
}

/// How far the rate of one key is used up.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::plan) struct StoredRate {
    #[prost(string, tag = "1")]
    pub(in crate::plan) queue: String,
    #[prost(string, tag = "2")]
    pub(in crate::plan) limit: String,
    #[prost(string, tag = "3")]
    pub(in crate::plan) key: String,
    /// When the next start is due, in microseconds.
    #[prost(int64, tag = "4")]
    pub(in crate::plan) next: i64,
    /// When its burst of submissions began, in microseconds.
    #[prost(int64, optional, tag = "5")]
    pub(in crate::plan) first: Option<i64>,
    #[prost(int64, optional, tag = "6")]
    pub(in crate::plan) held_until: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct StoredEdge {
    #[prost(message, required, tag = "1")]
    pub(super) dependency: StoredKey,
    #[prost(uint32, tag = "2")]
    pub(super) on: u32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct StoredEnd {
    #[prost(message, required, tag = "1")]
    pub(super) key: StoredKey,
    #[prost(uint64, tag = "2")]
    pub(super) sequence: u64,
    #[prost(uint32, tag = "3")]
    pub(super) index: u32,
    #[prost(uint32, tag = "4")]
    pub(super) phase: u32,
    #[prost(uint64, tag = "5")]
    pub(super) ended: u64,
    #[prost(uint64, tag = "6")]
    pub(super) used: u64,
    /// Where the log first mentioned it, if not there.
    #[prost(message, optional, tag = "7")]
    pub(super) created: Option<StoredCarriage>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct StoredAlarm {
    #[prost(int64, tag = "1")]
    pub(super) at: i64,
    #[prost(message, required, tag = "2")]
    pub(super) key: StoredKey,
    #[prost(uint32, tag = "3")]
    pub(super) alarm: u32,
}
