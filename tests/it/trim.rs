//! The log is kept within its bounds: what is over goes, what is open stays, and near the wall
//! nothing new is taken.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_nats::jetstream;
use serde_json::{Value, json};
use testkit::{Jetmill, NatsServer, Postgres, eventually};

use crate::support;

/// Trimming looks every five seconds, and so does the ledger say how far it is.
const TRIMMED: Duration = Duration::from_secs(60);

struct Site {
    nats: NatsServer,
    ledger: String,
    client: async_nats::Client,
    log_bytes_max: &'static str,
}

impl Site {
    async fn new(log_bytes_max: &'static str) -> anyhow::Result<Self> {
        let nats = NatsServer::start()?;
        let client = async_nats::connect(nats.url()).await?;
        let ledger = Postgres::shared()?.create_database().await?;
        Ok(Self { nats, ledger, client, log_bytes_max })
    }

    fn start(&self, service: &str, more: &[&str]) -> anyhow::Result<Jetmill> {
        let url = self.nats.url();
        let mut args = vec!["serve", service, "--nats-url", &url, "--http-addr", "127.0.0.1:0"];
        if service == "registry" {
            args.extend(["--ledger-url", &self.ledger]);
        }
        args.extend(more);
        let env = [
            ("JETMILL_NATS__LOG_BYTES_MAX", self.log_bytes_max),
            ("JETMILL_SCHEDULER__FINISHED_TASKS_MAX", "1000"),
            ("JETMILL_SCHEDULER__SNAPSHOT_EVERY_MESSAGES", "500"),
        ];
        Jetmill::spawn(&args, &env)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        eventually("registry and scheduler to answer", support::SOON, async || {
            let ask = |service: &'static str, method: &'static str| async move {
                support::admin(&self.client, service, method, "{}").await.is_ok_and(|a| a.is_ok())
            };
            (ask("registry", "stats").await && ask("scheduler", "queues").await).then_some(())
        })
        .await
    }

    async fn log(&self) -> anyhow::Result<jetstream::stream::Info> {
        let jetstream = jetstream::new(self.client.clone());
        Ok(jetstream.get_stream("TASKS").await?.cached_info().clone())
    }

    /// Work that another system ran and reports: created and ended, two messages each.
    async fn report(&self, from: usize, to: usize, padding: usize) -> anyhow::Result<()> {
        let text = "x".repeat(padding);
        for n in from..to {
            let created = json!({ "task_id": format!("e{n}"), "description": text });
            let acked = self.client.publish("task.created", created.to_string().into()).await;
            acked.context("failed to publish")?;
            let ended = json!({ "task_id": format!("e{n}") }).to_string();
            self.client.publish("task.completed", ended.into()).await?;
        }
        self.client.flush().await.context("failed to publish")
    }

    async fn get(&self, id: &str) -> anyhow::Result<Value> {
        let body = json!({ "task_id": id }).to_string();
        let answer = support::admin(&self.client, "registry", "get", body).await?;
        answer.map_err(|error| anyhow::anyhow!("{id}: {error}"))
    }
}

#[tokio::test]
async fn what_is_over_leaves_the_log_and_what_is_open_outlives_it() -> anyhow::Result<()> {
    let site = Site::new("64MiB").await?;
    let _registry = site.start("registry", &[])?;
    let mut scheduler = site.start("scheduler", &[])?;
    site.ready().await?;
    let shell = |id: &str, on: &[&str]| {
        json!({ "task_id": id, "queue": "later", "depends_on": on, "priority": 7,
                "executor": { "shell": { "argv": ["echo", id] } } })
    };
    for (id, on) in [("first", &[][..]), ("second", &["first"][..])] {
        let submitted = support::submit_json(&site.client, &shell(id, on)).await?;
        ensure!(submitted["error"].is_null(), "{submitted}");
    }
    site.report(0, 3_000, 10).await?;
    let first = eventually("the log to be trimmed", TRIMMED, async || {
        site.log().await.ok().map(|log| log.state.first_sequence).filter(|first| *first > 1_000)
    });
    let first = first.await?;

    // Without a snapshot a scheduler begins at the floor, with what was carried there.
    scheduler.kill9()?;
    let jetstream = jetstream::new(site.client.clone());
    jetstream.delete_object_store("SNAPSHOTS").await?;
    let _scheduler = site.start("scheduler", &[])?;
    site.ready().await?;
    let why = json!({ "task_id": "second" }).to_string();
    let waits = eventually("the new scheduler to lead", support::SOON, async || {
        let answer = support::admin(&site.client, "scheduler", "why", why.clone()).await.ok()?;
        answer.ok().filter(|answer| answer["reasons"][0]["code"] == "dependency")
    });
    waits.await.context("the second task waits for the first")?;
    let _workers = site.start("worker-pool", &["--queues", "later=1"])?;
    for id in ["first", "second"] {
        let done = support::ended(&site.client, id).await?;
        ensure!(done["state"] == "TASK_STATE_COMPLETED" && done["priority"] == 7, "{done}");
        ensure!(done["result"]["stdout"] == format!("{id}\n"), "{done}");
    }
    ensure!(site.get("e2999").await?["state"] == "TASK_STATE_COMPLETED");
    ensure!(site.get("e1").await?["state"] == "TASK_STATE_COMPLETED", "the ledger keeps it");
    ensure!(site.log().await?.state.first_sequence >= first);
    Ok(())
}

#[tokio::test]
async fn near_the_wall_nothing_new_is_taken_and_work_in_progress_goes_on() -> anyhow::Result<()> {
    let site = Site::new("4MiB").await?;
    let _registry = site.start("registry", &[])?;
    let _scheduler = site.start("scheduler", &[])?;
    site.ready().await?;
    // Nothing of this can be trimmed: it is all still to be done.
    let wait = |n: usize| {
        json!({ "task_id": format!("w{n}"), "queue": "later", "description": "x".repeat(4_000),
                "executor": { "shell": { "argv": ["true"] } } })
    };
    let mut accepted = 0;
    while site.log().await?.state.bytes < (4 << 20) / 100 * 81 {
        let tasks = (accepted..accepted + 20).map(wait).collect::<Vec<_>>();
        let body = json!({ "tasks": tasks }).to_string();
        let answer = support::admin(&site.client, "registry", "submit", body).await?;
        ensure!(answer.is_ok(), "{answer:?}");
        accepted += 20;
    }
    let closed = eventually("intake to close", TRIMMED, async || {
        let subjects = site.log().await.ok()?.config.subjects;
        (!subjects.iter().any(|subject| subject.starts_with("task.created"))).then_some(())
    });
    closed.await?;
    let body = json!({ "tasks": [wait(999_999)] }).to_string();
    let refused = support::admin(&site.client, "registry", "submit", body).await?;
    ensure!(refused.as_ref().is_err_and(|e| e["code"] == "exhausted"), "{refused:?}");
    let log = site.log().await?;
    ensure!(log.state.bytes < 4 << 20, "the log is full: {} bytes", log.state.bytes);
    let _workers = site.start("worker-pool", &["--queues", "later=8"])?;
    let reopened = eventually("the work to be done and intake to open", 2 * TRIMMED, async || {
        let submitted = support::submit_json(&site.client, &wait(1_000_000)).await.ok()?;
        submitted["error"].is_null().then_some(())
    });
    reopened.await?;
    let done = support::ended(&site.client, &format!("w{}", accepted - 1)).await?;
    ensure!(done["state"] == "TASK_STATE_COMPLETED", "{done}");
    Ok(())
}
