//! Submissions: larger than one NATS message, and with the trace of the request.

use bus::{Bus, endpoint, objects};
use common::{
    error::{ApiError, ErrorCode},
    limits, pb,
    task::TaskSpec,
};
use prost::Message as _;
use runtime::telemetry;
use tracing::{Instrument as _, Span};

/// Tag and length of one task in a request.
const TASK_OVERHEAD_BYTES: usize = 8;

/// Submits in as many requests as it takes; answers in the order of the tasks.
pub(super) async fn submit(
    bus: &Bus,
    mut request: pb::SubmitRequest,
    traceparent: &str,
) -> Result<pb::SubmitResponse, ApiError> {
    let count = request.tasks.len();
    if count > limits::SUBMIT_TASKS_MAX {
        let limit = limits::SUBMIT_TASKS_MAX;
        let problem = format!("has {count} tasks, and at most {limit} are allowed in one request");
        return Err(ApiError::invalid_field("tasks", problem));
    }
    let span = trace(&mut request.tasks, traceparent);
    submit_all(bus, request.tasks).instrument(span).await
}

/// Puts the tasks that say nothing else into the trace of the request.
fn trace(tasks: &mut [pb::TaskSpec], traceparent: &str) -> Span {
    // Tasks of one bulk have nothing in common unless their submitter says so.
    if !telemetry::is_traceparent(traceparent) {
        return Span::none();
    }
    let span = if telemetry::exporting() {
        tracing::info_span!(target: "jetmill", parent: None, "submit", jetmill.service = "gateway", tasks = tasks.len())
    } else {
        Span::none()
    };
    telemetry::continue_trace(&span, traceparent);
    let own = telemetry::traceparent_of(&span);
    let handed_on = if own.is_empty() { traceparent } else { &own };
    for task in tasks.iter_mut().filter(|task| task.traceparent.is_empty()) {
        handed_on.clone_into(&mut task.traceparent);
    }
    span
}

async fn submit_all(bus: &Bus, tasks: Vec<pb::TaskSpec>) -> Result<pb::SubmitResponse, ApiError> {
    let is_single = tasks.len() <= 1;
    let mut submissions = Vec::with_capacity(tasks.len());
    for part in split(tasks) {
        let expected = submissions.len() + part.len();
        match hand_on(bus, part).await {
            Ok(answer) => submissions.extend(answer.submissions),
            // Nothing was accepted yet, so the request as a whole has failed.
            Err(error) if submissions.is_empty() && (is_single || !is_refusal(&error)) => {
                return Err(error);
            }
            // Others stand, so each of these says for itself that it does not.
            Err(error) => submissions.resize(expected, refused(error)),
        }
    }
    Ok(pb::SubmitResponse { submissions })
}

async fn hand_on(bus: &Bus, tasks: Vec<pb::TaskSpec>) -> Result<pb::SubmitResponse, ApiError> {
    let mut part = pb::SubmitRequest { tasks };
    if let [task] = part.tasks.as_mut_slice()
        && is_large(task)
    {
        let spec = TaskSpec::submitted(task.clone()).map_err(ApiError::invalid)?;
        *task = objects::keep_input(bus, spec).await?.into_pb();
    }
    super::fits(&part)?;
    endpoint::request(bus, "registry", "submit", &part).await
}

/// Whether its input goes to the object store.
fn is_large(task: &pb::TaskSpec) -> bool {
    task.input.as_ref().is_some_and(|input| input.text.len() > limits::INPUT_BYTES_MAX)
}

/// Whether the error is about a task, and not about what stands behind the door.
fn is_refusal(error: &ApiError) -> bool {
    matches!(error.code, ErrorCode::InvalidArgument | ErrorCode::Conflict)
}

fn refused(error: ApiError) -> pb::Submission {
    pb::Submission { error: Some(error.into()), ..pb::Submission::default() }
}

/// Parts of at most [`limits::REQUEST_BYTES_MAX`], in order. A larger task is a part of its own; an empty
/// request is one part, so that the registry says what it thinks of it.
fn split(tasks: Vec<pb::TaskSpec>) -> Vec<Vec<pb::TaskSpec>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for task in tasks {
        // One with a large input travels alone: what is wrong with that is no fault of others.
        let size = match task.encoded_len() + TASK_OVERHEAD_BYTES {
            _ if is_large(&task) => limits::REQUEST_BYTES_MAX,
            size => size,
        };
        if bytes > 0 && bytes + size > limits::REQUEST_BYTES_MAX {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(part) = parts.last_mut() {
            part.push(task);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(bytes: usize) -> pb::TaskSpec {
        pb::TaskSpec { description: "x".repeat(bytes), ..pb::TaskSpec::default() }
    }

    #[test]
    fn a_request_is_split_where_a_message_is_full() {
        let half = limits::REQUEST_BYTES_MAX / 2;
        let sizes =
            |tasks: Vec<pb::TaskSpec>| split(tasks).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![]), [0]);
        assert_eq!(sizes(vec![task(10), task(10)]), [2]);
        assert_eq!(sizes(vec![task(half), task(half), task(10)]), [1, 2]);
        assert_eq!(sizes(vec![task(10), task(3 * half), task(10)]), [1, 1, 1]);
        let input = Some(pb::Json { text: "1".repeat(limits::INPUT_BYTES_MAX + 1) });
        let large = pb::TaskSpec { input, ..task(0) };
        assert_eq!(sizes(vec![task(10), large.clone(), large, task(10), task(10)]), [1, 1, 1, 2]);
        for part in split((0..40).map(|_| task(half / 7)).collect()) {
            assert!(super::super::fits(&pb::SubmitRequest { tasks: part }).is_ok());
        }
    }

    #[test]
    fn the_trace_of_the_request_is_handed_on_to_tasks_without_one() {
        let incoming = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let own = pb::TaskSpec { traceparent: "own".into(), ..task(0) };
        let mut tasks = [task(0), own];
        trace(&mut tasks, incoming);
        assert_eq!(tasks.map(|task| task.traceparent), [incoming, "own"]);
        let mut tasks = [task(0)];
        trace(&mut tasks, "nonsense");
        assert_eq!(tasks.map(|task| task.traceparent), [""]);
    }
}
