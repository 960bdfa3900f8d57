//! **Pure.** A task as the API shows it.

use common::{lifecycle::Phase, limits::ANSWER_BYTES_MAX, pb, time::Timestamp};
use prost::Message as _;

use crate::{change::merge, row::Row};

/// The task without what may be large and is not for lists: input and the submission itself.
pub(crate) fn summary(row: Row) -> pb::Task {
    let Row { place, life, mut spec, report, .. } = row;
    let mut metadata = spec.metadata.take();
    merge(&mut metadata, report.metadata.as_ref().map_or("", |m| &m.text));
    let delayed = spec.delay.and_then(common::wire::time::Duration::to_std);
    pb::Task {
        tenant: row.tenant.to_string(),
        task_id: row.id.to_string(),
        state: life.phase.state().into(),
        cause: cause(life.phase).into(),
        task_type: spec.task_type,
        subsystem: spec.subsystem,
        title: spec.title,
        description: spec.description,
        created_by: spec.created_by,
        priority: row.priority.into(),
        queue: row.queue,
        executor: row.executor,
        tags: spec.tags,
        metadata,
        depends_on: spec.depends_on,
        retry_of: spec.retry_of,
        parent_id: spec.parent_id,
        created_at: Some(row.created_at.into()),
        run_at: spec.run_at.or_else(|| delayed.map(|d| row.created_at.after(d).into())),
        started_at: row.started_at.map(Timestamp::into),
        finished_at: row.finished_at.map(Timestamp::into),
        deadline: row.deadline.map(Timestamp::into),
        duration: row.duration.map(Into::into),
        attempts: life.ended,
        tries: life.tries.into(),
        worker: row.worker,
        verification_status: row.verification.as_str().into(),
        cancel_requested: life.cancel_requested,
        sequence: place.sequence,
        traceparent: spec.traceparent,
        ..report
    }
}

/// The whole task. What would not fit into one answer is left out of it: the input is in `spec`
/// too, and the result has a method of its own.
pub(crate) fn task(row: Row) -> pb::Task {
    let spec = row.spec.clone();
    let mut task = summary(row);
    task.input.clone_from(&spec.input);
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
    pb::Outcome {
        tenant: row.tenant.to_string(),
        task_id: row.id.to_string(),
        state: row.life.phase.state().into(),
        cause: cause(row.life.phase).into(),
        result: row.report.result,
        error: row.report.error,
        attempt: row.life.ended,
    }
}

fn cause(phase: Phase) -> pb::Cause {
    match phase {
        Phase::Failed(cause) => cause.to_pb(),
        Phase::Pending
        | Phase::Verdict
        | Phase::Running
        | Phase::Completed
        | Phase::Cancelled
        | Phase::Skipped => pb::Cause::Unspecified,
    }
}
