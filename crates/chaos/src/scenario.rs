//! The two faults that end a cluster's life: the log made anew, and a ledger that is older than what
//! the log still has. Both must be noticed and refused; afterwards a fresh start goes on.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bus::streams::{self, StreamOptions};
use common::{pb, subject};
use jetmill_sdk::{Client, Task, TaskId, Tenant};
use launch::eventually;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{act::Actor, cluster::Role, load::QUEUE};

/// The identity is looked at every 5 s, and then a process has to end.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);
const ENDS_WITHIN: Duration = Duration::from_secs(60);
const LOG_BYTES: i64 = 1 << 30;

/// Deletes the log and makes another one in its place: who reads it must stop and say so.
pub async fn stream_recreated(actor: &mut Actor) -> anyhow::Result<String> {
    let jetstream = actor.bus.jetstream().clone();
    jetstream.delete_stream(subject::TASKS).await.context("failed to delete the log")?;
    let options = StreamOptions { log_bytes_max: LOG_BYTES, ..StreamOptions::default() };
    streams::ensure(&actor.bus, options).await?;
    let readers: Vec<_> = actor
        .cluster
        .members
        .iter_mut()
        .filter(|(_, member)| matches!(member.role, Role::Registry | Role::Scheduler))
        .map(|(name, member)| {
            // Nobody starts it again: what it does by itself is to be seen.
            member.wanted = false;
            name.clone()
        })
        .collect();
    let early = submit(&actor.client, "in-the-new-log").await?;
    let mut said = Vec::new();
    for name in &readers {
        said.push(refuses(actor, name).await.context("after the log was made anew")?);
        // Nor does it accept the other log when it is started again.
        actor.cluster.launch(name)?;
        if let Some(member) = actor.cluster.members.get_mut(name) {
            member.wanted = false;
        }
        refuses(actor, name).await.context("started again after the log was made anew")?;
    }
    fresh_start(actor).await?;
    completes(&actor.client, &early).await.context("what was submitted to the new log")?;
    Ok(said.join(", "))
}

/// The state is moved away, as the message says, and everything goes on.
async fn fresh_start(actor: &mut Actor) -> anyhow::Result<()> {
    let names: Vec<_> = actor.cluster.members.keys().cloned().collect();
    for name in &names {
        actor.cluster.kill(name)?;
    }
    actor.cluster.storage.as_mut().context("there is no ledger")?.empty()?;
    let jetstream = actor.bus.jetstream();
    jetstream
        .delete_object_store(subject::SNAPSHOTS)
        .await
        .context("failed to delete snapshots")?;
    for name in &names {
        actor.cluster.launch(name)?;
    }
    let client = actor.client.clone();
    let mut seen = Vec::new();
    let up = eventually("the services after a fresh start", ENDS_WITHIN, async || {
        actor.cluster.look_after().ok()?;
        seen.clone_from(&client.queues(&pb::QueuesRequest {}).await.ok()?.queues);
        client.stats(&pb::StatsRequest::default()).await.ok()?;
        seen.iter().any(|queue| queue.name == QUEUE && queue.workers > 0).then_some(())
    });
    up.await.with_context(|| format!("{seen:?}"))
}

/// Puts back a ledger that is older than the first message of the log.
pub async fn ledger_behind_log(actor: &mut Actor) -> anyhow::Result<String> {
    actor.cluster.kill("registry")?;
    actor.cluster.storage.as_mut().context("there is no ledger")?.copy()?;
    actor.cluster.launch("registry")?;
    for n in 0..3 {
        let id = submit(&actor.client, &format!("after-the-copy-{n}")).await?;
        completes(&actor.client, &id).await?;
    }
    actor.cluster.kill("registry")?;
    actor.cluster.storage.as_mut().context("there is no ledger")?.restore()?;
    let stream = streams::get(&actor.bus, subject::TASKS).await?;
    let last = stream.cached_info().state.last_sequence;
    stream.purge().sequence(last).await.context("failed to purge the log")?;
    actor.cluster.launch("registry")?;
    if let Some(member) = actor.cluster.members.get_mut("registry") {
        member.wanted = false;
    }
    refuses(actor, "registry").await.context("with a ledger older than the log")
}

/// A reader of the log that stops, or is not ready, and says what to do.
async fn refuses(actor: &mut Actor, name: &str) -> anyhow::Result<String> {
    let ended = actor.cluster.wait_end(name, NOTICED_WITHIN).await;
    let said = actor.cluster.said(name);
    let tail = said.lines().rev().take(12).collect::<Vec<_>>().join("\n");
    let Ok(status) = ended else {
        let probes = actor.cluster.probes(name).unwrap_or_default();
        let answer = readiness(&probes).await.unwrap_or_default();
        ensure!(answer.contains(" 503 "), "{name} goes on as if nothing was: {tail}");
        return Ok(format!("{name} is not ready"));
    };
    if status.success() {
        bail!("{name} ended as if all was well: {tail}");
    }
    let instructs = ["restore the log", "restore an older log", "move the state away"];
    ensure!(
        instructs.iter().any(|words| tail.contains(words)),
        "{name} does not say what to do: {tail}"
    );
    Ok(format!("{name} stopped"))
}

/// The answer of `/readyz`.
async fn readiness(address: &str) -> anyhow::Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(5), asked).await?
}

async fn submit(client: &Client, title: &str) -> anyhow::Result<TaskId> {
    let queue = common::id::QueueName::parse(QUEUE)?;
    let task = Task::handler(crate::load::HANDLER).queue(&queue).title(title);
    let spec = task.input(serde_json::json!({ "ms": 0, "fails": 0 })).build()?;
    let mut last = anyhow::anyhow!("not tried");
    for _ in 0..10 {
        match client.submit(spec.clone()).await {
            Ok(submission) => return Ok(TaskId::parse(&submission.task_id)?),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

async fn completes(client: &Client, id: &TaskId) -> anyhow::Result<()> {
    let outcome = client.wait(&Tenant::default(), id, ENDS_WITHIN).await?;
    ensure!(outcome.state() == pb::TaskState::Completed, "task {id} ended {:?}", outcome.state());
    Ok(())
}
