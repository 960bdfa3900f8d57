//! Bytes become events, or a reason why not; nothing in between.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod seeds;

const STREAM: Uuid = Uuid::from_u128(7);
const SPEC: &str = r#"{"task_id": "a", "tenant": "acme", "title": "t", "traceparent": "00-1-2-01",
    "executor": {"shell": {"argv": ["true"], "env": {"A": "b"}}}, "depends_on": ["b"],
    "input": {"x": [1, null]}, "tags": ["x"], "delay": "250ms", "retry": {"max_attempts": 5}}"#;

fn received<'a>(subject: &'a str, payload: &'a [u8]) -> Received<'a> {
    Received {
        subject,
        content_type: None,
        traceparent: None,
        payload,
        stream: STREAM,
        sequence: 42,
    }
}

fn one(message: Received<'_>) -> Result<Event, NotAnEvent> {
    let mut items = decode(message);
    assert_eq!(items.len(), 1, "one item");
    items.remove(0)
}

/// The task event of a JSON message.
fn json(subject: &str, value: &Value) -> TaskEvent {
    match one(received(subject, value.to_string().as_bytes())) {
        Ok(Event::Task(event)) => event,
        other => unreachable!("{value} on {subject} is {other:?}"),
    }
}

/// Why a message is no event.
fn refused(subject: &str, payload: &[u8]) -> String {
    match one(received(subject, payload)) {
        Err(NotAnEvent::Undecodable(why)) => why,
        other => unreachable!("{:?} on {subject} is {other:?}", String::from_utf8_lossy(payload)),
    }
}

fn metadata(event: &TaskEvent) -> Value {
    serde_json::from_str(&event.metadata).unwrap_or_default()
}

fn usage() -> pb::ResourceUsage {
    pb::ResourceUsage { cpu_seconds: Some(2.5), disk_read_mb: Some(0.0), ..Default::default() }
}

/// One body of every kind, with something in every field that matters.
#[expect(clippy::too_many_lines, reason = "one of every kind")]
fn bodies() -> Vec<Body> {
    let (attempt, worker, reason) = (3, "w-1".to_owned(), "because".to_owned());
    let text = |text: &str| Some(pb::Json { text: text.to_owned() });
    let error = Some(pb::TaskError { code: "exit_2".into(), message: "no".into() });
    let duration = Some(std::time::Duration::from_millis(1_500).into());
    let started_at = Some(Timestamp::from_unix(5, 0).into());
    let spec = TaskSpec::parse(serde_json::from_str(SPEC).unwrap()).unwrap().into_pb();
    vec![
        Body::Created(Box::new(spec)),
        Body::Resolved(Box::new(resolved())),
        Body::Started(pb::Started { attempt, worker: worker.clone() }),
        Body::Progress(pb::Progress {
            attempt,
            fraction: Some(0.5),
            message: "half".into(),
            counters: text("{\"n\":1}"),
        }),
        Body::Updated(pb::Updated { status: "active".into(), metadata: text("{}") }),
        Body::Snapshot(pb::Snapshot { attempt, resource_usage: Some(usage()) }),
        Body::Completed(pb::Completed {
            attempt,
            success: Some(true),
            result: text("[1]"),
            verification_passed: Some(false),
            resource_usage: Some(usage()),
            ml_metrics: text("{\"epochs_completed\":3}"),
            result_metadata: text("{}"),
            duration,
            started_at,
            worker: worker.clone(),
            result_object: Some(object()),
        }),
        Body::Failed(pb::Failed {
            attempt,
            cause: pb::Cause::Timeout as i32,
            error: error.clone(),
            error_message: "older".into(),
            result: text("1"),
            resource_usage: Some(usage()),
            result_metadata: text("{}"),
            duration,
            started_at,
            worker: worker.clone(),
            result_object: None,
        }),
        Body::Retrying(pb::Retrying {
            attempt,
            cause: pb::Cause::Error as i32,
            error,
            delay: duration,
            resource_usage: Some(usage()),
            duration,
            started_at,
            worker: worker.clone(),
        }),
        Body::Lost(pb::Lost { attempt, worker: worker.clone(), reason: reason.clone() }),
        Body::Returned(pb::Returned { attempt, worker: worker.clone(), reason: reason.clone() }),
        Body::Skipped(pb::Skipped { reason: reason.clone() }),
        Body::Cancelled(pb::Cancelled {
            attempt,
            reason: reason.clone(),
            result: text("\"partial\""),
            resource_usage: Some(usage()),
            duration,
            started_at,
            worker,
            result_object: Some(object()),
        }),
        Body::CancelRequested(pb::CancelRequested { reason: reason.clone() }),
        Body::Reprioritised(pb::Reprioritised { priority: 10 }),
        Body::Expedited(pb::Expedited {}),
        Body::Carried(Box::new(carried())),
        Body::Paused(pb::Paused { queue: "gpu".into(), reason: reason.clone(), until: started_at }),
        Body::Resumed(pb::Resumed { queue: String::new() }),
        Body::Trimmed(pb::Trimmed {
            floor: 12,
            as_of: 34,
            clock: started_at,
            pauses: vec![pb::Paused { queue: String::new(), reason, until: started_at }],
            rates: [Some("acme"), Some(""), None]
                .map(|key| pb::UsedRate {
                    queue: "gpu".into(),
                    limit: "slowly".into(),
                    key: key.map(Into::into),
                    next: started_at,
                })
                .into(),
        }),
    ]
}

fn object() -> pb::Object {
    pb::Object {
        name: "01a1fc43-3a9f-72b3-94f1-8a35edd4126f".into(),
        bytes: 3_000_000,
        digest: format!("SHA-256={}=", "a".repeat(43)),
    }
}

fn resolved() -> pb::Resolved {
    let spec = json!({
        "task_id": "größe 1", "tenant": "acme", "executor": {"shell": {"argv": ["true"]}}
    });
    let spec: pb::TaskSpec = serde_json::from_value(spec).unwrap();
    pb::Resolved {
        spec: Some(TaskSpec::parse(spec).unwrap().into_pb()),
        version: 3,
        created_at: Some(Timestamp::from_unix(5, 0).into()),
        unique_id: "u".into(),
        unique_until: Some(Timestamp::from_unix(3_600, 0).into()),
    }
}

fn carried() -> pb::Carried {
    pb::Carried {
        sequence: 3,
        index: 1,
        created_at: Some(Timestamp::from_unix(5, 0).into()),
        as_of: 40,
        state: pb::TaskState::Failed as i32,
        cause: pb::Cause::Timeout as i32,
        ended: 2,
        tries: 2,
        losses: 1,
        cancel_requested: true,
        due: Some(Timestamp::from_unix(6, 0).into()),
        priority: 9,
        alone: true,
        worker: "w".into(),
        waits_on: vec![0, 2],
        ended_sequence: 39,
        ..pb::Carried::default()
    }
}

fn message(body: Body) -> pb::Event {
    let about_policy = is_policy(&body);
    let task = !about_policy && !matches!(body, Body::Created(_));
    let informational = matches!(body, Body::Progress(_) | Body::Snapshot(_));
    let text = |yes: bool, text: &str| if yes { text.to_owned() } else { String::new() };
    pb::Event {
        tenant: text(task, "acme"),
        task_id: text(task, "größe 1"),
        at: (!about_policy).then(|| Timestamp::from_unix(9, 1_000).into()),
        actor: "somebody".into(),
        traceparent: text(task, "00-1-2-01"),
        fold: if informational { 0 } else { FOLD_VERSION },
        metadata: (!about_policy).then(|| pb::Json { text: "{\"a\":1}".into() }),
        kind: Some(body),
    }
}

fn is_policy(body: &Body) -> bool {
    matches!(body, Body::Paused(_) | Body::Resumed(_) | Body::Trimmed(_))
}

fn subject_of(body: &Body) -> String {
    if is_policy(body) { subject::policy(body_word(body)) } else { subject::event(body_word(body)) }
}

#[test]
fn every_kind_survives_the_wire() {
    let words = bodies().iter().map(body_word).collect::<Vec<_>>();
    assert_eq!(words[..subject::EVENTS.len()], subject::EVENTS, "a kind is missing here");
    for body in bodies() {
        let subject = subject_of(&body);
        let sent = message(body);
        let event = one(received(&subject, &sent.encode_to_vec())).expect(&subject);
        assert_eq!(to_pb(&event), sent, "{subject}");
        let again = one(received(&subject, &encode(&event))).expect(&subject);
        assert_eq!(to_pb(&again), sent, "{subject}");
    }
}

#[test]
fn every_kind_but_a_submission_is_read_from_json_in_both_spellings() {
    for body in bodies().into_iter().skip(1) {
        let (word, subject) = (body_word(&body), subject_of(&body));
        let sent = pb::Event { metadata: None, ..message(body) };
        let Value::Object(mut flat) = serde_json::to_value(&sent).unwrap() else { unreachable!() };
        let Value::Object(fields) = flat.remove(word).unwrap() else { unreachable!() };
        flat.remove("fold");
        flat.extend(fields);
        // A reporter's own metadata stays the reporter's.
        flat.remove("metadata");
        let snake = one(received(&subject, Value::Object(flat.clone()).to_string().as_bytes()));
        let camel = flat.into_iter().map(|(key, value)| (camel_case(&key), value)).collect();
        let camel = one(received(&subject, Value::Object(camel).to_string().as_bytes()));
        let mut expected = sent;
        if let Some(Body::Updated(updated)) = &mut expected.kind {
            updated.metadata = None;
        }
        assert_eq!(to_pb(&snake.expect(&subject)), expected, "{subject}");
        assert_eq!(to_pb(&camel.expect(&subject)), expected, "{subject}");
    }
}

fn camel_case(snake: &str) -> String {
    let mut parts = snake.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + &part[..1].to_uppercase() + &part[1..])
}

#[test]
fn one_bad_item_of_a_bundle_spoils_no_other() {
    let good = |id: &str| {
        let event = message(Body::Started(pb::Started::default()));
        pb::Event { task_id: id.into(), ..event }.encode_to_vec()
    };
    let newer = pb::Event { fold: FOLD_VERSION + 1, ..Default::default() }.encode_to_vec();
    let informational = pb::Event { actor: "newer".into(), ..Default::default() }.encode_to_vec();
    let events = vec![
        good("a"),
        b"\xff\xff".to_vec(),
        good("\n"),
        newer,
        informational,
        Vec::new(),
        good("b"),
    ];
    let payload = bundle(events);
    let items = decode(received(subject::BUNDLE, &payload));
    let shapes = items.iter().map(|item| match item {
        Ok(Event::Task(event)) => event.id.as_str(),
        Ok(Event::Policy(_)) => "policy",
        Err(NotAnEvent::Undecodable(_)) => "undecodable",
        Err(NotAnEvent::UnknownInformational) => "informational",
        Err(NotAnEvent::NewerFold(_)) => "newer",
    });
    let expected =
        ["a", "undecodable", "undecodable", "newer", "informational", "undecodable", "b"];
    assert_eq!(shapes.collect::<Vec<_>>(), expected);
    let bundled = received(subject::BUNDLE, &payload);
    assert_eq!(item(bundled, 1).as_deref(), Some(b"\xff\xff".as_slice()));
    assert_eq!(item(bundled, 7), None);
    assert!(refused(subject::BUNDLE, b"\xff\xff").starts_with("not a bundle"));
    assert!(refused(subject::BUNDLE, b"{\"events\": []}").contains("protobuf"));
}

#[test]
fn an_event_of_a_newer_version_is_skipped_or_stops_the_reader() {
    let event = |fold, subject: &str| {
        let event = pb::Event { task_id: "a".into(), fold, ..Default::default() };
        one(received(subject, &event.encode_to_vec())).expect_err("no event")
    };
    assert_eq!(event(FOLD_VERSION + 1, "policy.limited"), NotAnEvent::NewerFold(FOLD_VERSION + 1));
    assert_eq!(event(FOLD_VERSION + 1, "task.started"), NotAnEvent::NewerFold(FOLD_VERSION + 1));
    assert_eq!(event(0, "policy.noted"), NotAnEvent::UnknownInformational);
    // The kind of this subject is known, so it is missing.
    assert!(matches!(event(0, "task.started"), NotAnEvent::Undecodable(_)));
}

#[test]
fn an_event_stands_on_the_subject_of_its_kind() {
    let started = message(Body::Started(pb::Started::default())).encode_to_vec();
    for wrong in ["task.completed", "task.created.default.a", "policy.paused"] {
        assert!(refused(wrong, &started).contains("on the subject of"), "{wrong}");
    }
    assert!(refused("elsewhere.started", &started).starts_with("no such subject"));
    assert!(refused("task", &started).starts_with("no such subject"));
}

#[test]
fn bytes_that_are_no_event_are_refused_on_every_subject() {
    let deep =
        format!(r#"{{"task_id": "a", "metadata": {}{}}}"#, "[".repeat(9_999), "]".repeat(9_999));
    for subject in [
        "task.created",
        "task.created.default.a",
        "task.completed",
        "policy.paused",
        "mission.resolved",
    ] {
        for bad in [
            b"".as_slice(),
            b"{",
            b"{\"task_id\": \"\xff\"}",
            b"{\"task_id\": \"a\"} {}",
            b"{\"task_id\": 1e999}",
            b"{\"task_id\": \"\\ud800\"}",
            b"[1]",
            b"null",
            b"42",
            b"\"text\"",
            b"hello",
            b"\0\0\0",
            b"\x12\x02\xff\xff",
            deep.as_bytes(),
        ] {
            refused(subject, bad);
        }
        for bad in ["[]", "1", "null", "\"a\"", "", "{}}"] {
            let header = Some("application/json; charset=utf-8");
            let message = Received { content_type: header, ..received(subject, bad.as_bytes()) };
            assert!(matches!(one(message), Err(NotAnEvent::Undecodable(_))), "{bad} on {subject}");
        }
    }
    let header = Some("application/protobuf");
    let message =
        Received { content_type: header, ..received("task.started", b"{\"task_id\": \"a\"}") };
    assert!(matches!(one(message), Err(NotAnEvent::Undecodable(_))), "the header decides");
}

#[test]
fn a_report_needs_an_id_and_a_priority_in_range() {
    for bad in
        [json!({}), json!({"task_id": ""}), json!({"task_id": "a\nb"}), json!({"task_id": 7})]
    {
        refused("task.started", bad.to_string().as_bytes());
    }
    refused("task.started", json!({"task_id": "a", "tenant": "a.b"}).to_string().as_bytes());
    for priority in [json!(0), json!(11), json!("high"), json!(99_999_999_999_i64)] {
        let body = json!({"task_id": "a", "priority": priority});
        refused("task.reprioritised", body.to_string().as_bytes());
    }
    refused("policy.paused", json!({"queue": "a b"}).to_string().as_bytes());
}

#[test]
fn the_trace_comes_from_the_body_or_else_from_the_header() {
    let trace = |body: Value| {
        let text = body.to_string();
        let header = Some("00-header");
        match one(Received { traceparent: header, ..received("task.created", text.as_bytes()) }) {
            Ok(Event::Task(TaskEvent { traceparent, .. })) => traceparent,
            other => unreachable!("{other:?}"),
        }
    };
    assert_eq!(trace(json!({})), "00-header");
    assert_eq!(trace(json!({"traceparent": "00-body"})), "00-body");
}

#[test]
fn a_submission_without_an_id_has_the_same_one_for_every_reader() {
    let id = |stream, sequence, payload: &[u8], subject: &str, nth: usize| {
        let message = Received { stream, sequence, ..received(subject, payload) };
        match decode(message).remove(nth) {
            Ok(Event::Task(event)) => event.id,
            other => unreachable!("{other:?}"),
        }
    };
    let plain = |stream, sequence| id(stream, sequence, b"{}", "task.created", 0);
    assert_eq!(plain(STREAM, 1), plain(STREAM, 1));
    assert_ne!(plain(STREAM, 1), plain(STREAM, 2));
    assert_ne!(plain(STREAM, 1), plain(Uuid::from_u128(8), 1));
    let created = || message(Body::Created(Box::default())).encode_to_vec();
    let two = bundle(vec![created(), created()]);
    assert_ne!(id(STREAM, 1, &two, subject::BUNDLE, 0), id(STREAM, 1, &two, subject::BUNDLE, 1));
}

proptest! {
    #[test]
    fn no_bytes_stop_a_reader(
        subject in prop::sample::select(vec![
            "task.created", "task.completed", "task.bundle", "policy.paused", "mission.created", "x.y", "",
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        header in prop::option::of(prop::sample::select(vec!["application/json", "text/plain"])),
    ) {
        let message = Received { content_type: header, ..received(subject, &bytes) };
        for item in decode(message) {
            let _ = item.map(|event| encode(&event));
        }
        item(message, 0);
    }

    #[test]
    fn no_damage_to_a_good_message_stops_a_reader(
        nth in 0_usize..17,
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        bundled: bool,
    ) {
        let body = bodies().remove(nth);
        let subject = if bundled { subject::BUNDLE.to_owned() } else { subject_of(&body) };
        let mut bytes = message(body).encode_to_vec();
        if bundled {
            bytes = bundle(vec![bytes.clone(), bytes]);
        }
        let at = place.index(bytes.len());
        bytes[at] = byte;
        for event in decode(received(&subject, &bytes)).into_iter().flatten() {
            // What was taken is an event also for the next reader.
            let word = to_pb(&event).kind.as_ref().map(body_word).unwrap();
            prop_assert!(decode(received(subject::BUNDLE, &bundle(vec![encode(&event)])))[0].is_ok(), "{}", word);
        }
    }

    #[test]
    fn no_json_stops_a_reader(
        subject in prop::sample::select(vec!["task.created", "task.completed", "task.updated", "mission.x"]),
        field in prop::sample::select(vec![
            "task_id", "priority", "attempt", "error", "resource_usage", "metadata", "at", "executor",
            "depends_on", "event_type", "mission_id", "success", "delay", "created", "status",
        ]),
        value in prop::sample::select(vec![
            json!(null), json!(true), json!(-1), json!(1.5), json!("x"), json!([]), json!([{}]), json!({}),
            json!({"a": {}}), json!(u64::MAX), json!(""),
        ]),
    ) {
        let payload = json!({"task_id": "a", field: value}).to_string();
        for event in decode(received(subject, payload.as_bytes())).into_iter().flatten() {
            prop_assert!(!encode(&event).is_empty());
        }
    }
}
