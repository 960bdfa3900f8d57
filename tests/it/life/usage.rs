//! What an attempt used, how far it is and what it says, while it runs and after.

use std::path::Path;

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use gateway::client::LiveClient;
use jetmill_sdk::{
    TaskId,
    pb::{self, TaskState, event::Kind},
};
use serde_json::{Value, json};
use testkit::{Jetmill, eventually};

use crate::{
    rig::{Guest, Rig, gate, value},
    support::{SOON, admin, grpc, nats},
};

/// A rig whose attempts say early what they have used.
async fn rig() -> anyhow::Result<Rig> {
    Rig::with(Jetmill::dev().env("JETMILL_WORKER_POOL__SNAPSHOT_EVERY", "200ms")).await
}

fn task(executor: &Value) -> Value {
    json!({ "executor": executor, "retry": { "max_attempts": 1 }, "timeouts": { "run": "60s" } })
}

/// A command that waits for a file of this name.
fn waits_for(file: &Path, before: &str, after: &str) -> Value {
    let wait = format!("while [ ! -e {} ]; do sleep 0.02; done", file.display());
    task(&json!({ "shell": { "script": format!("{before}; {wait}; {after}") } }))
}

#[tokio::test]
async fn a_running_command_shows_what_it_used_and_how_far_it_is() -> anyhow::Result<()> {
    let (rig, folder) = (rig().await?, tempfile::tempdir()?);
    let go = folder.path().join("go");
    let work = "dd if=/dev/zero of=f bs=1M count=2 conv=fsync 2>/dev/null; \
                i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; \
                echo '::progress:: 50% half of it'; \
                echo '::progress:: {\"counters\": {\"rows\": 7}}'; echo plain";
    let id = rig.submit(waits_for(&go, work, "echo '::progress:: 0.75'")).await?;

    let seen = rig
        .until(&id, "half done and measured", |task| {
            let usage = task.resource_usage.unwrap_or_default();
            // Memory of several processes is looked at less often than their time.
            let measured = usage.cpu_seconds.is_some_and(|s| s > 0.0);
            task.progress_counters.is_some() && measured && usage.memory_avg_mb.is_some()
        })
        .await?;
    ensure!(seen.state() == TaskState::Running, "{seen:?}");
    ensure!(seen.progress == Some(0.5) && seen.progress_message == "half of it", "{seen:?}");
    ensure!(value(seen.progress_counters.as_ref()) == json!({ "rows": 7 }), "{seen:?}");
    let usage = seen.resource_usage.context("measured")?;
    ensure!(usage.memory_peak_mb >= usage.memory_avg_mb, "{usage:?}");
    ensure!(usage.disk_write_mb.is_some() && usage.network_tx_mb.is_none(), "{usage:?}");

    let shown = rig.cli(&["get", id.as_str()]).await?;
    for text in ["used so far:", "network -", "50 % half of it (rows 7)", "running (50 %)"] {
        ensure!(shown.contains(text), "{text} is missing in {shown}");
    }
    let listed = rig.cli(&["ls", "--format", "{{ task_id }} {{ progress_counters.rows }}"]).await?;
    ensure!(listed.contains(&format!("{id} 7")), "{listed}");
    let client = nats(&rig.dev).await?;
    let body = json!({ "task_id": id.as_str() }).to_string();
    let told = admin(&client, "registry", "get", body).await?.ok().context("an answer")?;
    ensure!(told["progress_counters"]["rows"] == 7, "{told}");
    let used = told["resource_usage"].as_object().context("no use in JSON")?;
    ensure!(used.contains_key("cpu_seconds") && !used.contains_key("network_tx_mb"), "{told}");

    std::fs::write(&go, "")?;
    let done = rig.completes(&id).await?;
    let last = done.resource_usage.context("measured")?;
    ensure!(last.cpu_seconds >= usage.cpu_seconds && last.memory_avg_mb.is_some(), "{last:?}");
    ensure!(last.disk_write_mb >= usage.disk_write_mb, "{last:?}");
    ensure!(value(done.result.as_ref())["stdout"] == "plain\n", "{:?}", done.result);
    let kinds = rig.kinds(&id).await?;
    ensure!(kinds.iter().any(|kind| kind == "snapshot"), "{kinds:?}");
    ensure!(kinds.last().is_some_and(|kind| kind == "completed"), "{kinds:?}");
    Ok(())
}

/// A worker whose handlers say what they used, or do not, and then panic or go on.
async fn handlers(rig: &Rig) -> anyhow::Result<Guest> {
    rig.worker("rust", 2, |worker| {
        worker
            .handler("tells", async |handler| {
                let bytes = pb::ResourceUsage { network_rx_mb: Some(3.0), ..Default::default() };
                handler.used(bytes);
                handler.counters([("pages", 2.0)]);
                let input: Value = handler.input()?;
                Ok(input.as_str().expect("this handler always panics").to_owned())
            })
            .handler("silent", async |_| Ok("nothing was measured"))
    })
    .await
}

#[tokio::test]
async fn what_nobody_measured_is_absent_at_every_door() -> anyhow::Result<()> {
    let rig = rig().await?;
    let worker = handlers(&rig).await?;
    let handler = |name: &str| {
        let mut task = task(&json!({ "worker": { "handler": name } }));
        task["queue"] = json!("rust");
        task
    };
    let silent = rig.submit(handler("silent")).await?;
    let tells = rig.submit(handler("tells")).await?;

    let done = rig.completes(&silent).await?;
    ensure!(done.resource_usage.is_none(), "{done:?}");
    let shown = rig.cli(&["get", silent.as_str()]).await?;
    ensure!(shown.lines().any(|line| line.starts_with("used:") && line.ends_with(" -")), "{shown}");
    let told = rig.cli_json(&["get", silent.as_str()]).await?;
    ensure!(told.get("resource_usage").is_none(), "{told}");

    let failed = rig.ends(&tells, TaskState::Failed).await?;
    let usage = failed.resource_usage.context("it was said before the panic")?;
    let expected = pb::ResourceUsage { network_rx_mb: Some(3.0), ..Default::default() };
    ensure!(usage == expected, "{usage:?}");
    let shown = rig.cli(&["get", tells.as_str()]).await?;
    let line = "CPU -; memory -; disk -; network - sent, 3.000 MB received";
    ensure!(shown.contains(line), "{shown}");
    worker.leave().await
}

/// Follows a task's output over gRPC until this text was in it; the stream goes on.
async fn follow(
    rig: &Rig,
    id: &TaskId,
    text: &str,
) -> anyhow::Result<tonic::Streaming<pb::LogChunk>> {
    let request =
        pb::LogsRequest { task_id: id.to_string(), follow: true, ..pb::LogsRequest::default() };
    let mut stream = LiveClient::new(grpc(&rig.dev).await?).logs(request).await?.into_inner();
    let said = async {
        let mut all = String::new();
        while !all.contains(text) {
            let chunk = stream.next().await.with_context(|| format!("only {all:?} was said"))??;
            all.extend([String::from_utf8_lossy(&chunk.data)]);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(SOON, said).await.with_context(|| format!("{text:?} was not said"))??;
    Ok(stream)
}

/// Waits until the stream has ended: what it said.
async fn rest(mut stream: tonic::Streaming<pb::LogChunk>) -> anyhow::Result<String> {
    let rest = async {
        let mut all = String::new();
        while let Some(chunk) = stream.next().await {
            all.extend([String::from_utf8_lossy(&chunk?.data)]);
        }
        anyhow::Ok(all)
    };
    tokio::time::timeout(SOON, rest).await.context("it does not end with its task")?
}

#[tokio::test]
async fn output_comes_while_work_runs_and_ends_with_it() -> anyhow::Result<()> {
    let (rig, folder) = (rig().await?, tempfile::tempdir()?);
    let go = folder.path().join("go");
    let mut before = task(&json!({ "worker": { "handler": "opens" } }));
    before["queue"] = json!("rust");
    before["task_id"] = json!("before");
    let mut shell = waits_for(&go, "echo first", "echo second >&2");
    shell["depends_on"] = json!(["before"]);
    let shell = rig.submit(shell).await?;
    // It follows before the task has begun, and before what it waits for is there.
    let env = [("JETMILL_NATS_URL", rig.url.as_str())];
    let mut follower = Jetmill::spawn(&["logs", "--follow", shell.as_str()], &env)?;
    let opened = gate();
    let pass = opened.clone();
    let worker = rig
        .worker("rust", 2, move |worker| {
            worker.handler("opens", move |handler| {
                let pass = pass.clone();
                async move {
                    handler.log("opening");
                    pass.acquire().await?.forget();
                    Ok(())
                }
            })
        })
        .await?;
    let before = rig.submit(before).await?;
    let opening = follow(&rig, &before, "opening").await?;
    ensure!(rig.task(&before).await?.state() == TaskState::Running, "it was heard while it ran");
    opened.add_permits(1);
    ensure!(rest(opening).await?.is_empty(), "it said nothing more");

    let stream = follow(&rig, &shell, "first").await?;
    let said = eventually("the first line at the command line", SOON, async || {
        follower.stdout().contains("first\n").then_some(())
    });
    said.await?;
    ensure!(rig.task(&shell).await?.state() == TaskState::Running, "it was heard while it ran");
    std::fs::write(&go, "")?;
    ensure!(rest(stream).await? == "second\n");
    ensure!(follower.wait_exit(SOON).await?.success(), "{}", follower.stderr());
    ensure!(follower.stdout() == "first\n" && follower.stderr() == "second\n");

    // A script says how far it is, and is heard in an endless loop.
    let source =
        "function main() progress(0.5, 'half', {rows = 3}) print('looping') while true do end end";
    let mut lua = task(&json!({ "lua": { "source": source } }));
    lua["timeouts"]["run"] = json!("30s");
    let lua = rig.submit(lua).await?;
    let looping = follow(&rig, &lua, "looping").await?;
    let seen = rig.until(&lua, "half done", |task| task.progress == Some(0.5)).await?;
    ensure!(value(seen.progress_counters.as_ref()) == json!({ "rows": 3 }), "{seen:?}");
    rig.cli(&["cancel", lua.as_str()]).await?;
    rest(looping).await?;
    let ended = rig.ends(&lua, TaskState::Cancelled).await?;
    ensure!(ended.resource_usage.unwrap_or_default().cpu_seconds.is_some(), "{ended:?}");
    ensure!(!rig.cli(&["logs", lua.as_str()]).await?.contains("::progress::"));
    let last = rig.history(&lua).await?.pop().and_then(|entry| entry.event?.kind);
    ensure!(matches!(last, Some(Kind::Cancelled(_))), "{last:?}");
    worker.leave().await
}
