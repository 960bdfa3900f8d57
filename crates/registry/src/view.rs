//! **Pure.** A task as the API shows it.

use common::{limits::ANSWER_BYTES_MAX, pb, time::Timestamp};
use prost::Message as _;

use crate::{change::merge, row::Row};

/// The task without what may be large and is not for lists: input and the submission itself.
pub(crate) fn summary(row: Row) -> pb::Task {
    let Row { live, fixed } = row;
    let mut spec = fixed.spec;
    let (life, report) = (live.life, live.report.map(|report| *report).unwrap_or_default());
    let mut metadata = spec.metadata.take();
    merge(&mut metadata, report.metadata.as_ref().map_or("", |m| &m.text));
    let delayed = spec.delay.and_then(common::wire::time::Duration::to_std);
    pb::Task {
        tenant: fixed.tenant.to_string(),
        task_id: fixed.id.to_string(),
        state: life.phase.state().into(),
        cause: pb::Cause::from(life.phase.cause()).into(),
        task_type: spec.task_type,
        subsystem: spec.subsystem,
        title: spec.title,
        description: spec.description,
        created_by: spec.created_by,
        priority: live.priority.into(),
        queue: fixed.queue,
        executor: fixed.executor.into_owned(),
        tags: spec.tags,
        metadata,
        depends_on: spec.depends_on,
        retry_of: spec.retry_of,
        parent_id: spec.parent_id,
        created_at: Some(live.created_at.into()),
        run_at: spec.run_at.or_else(|| delayed.map(|d| live.created_at.after(d).into())),
        started_at: live.started_at.map(Timestamp::into),
        finished_at: live.finished_at.map(Timestamp::into),
        deadline: fixed.deadline.map(Timestamp::into),
        duration: live.duration.map(Into::into),
        attempts: life.ended,
        tries: life.tries.into(),
        worker: live.worker.into(),
        verification_status: live.verification.as_str().into(),
        cancel_requested: life.cancel_requested,
        sequence: live.place.sequence,
        traceparent: spec.traceparent,
        ..report
    }
}

/// The whole task. What would not fit into one answer is left out of it: the input is in `spec`
/// too, and the result has a method of its own.
pub(crate) fn task(row: Row) -> pb::Task {
    let spec = row.fixed.spec.clone();
    let mut task = summary(row);
    task.input.clone_from(&spec.input);
    task.input_object.clone_from(&spec.input_object);
    task.spec = Some(spec);
    if task.encoded_len() > ANSWER_BYTES_MAX {
        task.input = None;
    }
    if task.encoded_len() > ANSWER_BYTES_MAX + ANSWER_BYTES_MAX / 2 {
        task.result = None;
    }
    task
}

/// What became of a task that ended.
pub(crate) fn outcome(row: Row) -> pb::Outcome {
    let (life, report) = (row.live.life, row.live.report.map(|r| *r).unwrap_or_default());
    pb::Outcome {
        tenant: row.fixed.tenant.to_string(),
        task_id: row.fixed.id.to_string(),
        state: life.phase.state().into(),
        cause: pb::Cause::from(life.phase.cause()).into(),
        result: report.result,
        result_object: report.result_object,
        error: report.error,
        attempt: life.ended,
    }
}
