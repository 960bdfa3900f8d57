//! Workers that leave: by order, by signal, with work that ends in time and with work that does not.

use std::{fs, time::Duration};

use jetmill_sdk::pb;
use serde_json::json;
use testkit::{Jetmill, eventually};

use crate::{
    rig::{Mark, Rig, View, value},
    support::SOON,
};

/// A worker-pool process of its own, once the scheduler knows it.
async fn worker(view: &View, name: &str, queue: &str, drain: &str) -> anyhow::Result<Jetmill> {
    let queues = format!("{queue}=1");
    let before = workers_of(view, queue).await;
    let options = ["--name", name, "--queues", &queues, "--drain-timeout", drain];
    let address = ["--http-addr", "127.0.0.1:0"];
    let args = [&["serve", "worker-pool"], &options[..], &address].concat();
    let process = Jetmill::spawn(&args, &[("JETMILL_NATS_URL", view.url.as_str())])?;
    view.known(queue, before + 1).await?;
    Ok(process)
}

async fn workers_of(view: &View, queue: &str) -> u32 {
    let queues = view.client.queues(&pb::QueuesRequest {}).await.map(|answer| answer.queues);
    queues.unwrap_or_default().iter().find(|q| q.name == queue).map_or(0, |q| q.workers)
}

/// Waits until the list of workers has this one (draining or not), or has it no more.
async fn listed(view: &View, name: &str, draining: Option<bool>) -> anyhow::Result<()> {
    eventually(&format!("worker {name} with draining {draining:?}"), SOON, async || {
        let workers = view.client.list_workers(&pb::ListWorkersRequest {}).await.ok()?.workers;
        let found = workers.iter().find(|worker| worker.worker == name).map(|w| w.draining);
        (found == draining).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_drained_worker_ends_what_runs_and_takes_nothing_new() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let folder = tempfile::tempdir()?;
    let gate = folder.path().join("open");
    let mut first = worker(&rig, "first", "moved", "30s").await?;
    let script = format!("until [ -e {} ]; do sleep 0.02; done; echo through", gate.display());
    let task =
        |script: &str| json!({ "executor": { "shell": { "script": script } }, "queue": "moved" });
    let runs = rig.submit(task(&script)).await?;
    assert_eq!(rig.running(&runs).await?.worker, "first");
    let next = rig.submit(task("echo next")).await?;
    rig.waits_for(&next, &["released"]).await?;

    let unknown = rig.cli(&["worker", "drain", "nobody-of-this-name", "--yes"]).await;
    assert!(unknown.is_err(), "a worker that is not there cannot be drained");
    rig.cli(&["worker", "drain", "first", "--yes"]).await?;
    listed(&rig, "first", Some(true)).await?;
    assert!(rig.cli(&["worker", "ls"]).await?.contains("draining"));
    let mut second = worker(&rig, "second", "moved", "30s").await?;
    assert_eq!(rig.completes(&next).await?.worker, "second");
    assert_eq!(rig.task(&runs).await?.state(), pb::TaskState::Running);

    fs::write(&gate, "")?;
    let done = rig.completes(&runs).await?;
    assert_eq!((done.worker.as_str(), done.attempts), ("first", 1));
    assert_eq!(value(done.result.as_ref())["stdout"], "through\n");
    listed(&rig, "first", None).await?;

    for process in [&mut first, &mut second] {
        process.terminate()?;
        let status = process.wait_exit(Duration::from_secs(10)).await?;
        assert!(status.success(), "{status}: {}", process.stderr());
    }
    listed(&rig, "second", None).await
}

#[tokio::test]
async fn what_does_not_end_in_time_is_handed_back_and_ends_elsewhere() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let mark = Mark::new("handed-back");
    let mut first = worker(&rig, "hasty", "handed", "300ms").await?;
    let task = json!({
        "executor": { "shell": {
            "script": "test $JETMILL_ATTEMPT -ge 2 || sleep 600",
            "env": { Mark::NAME: mark.text() },
        } },
        "queue": "handed",
    });
    let runs = rig.submit(task).await?;
    assert_eq!(rig.running(&runs).await?.worker, "hasty");
    let next = json!({ "executor": { "shell": { "argv": ["true"] } }, "queue": "handed" });
    let next = rig.submit(next).await?;
    rig.waits_for(&next, &["released"]).await?;
    // As a cluster does it.
    first.terminate()?;
    let status = first.wait_exit(Duration::from_secs(15)).await?;
    assert!(status.success(), "{status}: {}", first.stderr());
    let kinds = rig.kinds(&runs).await?;
    assert_eq!(kinds, ["created", "started", "returned"]);
    listed(&rig, "hasty", None).await?;
    mark.gone().await?;

    let _heir = worker(&rig, "heir", "handed", "300ms").await?;
    let done = rig.completes(&runs).await?;
    assert_eq!((done.worker.as_str(), done.attempts, done.tries), ("heir", 2, 0));
    assert_eq!(rig.completes(&next).await?.attempts, 1, "it never left its queue");
    Ok(())
}
