//! Submissions: larger than one NATS message, and with the trace of the request.

use bus::{Bus, endpoint};
use common::{
    error::{ApiError, ErrorCode},
    limits, pb,
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
        let (part, count) = (pb::SubmitRequest { tasks: part }, submissions.len());
        let expected = count + part.tasks.len();
        let answer = match super::fits(&part) {
            Ok(()) => {
                endpoint::request::<_, pb::SubmitResponse>(bus, "registry", "submit", &part).await
            }
            Err(error) => Err(error),
        };
        match answer {
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
        let size = task.encoded_len() + TASK_OVERHEAD_BYTES;
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
