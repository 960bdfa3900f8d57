//! The messages of the systems that were there before, as they publish them.

use super::*;

/// The submission that a message is.
fn submitted(subject: &str, value: &Value) -> (TaskEvent, pb::TaskSpec) {
    let event = json(subject, value);
    let Kind::Created(spec) = &event.kind else { unreachable!("{event:?}") };
    let spec = spec.as_pb().clone();
    (event, spec)
}

#[test]
fn the_messages_of_the_task_registry_are_read_as_it_writes_them() {
    let (event, spec) = submitted(
        "task.created",
        &json!({
            "task_id": "healing_playbook_12345",
            "task_type": "playbook",
            "subsystem": "healing",
            "title": "Fix port collision",
            "created_by": "guardian",
            "metadata": {"playbook_id": "port_collision_fixer"}
        }),
    );
    assert_eq!((event.tenant.as_str(), event.id.as_str()), ("default", "healing_playbook_12345"));
    assert_eq!(event.actor, "guardian");
    assert_eq!(
        [&*spec.task_type, &*spec.subsystem, &*spec.title],
        ["playbook", "healing", "Fix port collision"]
    );
    assert_eq!(spec.metadata.unwrap().to_value(), json!({"playbook_id": "port_collision_fixer"}));
    assert!(spec.executor.is_none());

    let started = json("task.started", &json!({"task_id": "healing_playbook_12345"}));
    assert!(matches!(started.kind, Kind::Started(pb::Started { attempt: 0, .. })));
    assert_eq!((started.id.as_str(), &*started.metadata), ("healing_playbook_12345", ""));

    let completed = json(
        "task.completed",
        &json!({
            "task_id": "healing_playbook_12345",
            "success": true,
            "verification_passed": true,
            "resource_usage": {"cpu_seconds": 2.5}
        }),
    );
    let Kind::Completed(body) = completed.kind else { unreachable!("{completed:?}") };
    assert_eq!((body.success, body.verification_passed), (Some(true), Some(true)));
    let usage = pb::ResourceUsage { cpu_seconds: Some(2.5), ..Default::default() };
    assert_eq!(body.resource_usage, Some(usage));
}

#[test]
fn a_completion_without_success_is_a_failure() {
    let report =
        json!({"task_id": "a", "success": false, "result_metadata": {"error": "no space"}});
    let event = json("task.completed", &report);
    let Kind::Failed(body) = event.kind else { unreachable!("{event:?}") };
    assert_eq!((body.attempt, body.cause()), (0, pb::Cause::Error));
    assert_eq!(body.error_message, "no space");
    assert_eq!(body.result_metadata.unwrap().to_value(), json!({"error": "no space"}));
}

#[test]
fn an_error_is_an_object_or_a_text() {
    for error in [json!("no space"), json!({"message": "no space"})] {
        let event = json("task.failed", &json!({"task_id": "a", "error": error}));
        let Kind::Failed(body) = event.kind else { unreachable!("{event:?}") };
        assert_eq!(body.error.unwrap().message, "no space");
    }
    let event = json("task.failed", &json!({"task_id": "a", "error_message": "no space"}));
    assert!(matches!(event.kind, Kind::Failed(body) if body.error_message == "no space"));
}

#[test]
fn a_submission_is_read_in_both_spellings() {
    let snake = json!({"task_id": "a", "task_type": "x", "sla_hours": 2, "created_by": "me",
        "retry": {"max_attempts": 5, "backoff_max": "1m"}, "executor": {"shell": {"argv": ["true"]}}});
    let camel = json!({"taskId": "a", "taskType": "x", "slaHours": 2.0, "createdBy": "me",
        "retry": {"maxAttempts": 5, "backoffMax": 60}, "executor": {"shell": {"argv": ["true"]}}});
    assert_eq!(submitted("task.created", &snake).1, submitted("task.created", &camel).1);
    assert_eq!(submitted("task.created.default.a", &snake).1, submitted("task.created", &snake).1);
}

#[test]
fn a_submission_with_unknown_fields_is_refused_and_all_are_named() {
    let why = refused("task.created", br#"{"title": "t", "titel": "x", "prio": 3}"#);
    assert!(why.contains("titel is no field") && why.contains("prio is no field"), "{why}");
    assert!(!why.contains("title is no field"), "{why}");
    let error = spec_from_json(json!({"titel": 1})).unwrap_err();
    assert!(error.hint.contains("title") && error.hint.contains("metadata"), "{}", error.hint);
    for (field, inner) in [
        ("executor", json!({"shell": {"argv": ["a"], "timeout": 3}})),
        ("retry", json!({"attempts": 3})),
        ("timeouts", json!({"start": 3})),
    ] {
        let why = refused("task.created", json!({field: inner}).to_string().as_bytes());
        assert!(why.contains("unknown field"), "{why}");
    }
    refused("task.created", br#"{"depends_on": [{"task_id": "a", "onn": "failure"}]}"#);
    refused("task.created", br#"{"task_id": "a", "taskId": "b"}"#);
    assert!(spec_from_json(json!([])).is_err());
}

#[test]
fn what_a_reporter_says_beyond_is_kept() {
    let event = json(
        "task.completed",
        &json!({
            "task_id": "a",
            "host": "n1",
            "created": "2026-11-21",
            "metadata": {"own": 1},
            "resource_usage": {"cpu_seconds": 1, "gpu_seconds": 7}
        }),
    );
    let expected = json!({"host": "n1", "created": "2026-11-21", "metadata": {"own": 1},
        "resource_usage": {"gpu_seconds": 7}});
    assert_eq!(metadata(&event), expected);
    let Kind::Completed(body) = event.kind else { unreachable!() };
    assert_eq!(body.resource_usage.unwrap().cpu_seconds, Some(1.0));
}

#[test]
fn the_names_of_kinds_are_a_reporters_own_fields() {
    for word in subject::EVENTS {
        let event = json("task.updated", &json!({"task_id": "a", word: 0.5}));
        assert_eq!(metadata(&event), json!({word: 0.5}));
        assert!(matches!(event.kind, Kind::Updated(_)));
    }
}

#[test]
fn a_mission_is_a_task_by_another_name() {
    let kind = |word: &str, body: Value| json(&format!("mission.{word}"), &body).kind;
    let mission = || json!({"mission_id": "m1"});
    assert_eq!(json("mission.resolved", &mission()).id.as_str(), "m1");
    assert!(matches!(kind("resolved", mission()), Kind::Completed(_)));
    assert!(matches!(kind("completed", mission()), Kind::Completed(_)));
    assert!(matches!(kind("started", mission()), Kind::Started(_)));
    assert!(matches!(kind("in_progress", mission()), Kind::Started(_)));
    assert!(matches!(kind("escalated", mission()), Kind::Failed(_)));
    assert!(matches!(kind("failed", mission()), Kind::Failed(_)));
    assert!(matches!(kind("observing", mission()), Kind::Updated(u) if u.status == "observing"));
    let said = json!({"task_id": "m1", "event_type": "mission.completed"});
    assert!(matches!(kind("event", said), Kind::Completed(_)));
}

#[test]
fn a_new_mission_keeps_what_it_says() {
    let (event, spec) =
        submitted("mission.created", &json!({"mission_id": "m1", "title": "Learn", "goal": "x"}));
    assert_eq!((event.id.as_str(), &*spec.task_type, &*spec.title), ("m1", "mission", "Learn"));
    assert_eq!(spec.metadata.unwrap().to_value(), json!({"goal": "x"}));
    let said = json!({"mission_id": "m1", "event_type": "mission.created", "goal": "x", "metadata": {"own": 1}});
    let (_, spec) = submitted("mission.created", &said);
    assert_eq!(spec.metadata.unwrap().to_value(), json!({"goal": "x", "own": 1}));
    let said = json!({"mission_id": "m1", "goal": "x", "metadata": "text"});
    let (_, spec) = submitted("mission.created", &said);
    assert_eq!(
        spec.metadata.unwrap().to_value(),
        json!({"fields": {"goal": "x"}, "metadata": "text"})
    );
}
