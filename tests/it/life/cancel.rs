//! Cancelling: before a task starts, on its way, and while it runs.

use jetmill_sdk::{TaskId, pb::TaskState};
use serde_json::json;

use super::order::{Record, call};
use crate::rig::{Mark, Rig, gate, value};

impl Rig {
    async fn cancel(&self, id: &TaskId) -> anyhow::Result<String> {
        let answer = self.cli_json(&["cancel", id.as_str(), "--reason", "no need"]).await?;
        Ok(answer.to_string())
    }
}

#[tokio::test]
async fn what_has_not_started_never_does() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let (record, gate) = (Record::default(), gate());
    let _worker = rig.worker("busy", 1, record.handlers(&gate)).await?;
    let _paused = rig.worker("paused", 1, record.handlers(&gate)).await?;
    rig.cli(&["queue", "pause", "paused"]).await?;
    let busy = rig.submit(call("busy", "wait", "busy")).await?;
    rig.running(&busy).await?;

    let mut delayed = call("busy", "note", "delayed");
    delayed["delay"] = json!("1h");
    let delayed = rig.submit(delayed).await?;
    let queued = rig.submit(call("paused", "note", "queued")).await?;
    let unserved = rig.submit(call("nobody", "note", "unserved")).await?;
    let released = rig.submit(call("busy", "note", "released")).await?;
    let dependent = json!({
        "executor": { "worker": { "handler": "note" } }, "depends_on": [released.as_str()],
    });
    let dependent = rig.submit(dependent).await?;
    rig.waits_for(&released, &["released"]).await?;
    rig.first_waits_for(&queued, "paused").await?;

    for id in [&delayed, &queued, &unserved] {
        let answer = rig.cancel(id).await?;
        assert!(answer.contains("\"cancelled\""), "{answer}");
        rig.ends(id, TaskState::Cancelled).await?;
    }
    let answer = rig.cancel(&released).await?;
    assert!(answer.contains("cancel_requested"), "it is on its way: {answer}");
    rig.ends(&released, TaskState::Cancelled).await?;
    rig.ends(&dependent, TaskState::Failed).await?;
    let again = rig.cancel(&delayed).await?;
    assert!(again.contains("unchanged"), "what is over stays as it is: {again}");

    gate.add_permits(1);
    rig.completes(&busy).await?;
    rig.cli(&["queue", "resume", "paused"]).await?;
    for queue in ["busy", "paused"] {
        let after = rig.submit(call(queue, "note", "after")).await?;
        rig.completes(&after).await?;
    }
    assert_eq!(record.seen(), ["busy", "after", "after"]);
    Ok(())
}

#[tokio::test]
async fn a_running_command_ends_with_its_whole_process_group() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let task = |mark: &Mark, script: &str| json!({ "executor": { "shell": { "script": script, "env": { Mark::NAME: mark.text() } } } });
    // One that would end on a signal, with children in the background and in a session of their
    // own; and one that does not listen.
    let marks = [Mark::new("tree"), Mark::new("deaf")];
    let tree = "echo begun; sleep 600 & setsid sleep 600 & sleep 600";
    let tree = rig.submit(task(&marks[0], tree)).await?;
    let deaf = "trap '' TERM; echo begun; sleep 600 & while :; do wait; done";
    let deaf = rig.submit(task(&marks[1], deaf)).await?;
    for (id, mark, processes) in [(&tree, &marks[0], 4), (&deaf, &marks[1], 2)] {
        rig.running(id).await?;
        mark.seen(processes).await?;
        let answer = rig.cancel(id).await?;
        assert!(answer.contains("cancel_requested"), "{answer}");
    }
    for (id, mark) in [&tree, &deaf].into_iter().zip(&marks) {
        let task = rig.ends(id, TaskState::Cancelled).await?;
        assert_eq!(value(task.result.as_ref())["stdout"], "begun\n", "what it said is kept");
        mark.gone().await?;
        let kinds = rig.kinds(id).await?;
        assert_eq!(kinds, ["created", "started", "cancel_requested", "cancelled"]);
    }
    Ok(())
}
