//! **Pure.** A decision of the planner as the event that goes into the log.

use common::{
    error::ApiError,
    event::{Kind, TaskEvent},
    id::{TaskId, Tenant},
    lifecycle::{self, After, Cause, Phase, state_word},
    limits, pb,
    policy::limit::{Limit, Singleton},
    task::TaskSpec,
    time::Timestamp,
};

use crate::{
    flow::{Named, Refusal},
    plan::{Decision, Entry, Planner, Ticket},
    why,
};

/// Who says so.
pub const ACTOR: &str = "scheduler";

/// The event of a decision about one task. `random` is in `0..1`.
pub fn event(
    planner: &Planner,
    (ticket, entry): (Ticket, &Entry),
    spec: &TaskSpec,
    decision: Decision,
    random: f64,
) -> Option<TaskEvent> {
    let failed = |cause: Cause, code: &str, message: String| failure(0, cause, code, message);
    let kind = match decision {
        Decision::Lost => Kind::Lost(pb::Lost {
            attempt: entry.state.attempt(),
            worker: planner.holder(ticket).unwrap_or_default().to_owned(),
            reason: "its worker is gone".into(),
        }),
        Decision::AfterLoss => after_loss(entry, spec, random),
        Decision::DependencyFailed => {
            let message = match why::culprit(planner, spec) {
                Some((id, end)) => format!("{id} ended {}", state_word(end.state())),
                None => "one did not end well".into(),
            };
            failed(Cause::Dependency, "dependency", message)
        }
        Decision::DependencyMissing => {
            let message = "nobody submitted a dependency within timeouts.dependency";
            failed(Cause::Dependency, "dependency_missing", message.into())
        }
        Decision::Skip => {
            let reason = match why::culprit(planner, spec) {
                Some((id, end)) => format!("dependency {id} ended {}", state_word(end.state())),
                None => "there is no need for it".into(),
            };
            Kind::Skipped(pb::Skipped { reason })
        }
        Decision::Cycle => {
            let message =
                "its dependencies lead back to itself: take one edge out and submit it anew";
            failed(Cause::Rejected, "cycle", message.into())
        }
        Decision::Expired => {
            let ttl = planner.ttl_of(entry);
            let own = spec.timeouts().queue;
            let message = match ttl.filter(|(_, ttl)| own.is_none_or(|own| *ttl < own)) {
                Some((limit, ttl)) => {
                    format!("it waited longer than {ttl:?}, the ttl of limit {limit}")
                }
                None => "it waited longer than timeouts.queue".into(),
            };
            failed(Cause::Expired, "expired", message)
        }
        Decision::Refused(Refusal::TooMany) => {
            let message = refusal(planner, entry, spec, Refusal::TooMany);
            failed(Cause::Rejected, "too_many", message)
        }
        Decision::Refused(other) => {
            Kind::Skipped(pb::Skipped { reason: refusal(planner, entry, spec, other) })
        }
        Decision::TotalTimeout => {
            failed(Cause::Timeout, "total_timeout", "it took longer than timeouts.total".into())
        }
        // Said by `resolved`, which needs to know when the task came.
        Decision::Resolve => return None,
        Decision::Cancel => Kind::Cancelled(Box::new(pb::Cancelled {
            attempt: if entry.state.phase == Phase::Verdict { entry.state.ended } else { 0 },
            reason: "cancelled before it began".into(),
            ..pb::Cancelled::default()
        })),
    };
    let mut event = TaskEvent::new(spec.tenant(), spec.id()?, ACTOR, kind);
    spec.as_pb().traceparent.clone_into(&mut event.traceparent);
    Some(event)
}

/// What becomes of a task that named a type and no executor: it gets what the type said when the log
/// took it, or it does not fit and fails, or another has its place.
pub fn resolved(
    planner: &mut Planner,
    ticket: Ticket,
    spec: &TaskSpec,
    created: Timestamp,
) -> Option<TaskEvent> {
    let known = planner.type_of(ticket)?.clone();
    let kind = match known.resolve(spec, created) {
        Err(violations) => {
            let name = &spec.as_pb().task_type;
            let problems = ApiError::invalid(violations).to_string();
            let problems = problems.trim_start_matches("the request is not valid: ");
            let message = format!("it does not fit type {name}: {problems}");
            failure(0, Cause::Rejected, "does_not_fit", cut(message))
        }
        Ok(resolved) => {
            let place = resolved.unique.as_ref().map(|(id, until)| (id, *until));
            match place.map_or(Ok(()), |place| planner.take_place(place, spec)) {
                Ok(()) => Kind::Resolved(Box::new(resolved)),
                Err(other) => {
                    let reason = format!("task {other} has the place of its key and period");
                    Kind::Skipped(pb::Skipped { reason })
                }
            }
        }
    };
    let mut event = TaskEvent::new(spec.tenant(), spec.id()?, ACTOR, kind);
    spec.as_pb().traceparent.clone_into(&mut event.traceparent);
    Some(event)
}

fn cut(mut message: String) -> String {
    let end = message.floor_char_boundary(limits::TEXT_BYTES_MAX);
    message.truncate(end);
    message
}

/// Why a limit does not let a task wait.
pub fn refusal(planner: &Planner, entry: &Entry, spec: &TaskSpec, refusal: Refusal) -> String {
    let limits = planner.limits_of(entry);
    let says = |limit: &Limit| match refusal {
        Refusal::Superseded => limit.debounce.is_some(),
        Refusal::Duplicate => limit.singleton == Some(Singleton::Waiting),
        Refusal::TooMany => limit.depth.is_some(),
    };
    let Some(Named { name, limit, .. }) = limits.iter().find(|named| says(&named.limit)) else {
        return "a limit of its queue that is gone meanwhile did not let it wait".into();
    };
    let key = limit.key.as_ref().map(|key| key.of(spec).unwrap_or_default());
    let whose = key.map_or_else(String::new, |key| format!(" with key {key:?}"));
    match refusal {
        Refusal::Superseded => {
            format!("a newer submission{whose} takes its place, by limit {name}")
        }
        Refusal::Duplicate => format!("another task{whose} waits already, by limit {name}"),
        Refusal::TooMany => {
            let depth = limit.depth.unwrap_or_default();
            let queue = &limit.queue;
            format!(
                "{depth} tasks{whose} wait already in queue {queue}, by limit {name}: submit it later"
            )
        }
    }
}

/// The event that ends a task that was never submitted: of such a one only reports are known, and
/// only a request to end it is decided.
pub fn stub_event((tenant, id): (Tenant, TaskId)) -> TaskEvent {
    let reason = "cancelled as somebody asked".into();
    let kind = Kind::Cancelled(Box::new(pb::Cancelled { reason, ..pb::Cancelled::default() }));
    TaskEvent::new(tenant, id, ACTOR, kind)
}

/// The event that calls an attempt back that nobody began: it costs nothing.
pub fn called_back(entry: &Entry, spec: &TaskSpec) -> Option<TaskEvent> {
    let kind = Kind::Returned(pb::Returned {
        attempt: entry.state.attempt(),
        reason: "nobody serves its queue any more".into(),
        ..pb::Returned::default()
    });
    Some(TaskEvent::new(spec.tenant(), spec.id()?, ACTOR, kind))
}

fn after_loss(entry: &Entry, spec: &TaskSpec, random: f64) -> Kind {
    let attempt = entry.state.ended;
    let error = pb::TaskError { code: "lost".into(), message: "its worker is gone".into() };
    match lifecycle::after_loss(&spec.retry(), entry.state.losses, random) {
        After::Retry(delay) => Kind::Retrying(Box::new(pb::Retrying {
            attempt,
            cause: pb::Cause::Lost.into(),
            error: Some(error),
            delay: Some(delay.into()),
            ..pb::Retrying::default()
        })),
        After::Complete | After::Cancel | After::Fail(_) => {
            let message = format!("lost with its worker more than {} times", limits::LOSSES_MAX);
            failure(attempt, Cause::Lost, "lost", message)
        }
    }
}

fn failure(attempt: u32, cause: Cause, code: &str, message: String) -> Kind {
    Kind::Failed(Box::new(pb::Failed {
        attempt,
        cause: cause.to_pb().into(),
        error: Some(pb::TaskError { code: code.into(), message }),
        ..pb::Failed::default()
    }))
}

/// What a waiting client hears of an event that ends its task; `None` for any other event.
pub fn outcome(event: &TaskEvent) -> Option<pb::Outcome> {
    let (state, cause, error, attempt) = match &event.kind {
        Kind::Failed(b) => (pb::TaskState::Failed, b.cause(), b.error.clone(), b.attempt),
        Kind::Cancelled(b) => {
            let error = pb::TaskError { code: "cancelled".into(), message: b.reason.clone() };
            (pb::TaskState::Cancelled, pb::Cause::Unspecified, Some(error), b.attempt)
        }
        Kind::Skipped(b) => {
            let error = pb::TaskError { code: "skipped".into(), message: b.reason.clone() };
            (pb::TaskState::Skipped, pb::Cause::Unspecified, Some(error), 0)
        }
        Kind::Created(_)
        | Kind::Started(_)
        | Kind::Progress(_)
        | Kind::Updated(_)
        | Kind::Snapshot(_)
        | Kind::Completed(_)
        | Kind::Retrying(_)
        | Kind::Lost(_)
        | Kind::Returned(_)
        | Kind::CancelRequested(_)
        | Kind::Reprioritised(_)
        | Kind::Expedited(_)
        | Kind::Carried(_)
        | Kind::Resolved(_) => return None,
    };
    Some(pb::Outcome {
        tenant: event.tenant.to_string(),
        task_id: event.id.to_string(),
        state: state.into(),
        cause: cause.into(),
        error,
        attempt,
        ..pb::Outcome::default()
    })
}
