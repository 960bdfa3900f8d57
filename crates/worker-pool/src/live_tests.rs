//! The service on a real nats-server, with real commands.

use std::{sync::Arc, time::Duration};

use async_nats::HeaderValue;
use bus::{Bus, ConnectOptions, Reader, endpoint};
use common::{
    error::ErrorCode,
    event::{Event, Kind},
    id::{QueueName, TaskId, TaskKey, Tenant},
    pb, subject,
};
use futures::StreamExt as _;
use prost::Message as _;
use runtime::Context;
use serde_json::{Value, json};
use testkit::NatsServer;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{Config, shell::tests::program};

const PATIENCE: Duration = Duration::from_secs(20);

async fn release(bus: &Bus, id: &str, spec: Value) {
    let request =
        json!({ "items": [{ "task_id": id, "attempt": 1, "queue": "default", "spec": spec }] });
    let request: pb::ExecutionRequest = serde_json::from_value(request).expect("a request");
    let queue = QueueName::parse("default").expect("a token");
    let id = TaskId::parse(id).expect("an id");
    let subject = subject::execution(&queue, &Tenant::default(), &id, 1);
    let stored = bus.jetstream().publish(subject, request.encode_to_vec().into()).await;
    stored.expect("sent").await.expect("stored");
}

/// The next event that ends an attempt.
async fn ending(log: &mut Reader) -> Kind {
    loop {
        let messages = timeout(PATIENCE, log.next(1)).await.expect("in time").expect("the log");
        for item in messages.into_iter().flat_map(|m| m.items) {
            match item.expect("an event") {
                Event::Task(event) if !matches!(event.kind, Kind::Started(_)) => return event.kind,
                Event::Task(_) | Event::Policy(_) => {}
            }
        }
    }
}

#[tokio::test]
async fn the_service_runs_commands_and_requests_and_leaves_when_it_is_told_to() {
    let server = NatsServer::start().expect("nats-server");
    let options = ConnectOptions { url: server.url(), name: "test".into(), credentials: None };
    let bus = bus::connect(&options).await.expect("a connection");
    bus::streams::ensure(&bus, bus::streams::StreamOptions::default()).await.expect("streams");
    let mut log = Reader::open(&bus, None).await.expect("the log");
    let hello = TaskKey::new(&Tenant::default(), &TaskId::parse("hello").expect("an id"));
    let mut outputs = bus.client().subscribe(subject::log(hello)).await.expect("output");

    let shutdown = CancellationToken::new();
    let clock = Arc::new(jetmill_sdk::SystemClock);
    let ctx = Context::new(bus.clone(), clock, shutdown.clone(), "box.1").named("worker-pool");
    let folder = tempfile::tempdir().expect("folder");
    let config = Config { executable: program(folder.path()), ..Config::default() };
    let health = ctx.health.clone();
    let mut service = JoinSet::new();
    service.spawn(crate::run(ctx, config));
    timeout(PATIENCE, health.wait_ready()).await.expect("it is ready in time");

    release(&bus, "hello", json!({ "executor": { "shell": { "script": "echo hello; exit 3" } } }))
        .await;
    let Kind::Retrying(body) = ending(&mut log).await else { panic!("exit 3 is tried again") };
    assert_eq!(body.error.expect("an error").code, "exit_3");
    assert!(body.resource_usage.expect("measured").cpu_seconds.is_some());
    let chunk = timeout(PATIENCE, outputs.next()).await.expect("in time").expect("output");
    let chunk = pb::LogChunk::decode(chunk.payload).expect("a chunk");
    assert!(String::from_utf8_lossy(&chunk.data).contains("hello") && chunk.last);

    let ask = json!({ "executor": { "nats": { "subject": "echo.here" } }, "input": { "a": 1 } });
    release(&bus, "alone", ask.clone()).await;
    let Kind::Retrying(body) = ending(&mut log).await else { panic!("nobody answers yet") };
    assert_eq!(body.error.expect("an error").code, "no_responders");
    let mut echo = bus.client().subscribe("echo.here").await.expect("a service");
    release(&bus, "answered", ask).await;
    let request = timeout(PATIENCE, echo.next()).await.expect("in time").expect("a request");
    let headers = request.headers.expect("headers");
    assert_eq!(headers.get("Jetmill-Task-Id").map(HeaderValue::as_str), Some("answered"));
    let reply = request.reply.expect("a reply subject");
    bus.client().publish(reply, request.payload).await.expect("sent");
    let Kind::Completed(body) = ending(&mut log).await else { panic!("it was answered") };
    assert_eq!(body.result.expect("a result").text, r#"{"a":1}"#);

    let listed: pb::ListWorkersResponse =
        endpoint::request(&bus, "worker_pool", "list_workers", &pb::ListWorkersRequest {})
            .await
            .expect("a list");
    assert_eq!(listed.workers.iter().map(|w| w.worker.as_str()).collect::<Vec<_>>(), ["box-1"]);
    let drain = |worker: &str| pb::DrainRequest { worker: worker.into(), actor: "test".into() };
    let unknown =
        endpoint::request::<_, pb::DrainResponse>(&bus, "worker_pool", "drain", &drain("x")).await;
    assert_eq!(unknown.expect_err("no such worker").code, ErrorCode::NotFound);
    let accepted: pb::DrainResponse =
        endpoint::request(&bus, "worker_pool", "drain", &drain("box-1")).await.expect("an answer");
    assert!(accepted.accepted);
    shutdown.cancel();
    let ended = timeout(PATIENCE, service.join_next()).await.expect("in time").expect("a service");
    ended.expect("no panic").expect("no error");
    assert_eq!(bus::heartbeat::list(&bus).await.expect("a list"), []);
}
