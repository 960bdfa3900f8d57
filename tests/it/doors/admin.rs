//! The admin API as `nats req` and `nats micro` see it: JSON in, JSON out.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use serde_json::{Value, json};
use testkit::{Jetmill, eventually};

use crate::support::{SOON, admin, cli, ended, nats, publish, submit_json};

/// The whole contract: service, its name among NATS services, its methods.
const SERVICES: [(&str, &str, &[&str]); 3] = [
    (
        "registry",
        "jetmill-registry",
        &[
            "submit",
            "get",
            "result",
            "list",
            "history",
            "stats",
            "list_dead",
            "get_dead",
            "replay_dead",
        ],
    ),
    (
        "scheduler",
        "jetmill-scheduler",
        &["cancel", "retry", "reprioritise", "pause", "resume", "why", "queues"],
    ),
    ("worker_pool", "jetmill-worker-pool", &["list_workers", "drain"]),
];

/// A caller that remembers what it has asked.
struct Caller {
    client: async_nats::Client,
    asked: BTreeSet<(String, String)>,
}

impl Caller {
    async fn ask(&mut self, service: &str, method: &str, body: Value) -> anyhow::Result<Value> {
        self.asked.insert((service.to_owned(), method.to_owned()));
        match admin(&self.client, service, method, body.to_string()).await? {
            Ok(answer) => Ok(answer),
            Err(error) => anyhow::bail!("{service}.{method} {body} was refused: {error}"),
        }
    }
}

#[tokio::test]
async fn every_method_answers_a_request_in_json() -> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    let client = nats(&dev).await?;
    let mut caller = Caller { client, asked: BTreeSet::new() };
    questions(&mut caller).await.context("questions about a task")?;
    changes(&mut caller).await.context("changes of tasks")?;
    queues(&mut caller).await.context("queues")?;
    dead(&mut caller).await.context("dead letters")?;
    workers(&mut caller).await.context("workers")?;
    for (service, _, methods) in SERVICES {
        for method in methods {
            let one = (service.to_owned(), (*method).to_owned());
            ensure!(caller.asked.contains(&one), "{service}.{method} was not asked");
        }
    }
    Ok(())
}

async fn questions(caller: &mut Caller) -> anyhow::Result<()> {
    let task = json!({ "task_id": "q", "subsystem": "asked", "executor": { "shell": { "argv": ["echo", "hi"] } } });
    let answer = caller.ask("registry", "submit", json!({ "tasks": [task] })).await?;
    ensure!(answer["submissions"][0]["task_id"] == "q", "{answer}");
    ended(&caller.client, "q").await?;
    let task = caller.ask("registry", "get", json!({ "task_id": "q" })).await?;
    ensure!(task["state"] == "TASK_STATE_COMPLETED", "{task}");
    let outcome = caller.ask("registry", "result", json!({ "task_id": "q" })).await?;
    ensure!(outcome["result"]["stdout"] == "hi\n", "{outcome}");
    let list = json!({ "filter": "subsystem = asked", "count": true, "page_size": 1 });
    let list = caller.ask("registry", "list", list).await?;
    ensure!(list["total"] == "1" && list["tasks"][0]["task_id"] == "q", "{list}");
    let history = caller.ask("registry", "history", json!({ "task_id": "q" })).await?;
    let kinds: Vec<_> =
        history["entries"].as_array().into_iter().flatten().map(|e| &e["kind"]).collect();
    ensure!(kinds.first() == Some(&&json!("created")), "{history}");
    ensure!(kinds.last() == Some(&&json!("completed")), "{history}");
    let stats = caller.ask("registry", "stats", json!({})).await?;
    ensure!(
        stats["by_subsystem"]["asked"] == "1" && stats["by_state"]["completed"] == "1",
        "{stats}"
    );
    let why = caller.ask("scheduler", "why", json!({ "task_id": "q" })).await?;
    ensure!(why["reasons"][0]["code"] == "finished", "{why}");
    Ok(())
}

async fn changes(caller: &mut Caller) -> anyhow::Result<()> {
    for id in ["c1", "c2", "c3"] {
        let waiting = json!({
            "task_id": id, "task_type": "change", "delay": "1h",
            "executor": { "shell": { "argv": ["true"] } },
        });
        submit_json(&caller.client, &waiting).await?;
    }
    let all = json!({ "filter": "task_type = change" });
    let counted = json!({ "selection": all, "dry_run": true });
    let counted = caller.ask("scheduler", "cancel", counted).await?;
    ensure!(
        counted["matched"] == "3" && counted["changes"].as_array().is_none_or(Vec::is_empty),
        "{counted}"
    );
    let moved = json!({ "selection": all, "priority": 9, "actor": "me" });
    let moved = caller.ask("scheduler", "reprioritise", moved).await?;
    ensure!(
        moved["changes"]
            .as_array()
            .is_some_and(|c| c.iter().all(|c| c["result"] == "reprioritised")),
        "{moved}"
    );
    let one = |id: &str| json!({ "selection": { "task_ids": [id] }, "actor": "me" });
    let now = caller.ask("scheduler", "retry", one("c1")).await?;
    ensure!(now["changes"][0]["result"] == "retrying_now", "{now}");
    ensure!(ended(&caller.client, "c1").await?["state"] == "TASK_STATE_COMPLETED");
    let again = caller.ask("scheduler", "retry", one("c1")).await?;
    let new = again["changes"][0]["new_task_id"].as_str().with_context(|| again.to_string())?;
    ensure!(ended(&caller.client, new).await?["retry_of"] == "c1");
    let ended_one = caller.ask("scheduler", "cancel", one("c2")).await?;
    ensure!(ended_one["changes"][0]["result"] == "cancelled", "{ended_one}");
    let cancelled = ended(&caller.client, "c2").await?;
    ensure!(
        cancelled["state"] == "TASK_STATE_CANCELLED" && cancelled["priority"] == 9,
        "{cancelled}"
    );
    Ok(())
}

async fn queues(caller: &mut Caller) -> anyhow::Result<()> {
    let queue = json!({ "queue": "default", "reason": "lunch", "actor": "me" });
    ensure!(caller.ask("scheduler", "pause", queue).await?["changed"] == true);
    let task = json!({ "task_id": "held", "executor": { "shell": { "argv": ["true"] } } });
    submit_json(&caller.client, &task).await?;
    let why = caller.ask("scheduler", "why", json!({ "task_id": "held" })).await?;
    ensure!(why["reasons"][0]["code"] == "paused", "{why}");
    let queues = caller.ask("scheduler", "queues", json!({})).await?;
    let queues = queues["queues"].as_array().context("no queues")?;
    let default = queues.iter().find(|q| q["name"] == "default").context("no default queue")?;
    ensure!(default["paused"] == true && default["pause_reason"] == "lunch", "{default}");
    ensure!(
        caller.ask("scheduler", "resume", json!({ "queue": "default" })).await?["changed"] == true
    );
    ensure!(ended(&caller.client, "held").await?["state"] == "TASK_STATE_COMPLETED");
    Ok(())
}

async fn dead(caller: &mut Caller) -> anyhow::Result<()> {
    publish(&caller.client, "task.created", "{broken").await?;
    let id = eventually("a dead letter", SOON, async || {
        let answer = admin(&caller.client, "registry", "list_dead", "").await.ok()?.ok()?;
        answer["letters"][0]["id"].as_str().map(str::to_owned)
    });
    let id = id.await?;
    let list = caller.ask("registry", "list_dead", json!({ "page_size": 1 })).await?;
    ensure!(list["letters"][0]["kind"] == "undecodable", "{list}");
    let letter = caller.ask("registry", "get_dead", json!({ "id": id })).await?;
    ensure!(letter["subject"] == "task.created", "{letter}");
    let counted =
        caller.ask("registry", "replay_dead", json!({ "all": true, "dry_run": true })).await?;
    ensure!(counted["matched"] == "1", "{counted}");
    Ok(())
}

async fn workers(caller: &mut Caller) -> anyhow::Result<()> {
    let list = caller.ask("worker_pool", "list_workers", json!({})).await?;
    let worker = &list["workers"][0]["worker"];
    ensure!(list["workers"][0]["queues"]["default"].is_u64(), "{list}");
    let drained = json!({ "worker": worker, "actor": "me" });
    let drained = caller.ask("worker_pool", "drain", drained).await?;
    ensure!(drained["accepted"] == true, "{drained}");
    Ok(())
}

#[tokio::test]
async fn nats_micro_discovers_every_service_with_its_endpoints() -> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    let client = nats(&dev).await?;
    let mut missing = BTreeMap::new();
    for (service, name, methods) in SERVICES {
        let pong = client.request(format!("$SRV.PING.{name}"), "".into()).await?;
        let pong: Value = serde_json::from_slice(&pong.payload)?;
        ensure!(pong["name"] == name && pong["version"].is_string(), "{pong}");
        let info = client.request(format!("$SRV.INFO.{name}"), "".into()).await?;
        let info: Value = serde_json::from_slice(&info.payload)?;
        let subjects: BTreeSet<_> = info["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|e| e["subject"].as_str())
            .collect();
        let absent =
            |method: &&&str| !subjects.contains(format!("admin.{service}.{method}").as_str());
        let absent: Vec<_> = methods.iter().filter(absent).collect();
        if !absent.is_empty() {
            missing.insert(name, format!("{absent:?} of {info}"));
        }
    }
    ensure!(missing.is_empty(), "{missing:?}");
    // Everyone answers a call to all, as `nats micro ls` makes it.
    let inbox = client.new_inbox();
    let mut pongs = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply("$SRV.PING", inbox, "".into()).await?;
    let mut names: BTreeSet<_> = SERVICES.iter().map(|(_, name, _)| (*name).to_owned()).collect();
    let all = async {
        while !names.is_empty() {
            let pong: Value =
                serde_json::from_slice(&pongs.next().await.context("no answer")?.payload)?;
            names.remove(pong["name"].as_str().unwrap_or_default());
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(SOON, all).await.context("a service does not answer $SRV.PING")??;
    let listed = cli(&dev, &["services"]).await?;
    for (_, name, _) in SERVICES {
        ensure!(listed.stdout.contains(name), "{name} is not in {listed:?}");
    }
    Ok(())
}
