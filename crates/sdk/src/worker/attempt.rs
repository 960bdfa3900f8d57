//! **Pure.** From how an attempt ended to the fact that the log gets.
//!
//! The retry policy itself is `lifecycle::after`; here is what the worker alone knows: which limit
//! was reached, who asked for a stop, and what the run left.

use std::time::Duration;

use common::{
    event::Kind,
    id::{TaskId, Tenant},
    lifecycle::{self, After, AttemptEnd, Cause},
    limits, pb,
    task::RetryPolicy,
    time::Timestamp,
};

use super::executor::{AttemptError, AttemptResult};

/// Attempts that end sooner have no `task.started` of their own: it rides in the ending event.
pub const STARTED_AFTER: Duration = Duration::from_millis(20);

/// A limit that an attempt reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// From the start of the attempt to its end.
    Run(Duration),
    /// Between two signs of life.
    Heartbeat(Duration),
    /// From the task's creation to its end.
    Total(Duration),
}

/// Why an attempt was told to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Somebody cancelled the task.
    Cancel(String),
    /// The task is over or the attempt was given up: nobody wants to hear of it.
    Stale,
    /// The worker leaves and hands it back.
    Return(String),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// By itself.
    Finished(AttemptResult),
    /// The handler panicked.
    Panicked(String),
    /// It was told to stop, and this is what it left.
    Stopped(Stop, AttemptResult),
    /// It reached a limit, and this is what it left.
    TimedOut(Limit, AttemptResult),
}

/// What every ending event says about its attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// The attempt's number.
    pub attempt: u32,
    /// Errors and timeouts before it.
    pub tries: u32,
    /// Who ran it.
    pub worker: String,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
}

/// The fact that ends an attempt; `None` when there is nothing to say. `random` is in `0..1`.
pub fn conclude(retry: &RetryPolicy, facts: &Facts, how: How, random: f64) -> Option<Kind> {
    match how {
        How::Finished(left) => {
            let left = check_size(left);
            match left.error.clone() {
                None => Some(completed(facts, left)),
                Some(error) => Some(erred(retry, facts, &error, left, random)),
            }
        }
        How::Panicked(what) => {
            let error = AttemptError::retryable(
                "handler_panicked",
                format!("the handler panicked: {what}"),
            );
            Some(erred(retry, facts, &error, AttemptResult::default(), random))
        }
        How::Stopped(Stop::Stale, _) => None,
        How::Stopped(Stop::Return(reason), _) => {
            Some(returned(facts.attempt, &facts.worker, reason))
        }
        How::Stopped(Stop::Cancel(reason), left) => {
            Some(cancelled(facts, reason, check_size(left)))
        }
        How::TimedOut(limit, left) => {
            Some(timed_out(retry, facts, limit, check_size(left), random))
        }
    }
}

/// An attempt whose message came a second time: somebody began it and vanished.
pub fn lost(attempt: u32, worker: &str, reason: &str) -> Kind {
    Kind::Lost(pb::Lost { attempt, worker: worker.into(), reason: reason.into() })
}

/// An attempt that is handed back.
pub fn returned(attempt: u32, worker: &str, reason: impl Into<String>) -> Kind {
    Kind::Returned(pb::Returned { attempt, worker: worker.into(), reason: reason.into() })
}

/// A result that neither an event nor the object store can carry is none.
fn check_size(left: AttemptResult) -> AttemptResult {
    let size = left.result.as_ref().map_or(0, |r| r.text.len());
    if size <= limits::OBJECT_BYTES_MAX {
        return left;
    }
    let max = limits::OBJECT_BYTES_MAX;
    let message = format!(
        "the result has {size} bytes and may have {max}; store it elsewhere and return its place"
    );
    let error = left.error.or_else(|| Some(AttemptError::permanent("result_too_large", message)));
    AttemptResult { error, result: None, ..left }
}

fn completed(facts: &Facts, left: AttemptResult) -> Kind {
    Kind::Completed(Box::new(pb::Completed {
        attempt: facts.attempt,
        result: left.result,
        resource_usage: left.usage,
        duration: Some(facts.duration.into()),
        started_at: Some(facts.started_at.into()),
        worker: facts.worker.clone(),
        ..pb::Completed::default()
    }))
}

fn cancelled(facts: &Facts, reason: String, left: AttemptResult) -> Kind {
    Kind::Cancelled(Box::new(pb::Cancelled {
        attempt: facts.attempt,
        reason,
        result: left.result,
        resource_usage: left.usage,
        duration: Some(facts.duration.into()),
        started_at: Some(facts.started_at.into()),
        worker: facts.worker.clone(),
        result_object: None,
    }))
}

fn erred(
    retry: &RetryPolicy,
    facts: &Facts,
    error: &AttemptError,
    left: AttemptResult,
    random: f64,
) -> Kind {
    let end = AttemptEnd::Error {
        code: &error.code,
        retryable: error.retryable,
        retry_after: error.retry_after,
    };
    match lifecycle::after(retry, facts.tries, end, random) {
        After::Retry(delay) => retrying(facts, Cause::Error, error, &left, delay),
        After::Fail(cause) => failed(facts, cause, error, left),
        After::Complete | After::Cancel => failed(facts, Cause::Error, error, left),
    }
}

fn timed_out(
    retry: &RetryPolicy,
    facts: &Facts,
    limit: Limit,
    left: AttemptResult,
    random: f64,
) -> Kind {
    let (code, message) = match limit {
        Limit::Run(d) => {
            ("timeout", format!("the attempt did not end within {d:?}; timeouts.run sets this"))
        }
        Limit::Heartbeat(d) => (
            "heartbeat_timeout",
            format!("the attempt gave no sign of life for {d:?}; timeouts.heartbeat sets this"),
        ),
        Limit::Total(d) => {
            ("timeout", format!("the task did not end within {d:?}; timeouts.total sets this"))
        }
    };
    let error = AttemptError::retryable(code, message);
    let over = matches!(limit, Limit::Total(_)) || retry.non_retryable.iter().any(|c| c == code);
    match lifecycle::after(retry, facts.tries, AttemptEnd::Timeout, random) {
        After::Retry(delay) if !over => retrying(facts, Cause::Timeout, &error, &left, delay),
        After::Retry(_) | After::Fail(_) | After::Complete | After::Cancel => {
            failed(facts, Cause::Timeout, &error, left)
        }
    }
}

fn retrying(
    facts: &Facts,
    cause: Cause,
    error: &AttemptError,
    left: &AttemptResult,
    delay: Duration,
) -> Kind {
    Kind::Retrying(Box::new(pb::Retrying {
        attempt: facts.attempt,
        cause: cause.to_pb() as i32,
        error: Some(error.to_pb()),
        delay: Some(delay.into()),
        resource_usage: left.usage,
        duration: Some(facts.duration.into()),
        started_at: Some(facts.started_at.into()),
        worker: facts.worker.clone(),
    }))
}

fn failed(facts: &Facts, cause: Cause, error: &AttemptError, left: AttemptResult) -> Kind {
    Kind::Failed(Box::new(pb::Failed {
        attempt: facts.attempt,
        cause: cause.to_pb() as i32,
        error: Some(error.to_pb()),
        result: left.result,
        resource_usage: left.usage,
        duration: Some(facts.duration.into()),
        started_at: Some(facts.started_at.into()),
        worker: facts.worker.clone(),
        ..pb::Failed::default()
    }))
}

/// What a waiting client hears; `None` while the task lives on.
pub fn outcome(tenant: &Tenant, id: &TaskId, kind: &Kind) -> Option<pb::Outcome> {
    let outcome = pb::Outcome {
        tenant: tenant.to_string(),
        task_id: id.to_string(),
        ..pb::Outcome::default()
    };
    match kind {
        Kind::Completed(body) => Some(pb::Outcome {
            state: pb::TaskState::Completed as i32,
            result: body.result.clone(),
            result_object: body.result_object.clone(),
            attempt: body.attempt,
            ..outcome
        }),
        Kind::Failed(body) => Some(pb::Outcome {
            state: pb::TaskState::Failed as i32,
            cause: body.cause,
            result: body.result.clone(),
            result_object: body.result_object.clone(),
            error: body.error.clone(),
            attempt: body.attempt,
            ..outcome
        }),
        Kind::Cancelled(body) => Some(pb::Outcome {
            state: pb::TaskState::Cancelled as i32,
            result: body.result.clone(),
            result_object: body.result_object.clone(),
            attempt: body.attempt,
            ..outcome
        }),
        Kind::Created(_)
        | Kind::Started(_)
        | Kind::Progress(_)
        | Kind::Updated(_)
        | Kind::Snapshot(_)
        | Kind::Retrying(_)
        | Kind::Lost(_)
        | Kind::Returned(_)
        | Kind::Skipped(_)
        | Kind::CancelRequested(_)
        | Kind::Reprioritised(_)
        | Kind::Expedited(_)
        | Kind::Carried(_)
        | Kind::Resolved(_) => None,
    }
}

/// The word under which an ending is counted.
pub fn word(kind: Option<&Kind>) -> &'static str {
    kind.map_or("stale", Kind::word)
}
