//! Doors that answer say what is wrong, and accept nothing.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use gateway::client::RegistryClient;
use jetmill_sdk::{Client, Task, pb};
use serde_json::{Value, json};
use testkit::{Dev, Jetmill};
use tonic::{
    Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel,
};
use tonic_prost::ProstCodec;

use crate::support::{admin, cli, grpc, nats};

/// A request whose tasks are any bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct RawSubmit {
    #[prost(bytes = "vec", repeated, tag = "1")]
    tasks: Vec<Vec<u8>>,
}

#[tokio::test]
async fn doors_that_answer_refuse_bad_input_with_the_reason() -> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    by_request(&dev).await.context("a request over NATS")?;
    by_command(&dev).await.context("the command line")?;
    by_grpc(&dev).await.context("gRPC")?;
    by_sdk(&dev).await.context("the SDK")?;
    let stats = admin(&nats(&dev).await?, "registry", "stats", "").await?;
    ensure!(stats.as_ref().is_ok_and(|s| s["total"].is_null() || s["total"] == "0"), "{stats:?}");
    super::still_works(&dev, "after").await
}

/// The error is the caller's, says all of this, and how to go on.
fn is_clear(error: &Value, says: &[&str]) -> anyhow::Result<()> {
    ensure!(error["code"] == "invalid_argument" && error["status"] == "400", "{error}");
    let helps = !error["hint"].as_str().unwrap_or_default().is_empty();
    let names = error["violations"].as_array().is_some_and(|all| !all.is_empty());
    ensure!(helps || names, "no help in {error}");
    let text = error.to_string();
    for word in says {
        ensure!(text.contains(word), "{word:?} is not in {text}");
    }
    Ok(())
}

async fn by_request(dev: &Dev) -> anyhow::Result<()> {
    let client = nats(dev).await?;
    for (spec, says) in super::bad_specs() {
        let body = json!({ "tasks": [spec] }).to_string();
        let answer = admin(&client, "registry", "submit", body).await?;
        let error = answer.err().with_context(|| format!("{says:?} was accepted"))?;
        is_clear(&error, says)?;
    }
    let text = |value: Value| value.to_string().into_bytes();
    let bodies: [(&str, &str, Vec<u8>, &[&str]); 10] = [
        ("registry", "submit", b"".to_vec(), &["tasks"]),
        ("registry", "submit", b"{broken".to_vec(), &["request"]),
        ("registry", "submit", text(json!({ "tasks": [] })), &["tasks"]),
        ("registry", "submit", text(json!({ "task": {} })), &["task"]),
        ("registry", "get", b"".to_vec(), &["task_id"]),
        ("registry", "list", text(json!({ "filter": "state = " })), &["filter"]),
        ("registry", "list", text(json!({ "page_size": 5_000 })), &["page_size"]),
        ("scheduler", "cancel", b"".to_vec(), &[]),
        (
            "scheduler",
            "reprioritise",
            text(json!({ "selection": { "task_ids": ["a"] }, "priority": 0 })),
            &["priority"],
        ),
        ("scheduler", "pause", text(json!({ "queue": "a b" })), &["queue"]),
    ];
    for (service, method, body, says) in bodies {
        let answer = admin(&client, service, method, body).await?;
        let error =
            answer.err().with_context(|| format!("{service}.{method} {says:?} was accepted"))?;
        is_clear(&error, says).with_context(|| format!("{service}.{method}"))?;
    }
    // A body that is no JSON is taken for protobuf, and so is the answer.
    let reply = client.request("admin.registry.submit", "hello".into()).await?;
    let status = reply.headers.as_ref().and_then(|h| h.get("Nats-Service-Error-Code"));
    ensure!(status.is_some_and(|status| status.as_str() == "400"), "{reply:?}");
    let huge = vec![b' '; 1024 * 1024 + 1];
    ensure!(client.request("admin.registry.submit", huge.into()).await.is_err());
    Ok(())
}

async fn by_command(dev: &Dev) -> anyhow::Result<()> {
    let file = dev.addresses().data_dir.with_file_name("bad.jsonl");
    for (spec, says) in super::bad_specs() {
        refuses_file(dev, &file, spec.to_string().as_bytes(), says).await?;
    }
    let huge = json!({ "description": "x".repeat(1024 * 1024 + 1) }).to_string();
    let ring =
        "{\"task_id\":\"a\",\"depends_on\":[\"b\"]}\n{\"task_id\":\"b\",\"depends_on\":[\"a\"]}";
    for (text, says) in [
        (b"{broken".as_slice(), &["line 1", "JSON"][..]),
        (b"{\"title\": \"\xff\"}", &["line 1"]),
        (b"[]", &["line 1"]),
        (b"", &["no tasks", "help:"]),
        (huge.as_bytes(), &["description"]),
        (ring.as_bytes(), &["a \u{2192} b", "help:"]),
    ] {
        refuses_file(dev, &file, text, says).await?;
    }
    for (args, says) in [
        (&["submit", "--priority", "11", "--", "true"][..], &["priority", "1..=10"][..]),
        (&["submit", "--delay", "soon", "--", "true"], &["--delay", "30s"]),
        (&["submit", "--run-at", "tomorrow", "--", "true"], &["--run-at"]),
        (&["submit", "--id", "me", "--depends-on", "me", "--", "true"], &["itself"]),
        (&["submit", "--input", "{broken", "--", "true"], &["input"]),
        (&["submit", "-f", "/nowhere"], &["/nowhere"]),
        (&["submit", "--queue", "a b", "--", "true"], &["--queue"]),
    ] {
        let ended = cli(dev, args).await?;
        ensure!(ended.status.code() == Some(2), "{args:?}: {ended:?}");
        for word in says {
            ensure!(ended.stderr.contains(word), "{word:?} is not said by {args:?}: {ended:?}");
        }
    }
    Ok(())
}

async fn refuses_file(dev: &Dev, file: &Path, text: &[u8], says: &[&str]) -> anyhow::Result<()> {
    fs::write(file, text)?;
    let path = file.to_str().context("the folder's name is no text")?;
    let ended = cli(dev, &["submit", "-f", path]).await?;
    ensure!(ended.status.code() == Some(2), "{says:?}: {ended:?}");
    for word in says {
        ensure!(ended.stderr.contains(word), "{word:?} is not in {}", ended.stderr);
    }
    Ok(())
}

async fn by_grpc(dev: &Dev) -> anyhow::Result<()> {
    let channel = grpc(dev).await?;
    let mut client = RegistryClient::new(channel.clone());
    let spec = pb::TaskSpec::default;
    let long = |bytes: usize| "x".repeat(bytes);
    for (spec, code, says) in [
        (pb::TaskSpec { priority: Some(0), ..spec() }, Code::InvalidArgument, "priority"),
        (pb::TaskSpec { task_id: long(129), ..spec() }, Code::InvalidArgument, "task_id"),
        (
            pb::TaskSpec { executor: Some(pb::Executor { kind: None }), ..spec() },
            Code::InvalidArgument,
            "executor",
        ),
        (
            pb::TaskSpec { metadata: Some(pb::Json { text: "{".into() }), ..spec() },
            Code::InvalidArgument,
            "metadata",
        ),
        (
            pb::TaskSpec { description: long(1024 * 1024 + 1), ..spec() },
            Code::InvalidArgument,
            "bytes",
        ),
        (pb::TaskSpec { description: long(5 * 1024 * 1024), ..spec() }, Code::OutOfRange, "large"),
    ] {
        let answer = client.submit(pb::SubmitRequest { tasks: vec![spec] }).await;
        let status = answer.err().with_context(|| format!("{says} was accepted"))?;
        ensure!(status.code() == code && status.message().contains(says), "{says}: {status}");
    }
    let empty =
        client.submit(pb::SubmitRequest::default()).await.err().context("it was accepted")?;
    ensure!(empty.code() == Code::InvalidArgument, "{empty}");
    // Field 5 is the title.
    for bytes in [b"\x2a\x02\xff\xff".to_vec(), b"\xff\xff\xff".to_vec()] {
        let status = raw(channel.clone(), bytes).await?.err().context("it was accepted")?;
        ensure!(!status.message().is_empty(), "{status:?}");
    }
    Ok(())
}

/// Sends a task as bytes.
async fn raw(channel: Channel, task: Vec<u8>) -> anyhow::Result<Result<(), Status>> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await?;
    let codec = ProstCodec::<RawSubmit, pb::SubmitResponse>::default();
    let path = PathAndQuery::from_static("/jetmill.v1.Registry/Submit");
    let request = Request::new(RawSubmit { tasks: vec![task] });
    Ok(grpc.unary(request, path, codec).await.map(drop))
}

async fn by_sdk(dev: &Dev) -> anyhow::Result<()> {
    let error = Task::shell(["true"]).priority(11).title("x".repeat(600)).build().err();
    let error = error.context("it was built")?;
    let fields: Vec<_> =
        error.violations.iter().map(|violation| violation.field.as_str()).collect();
    ensure!(fields == ["title", "priority"], "{fields:?}");
    let client = Client::connect(&dev.addresses().nats).await?;
    let nobody =
        client.result(&jetmill_sdk::Tenant::default(), &jetmill_sdk::TaskId::parse("x")?).await;
    ensure!(nobody.is_err_and(|error| !error.hint.is_empty()));
    Ok(())
}
