//! What several of these tests do: ask as any NATS client would, and run the command line.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::HeaderMap;
use serde_json::{Value, json};
use testkit::{Dev, Output, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::transport::Channel;

/// The patience of a test with what should take milliseconds.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A plain client of the platform's NATS server.
pub(crate) async fn nats(dev: &Dev) -> anyhow::Result<async_nats::Client> {
    async_nats::connect(&dev.addresses().nats).await.context("failed to connect to NATS")
}

/// Publishes as `nats pub` does, and waits until the log has it: its sequence.
pub(crate) async fn publish(
    client: &async_nats::Client,
    subject: &str,
    body: impl Into<Vec<u8>>,
) -> anyhow::Result<u64> {
    let reply = client.request(subject.to_owned(), body.into().into()).await?;
    let ack: Value = serde_json::from_slice(&reply.payload)?;
    ack["seq"].as_u64().with_context(|| format!("no PubAck on {subject}: {ack}"))
}

/// Asks a service in JSON, as `nats req admin.<service>.<method>` does; an error is its body with
/// the header's code as `status`.
pub(crate) async fn admin(
    client: &async_nats::Client,
    service: &str,
    method: &str,
    body: impl Into<Vec<u8>>,
) -> anyhow::Result<Result<Value, Value>> {
    let asked = client.request(format!("admin.{service}.{method}"), body.into().into());
    let reply = asked.await.with_context(|| format!("failed to ask {service}.{method}"))?;
    let mut answer: Value = serde_json::from_slice(&reply.payload)
        .with_context(|| format!("{service}.{method} does not answer in JSON"))?;
    let header = |name: &str| {
        reply.headers.as_ref().and_then(|h: &HeaderMap| h.get(name)).map(ToString::to_string)
    };
    let Some(status) = header("Nats-Service-Error-Code") else { return Ok(Ok(answer)) };
    ensure!(
        header("Nats-Service-Error").is_some(),
        "{service}.{method} has no error text: {answer}"
    );
    answer["status"] = json!(status);
    Ok(Err(answer))
}

/// Submits one task over NATS; the submission, or the error of it.
pub(crate) async fn submit_json(
    client: &async_nats::Client,
    task: &Value,
) -> anyhow::Result<Value> {
    let body = json!({ "tasks": [task] }).to_string();
    let mut answer = match admin(client, "registry", "submit", body).await? {
        Ok(answer) => answer,
        Err(error) => bail!("a submission was refused as a whole: {error}"),
    };
    Ok(answer["submissions"][0].take())
}

/// The task as the ledger shows it, through the command line: `jetmill get ID --json`.
pub(crate) async fn task(dev: &Dev, id: &str) -> anyhow::Result<Value> {
    cli_json(dev, &["get", id]).await
}

/// Waits until the task has ended: the task, by a request over NATS.
pub(crate) async fn ended(client: &async_nats::Client, id: &str) -> anyhow::Result<Value> {
    let body = json!({ "task_id": id }).to_string();
    let what = format!("the end of task {id}");
    let task = eventually(&what, 2 * SOON, async || {
        let task = admin(client, "registry", "get", body.clone()).await.ok()?.ok()?;
        let open = ["TASK_STATE_PENDING", "TASK_STATE_RUNNING"];
        (!open.contains(&task["state"].as_str()?)).then_some(task)
    });
    task.await
}

/// Runs a command to its end.
pub(crate) async fn cli(dev: &Dev, args: &[&str]) -> anyhow::Result<Output> {
    dev.cli(args).await
}

/// Runs a command with `--json` that must succeed: the one JSON value that it prints.
pub(crate) async fn cli_json(dev: &Dev, args: &[&str]) -> anyhow::Result<Value> {
    // Before the verb, so that it does not become part of a command after `--`.
    let all = [&["--json"], args].concat();
    let output = dev.cli(&all).await?;
    ensure!(output.status.success(), "{all:?} ended with {}: {}", output.status, output.stderr);
    serde_json::from_str(&output.stdout)
        .with_context(|| format!("{all:?} printed {}", output.stdout))
}

/// A connection to the platform's gRPC door.
pub(crate) async fn grpc(dev: &Dev) -> anyhow::Result<Channel> {
    let address = &dev.addresses().grpc;
    let url = if address.contains("://") { address.clone() } else { format!("http://{address}") };
    Channel::from_shared(url)?.connect().await.context("failed to connect to the gRPC door")
}

/// Asks the platform's HTTP port: the status and the body.
pub(crate) async fn http(address: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let mut stream =
        TcpStream::connect(address).await.context("failed to connect to the HTTP port")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.context("no answer")??;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    Ok((status.with_context(|| format!("no status in {answer:?}"))?, body))
}
