//! **Pure.** What an event that took effect changes in its task's row, besides the state.

use std::time::Duration;

use common::{
    event::{Kind, TaskEvent},
    lifecycle::{Phase, State},
    limits::METADATA_BYTES_MAX,
    pb,
    task::TaskSpec,
    time::Timestamp,
};

use crate::row::{Place, Row, Verification};

/// The row that the first event about a task makes.
pub(crate) fn first(place: Place, life: State, event: &TaskEvent, clock: Timestamp) -> Row {
    let mut row = Row {
        place,
        tenant: event.tenant.clone(),
        id: event.id.clone(),
        life: State::created(life.external),
        priority: common::task::PRIORITY,
        queue: String::new(),
        executor: String::new(),
        worker: String::new(),
        created_at: clock,
        started_at: None,
        finished_at: None,
        deadline: None,
        duration: None,
        verification: Verification::Pending,
        spec: pb::TaskSpec::default(),
        report: pb::Task::default(),
    };
    let stub = pb::TaskSpec {
        tenant: event.tenant.to_string(),
        task_id: event.id.to_string(),
        ..pb::TaskSpec::default()
    };
    // Nothing but the names is set, and they were parsed: the check only fills in the defaults.
    if let (false, Ok(stub)) = (matches!(event.kind, Kind::Created(_)), TaskSpec::parse(stub)) {
        describe(&mut row, &stub.with_trace(&event.traceparent), life.external);
    }
    apply(&mut row, life, event, clock);
    row
}

fn describe(row: &mut Row, spec: &TaskSpec, external: bool) {
    row.priority = spec.priority();
    spec.queue().as_str().clone_into(&mut row.queue);
    // A stub that is described later stays external: it is never dispatched.
    if external { "external" } else { spec.executor().word() }.clone_into(&mut row.executor);
    row.deadline = spec.deadline(row.created_at);
    spec.as_pb().clone_into(&mut row.spec);
}

/// Applies an event that takes the task to `life`.
pub(crate) fn apply(row: &mut Row, life: State, event: &TaskEvent, clock: Timestamp) {
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
            (row.report.progress, row.report.progress_message) = (None, String::new());
        }
        row.duration = told.or(row.duration);
        return;
    }
    row.finished_at = Some(clock);
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
fn details(row: &mut Row, event: &TaskEvent) -> Option<Duration> {
    let report = &mut row.report;
    if !matches!(event.kind, Kind::Completed(_) | Kind::Failed(_)) {
        merge(&mut report.metadata, &event.metadata);
    }
    match &event.kind {
        Kind::Created(spec) => {
            let external = row.life.external;
            describe(row, spec, external);
        }
        Kind::Started(body) => worker(row, &body.worker),
        Kind::Progress(body) => {
            report.progress = body.fraction.or(report.progress);
            if !body.message.is_empty() {
                body.message.clone_into(&mut report.progress_message);
            }
        }
        Kind::Updated(body) => merge(&mut report.metadata, text(body.metadata.as_ref())),
        Kind::Snapshot(body) => {
            report.resource_usage = body.resource_usage.or(report.resource_usage);
        }
        Kind::Completed(body) => return completed(row, body, &event.metadata),
        Kind::Failed(body) => return failed(row, body, &event.metadata),
        Kind::Retrying(body) => {
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
            report.result.clone_from(&body.result);
            report.resource_usage = body.resource_usage.or(report.resource_usage);
            reason(row, "cancelled", &body.reason);
            worker(row, &body.worker);
            return measured(body.duration);
        }
        Kind::Reprioritised(body) => {
            row.priority = u8::try_from(body.priority.clamp(1, 10)).unwrap_or(row.priority);
        }
        Kind::CancelRequested(_) | Kind::Expedited(_) | Kind::Carried(_) => {}
    }
    None
}

fn completed(row: &mut Row, body: &pb::Completed, metadata: &str) -> Option<Duration> {
    row.verification = match body.verification_passed {
        Some(true) => Verification::Passed,
        Some(false) => Verification::Failed,
        None => Verification::Skipped,
    };
    let report = &mut row.report;
    report.error = None;
    report.result.clone_from(&body.result);
    report.resource_usage = body.resource_usage.or(report.resource_usage);
    report.ml_metrics.clone_from(&body.ml_metrics);
    merge(&mut report.result_metadata, text(body.result_metadata.as_ref()));
    merge(&mut report.result_metadata, metadata);
    worker(row, &body.worker);
    measured(body.duration)
}

fn failed(row: &mut Row, body: &pb::Failed, metadata: &str) -> Option<Duration> {
    let report = &mut row.report;
    let older = pb::TaskError { code: String::new(), message: body.error_message.clone() };
    match &body.error {
        Some(error) => report.error = Some(error.clone()),
        None if !body.error_message.is_empty() => report.error = Some(older),
        // The scheduler ends what was lost or tried too often: the last attempt's error says why.
        None => {}
    }
    report.result.clone_from(&body.result);
    report.resource_usage = body.resource_usage.or(report.resource_usage);
    merge(&mut report.result_metadata, text(body.result_metadata.as_ref()));
    merge(&mut report.result_metadata, metadata);
    worker(row, &body.worker);
    measured(body.duration)
}

fn worker(row: &mut Row, name: &str) {
    if !name.is_empty() {
        // Reporters are not bound by our rules for names, and PostgreSQL refuses NUL characters.
        row.worker =
            name.chars().take(128).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    }
}

fn reason(row: &mut Row, code: &str, reason: &str) {
    if !reason.is_empty() {
        row.report.error = Some(pb::TaskError { code: code.into(), message: reason.into() });
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
