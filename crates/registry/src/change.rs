//! **Pure.** What an event that took effect changes in its task's row, besides the state.

use std::{borrow::Cow, time::Duration};

use common::{
    event::{Kind, TaskEvent},
    id::{TaskId, Tenant},
    lifecycle::{Phase, State},
    limits::METADATA_BYTES_MAX,
    pb,
    task::{TaskSpec, object_problem},
    time::Timestamp,
};

use crate::row::{Fixed, Live, Place, Verification};

/// What the first event about a task makes, not yet described.
pub(crate) fn first(place: Place, life: State, event: &TaskEvent, clock: Timestamp) -> Live {
    let mut row = Live {
        place,
        spec_at: place,
        life: State::created(life.external),
        priority: common::task::PRIORITY,
        subsystem: Box::default(),
        worker: Box::default(),
        created_at: clock,
        started_at: None,
        finished_at: None,
        ended_at: None,
        duration: None,
        verification: Verification::Pending,
        report: None,
    };
    apply(&mut row, life, event, place.sequence, clock);
    row
}

/// The submission of a task that is known from reports only.
pub(crate) fn stub(event: &TaskEvent) -> Option<TaskSpec> {
    let spec = pb::TaskSpec {
        tenant: event.tenant.to_string(),
        task_id: event.id.to_string(),
        ..pb::TaskSpec::default()
    };
    // Nothing but the names is set, and they were parsed: the check only fills in the defaults.
    TaskSpec::parse(spec).ok().map(|spec| spec.with_trace(&event.traceparent))
}

/// Takes over what was submitted.
pub(crate) fn describe(live: &mut Live, tenant: Tenant, id: TaskId, spec: TaskSpec) -> Box<Fixed> {
    live.priority = spec.priority();
    live.subsystem = spec.as_pb().subsystem.as_str().into();
    Box::new(Fixed {
        tenant,
        id,
        queue: spec.queue().as_str().to_owned(),
        // A stub that is described later stays external: it is never dispatched.
        executor: Cow::Borrowed(if live.life.external {
            "external"
        } else {
            spec.executor().word()
        }),
        deadline: spec.deadline(live.created_at),
        spec: spec.into_pb(),
    })
}

/// Applies an event of message `at` that takes the task to `life`.
pub(crate) fn apply(row: &mut Live, life: State, event: &TaskEvent, at: u64, clock: Timestamp) {
    let before = std::mem::replace(&mut row.life, life).phase;
    if before != Phase::Running && life.phase == Phase::Running {
        row.started_at = Some(clock);
    }
    let told = details(row, event);
    if before.is_terminal() {
        // A creation that describes a stub after its end.
        return;
    }
    if !life.phase.is_terminal() {
        if before == Phase::Running && life.phase != Phase::Running {
            // The attempt is over; the next one has a start of its own.
            row.started_at = None;
            if let Some(report) = &mut row.report {
                (report.progress, report.progress_message) = (None, String::new());
            }
        }
        row.duration = told.or(row.duration);
        return;
    }
    (row.finished_at, row.ended_at) = (Some(clock), Some(at));
    let measured = row.started_at.map(|start| clock.since(start));
    row.duration = if life.external { measured.or(told) } else { told.or(measured) };
    if let (None, Some(duration)) = (row.started_at, told) {
        // Work too short for a start of its own: it began its duration before its end.
        let start = Timestamp::from_micros(clock.micros() - duration.as_micros() as i64);
        row.started_at = Some(start.max(row.created_at));
    }
    if row.verification == Verification::Pending {
        row.verification = Verification::Skipped;
    }
}

/// Takes over what the event tells, and returns the duration that its worker measured.
fn details(row: &mut Live, event: &TaskEvent) -> Option<Duration> {
    if !event.metadata.is_empty() && !matches!(event.kind, Kind::Completed(_) | Kind::Failed(_)) {
        merge(&mut report(row).metadata, &event.metadata);
    }
    match &event.kind {
        Kind::Started(body) => worker(row, &body.worker),
        Kind::Progress(body) => {
            let report = report(row);
            report.progress = body.fraction.or(report.progress);
            if !body.message.is_empty() {
                body.message.clone_into(&mut report.progress_message);
            }
        }
        Kind::Updated(body) => {
            merge(&mut report(row).metadata, text(body.metadata.as_ref()));
        }
        Kind::Snapshot(body) => {
            let report = report(row);
            report.resource_usage = body.resource_usage.or(report.resource_usage);
        }
        Kind::Completed(body) => return completed(row, body, &event.metadata),
        Kind::Failed(body) => return failed(row, body, &event.metadata),
        Kind::Retrying(body) => {
            let report = report(row);
            report.error.clone_from(&body.error);
            report.resource_usage = body.resource_usage.or(report.resource_usage);
            worker(row, &body.worker);
            return measured(body.duration);
        }
        Kind::Lost(body) => {
            reason(row, "lost", &body.reason);
            worker(row, &body.worker);
        }
        Kind::Returned(body) => worker(row, &body.worker),
        Kind::Skipped(body) => reason(row, "skipped", &body.reason),
        Kind::Cancelled(body) => {
            let report = report(row);
            report.result.clone_from(&body.result);
            report.result_object = place(body.result_object.as_ref());
            report.resource_usage = body.resource_usage.or(report.resource_usage);
            reason(row, "cancelled", &body.reason);
            worker(row, &body.worker);
            return measured(body.duration);
        }
        Kind::Reprioritised(body) => {
            row.priority = u8::try_from(body.priority.clamp(1, 10)).unwrap_or(row.priority);
        }
        Kind::Created(_)
        | Kind::CancelRequested(_)
        | Kind::Expedited(_)
        | Kind::Carried(_)
        | Kind::Resolved(_) => {}
    }
    None
}

/// What was reported so far.
fn report(row: &mut Live) -> &mut pb::Task {
    row.report.get_or_insert_default()
}

fn completed(row: &mut Live, body: &pb::Completed, metadata: &str) -> Option<Duration> {
    row.verification = match body.verification_passed {
        Some(true) => Verification::Passed,
        Some(false) => Verification::Failed,
        None => Verification::Skipped,
    };
    let report = report(row);
    report.error = None;
    report.result.clone_from(&body.result);
    report.result_object = place(body.result_object.as_ref());
    report.resource_usage = body.resource_usage.or(report.resource_usage);
    report.ml_metrics.clone_from(&body.ml_metrics);
    merge(&mut report.result_metadata, text(body.result_metadata.as_ref()));
    merge(&mut report.result_metadata, metadata);
    worker(row, &body.worker);
    measured(body.duration)
}

fn failed(row: &mut Live, body: &pb::Failed, metadata: &str) -> Option<Duration> {
    let report = report(row);
    let older = pb::TaskError { code: String::new(), message: body.error_message.clone() };
    match &body.error {
        Some(error) => report.error = Some(error.clone()),
        None if !body.error_message.is_empty() => report.error = Some(older),
        // The scheduler ends what was lost or tried too often: the last attempt's error says why.
        None => {}
    }
    report.result.clone_from(&body.result);
    report.result_object = place(body.result_object.as_ref());
    report.resource_usage = body.resource_usage.or(report.resource_usage);
    merge(&mut report.result_metadata, text(body.result_metadata.as_ref()));
    merge(&mut report.result_metadata, metadata);
    worker(row, &body.worker);
    measured(body.duration)
}

/// A place in the object store; a reporter may say anything.
fn place(object: Option<&pb::Object>) -> Option<pb::Object> {
    object.filter(|object| object_problem(object).is_none()).cloned()
}

fn worker(row: &mut Live, name: &str) {
    if !name.is_empty() {
        // Reporters are not bound by our rules for names, and PostgreSQL refuses NUL characters.
        let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        row.worker = name.chars().take(128).map(visible).collect::<String>().into();
    }
}

fn reason(row: &mut Live, code: &str, reason: &str) {
    if !reason.is_empty() {
        report(row).error = Some(pb::TaskError { code: code.into(), message: reason.into() });
    }
}

fn measured(duration: Option<common::wire::time::Duration>) -> Option<Duration> {
    // Beyond a century it is a defect of the reporter, and would not fit the ledger.
    duration?.to_std().filter(|d| d.as_secs() < 100 * 366 * 24 * 3600)
}

fn text(json: Option<&pb::Json>) -> &str {
    json.map_or("", |json| &json.text)
}

/// Adds the fields of a JSON object. What is none, or would grow beyond its bound, is left to the
/// history.
pub(crate) fn merge(into: &mut Option<pb::Json>, more: &str) {
    let object = |text: &str| match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(object)) => Some(object),
        Ok(_) | Err(_) => None,
    };
    if more.is_empty() {
        return;
    }
    let Some(more) = object(more) else { return };
    let mut merged = object(text(into.as_ref())).unwrap_or_default();
    merged.extend(more);
    let merged = serde_json::Value::Object(merged).to_string();
    if merged.len() <= METADATA_BYTES_MAX {
        *into = Some(pb::Json { text: merged });
    }
}
