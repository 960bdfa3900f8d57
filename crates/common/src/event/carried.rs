//! **Pure.** What outlives a trim of the log: the state of a task that is still needed, and the
//! floor from which on the log counts.

use crate::{
    id::QueueName,
    lifecycle::{Cause, Phase, State},
    pb,
    task::TaskSpec,
    time::Timestamp,
};

/// What is still needed of a task whose beginning is about to be trimmed.
#[derive(Clone, Debug)]
pub struct Carried {
    /// The message in which the log first mentioned it, and the item of that message.
    pub place: (u64, u32),
    /// When the log took it.
    pub created_at: Timestamp,
    /// The state is that after this message of the log.
    pub as_of: u64,
    /// Its state.
    pub state: State,
    /// Not before this time.
    pub due: Timestamp,
    /// 1 to 10, 10 first.
    pub priority: u8,
    /// It travels alone, since it was lost or handed back once.
    pub alone: bool,
    /// Who said that it began the current attempt; may be empty.
    pub worker: String,
    /// Places in its `depends_on` of what it still waits for.
    pub waits_on: Vec<u32>,
    /// What was submitted; `None` for a task that is over or known from reports only.
    pub spec: Option<Box<TaskSpec>>,
    /// The message that ended it; 0 for one that is open.
    pub ended_at: u64,
}

/// The log counts from here on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// The first message that counts. What ended before it is forgotten.
    pub floor: u64,
    /// The pauses and rates are those after this message of the log.
    pub as_of: u64,
    /// The fold's clock at the floor.
    pub clock: Timestamp,
    /// What is held.
    pub pauses: Vec<Pause>,
    /// The rates of limits of which something is used up.
    pub rates: Vec<UsedRate>,
}

/// How far a rate is used up, as far as the log has told of starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedRate {
    /// The queue of the limit.
    pub queue: QueueName,
    /// The limit.
    pub limit: String,
    /// Its key, empty for a limit without one; `None`: of every key so much may be used up.
    pub key: Option<String>,
    /// When the next start would be due if there were no burst.
    pub next: Timestamp,
}

/// New starts are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// In this queue; `None` is every queue.
    pub queue: Option<QueueName>,
    /// Why.
    pub reason: String,
    /// It ends by itself then; `None`: when somebody resumes.
    pub until: Option<Timestamp>,
}

impl Pause {
    /// Whether it has not ended by itself.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// Why a carried task cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotCarried(String);

impl TryFrom<pb::Carried> for Carried {
    type Error = NotCarried;

    fn try_from(carried: pb::Carried) -> Result<Self, NotCarried> {
        let phase = match (carried.state(), carried.awaits_verdict) {
            (pb::TaskState::Pending, true) => Phase::Verdict,
            (pb::TaskState::Pending, false) => Phase::Pending,
            (pb::TaskState::Running, _) => Phase::Running,
            (pb::TaskState::Completed, _) => Phase::Completed,
            (pb::TaskState::Failed, _) => Phase::Failed(Cause::from_pb(carried.cause())),
            (pb::TaskState::Cancelled, _) => Phase::Cancelled,
            (pb::TaskState::Skipped, _) => Phase::Skipped,
            (pb::TaskState::Unspecified, _) => return Err(NotCarried("state is missing".into())),
        };
        let spec = match carried.spec {
            None => None,
            Some(spec) => {
                let spec = TaskSpec::parse(spec).map_err(|violations| {
                    NotCarried(crate::error::ApiError::invalid(violations).to_string())
                })?;
                Some(Box::new(spec))
            }
        };
        let described = phase.is_terminal() || carried.stub;
        if spec.is_none() && !described {
            return Err(NotCarried("spec is missing".into()));
        }
        let small = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        Ok(Self {
            place: (carried.sequence, carried.index),
            created_at: carried.created_at.map(Timestamp::from).unwrap_or_default(),
            as_of: carried.as_of,
            state: State {
                phase,
                ended: carried.ended,
                tries: small(carried.tries),
                losses: small(carried.losses),
                external: carried.external,
                stub: carried.stub,
                cancel_requested: carried.cancel_requested,
            },
            due: carried.due.map(Timestamp::from).unwrap_or_default(),
            priority: carried.priority.clamp(1, 10) as u8,
            alone: carried.alone,
            worker: carried.worker,
            waits_on: carried.waits_on,
            spec,
            ended_at: carried.ended_sequence,
        })
    }
}

impl From<&Carried> for pb::Carried {
    fn from(carried: &Carried) -> Self {
        let state = carried.state;
        Self {
            sequence: carried.place.0,
            index: carried.place.1,
            created_at: Some(carried.created_at.into()),
            as_of: carried.as_of,
            state: state.phase.state().into(),
            cause: pb::Cause::from(state.phase.cause()).into(),
            awaits_verdict: state.phase == Phase::Verdict,
            ended: state.ended,
            tries: state.tries.into(),
            losses: state.losses.into(),
            external: state.external,
            stub: state.stub,
            cancel_requested: state.cancel_requested,
            due: (carried.due > Timestamp::default()).then(|| carried.due.into()),
            priority: carried.priority.into(),
            alone: carried.alone,
            worker: carried.worker.clone(),
            waits_on: carried.waits_on.clone(),
            spec: carried.spec.as_ref().map(|spec| spec.as_pb().clone()),
            ended_sequence: carried.ended_at,
        }
    }
}
