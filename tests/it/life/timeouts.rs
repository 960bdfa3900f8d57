//! When a task may begin, and every limit that can end it.

use std::time::Duration;

use common::time::Clock as _;
use jetmill_sdk::{SystemClock, pb::Cause};
use serde_json::json;

use crate::rig::{Mark, Rig, time, value};

#[tokio::test]
async fn nothing_begins_before_its_time() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let at = SystemClock.now().after(Duration::from_millis(1500));
    let echo = json!({ "shell": { "argv": ["true"] } });
    let delayed = rig.submit(json!({ "executor": echo, "delay": "1200ms" })).await?;
    let planned = rig.submit(json!({ "executor": echo, "run_at": at.to_string() })).await?;
    let past = rig.submit(json!({ "executor": echo, "run_at": "2020-01-01T00:00:00Z" })).await?;
    assert_eq!(rig.why(&delayed).await?, ["delay"]);
    assert_eq!(rig.why(&planned).await?, ["delay"]);

    rig.completes(&past).await?;
    let delayed = rig.completes(&delayed).await?;
    let created = time(delayed.created_at, "created_at")?;
    assert!(time(delayed.started_at, "started_at")? >= created.after(Duration::from_millis(1200)));
    let planned = rig.completes(&planned).await?;
    assert!(time(planned.started_at, "started_at")? >= at);
    Ok(())
}

#[tokio::test]
async fn a_task_that_waits_too_long_fails_unrun() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let echo = json!({ "shell": { "argv": ["true"] } });
    let expired = json!({ "executor": echo, "queue": "nobody", "timeouts": { "queue": "300ms" } });
    let expired = rig.submit(expired).await?;
    let forgotten = json!({
        "executor": echo, "depends_on": ["never-submitted"], "timeouts": { "dependency": "300ms" },
    });
    let forgotten = rig.submit(forgotten).await?;
    let whole = json!({ "executor": echo, "delay": "1h", "timeouts": { "total": "300ms" } });
    let whole = rig.submit(whole).await?;
    let patient = rig.submit(json!({ "executor": echo, "queue": "nobody" })).await?;

    let ended = [
        rig.fails(&expired, Cause::Expired, "expired").await?,
        rig.fails(&forgotten, Cause::Dependency, "dependency_missing").await?,
        rig.fails(&whole, Cause::Timeout, "total_timeout").await?,
    ];
    for task in ended {
        assert!(task.attempts == 0 && task.started_at.is_none(), "{} has run", task.task_id);
    }
    assert_eq!(rig.why(&patient).await?, ["no_worker"]);
    Ok(())
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_ended_with_all_its_processes() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let mark = Mark::new("limits");
    let shell = json!({ "shell": {
        "script": "echo begun; sleep 600 & setsid sleep 600 & sleep 600",
        "env": { Mark::NAME: mark.text() },
    } });
    let run = json!({
        "executor": shell, "timeouts": { "run": "400ms" },
        "retry": { "max_attempts": 2, "backoff": "10ms" },
    });
    let run = rig.submit(run).await?;
    let total = json!({ "executor": shell, "timeouts": { "total": "900ms" } });
    let total = rig.submit(total).await?;
    rig.running(&total).await?;
    mark.seen(4).await?;

    let run = rig.fails(&run, Cause::Timeout, "timeout").await?;
    assert_eq!((run.attempts, run.tries), (2, 2), "a timeout is tried again");
    let result = value(run.result.as_ref());
    assert_eq!(result["stdout"], "begun\n", "what it left is kept: {result}");
    let total = rig.fails(&total, Cause::Timeout, "timeout").await?;
    assert_eq!(total.attempts, 1, "a task that is out of time is not tried again");
    mark.gone().await
}

#[tokio::test]
async fn an_attempt_without_a_sign_of_life_is_ended() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let _worker = rig
        .worker("pulse", 2, |worker| {
            worker
                .handler("silent", async |handler| {
                    handler.cancelled().await;
                    Ok(())
                })
                .handler("lively", async |handler| {
                    // Longer than the timeout in all, and never silent for as long.
                    let mut beats = tokio::time::interval(Duration::from_millis(100));
                    for _beat in 0..10 {
                        beats.tick().await;
                        handler.alive();
                    }
                    Ok(())
                })
        })
        .await?;
    let task = |handler: &str| {
        json!({
            "executor": { "worker": { "handler": handler } }, "queue": "pulse",
            "timeouts": { "heartbeat": "600ms" }, "retry": { "max_attempts": 1 },
        })
    };
    let (silent, lively) = (rig.submit(task("silent")).await?, rig.submit(task("lively")).await?);
    rig.fails(&silent, Cause::Timeout, "heartbeat_timeout").await?;
    rig.completes(&lively).await?;
    Ok(())
}
