//! The executor `nats`: a request to a subject, whose reply is the result.

use std::time::Duration;

use async_nats::{HeaderMap, HeaderValue, Message, RequestErrorKind, client::Request};
use bus::Bus;
use common::pb;
use jetmill_sdk::worker::{AttemptContext, AttemptError, AttemptResult};

const MB: f64 = 1024.0 * 1024.0;
/// Longest wait for a reply where the task sets no limit: the bus wants one.
const REPLY_WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Asks the subject and waits; the attempt's limits are the engine's to watch.
pub(crate) async fn run(
    bus: &Bus,
    attempt: &AttemptContext,
    nats: &pb::Nats,
    traceparent: &str,
) -> AttemptResult {
    let execution = attempt.execution();
    let mut headers = HeaderMap::new();
    headers.insert("Jetmill-Task-Id", execution.id.as_str());
    headers.insert("Jetmill-Attempt", execution.attempt.to_string());
    if !traceparent.is_empty() {
        headers.insert("traceparent", traceparent);
    }
    let payload = execution.spec.as_pb().input.clone().map_or_else(String::new, |json| json.text);
    if !payload.is_empty() {
        headers.insert("Content-Type", "application/json");
    }
    let sent = payload.len();
    let request =
        Request::new().headers(headers).payload(payload.into()).timeout(Some(REPLY_WAIT_MAX));
    // Dropping a request loses its reply and nothing else.
    let reply = tokio::select! {
        reply = bus.client().send_request(nats.subject.clone(), request) => reply,
        () = attempt.cancellation().cancelled() => return AttemptResult::given_up(),
    };
    match reply {
        Ok(reply) => {
            let usage = Some(traffic(sent, reply.payload.len()));
            AttemptResult { usage, ..read(&reply) }
        }
        Err(error) => AttemptResult::failure(failure(error.kind(), &nats.subject, &error)),
    }
}

/// Bytes of the payloads: what else is on the wire is not known here. Without a reply nobody knows
/// whether the request left.
fn traffic(sent: usize, received: usize) -> pb::ResourceUsage {
    pb::ResourceUsage {
        network_tx_mb: Some(sent as f64 / MB),
        network_rx_mb: Some(received as f64 / MB),
        ..pb::ResourceUsage::default()
    }
}

fn failure(kind: RequestErrorKind, subject: &str, error: &dyn std::fmt::Display) -> AttemptError {
    match kind {
        RequestErrorKind::NoResponders => AttemptError::retryable(
            "no_responders",
            format!("nobody answers on {subject:?}: start the program that serves it"),
        ),
        RequestErrorKind::TimedOut => {
            AttemptError::retryable("timeout", format!("{subject:?} did not answer in time"))
        }
        RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
            AttemptError::permanent("bad_request", format!("cannot ask {subject:?}: {error}"))
        }
        RequestErrorKind::Other => {
            AttemptError::retryable("request_failed", format!("cannot ask {subject:?}: {error}"))
        }
    }
}

/// A reply is JSON, or a text; with the headers of the micro protocol it is an error.
fn read(reply: &Message) -> AttemptResult {
    let header = |name| reply.headers.as_ref()?.get(name).map(HeaderValue::as_str);
    let text = String::from_utf8_lossy(&reply.payload);
    let result = match text.trim() {
        "" => pb::Json { text: "null".into() },
        trimmed if serde_json::from_str::<serde::de::IgnoredAny>(trimmed).is_ok() => {
            pb::Json { text: trimmed.to_owned() }
        }
        _ => pb::Json::from_value(&text.as_ref().into()),
    };
    let error = header("Nats-Service-Error").map(|message| {
        let code = header("Nats-Service-Error-Code").unwrap_or("no code");
        AttemptError::retryable(
            "handler_error",
            format!("the service answered with {code}: {message}"),
        )
    });
    AttemptResult { error, result: Some(result), usage: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(payload: &str, headers: Option<HeaderMap>) -> Message {
        Message {
            subject: "inbox".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn replies_are_json_or_text_or_an_error_of_the_service() {
        let text = |payload| read(&reply(payload, None)).result.expect("a result").text;
        assert_eq!(text(" {\"a\": 1}\n"), "{\"a\": 1}");
        assert_eq!(text("plain \"words\""), r#""plain \"words\"""#);
        assert_eq!(text(""), "null");
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Service-Error", "no stock");
        headers.insert("Nats-Service-Error-Code", "409");
        let error = read(&reply("{}", Some(headers))).error.expect("an error");
        assert_eq!(error.code, "handler_error");
        assert!(error.retryable && error.message.contains("409: no stock"));
    }

    #[test]
    fn nobody_there_is_an_error_that_names_the_subject_and_may_be_tried_again() {
        let error = failure(RequestErrorKind::NoResponders, "billing.charge", &"x");
        assert_eq!(error.code, "no_responders");
        assert!(error.retryable && error.message.contains("billing.charge"));
    }
}
