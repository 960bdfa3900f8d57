//! The facts that the log holds.
//!
//! The bodies of events are the generated messages: they are data about what happened and have no
//! rule of their own but those that the fold checks. A submission has rules, so it is a
//! [`TaskSpec`], parsed at the door.

mod carried;
mod resolved;

pub use carried::{Carried, Pause, Trimmed, UsedRate};
pub use resolved::Resolved;

use crate::{
    id::{QueueName, TaskId, Tenant},
    pb,
    policy::{Document, schedule::Advanced},
    task::TaskSpec,
    time::Timestamp,
};

/// One fact of the log.
#[derive(Clone, Debug)]
pub enum Event {
    /// About one task.
    Task(TaskEvent),
    /// About how work is done.
    Policy(PolicyEvent),
}

/// A fact about one task.
#[derive(Clone, Debug)]
pub struct TaskEvent {
    /// Whose task it is.
    pub tenant: Tenant,
    /// Which task it is.
    pub id: TaskId,
    /// When the producer says it happened: data only.
    pub at: Option<Timestamp>,
    /// Who did it.
    pub actor: String,
    /// W3C trace context, or empty.
    pub traceparent: String,
    /// Fields of a reporter's message that Jetmill does not know, as a JSON object; may be empty.
    pub metadata: String,
    /// What happened.
    pub kind: Kind,
}

/// What happened to a task.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is the message of the same name in event.proto")]
pub enum Kind {
    Created(Box<TaskSpec>),
    Started(pb::Started),
    Progress(pb::Progress),
    Updated(pb::Updated),
    Snapshot(pb::Snapshot),
    Completed(Box<pb::Completed>),
    Failed(Box<pb::Failed>),
    Retrying(Box<pb::Retrying>),
    Lost(pb::Lost),
    Returned(pb::Returned),
    Skipped(pb::Skipped),
    Cancelled(Box<pb::Cancelled>),
    CancelRequested(pb::CancelRequested),
    Reprioritised(pb::Reprioritised),
    Expedited(pb::Expedited),
    Carried(Box<Carried>),
    Resolved(Box<Resolved>),
}

impl Kind {
    /// The word of its subject.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created(_) => "created",
            Self::Started(_) => "started",
            Self::Progress(_) => "progress",
            Self::Updated(_) => "updated",
            Self::Snapshot(_) => "snapshot",
            Self::Completed(_) => "completed",
            Self::Failed(_) => "failed",
            Self::Retrying(_) => "retrying",
            Self::Lost(_) => "lost",
            Self::Returned(_) => "returned",
            Self::Skipped(_) => "skipped",
            Self::Cancelled(_) => "cancelled",
            Self::CancelRequested(_) => "cancel_requested",
            Self::Reprioritised(_) => "reprioritised",
            Self::Expedited(_) => "expedited",
            Self::Carried(_) => "carried",
            Self::Resolved(_) => "resolved",
        }
    }

    /// Whether a reader that does not know this kind may skip it.
    pub fn is_informational(&self) -> bool {
        matches!(self, Self::Progress(_) | Self::Snapshot(_))
    }
}

/// A fact about how work is done.
#[derive(Clone, Debug)]
pub struct PolicyEvent {
    /// Who did it.
    pub actor: String,
    /// What was decided.
    pub policy: Policy,
}

/// A decision about how work is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Policy {
    /// No new starts in a queue, or in any.
    Paused(Pause),
    /// Starts again.
    Resumed {
        /// The queue; `None` is every queue.
        queue: Option<QueueName>,
    },
    /// The log counts from its floor on.
    Trimmed(Trimmed),
    /// A version of a limit, a schedule or a task type.
    Document(Box<Document>),
    /// Ticks of a schedule have no run, or where it stands is said again.
    ScheduleAdvanced(Advanced),
}

impl Policy {
    /// The word of its subject.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Paused(_) => "paused",
            Self::Resumed { .. } => "resumed",
            Self::Trimmed(_) => "trimmed",
            Self::Document(_) => "document",
            Self::ScheduleAdvanced(_) => "schedule_advanced",
        }
    }
}

impl TaskEvent {
    /// A fact that a service states about a task.
    pub fn new(tenant: Tenant, id: TaskId, actor: impl Into<String>, kind: Kind) -> Self {
        Self {
            tenant,
            id,
            at: None,
            actor: actor.into(),
            traceparent: String::new(),
            metadata: String::new(),
            kind,
        }
    }
}
