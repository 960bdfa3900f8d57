//! **Pure.** The fold: what an event does to a task's state. Every service uses this one function,
//! so every service agrees on what became of a task.
//!
//! The first valid transition wins. A repeat, a contradiction and a report about an attempt that is
//! over are [`Ignored`] with a reason. `docs/lifecycle.md` has the whole table; a test makes it.

mod after;
mod cause;

pub use self::{
    after::{After, AttemptEnd, after, after_loss},
    cause::Cause,
};

use crate::{event::Kind, pb};

/// The version of this fold. Events that need a newer one stop a reader.
pub const FOLD_VERSION: u32 = 3;

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It waits: for something else, for a slot, or for its worker to say that it began.
    Pending,
    /// Its attempt was lost; the scheduler decides what follows.
    Verdict,
    /// An attempt has begun.
    Running,
    /// It ended well.
    Completed,
    /// It ended badly.
    Failed(Cause),
    /// Somebody ended it.
    Cancelled,
    /// There was no need for it.
    Skipped,
}

impl Phase {
    /// Whether the task's life is over.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Verdict | Self::Running => false,
            Self::Completed | Self::Failed(_) | Self::Cancelled | Self::Skipped => true,
        }
    }

    /// Why it failed, if it did.
    pub fn cause(self) -> Option<Cause> {
        match self {
            Self::Failed(cause) => Some(cause),
            Self::Pending
            | Self::Verdict
            | Self::Running
            | Self::Completed
            | Self::Cancelled
            | Self::Skipped => None,
        }
    }

    /// The state that people see.
    pub fn state(self) -> pb::TaskState {
        match self {
            Self::Pending | Self::Verdict => pb::TaskState::Pending,
            Self::Running => pb::TaskState::Running,
            Self::Completed => pb::TaskState::Completed,
            Self::Failed(_) => pb::TaskState::Failed,
            Self::Cancelled => pb::TaskState::Cancelled,
            Self::Skipped => pb::TaskState::Skipped,
        }
    }
}

/// The word for a state that people and the ledger use.
pub fn state_word(state: pb::TaskState) -> &'static str {
    match state {
        pb::TaskState::Unspecified => "unknown",
        pb::TaskState::Pending => "pending",
        pb::TaskState::Running => "running",
        pb::TaskState::Completed => "completed",
        pb::TaskState::Failed => "failed",
        pb::TaskState::Cancelled => "cancelled",
        pb::TaskState::Skipped => "skipped",
    }
}

/// What a fold remembers of a task, besides what its own service needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Where it is in its life.
    pub phase: Phase,
    /// The number of the last attempt that ended; the current one is one above.
    pub ended: u32,
    /// Attempts that ended in an error or a timeout.
    pub tries: u16,
    /// Attempts that were lost with their workers.
    pub losses: u16,
    /// Reported by another system; never dispatched.
    pub external: bool,
    /// Known from reports only; a later creation describes it.
    pub stub: bool,
    /// Somebody asked to end it.
    pub cancel_requested: bool,
}

impl State {
    /// A task as its creation leaves it.
    pub const fn created(external: bool) -> Self {
        Self {
            phase: Phase::Pending,
            ended: 0,
            tries: 0,
            losses: 0,
            external,
            stub: false,
            cancel_requested: false,
        }
    }

    /// The number of the attempt that runs or comes next.
    pub const fn attempt(self) -> u32 {
        self.ended + 1
    }
}

/// Why an event changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The log has said this before.
    Repeat,
    /// The task is over.
    Terminal,
    /// It is about an attempt that is over, or that was never due.
    StaleAttempt,
    /// It names an attempt of a task that the log does not know (any more).
    UnknownTask,
    /// Only the worker of an attempt may say this about a task that is dispatched.
    NotExternal,
    /// It does not follow from where the task is.
    OutOfPlace,
}

impl Ignored {
    /// The reason, as the history shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Repeat => "repeat",
            Self::Terminal => "the task was over",
            Self::StaleAttempt => "the attempt was over",
            Self::UnknownTask => "no such task",
            Self::NotExternal => "a report without an attempt about a dispatched task",
            Self::OutOfPlace => "does not follow from the task's state",
        }
    }
}

/// What an event does to a task. `None` is a task that the log has not mentioned before.
pub fn apply(state: Option<State>, event: &Kind) -> Result<State, Ignored> {
    let Some(state) = state else { return first(event) };
    if let Kind::Created(spec) = event {
        return match state.stub {
            true => Ok(State { stub: false, external: true, ..state }),
            false if spec.is_external() || !state.external => Err(Ignored::Repeat),
            false => Err(Ignored::OutOfPlace),
        };
    }
    if state.phase.is_terminal() {
        return Err(Ignored::Terminal);
    }
    match event {
        Kind::Created(_) => Err(Ignored::Repeat),
        Kind::Started(body) => started(state, body.attempt),
        Kind::Progress(pb::Progress { attempt, .. })
        | Kind::Snapshot(pb::Snapshot { attempt, .. }) => reported(state, *attempt),
        Kind::Updated(body) => updated(state, &body.status),
        Kind::Completed(body) => {
            reported(state, body.attempt).map(|s| end(s, body.attempt, Phase::Completed))
        }
        Kind::Failed(body) => failed(state, body.attempt, Cause::from_pb(body.cause())),
        Kind::Retrying(body) => retrying(state, body.attempt),
        Kind::Lost(body) => reported_by_worker(state, body.attempt).map(|s| State {
            phase: Phase::Verdict,
            ended: body.attempt,
            losses: s.losses.saturating_add(1),
            ..s
        }),
        Kind::Returned(body) => reported_by_worker(state, body.attempt).map(|s| State {
            phase: Phase::Pending,
            ended: body.attempt,
            ..s
        }),
        Kind::Skipped(_) => match state.phase {
            Phase::Pending => Ok(State { phase: Phase::Skipped, ..state }),
            Phase::Verdict
            | Phase::Running
            | Phase::Completed
            | Phase::Failed(_)
            | Phase::Cancelled
            | Phase::Skipped => Err(Ignored::OutOfPlace),
        },
        Kind::Cancelled(body) => cancelled(state, body.attempt),
        Kind::CancelRequested(_) if state.cancel_requested => Err(Ignored::Repeat),
        Kind::CancelRequested(_) => Ok(State { cancel_requested: true, ..state }),
        Kind::Resolved(_) => resolved(state),
        Kind::Reprioritised(_) | Kind::Expedited(_) | Kind::Carried(_) => Ok(state),
    }
}

/// The first event that the log has about a task.
fn first(event: &Kind) -> Result<State, Ignored> {
    let stub = State { stub: true, ..State::created(true) };
    match event {
        Kind::Created(spec) => Ok(State::created(spec.is_external())),
        Kind::Started(pb::Started { attempt: 0, .. }) => started(stub, 0),
        Kind::Progress(pb::Progress { attempt: 0, .. })
        | Kind::Snapshot(pb::Snapshot { attempt: 0, .. }) => Ok(stub),
        Kind::Updated(body) => updated(stub, &body.status),
        Kind::Completed(body) if body.attempt == 0 => Ok(end(stub, 0, Phase::Completed)),
        Kind::Failed(body) if body.attempt == 0 => {
            Ok(end(stub, 0, Phase::Failed(Cause::from_pb(body.cause()))))
        }
        Kind::Cancelled(body) if body.attempt == 0 => Ok(end(stub, 0, Phase::Cancelled)),
        Kind::Started(_)
        | Kind::Progress(_)
        | Kind::Snapshot(_)
        | Kind::Completed(_)
        | Kind::Failed(_)
        | Kind::Retrying(_)
        | Kind::Lost(_)
        | Kind::Returned(_)
        | Kind::Skipped(_)
        | Kind::Cancelled(_)
        | Kind::CancelRequested(_)
        | Kind::Reprioritised(_)
        | Kind::Expedited(_)
        | Kind::Carried(_)
        | Kind::Resolved(_) => Err(Ignored::UnknownTask),
    }
}

fn end(state: State, attempt: u32, phase: Phase) -> State {
    State { phase, ended: state.ended.max(attempt), ..state }
}

/// A report about the current attempt, or about an external task.
fn reported(state: State, attempt: u32) -> Result<State, Ignored> {
    match (state.external, attempt) {
        (true, 0) => Ok(state),
        (false, 0) => Err(Ignored::NotExternal),
        _ => reported_by_worker(state, attempt),
    }
}

fn reported_by_worker(state: State, attempt: u32) -> Result<State, Ignored> {
    match state.phase {
        Phase::Pending | Phase::Running if attempt == state.attempt() && !state.external => {
            Ok(state)
        }
        Phase::Pending
        | Phase::Running
        | Phase::Verdict
        | Phase::Completed
        | Phase::Failed(_)
        | Phase::Cancelled
        | Phase::Skipped => Err(Ignored::StaleAttempt),
    }
}

/// A task without an executor gets its type's, unless somebody has begun to report about it.
fn resolved(state: State) -> Result<State, Ignored> {
    match state.phase {
        _ if !state.external => Err(Ignored::Repeat),
        Phase::Pending if !state.stub => Ok(State { external: false, ..state }),
        Phase::Pending
        | Phase::Verdict
        | Phase::Running
        | Phase::Completed
        | Phase::Failed(_)
        | Phase::Cancelled
        | Phase::Skipped => Err(Ignored::OutOfPlace),
    }
}

fn started(state: State, attempt: u32) -> Result<State, Ignored> {
    let state = reported(state, attempt)?;
    match state.phase {
        Phase::Running => Err(Ignored::Repeat),
        Phase::Pending
        | Phase::Verdict
        | Phase::Completed
        | Phase::Failed(_)
        | Phase::Cancelled
        | Phase::Skipped => Ok(State { phase: Phase::Running, ..state }),
    }
}

/// A reporter's status word, with the older systems' names.
fn updated(state: State, status: &str) -> Result<State, Ignored> {
    if !state.external {
        return Err(Ignored::NotExternal);
    }
    let phase = match status {
        "active"
        | "running"
        | "started"
        | "in_progress"
        | "assigned"
        | "observing"
        | "awaiting_validation" => Phase::Running,
        "pending" | "open" | "queued" | "blocked" => Phase::Pending,
        "completed" | "resolved" | "success" => Phase::Completed,
        "failed" | "escalated" => Phase::Failed(Cause::Error),
        "timeout" => Phase::Failed(Cause::Timeout),
        "cancelled" | "aborted" => Phase::Cancelled,
        "skipped" => Phase::Skipped,
        _ => state.phase,
    };
    Ok(State { phase, ..state })
}

/// Ends a task badly: by its worker, by its reporter, or by the scheduler, which names an attempt
/// only after a loss and none for work that waits.
fn failed(state: State, attempt: u32, cause: Cause) -> Result<State, Ignored> {
    let verdict = matches!(state.phase, Phase::Verdict) && attempt == state.ended;
    let by_scheduler = attempt == 0
        && !state.external
        && matches!(state.phase, Phase::Pending | Phase::Verdict)
        && matches!(cause, Cause::Dependency | Cause::Expired | Cause::Rejected | Cause::Timeout);
    if verdict || by_scheduler {
        return Ok(State { phase: Phase::Failed(cause), ..state });
    }
    let state = reported(state, attempt)?;
    let tries = match cause {
        Cause::Error | Cause::Timeout | Cause::Rejected if attempt > 0 => {
            state.tries.saturating_add(1)
        }
        Cause::Error
        | Cause::Timeout
        | Cause::Lost
        | Cause::Rejected
        | Cause::Dependency
        | Cause::Expired => state.tries,
    };
    Ok(end(State { tries, ..state }, attempt, Phase::Failed(cause)))
}

fn retrying(state: State, attempt: u32) -> Result<State, Ignored> {
    if matches!(state.phase, Phase::Verdict) && attempt == state.ended {
        return Ok(State { phase: Phase::Pending, ..state });
    }
    let state = reported_by_worker(state, attempt)?;
    let tries = state.tries.saturating_add(1);
    Ok(State { phase: Phase::Pending, ended: attempt, tries, ..state })
}

/// Ends a task by request: by its worker with the attempt, by the scheduler without.
fn cancelled(state: State, attempt: u32) -> Result<State, Ignored> {
    match state.phase {
        Phase::Pending | Phase::Verdict if attempt == 0 => {
            Ok(State { phase: Phase::Cancelled, ..state })
        }
        Phase::Running if attempt == 0 && !state.external => Err(Ignored::NotExternal),
        Phase::Verdict if attempt == state.ended => Ok(State { phase: Phase::Cancelled, ..state }),
        Phase::Pending
        | Phase::Verdict
        | Phase::Running
        | Phase::Completed
        | Phase::Failed(_)
        | Phase::Cancelled
        | Phase::Skipped => reported(state, attempt).map(|s| end(s, attempt, Phase::Cancelled)),
    }
}

#[cfg(test)]
mod tests;
