use std::time::Duration;

use common::{event::Kind, lifecycle::Cause, limits, pb, task::RetryPolicy, time::Timestamp};
use prost::Message as _;
use serde_json::json;

use super::{
    attempt::{Facts, How, Limit, Stop, conclude, outcome},
    execution::decode,
    executor::{AttemptError, AttemptResult},
    running::Running,
};

fn policy(max_attempts: u32) -> RetryPolicy {
    RetryPolicy {
        max_attempts,
        backoff: Duration::from_secs(1),
        factor: 2.0,
        backoff_max: Duration::from_secs(300),
        jitter: 0.0,
        non_retryable: vec!["exit_2".into(), "heartbeat_timeout".into()],
    }
}

/// What ends an attempt of a task that has had so many tries of three, as one line.
#[expect(clippy::needless_pass_by_value, reason = "the table reads better")]
fn check(tries: u32, how: How, expected: &str) {
    let facts = Facts {
        attempt: 7,
        tries,
        worker: "w".into(),
        started_at: Timestamp::from_micros(5),
        duration: Duration::from_millis(30),
    };
    let line = match conclude(&policy(3), &facts, how.clone(), 0.5) {
        None => "nothing".into(),
        Some(Kind::Completed(b)) => format!("completed {} {}", b.attempt, text(b.result.as_ref())),
        Some(Kind::Failed(b)) => {
            let (cause, code) =
                (Cause::from_pb(b.cause()).as_str(), b.error.unwrap_or_default().code);
            format!("failed {} {cause} {code} {}", b.attempt, text(b.result.as_ref()))
        }
        Some(Kind::Retrying(b)) => {
            let (cause, code) =
                (Cause::from_pb(b.cause()).as_str(), b.error.clone().unwrap_or_default().code);
            let delay = b.delay.and_then(common::wire::time::Duration::to_std).unwrap_or_default();
            format!("retrying {} {cause} {code} in {delay:?}", b.attempt)
        }
        Some(Kind::Cancelled(b)) => {
            format!("cancelled {} {} {}", b.attempt, b.reason, text(b.result.as_ref()))
        }
        Some(Kind::Returned(b)) => format!("returned {} {}", b.attempt, b.reason),
        Some(other) => format!("{other:?}"),
    };
    assert_eq!(line.trim_end(), expected, "{how:?}");
}

fn text(json: Option<&pb::Json>) -> &str {
    json.map_or("", |j| j.text.as_str())
}

fn left(result: &str) -> AttemptResult {
    AttemptResult::success(pb::Json { text: result.into() })
}

fn erred(error: AttemptError) -> How {
    How::Finished(AttemptResult { error: Some(error), ..left("\"partial\"") })
}

#[test]
fn every_end_of_an_attempt_has_its_event() {
    let run = Limit::Run(Duration::from_secs(1));
    let total = Limit::Total(Duration::from_secs(9));
    let silent = Limit::Heartbeat(Duration::from_secs(2));
    let exit = |code: &str| AttemptError::retryable(code, "it failed");

    check(0, How::Finished(left("1")), "completed 7 1");
    check(0, erred(exit("exit_1")), "retrying 7 error exit_1 in 1s");
    check(1, erred(exit("exit_1")), "retrying 7 error exit_1 in 2s");
    check(2, erred(exit("exit_1")), "failed 7 error exit_1 \"partial\"");
    check(0, erred(exit("exit_2")), "failed 7 rejected exit_2 \"partial\"");
    check(
        0,
        erred(AttemptError::permanent("bad_input", "")),
        "failed 7 rejected bad_input \"partial\"",
    );
    let busy = AttemptError { retry_after: Some(Duration::from_secs(60)), ..exit("http_429") };
    check(0, erred(busy), "retrying 7 error http_429 in 60s");
    check(0, How::Panicked("boom".into()), "retrying 7 error handler_panicked in 1s");
    check(0, How::TimedOut(run, left("\"p\"")), "retrying 7 timeout timeout in 1s");
    check(2, How::TimedOut(run, left("\"p\"")), "failed 7 timeout timeout \"p\"");
    check(0, How::TimedOut(total, left("\"p\"")), "failed 7 timeout timeout \"p\"");
    check(0, How::TimedOut(silent, left("\"p\"")), "failed 7 timeout heartbeat_timeout \"p\"");
    check(0, How::Stopped(Stop::Cancel("why".into()), left("\"p\"")), "cancelled 7 why \"p\"");
    check(0, How::Stopped(Stop::Return("leaves".into()), left("\"p\"")), "returned 7 leaves");
    check(0, How::Stopped(Stop::Stale, left("\"p\"")), "nothing");
}

#[test]
fn a_result_that_nothing_can_carry_is_an_error_that_no_retry_helps() {
    let large = format!("\"{}\"", "x".repeat(limits::OBJECT_BYTES_MAX));
    check(0, How::Finished(left(&large)), "failed 7 rejected result_too_large");
    check(0, How::Stopped(Stop::Cancel("why".into()), left(&large)), "cancelled 7 why");
}

fn request(attempt: u32) -> pb::ExecutionRequest {
    let json = json!({ "items": [{
        "tenant": "default", "task_id": "a b", "attempt": attempt, "tries": 1, "queue": "handlers",
        "spec": { "executor": { "worker": { "handler": "wordcount" } }, "input": { "text": "x" } },
        "created_at": "2026-11-21T00:00:00Z",
    }] });
    serde_json::from_value(json).expect("an execution request")
}

#[test]
fn requests_are_read_alike_in_protobuf_and_json() {
    let proto = request(3).encode_to_vec();
    let json = serde_json::to_vec(&request(3)).expect("json");
    for payload in [proto, json] {
        let items = decode(&payload).expect("readable");
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].id.as_str(), "a b");
        assert_eq!((items[0].attempt, items[0].tries), (3, 1));
        assert_eq!(items[0].queue.as_str(), "handlers");
        assert_eq!(
            items[0].spec.as_pb().input.as_ref().map(|j| j.text.as_str()),
            Some(r#"{"text":"x"}"#)
        );
        assert!(items[0].created_at.is_some());
    }
}

#[test]
fn what_is_no_request_says_why() {
    for (payload, part) in [
        (&b"{\"items\":[]}"[..], "no items"),
        (b"", "no items"),
        (b"{\"items\":[{}]}", "no spec"),
        (b"{", "EOF"),
        (b"\xff\xff", "not an execution request"),
    ] {
        let error = decode(payload).expect_err("unreadable").to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = decode(&request(0).encode_to_vec()).expect_err("attempts count from 1").to_string();
    assert!(error.contains("no attempt"), "{error}");
}

#[test]
fn an_attempt_is_held_once_and_stopped_by_its_name() {
    let running = std::sync::Arc::new(Running::default());
    let execution = decode(&request(3).encode_to_vec()).expect("readable").remove(0);
    let held = running.hold(&execution).expect("not held yet");
    assert!(running.hold(&execution).is_none());
    let listed = running.list();
    assert_eq!((listed.len(), listed[0].attempt), (1, 3));
    let other = pb::Attempt { attempt: 4, ..listed[0].clone() };
    assert!(!running.stop(&other, Stop::Stale));
    assert!(running.stop(&listed[0], Stop::Cancel("first".into())));
    assert!(running.stop(&listed[0], Stop::Stale));
    assert!(held.stop.token.is_cancelled());
    assert_eq!(held.stop.why(), Some(Stop::Cancel("first".into())));
    drop(held);
    assert_eq!(running.len(), 0);
}

#[test]
fn only_the_end_of_a_task_has_an_outcome() {
    let execution = decode(&request(3).encode_to_vec()).expect("readable").remove(0);
    let of = |kind: &Kind| outcome(&execution.tenant, &execution.id, kind).map(|o| o.state());
    assert_eq!(of(&Kind::Completed(Box::default())), Some(pb::TaskState::Completed));
    assert_eq!(of(&Kind::Failed(Box::default())), Some(pb::TaskState::Failed));
    assert_eq!(of(&Kind::Cancelled(Box::default())), Some(pb::TaskState::Cancelled));
    assert_eq!(of(&Kind::Retrying(Box::default())), None);
    assert_eq!(of(&Kind::Lost(pb::Lost::default())), None);
}
