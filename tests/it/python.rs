//! Clients that we did not write: nats-py publishes what older producers publish, and the example
//! worker in Python runs tasks beside one in Rust.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use jetmill_sdk::pb::{self, Cause};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::eventually;
use tokio::process::{Child, Command};

use crate::{
    rig::{Rig, gate, time, value},
    support::SOON,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Python with nats-py; ends with the test.
fn python(script: &str) -> anyhow::Result<Command> {
    let packages = root().join(".tools/python");
    let found = packages.join("nats").is_dir();
    anyhow::ensure!(found, "nats-py is missing: run `make test-tools`");
    let mut command = Command::new("python3");
    command.arg(root().join(script)).env("PYTHONPATH", packages).kill_on_drop(true);
    Ok(command)
}

#[tokio::test]
async fn messages_of_an_older_registry_become_tasks_without_any_set_up() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let status = python("tests/it/python/s2.py")?.arg(&rig.url).status().await?;
    assert!(status.success(), "{status}");

    let id = jetmill_sdk::TaskId::parse("healing_playbook_12345")?;
    let task = rig.completes(&id).await?;
    assert_eq!(task.title, "Fix port collision");
    assert_eq!((task.task_type.as_str(), task.subsystem.as_str()), ("playbook", "healing"));
    assert_eq!(task.created_by, "guardian");
    assert_eq!(value(task.metadata.as_ref()), json!({ "playbook_id": "port_collision_fixer" }));
    assert_eq!(task.resource_usage.unwrap_or_default().cpu_seconds, Some(2.5));
    assert_eq!(task.verification_status, "passed");
    assert!(time(task.finished_at, "finished_at")? >= time(task.started_at, "started_at")?);
    assert_eq!(rig.kinds(&id).await?, ["created", "started", "completed"]);

    let shown = rig.cli(&["get", id.as_str()]).await?;
    for text in
        ["Fix port collision", "guardian", "healing", "port_collision_fixer", "2.5", "passed"]
    {
        assert!(shown.contains(text), "{text} is missing in {shown}");
    }
    let listed = rig.cli(&["ls", "--where", r#"subsystem = "healing""#]).await?;
    assert!(listed.contains(id.as_str()) && listed.contains("Fix port collision"), "{listed}");

    // A report about a task that nobody announced, and one that fails.
    let stub = rig.completes(&jetmill_sdk::TaskId::parse("unannounced_1")?).await?;
    assert_eq!(stub.executor, "external");
    let failed = jetmill_sdk::TaskId::parse("healing_playbook_12346")?;
    let failed = rig.ends(&failed, pb::TaskState::Failed).await?;
    assert_eq!(failed.cause(), Cause::Error);
    assert!(failed.error.unwrap_or_default().message.contains("port is still taken"));
    Ok(())
}

/// Starts the example worker; returns once the scheduler knows it.
async fn worker(rig: &Rig, name: &str, queue: &str, workers: u32) -> anyhow::Result<Child> {
    let mut command = python("examples/python-worker/worker.py")?;
    command.args(["--url", &rig.url, "--queue", queue, "--slots", "2", "--name", name]);
    let child = command.stdout(Stdio::null()).spawn().context("failed to start python3")?;
    rig.known(queue, workers).await?;
    Ok(child)
}

fn count(queue: &str, number: usize) -> Value {
    json!({
        "task_id": format!("{queue}-{number}"), "queue": queue,
        "executor": { "worker": { "handler": "wordcount" } },
        "input": { "text": "to be or\nnot to be" },
    })
}

async fn done_by(rig: &Rig, worker: &str) -> Option<usize> {
    let filter = format!(r#"state = completed AND worker = "{worker}""#);
    let request = pb::ListRequest { filter, ..pb::ListRequest::default() };
    Some(rig.client.list(&request).await.ok()?.tasks.len())
}

#[tokio::test]
async fn a_worker_in_python_and_one_in_rust_serve_one_queue() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let open = gate();
    let wait = open.clone();
    let rust = rig
        .worker("shared", 2, move |worker| {
            worker.handler("wordcount", move |handler| {
                let gate = wait.clone();
                async move {
                    let input: Value = handler.input()?;
                    drop(gate.acquire().await?);
                    let text = input["text"].as_str().unwrap_or_default();
                    Ok(json!({ "words": text.split_whitespace().count() }))
                }
            })
        })
        .await?;
    // Two that the worker in Rust holds, so that what comes next is Python's.
    let mut ids =
        vec![rig.submit(count("shared", 0)).await?, rig.submit(count("shared", 1)).await?];
    for id in &ids {
        assert_eq!(rig.running(id).await?.worker, rust.name);
    }
    let mut python = worker(&rig, "python", "shared", 2).await?;
    for number in 2..30 {
        ids.push(rig.submit(count("shared", number)).await?);
    }
    eventually("tasks done in Python", SOON, async || {
        done_by(&rig, "python").await.filter(|done| *done >= 5)
    })
    .await?;
    open.add_permits(2);
    for number in 30..40 {
        ids.push(rig.submit(count("shared", number)).await?);
    }
    for id in &ids {
        let task = rig.completes(id).await?;
        assert_eq!(value(task.result.as_ref())["words"], 6, "{id}");
        assert_eq!(task.tries, 0, "{id} was tried again");
    }
    let (in_rust, in_python) = (done_by(&rig, &rust.name).await, done_by(&rig, "python").await);
    assert_eq!(in_rust.zip(in_python).map(|(a, b)| a + b), Some(40), "{in_rust:?} {in_python:?}");
    assert!(in_rust >= Some(2) && in_python >= Some(5), "{in_rust:?} {in_python:?}");

    rust.leave().await?;
    let mut fail = count("shared", 40);
    fail["executor"]["worker"]["handler"] = json!("fail");
    fail["input"] = json!({ "code": "broken", "message": "as it was told", "retryable": false });
    let fail = rig.submit(fail).await?;
    let failed = rig.fails(&fail, Cause::Rejected, "broken").await?;
    assert_eq!(failed.error.unwrap_or_default().message, "as it was told");
    large(&rig).await?;
    python.kill().await?;
    Ok(())
}

/// What is too large for an event goes through the object store, both ways.
async fn large(rig: &Rig) -> anyhow::Result<()> {
    let words = (0..200_000).map(|n| format!("wörd-{n}")).collect::<Vec<_>>();
    let executor = json!({ "worker": { "handler": "words" } });
    let text = words.join(" ");
    let task = json!({ "queue": "shared", "executor": executor, "input": { "text": text } });
    let task = rig.submit(task).await?;
    let done = rig.completes(&task).await?;
    assert!(done.input_object.is_some() && done.result_object.is_some());
    assert_eq!(rig.result(&task).await?, json!({ "words": words }));
    let gone = "SHA-256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let missing = json!({
        "queue": "shared", "executor": executor, "retry": { "max_attempts": 1 },
        "input_object": { "name": "nothing", "bytes": 1, "digest": gone },
    });
    let missing = rig.submit(missing).await?;
    rig.fails(&missing, Cause::Error, "input_missing").await?;
    Ok(())
}

#[tokio::test]
async fn a_worker_in_python_that_is_told_to_leave_costs_no_task_a_try() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let mut python = worker(&rig, "leaver", "left", 1).await?;
    let warm = rig.submit(count("left", 0)).await?;
    assert_eq!(rig.completes(&warm).await?.worker, "leaver");

    let id = python.id().and_then(|id| Pid::from_raw(id as i32)).context("it has ended")?;
    kill_process(id, Signal::TERM)?;
    // What still reaches it is handed back, what does not stays in the queue.
    let mut ids = Vec::new();
    for number in 1..10 {
        ids.push(rig.submit(count("left", number)).await?);
    }
    let status = tokio::time::timeout(Duration::from_secs(10), python.wait()).await??;
    assert!(status.success(), "{status}");
    let workers = rig.client.list_workers(&pb::ListWorkersRequest {}).await?.workers;
    assert!(workers.iter().all(|worker| worker.worker != "leaver"), "it has not signed off");

    let _heir = worker(&rig, "heir", "left", 1).await?;
    for id in &ids {
        let task = rig.completes(id).await?;
        assert_eq!(task.tries, 0, "{id} was tried again");
        let kinds = rig.kinds(id).await?;
        let known = ["created", "started", "progress", "returned", "completed"];
        assert!(kinds.iter().all(|kind| known.contains(&kind.as_str())), "{id}: {kinds:?}");
    }
    Ok(())
}
