//! Trying again: by the task's policy, and because somebody asks.

use std::time::Duration;

use jetmill_sdk::{
    TaskId,
    pb::{self, Cause, event::Kind},
};
use serde_json::json;

use crate::rig::{Rig, time};

#[tokio::test]
async fn errors_are_tried_again_with_longer_and_longer_waits() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let stubborn = json!({
        "executor": { "shell": { "script": "test $JETMILL_ATTEMPT -ge 4 || exit 7" } },
        "retry": {
            "max_attempts": 5, "backoff": "100ms", "factor": 3, "backoff_max": "500ms", "jitter": 0,
        },
    });
    let stubborn = rig.submit(stubborn).await?;
    let done = rig.completes(&stubborn).await?;
    assert_eq!((done.attempts, done.tries), (4, 3));

    let history = rig.history(&stubborn).await?;
    let kinds: Vec<_> =
        rig.kinds(&stubborn).await?.into_iter().filter(|k| k != "started").collect();
    assert_eq!(kinds, ["created", "retrying", "retrying", "retrying", "completed"]);
    let mut waits = Vec::new();
    let mut due = None;
    for entry in history {
        let at = time(entry.at, "the time of an entry")?;
        let begun = match entry.event.and_then(|event| event.kind) {
            Some(Kind::Retrying(body)) => {
                assert_eq!(body.error.unwrap_or_default().code, "exit_7");
                let wait =
                    body.delay.and_then(common::wire::time::Duration::to_std).unwrap_or_default();
                waits.push(wait.as_millis());
                let begun = time(body.started_at, "started_at")?;
                let earliest = due.replace(at.after(wait));
                earliest.is_none_or(|earliest| begun >= earliest)
            }
            Some(Kind::Completed(body)) => Some(time(body.started_at, "started_at")?) >= due,
            _ => true,
        };
        assert!(begun, "an attempt began before its wait was over");
    }
    assert_eq!(waits, [100, 300, 500], "three times longer each, up to the cap");
    Ok(())
}

#[tokio::test]
async fn some_errors_end_a_task_at_once_and_all_do_in_the_end() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let task = |script: &str, max: i32| {
        json!({
            "executor": { "shell": { "script": script } },
            "retry": { "max_attempts": max, "backoff": "10ms", "non_retryable": ["exit_9"] },
        })
    };
    let hopeless = rig.submit(task("exit 9", 5)).await?;
    let unlucky = rig.submit(task("exit 8", 2)).await?;
    let missing = json!({ "executor": { "shell": { "argv": ["no-such-program-anywhere"] } } });
    let missing = rig.submit(missing).await?;

    let hopeless_end = rig.fails(&hopeless, Cause::Rejected, "exit_9").await?;
    assert_eq!((hopeless_end.attempts, hopeless_end.tries), (1, 1));
    assert!(!rig.kinds(&hopeless).await?.contains(&"retrying".to_owned()));
    let unlucky = rig.fails(&unlucky, Cause::Error, "exit_8").await?;
    assert_eq!((unlucky.attempts, unlucky.tries), (2, 2));
    let missing = rig.fails(&missing, Cause::Rejected, "command_not_found").await?;
    assert_eq!(missing.attempts, 1, "a program that is not there is not looked for again");
    Ok(())
}

#[tokio::test]
async fn retry_means_now_for_what_waits_and_a_new_task_for_what_is_over() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let patient = json!({
        "executor": { "shell": { "script": "exit 5" } },
        "retry": { "max_attempts": 2, "backoff": "1h", "backoff_max": "1h" },
    });
    let patient = rig.submit(patient).await?;
    rig.waits_for(&patient, &["backoff"]).await?;
    let request = pb::WhyRequest { tenant: String::new(), task_id: patient.to_string() };
    let until = rig.client.why(&request).await?.reasons.first().and_then(|reason| reason.until);
    let after =
        time(until, "until")?.since(time(rig.task(&patient).await?.created_at, "created_at")?);
    assert!(after > Duration::from_secs(50 * 60), "the wait is said: {after:?}");

    let changed = rig.cli_json(&["retry", patient.as_str()]).await?;
    assert!(changed.to_string().contains("retrying_now"), "{changed}");
    let over = rig.fails(&patient, Cause::Error, "exit_5").await?;
    assert_eq!(over.attempts, 2);

    let selection =
        Some(pb::Selection { task_ids: vec![patient.to_string()], ..pb::Selection::default() });
    let request = pb::RetryRequest { selection, actor: "tester".into(), dry_run: false };
    let answer = rig.client.retry(&request).await?;
    let change = answer.changes.first().cloned().unwrap_or_default();
    assert_eq!((answer.matched, change.result.as_str()), (1, "submitted"));
    let again = TaskId::parse(&change.new_task_id)?;
    assert_ne!(again, patient);
    let task = rig.until(&again, "there", |_| true).await?;
    assert_eq!(task.retry_of, patient.to_string());
    rig.waits_for(&again, &["backoff"]).await?;
    // Terminal is terminal.
    assert_eq!(rig.task(&patient).await?.attempts, 2);
    let nothing = rig.cli_json(&["retry", again.as_str()]).await?;
    assert!(nothing.to_string().contains("retrying_now"), "{nothing}");
    rig.fails(&again, Cause::Error, "exit_5").await?;
    Ok(())
}
