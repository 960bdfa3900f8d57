//! Services as separate processes against one nats-server and PostgreSQL.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use gateway::client::RegistryClient;
use jetmill_sdk::{
    Client, Task, TaskId, Tenant,
    pb::{self, Cause, TaskState},
};
use serde_json::Value;
use testkit::{Jetmill, NatsServer, Postgres, eventually};
use tonic::transport::Channel;

/// A lease that is not given back lapses first.
const TAKE_OVER: Duration = Duration::from_secs(30);
const EXIT: Duration = Duration::from_secs(15);

/// A place where services run.
struct Site {
    nats: NatsServer,
    ledger: String,
    processes: BTreeMap<&'static str, Jetmill>,
}

impl Site {
    /// Starts a service in a process of its own.
    fn start(&mut self, name: &'static str, service: &str) -> anyhow::Result<()> {
        let url = self.nats.url();
        let mut args = vec!["serve", service, "--nats-url", &url, "--name", name];
        args.extend(["--http-addr", "127.0.0.1:0"]);
        match service {
            "registry" => args.extend(["--ledger-url", &self.ledger]),
            "gateway" => args.extend(["--grpc-addr", "127.0.0.1:0"]),
            "worker-pool" => args.extend(["--queues", "default=2"]),
            _ => {}
        }
        let env = [("JETMILL_LOG__FORMAT", "json"), ("JETMILL_NATS__LOG_BYTES_MAX", "256MiB")];
        self.processes.insert(name, Jetmill::spawn(&args, &env)?);
        Ok(())
    }

    fn process(&mut self, name: &str) -> anyhow::Result<&mut Jetmill> {
        self.processes.get_mut(name).with_context(|| format!("no process {name}"))
    }

    /// Asks a process to end, and waits for it.
    async fn end(&mut self, name: &str) -> anyhow::Result<()> {
        let process = self.process(name)?;
        process.terminate()?;
        let status =
            process.wait_exit(EXIT).await.with_context(|| format!("{name} does not end"))?;
        ensure!(status.success(), "{name} ended with {status}: {}", process.stderr());
        self.processes.remove(name);
        Ok(())
    }

    /// Where the gateway says that it listens.
    async fn grpc(&mut self, name: &str) -> anyhow::Result<Channel> {
        let process = self.process(name)?;
        let address = eventually("the gateway's address", TAKE_OVER, async || {
            let log = process.stderr();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut serving = lines.filter(|line| line["message"] == "serving");
            let line = serving.next()?;
            let text = line["grpc"].as_str()?.trim_start_matches("Some(").trim_end_matches(')');
            Some(text.to_owned())
        });
        let url = format!("http://{}", address.await?);
        Ok(Channel::from_shared(url)?.connect().await?)
    }
}

#[tokio::test]
async fn services_in_processes_of_their_own_are_one_platform() -> anyhow::Result<()> {
    let ledger = Postgres::shared()?.create_database().await?;
    let mut site = Site { nats: NatsServer::start()?, ledger, processes: BTreeMap::new() };
    // In an order in which nothing that a service needs is there yet.
    for (name, service) in [
        ("gateway", "gateway"),
        ("pool-1", "worker-pool"),
        ("pool-2", "worker-pool"),
        ("scheduler-1", "scheduler"),
        ("scheduler-2", "scheduler"),
        ("registry", "registry"),
    ] {
        site.start(name, service)?;
    }
    let channel = site.grpc("gateway").await?;
    let client = eventually("every service", TAKE_OVER, async || {
        let client = Client::connect(&site.nats.url()).await.ok()?;
        let workers = client.list_workers(&pb::ListWorkersRequest {}).await.ok()?.workers;
        client.queues(&pb::QueuesRequest {}).await.ok()?;
        client.stats(&pb::StatsRequest::default()).await.ok()?;
        (workers.len() == 2).then_some(client)
    });
    let client = client.await?;
    graph(&client, "one").await.context("the first graph")?;
    ensure!(leaders(&client).await? == 1, "one scheduler leads, and the other is silent");

    // Whichever of the two leads: after this the other did.
    site.end("scheduler-1").await?;
    graph(&client, "two").await.context("a graph without the first scheduler")?;
    site.start("scheduler-3", "scheduler")?;
    site.process("scheduler-2")?.kill9()?;
    graph(&client, "three").await.context("a graph after the kill of the second scheduler")?;

    let mut registry = RegistryClient::new(channel);
    let asked = pb::ListRequest {
        filter: "state = completed".into(),
        count: true,
        ..pb::ListRequest::default()
    };
    let list = registry.list(asked).await?.into_inner();
    ensure!(list.total == Some(12), "{list:?}");
    let listed = Jetmill::cli(&site.nats.url(), &["ls", "--state", "failed"]).await?;
    ensure!(listed.stdout.matches("failed (dependency)").count() == 3, "{listed:?}");
    for name in ["gateway", "pool-1", "pool-2", "scheduler-3", "registry"] {
        site.end(name).await?;
    }
    Ok(())
}

/// Runs a diamond with a failing branch to its end.
async fn graph(client: &Client, run: &str) -> anyhow::Result<()> {
    let id = |name: &str| TaskId::parse(&format!("{run}-{name}"));
    let echo = |name: &str| Ok::<_, anyhow::Error>(Task::shell(["echo", name]).id(&id(name)?));
    let last = echo("last")?.depends_on(&id("left")?).depends_on(&id("right")?);
    let tasks = [
        // The end first: nobody knows yet what it waits for.
        last.depends_on_end(&id("after")?),
        echo("left")?.depends_on(&id("first")?),
        echo("right")?.depends_on(&id("first")?),
        Task::script("exit 3").max_attempts(1).id(&id("bad")?).depends_on(&id("first")?),
        echo("after")?.depends_on(&id("bad")?),
        echo("first")?,
    ];
    let specs = tasks.into_iter().map(Task::build).collect::<Result<Vec<_>, _>>()?;
    for submission in client.submit_all(specs).await {
        submission?;
    }
    for (name, state, cause) in [
        ("first", TaskState::Completed, Cause::Unspecified),
        ("left", TaskState::Completed, Cause::Unspecified),
        ("right", TaskState::Completed, Cause::Unspecified),
        ("bad", TaskState::Failed, Cause::Error),
        ("after", TaskState::Failed, Cause::Dependency),
        ("last", TaskState::Completed, Cause::Unspecified),
    ] {
        let outcome = client.wait(&Tenant::default(), &id(name)?, TAKE_OVER).await?;
        ensure!((outcome.state(), outcome.cause()) == (state, cause), "{name}: {outcome:?}");
    }
    Ok(())
}

/// How many schedulers answer: a standby has no endpoints.
async fn leaders(client: &Client) -> anyhow::Result<usize> {
    let url = client.bus().client().server_info();
    let address = format!("nats://127.0.0.1:{}", url.port);
    let listed = Jetmill::cli(&address, &["services", "--json"]).await?;
    let services = listed.stdout.lines().map(serde_json::from_str::<Value>);
    let services = services.collect::<Result<Vec<_>, _>>().context("no JSON")?;
    Ok(services.iter().filter(|service| service["name"] == "jetmill-scheduler").count())
}
