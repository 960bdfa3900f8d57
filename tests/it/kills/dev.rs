//! `jetmill dev` as a whole: killed, interrupted, and started again on the same data.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use jetmill_sdk::{TaskId, pb::TaskState};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::Jetmill;

use crate::rig::{Mark, View};

fn shell(id: &str, script: &str, mark: &Mark) -> Value {
    json!({
        "task_id": id, "executor": { "shell": { "script": script, "env": { Mark::NAME: mark.text() } } },
        "retry": { "max_attempts": 1 },
    })
}

#[tokio::test]
async fn after_a_kill_it_goes_on_where_it_was_and_nothing_stays_behind() -> anyhow::Result<()> {
    let mark = &Mark::new("killed");
    let mut dev = Jetmill::dev().env(Mark::NAME, mark.text()).start().await?;
    let view = View::of(&dev.addresses().nats).await?;
    view.cli(&["queue", "pause", "later", "--reason", "over the kill"]).await?;
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(view.submit(shell(&format!("quick-{n}"), "echo done", mark)).await?);
    }
    let stuck = shell("stuck", "test $JETMILL_ATTEMPT -ge 2 || sleep 600", mark);
    let stuck = view.submit(stuck).await?;
    let after = json!({
        "task_id": "after", "executor": { "shell": { "argv": ["true"] } }, "depends_on": ["stuck"],
    });
    let after = view.submit(after).await?;
    let mut paused = shell("paused", "true", mark);
    paused["queue"] = json!("later");
    let paused = view.submit(paused).await?;
    let mut delayed = shell("delayed", "true", mark);
    delayed["delay"] = json!("1h");
    let delayed = view.submit(delayed).await?;
    view.running(&stuck).await?;
    // The platform, its nats-server, and the command with its attendant.
    mark.seen(4).await?;

    dev.kill9()?;
    mark.gone().await?;
    drop(view);
    dev.restart().await?;

    let view = View::of(&dev.addresses().nats).await?;
    view.first_waits_for(&paused, "paused").await?;
    view.waits_for(&delayed, &["delay"]).await?;
    ids.extend([stuck.clone(), after]);
    for id in &ids {
        once(&view, id).await?;
    }
    let task = view.task(&stuck).await?;
    assert_eq!((task.attempts, task.tries), (2, 0), "the lost attempt is no try");
    view.cli(&["queue", "resume", "later"]).await?;
    view.waits_for(&paused, &["no_worker"]).await?;
    let again = view.client.submit(crate::rig::spec(shell("quick-0", "echo done", mark))?).await?;
    assert!(again.existing, "what was accepted before the kill is still known");
    Ok(())
}

async fn once(view: &View, id: &TaskId) -> anyhow::Result<()> {
    view.completes(id).await?;
    let kinds = view.kinds(id).await?;
    let ends = kinds.iter().filter(|kind| *kind == "completed").count();
    anyhow::ensure!(ends == 1, "{id}: {kinds:?}");
    Ok(())
}

#[tokio::test]
async fn after_ctrl_c_it_ends_at_once_and_goes_on_when_it_is_started_again() -> anyhow::Result<()> {
    let mark = &Mark::new("interrupted");
    let mut dev = Jetmill::dev().env(Mark::NAME, mark.text()).start().await?;
    let view = View::of(&dev.addresses().nats).await?;
    let stuck = shell("stuck", "test $JETMILL_ATTEMPT -ge 2 || sleep 600", mark);
    let stuck = view.submit(stuck).await?;
    view.running(&stuck).await?;
    drop(view);

    dev.interrupt()?;
    let status = dev.wait_exit(Duration::from_secs(4)).await?;
    assert!(status.success() || status.code() == Some(130), "{status}");
    mark.gone().await?;

    dev.restart().await?;
    let view = View::of(&dev.addresses().nats).await?;
    once(&view, &stuck).await?;
    let task = view.ends(&stuck, TaskState::Completed).await?;
    assert_eq!(task.tries, 0, "being handed back is no try");
    Ok(())
}

#[tokio::test]
async fn its_nats_server_comes_back_and_what_ran_meanwhile_counts() -> anyhow::Result<()> {
    let mark = &Mark::new("without-nats");
    let dev = Jetmill::dev().env(Mark::NAME, mark.text()).start().await?;
    let view = View::of(&dev.addresses().nats).await?;
    let folder = tempfile::tempdir()?;
    let gate = folder.path().join("open");
    let script = format!("until [ -e {} ]; do sleep 0.02; done", gate.display());
    let runs = view.submit(shell("runs", &script, mark)).await?;
    view.running(&runs).await?;

    let is_nats = |process: &PathBuf| {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        name.trim() == "nats-server"
    };
    let nats = mark.processes().into_iter().find(is_nats).context("no nats-server runs")?;
    let id = nats.file_name().and_then(|id| id.to_str()?.parse().ok()).and_then(Pid::from_raw);
    kill_process(id.context("it has no id")?, Signal::KILL)?;
    fs::write(&gate, "")?;

    once(&view, &runs).await?;
    assert_eq!(view.task(&runs).await?.attempts, 1, "the attempt went on without NATS");
    let next = view.submit(shell("next", "true", mark)).await?;
    once(&view, &next).await
}
