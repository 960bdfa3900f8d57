//! `kill -9` of every process in turn under a small load: everything that was accepted ends once.

mod dev;
mod load;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use jetmill_sdk::pb;
use serde_json::json;
use testkit::{Jetmill, NatsServer, Postgres, eventually};

use crate::rig::{View, gate};
use load::{HANDLERS, Load};

/// A lost worker is noticed after 10 s, an unmarked delivery comes again after 30 s.
const PATIENCE: Duration = Duration::from_secs(60);
const START: Duration = Duration::from_secs(30);
const SERVICES: [&str; 4] = ["worker-pool", "scheduler", "registry", "gateway"];

/// The platform as separate processes.
struct Cluster {
    nats: NatsServer,
    ledger: String,
    services: BTreeMap<&'static str, Jetmill>,
}

impl Cluster {
    async fn start() -> anyhow::Result<Self> {
        let (nats, ledger) = (NatsServer::start()?, Postgres::shared()?.create_database().await?);
        let mut cluster = Self { nats, ledger, services: BTreeMap::new() };
        for service in SERVICES {
            cluster.serve(service)?;
        }
        Ok(cluster)
    }

    fn serve(&mut self, service: &'static str) -> anyhow::Result<()> {
        let ports = ["--http-addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0"];
        let url = self.nats.url();
        let env = [
            ("JETMILL_NATS_URL", url.as_str()),
            ("JETMILL_LEDGER_URL", &self.ledger),
            ("JETMILL_NATS__LOG_BYTES_MAX", "256MiB"),
        ];
        let process = Jetmill::spawn(&[&["serve", service], &ports[..]].concat(), &env)?;
        self.services.insert(service, process);
        Ok(())
    }

    /// Waits until a service has made its way to NATS.
    async fn serves(&self, service: &'static str) -> anyhow::Result<()> {
        let process = self.services.get(service).context("it does not run")?;
        eventually(service, START, async || process.stderr().contains("serving").then_some(()))
            .await
    }

    fn kill(&mut self, service: &'static str) -> anyhow::Result<()> {
        let mut process = self.services.remove(service).context("it does not run")?;
        process.kill9()
    }

    /// The logs of everything, for a test that failed.
    fn logs(&self) -> String {
        let logs = self.services.iter().map(|(name, process)| {
            let stderr = process.stderr();
            let tail: Vec<_> = stderr.lines().rev().take(30).collect();
            format!("--- {name}\n{}\n", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
        });
        logs.collect()
    }
}

/// How many tasks have ended; nothing while nobody can say.
async fn ended(view: &View) -> Option<u64> {
    let stats = view.client.stats(&pb::StatsRequest::default()).await.ok()?;
    let over = ["completed", "failed", "cancelled", "skipped"];
    Some(over.iter().filter_map(|state| stats.by_state.get(*state)).sum())
}

async fn until_ended(view: &View, at_least: u64, patience: Duration) -> anyhow::Result<()> {
    eventually(&format!("{at_least} ended tasks"), patience, async || {
        ended(view).await.filter(|ended| *ended >= at_least)
    })
    .await
    .map(drop)
}

#[tokio::test]
async fn everything_ends_once_whichever_process_is_killed() -> anyhow::Result<()> {
    let mut cluster = Cluster::start().await?;
    let outcome = kill_each(&mut cluster).await;
    outcome.with_context(|| cluster.logs())
}

async fn kill_each(cluster: &mut Cluster) -> anyhow::Result<()> {
    let view = View::of(&cluster.nats.url()).await?;
    eventually("the scheduler and the registry", START, async || {
        let queues = view.client.queues(&pb::QueuesRequest {}).await.ok()?.queues;
        ended(&view).await?;
        queues.iter().any(|q| q.name == "default" && q.workers > 0).then_some(())
    })
    .await?;
    let gate = gate();
    let wait = gate.clone();
    let _hands = view
        .worker("hands", 20, move |worker| {
            worker.handler("wait", move |_handler| {
                let gate = wait.clone();
                async move {
                    gate.acquire().await?.forget();
                    Ok(json!({ "done": true }))
                }
            })
        })
        .await?;
    let load = Load::submit(&view).await?;

    // Each round lets some handlers go, and with them their dependents; then it kills one process
    // as soon as some of that work has ended, in the middle of the rest.
    let victims = SERVICES.map(Some).into_iter().chain([None]);
    let mut round = 0;
    for victim in victims {
        let before = eventually("the count", START, async || ended(&view).await).await?;
        gate.add_permits(HANDLERS / 6);
        round += 1;
        until_ended(&view, before + 5, PATIENCE).await.context(format!("in round {round}"))?;
        match victim {
            Some(service) => {
                cluster.kill(service)?;
                cluster.serve(service)?;
                cluster.serves(service).await?;
            }
            None => cluster.nats.restart()?,
        }
    }
    gate.add_permits(HANDLERS);
    until_ended(&view, load.len(), PATIENCE).await?;
    load.check(&view).await?;
    let status = cluster.services.iter_mut().map(|(name, process)| (name, process.stderr()));
    for (name, log) in status {
        assert!(!log.contains("panicked"), "{name} panicked:\n{log}");
    }
    Ok(())
}
