//! The engine on a real nats-server: what it puts into the log for what it takes off a queue.

use std::{
    collections::VecDeque,
    process::{Child, Command, Stdio},
    time::Duration,
};

use async_nats::jetstream::AckKind;
use bus::{Bus, ConnectOptions, Reader};
use common::{
    event::{Event, Kind, TaskEvent},
    id::{QueueName, TaskId, Tenant, WorkerName},
    lifecycle::Cause,
    limits, pb, subject,
};
use futures::StreamExt as _;
use prost::Message as _;
use serde_json::{Value, json};
use testkit::NatsServer;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{HandlerContext, HandlerError, Worker};

const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    bus: Bus,
    log: Reader,
    read: VecDeque<TaskEvent>,
    worker: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
    server: NatsServer,
}

fn queue() -> QueueName {
    QueueName::parse("handlers").expect("a token")
}

async fn slow(ctx: HandlerContext) -> Result<Value, HandlerError> {
    ctx.log("waits");
    ctx.progress(0.5, "half");
    ctx.cancelled().await;
    Ok(json!("stopped"))
}

fn one_second() -> pb::ResourceUsage {
    pb::ResourceUsage { cpu_seconds: Some(1.0), ..pb::ResourceUsage::default() }
}

/// Says how far it is again and again, and always that it has used nothing more.
async fn measures(ctx: HandlerContext) -> Result<Value, HandlerError> {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let mut rows = 0.0;
    while !ctx.cancellation().is_cancelled() {
        ticks.tick().await;
        rows += 1.0;
        ctx.counters([("rows", rows)]);
        ctx.used(if rows < 2.0 { one_second() } else { pb::ResourceUsage::default() });
    }
    Ok(json!("stopped"))
}

impl Bench {
    async fn new() -> Self {
        let server = NatsServer::start().expect("nats-server");
        let options = ConnectOptions { url: server.url(), name: "test".into(), credentials: None };
        let bus = bus::connect(&options).await.expect("a connection");
        bus::streams::ensure(&bus, bus::streams::StreamOptions::default()).await.expect("streams");
        let log = Reader::open(&bus, None).await.expect("the log");
        let (worker, shutdown) = (JoinSet::new(), CancellationToken::new());
        Self { bus, log, read: VecDeque::new(), worker, shutdown, server }
    }

    fn start(&mut self) {
        let worker = Worker::builder(self.bus.clone())
            .name(WorkerName::parse("w1").expect("a token"))
            .queue(queue(), 4)
            .drain_timeout(Duration::from_millis(50))
            .handler("double", |ctx: HandlerContext| async move { Ok(2 * ctx.input::<i64>()?) })
            .handler("slow", slow)
            .handler("measures", measures)
            .snapshot_every(limits::SNAPSHOT_EVERY_MIN)
            .handler("refuses", |_| async {
                Err::<Value, _>(HandlerError::permanent("no_stock", "there is none"))
            })
            .handler("panics", |ctx: HandlerContext| async move {
                Ok(ctx.input::<Vec<i64>>().unwrap_or_default()[0])
            });
        self.worker.spawn(worker.run(self.shutdown.clone()));
    }

    async fn release(&self, items: Vec<Value>) {
        let request = json!({ "items": items });
        let request: pb::ExecutionRequest = serde_json::from_value(request).expect("a request");
        self.put(&request.items[0].task_id, request.encode_to_vec()).await;
    }

    async fn release_json(&self, items: &[Value]) {
        let id = items[0]["task_id"].as_str().expect("an id");
        self.put(id, json!({ "items": items }).to_string().into()).await;
    }

    async fn put(&self, id: &str, body: Vec<u8>) {
        let id = TaskId::parse(id).expect("an id");
        let subject = subject::execution(&queue(), &Tenant::default(), &id, 1);
        let stored = self.bus.jetstream().publish(subject, body.into()).await;
        stored.expect("sent").await.expect("stored");
    }

    /// The next events of the log that tell how something ended, as lines.
    async fn endings(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            lines.push(line(&self.next(is_ending).await));
        }
        lines.sort();
        lines
    }

    async fn next(&mut self, wanted: fn(&Kind) -> bool) -> TaskEvent {
        loop {
            while let Some(event) = self.read.pop_front() {
                if wanted(&event.kind) {
                    return event;
                }
            }
            let messages =
                timeout(PATIENCE, self.log.next(1)).await.expect("in time").expect("the log");
            for item in messages.into_iter().flat_map(|m| m.items) {
                if let Ok(Event::Task(event)) = item {
                    self.read.push_back(event);
                }
            }
        }
    }

    /// Asks for the end of the first attempt of a task.
    async fn stop(&self, id: &str) {
        let stop = json!({
            "attempts": [{ "tenant": "default", "task_id": id, "attempt": 1 }],
            "reason": "by hand",
        });
        self.bus.client().publish(subject::STOP, stop.to_string().into()).await.expect("sent");
    }

    async fn left(mut self) {
        let ended = timeout(PATIENCE, self.worker.join_next()).await.expect("in time");
        ended.expect("a worker").expect("no panic").expect("no error");
        let listed = bus::heartbeat::list(&self.bus).await.expect("the list");
        assert_eq!(listed, [], "a worker that left is not listed");
        let mut queue = bus::streams::queue_consumer(&self.bus, &queue()).await.expect("the queue");
        let info = queue.info().await.expect("its state");
        assert_eq!((info.num_pending, info.num_ack_pending), (0, 0), "everything is settled");
    }
}

fn is_ending(kind: &Kind) -> bool {
    !matches!(kind, Kind::Started(_) | Kind::Progress(_))
}

fn line(event: &TaskEvent) -> String {
    let text = |json: &Option<pb::Json>| json.as_ref().map_or(String::new(), |j| j.text.clone());
    let code = |error: &Option<pb::TaskError>| error.clone().unwrap_or_default().code;
    let rest = match &event.kind {
        Kind::Completed(b) => format!("{} {}", b.attempt, text(&b.result)),
        Kind::Failed(b) => {
            format!("{} {} {}", b.attempt, Cause::from_pb(b.cause()).as_str(), code(&b.error))
        }
        Kind::Retrying(b) => format!("{} {}", b.attempt, code(&b.error)),
        Kind::Cancelled(b) => format!("{} {} {}", b.attempt, b.reason, text(&b.result)),
        Kind::Lost(b) => format!("{} {}", b.attempt, b.reason),
        Kind::Returned(b) => format!("{} {}", b.attempt, b.reason),
        other @ (Kind::Created(_)
        | Kind::Started(_)
        | Kind::Progress(_)
        | Kind::Updated(_)
        | Kind::Snapshot(_)
        | Kind::Skipped(_)
        | Kind::CancelRequested(_)
        | Kind::Reprioritised(_)
        | Kind::Expedited(_)
        | Kind::Carried(_)
        | Kind::Resolved(_)) => format!("{other:?}"),
    };
    format!("{} {} {rest}", event.id, event.kind.word())
}

fn item(id: &str, handler: &str, input: &Value) -> Value {
    json!({
        "task_id": id, "attempt": 1, "queue": "handlers",
        "spec": { "executor": { "worker": { "handler": handler } }, "input": input },
    })
}

#[tokio::test]
async fn singles_and_groups_run_and_every_ending_is_told() {
    let mut bench = Bench::new().await;
    let mut outcomes = bench.bus.client().subscribe("outcomes.here").await.expect("a listener");
    let mut first = item("a", "double", &json!(21));
    first["spec"]["notify"] = json!("outcomes.here");
    bench.release(vec![first]).await;
    bench.start();
    assert_eq!(bench.endings(1).await, ["a completed 1 42"]);
    let outcome = timeout(PATIENCE, outcomes.next()).await.expect("in time").expect("an outcome");
    let outcome = pb::Outcome::decode(outcome.payload).expect("an outcome");
    assert_eq!((outcome.task_id.as_str(), outcome.state()), ("a", pb::TaskState::Completed));

    let group = vec![
        item("b", "double", &json!("text")),
        item("c", "panics", &Value::Null),
        item("d", "refuses", &Value::Null),
        item("e", "nobody", &Value::Null),
        item("f", "double", &json!(4)),
    ];
    bench.release(group).await;
    let expected = [
        "b failed 1 rejected bad_input",
        "c retrying 1 handler_panicked",
        "d failed 1 rejected no_stock",
        "e retrying 1 no_handler",
        "f completed 1 8",
    ];
    assert_eq!(bench.endings(5).await, expected);
    bench.shutdown.cancel();
    bench.left().await;
}

#[tokio::test]
async fn running_work_is_listed_stopped_by_name_and_handed_back() {
    let mut bench = Bench::new().await;
    bench.start();
    for id in ["cancelled", "returned"] {
        bench.release(vec![item(id, "slow", &Value::Null)]).await;
        let progress = bench.next(|kind| matches!(kind, Kind::Progress(_))).await;
        assert_eq!(progress.id.as_str(), id);
    }
    bench.stop("cancelled").await;
    assert_eq!(bench.endings(1).await, ["cancelled cancelled 1 by hand \"stopped\""]);

    let ask = json!({ "worker": "w1", "actor": "test" }).to_string();
    let reply = bench.bus.client().request(subject::DRAIN, ask.into()).await.expect("an answer");
    let reply: Value = serde_json::from_slice(&reply.payload).expect("json, as it was asked");
    assert_eq!(reply, json!({ "accepted": true, "running": 1 }));
    assert_eq!(bench.endings(1).await, ["returned returned 1 the worker leaves"]);
    bench.left().await;
}

#[tokio::test]
async fn an_attempt_waits_for_its_large_input_while_the_store_is_away() {
    let mut bench = Bench::new().await;
    let jetstream = bench.bus.jetstream().clone();
    let store = jetstream.get_object_store(subject::OBJECTS).await.expect("the store");
    let put = store.put("large", &mut "21".as_bytes()).await.expect("stored");
    jetstream.delete_object_store(subject::OBJECTS).await.expect("deleted");
    bench.start();
    let place = json!({ "name": "large", "bytes": 2, "digest": put.digest });
    for (id, run) in [("waits", "1m"), ("gives_up", "100ms")] {
        let mut item = item(id, "double", &Value::Null);
        let spec = item["spec"].as_object_mut().expect("a spec");
        spec.remove("input");
        spec.insert("input_object".into(), place.clone());
        spec.insert("timeouts".into(), json!({ "run": run }));
        bench.release(vec![item]).await;
    }
    assert_eq!(bench.endings(1).await, ["gives_up retrying 1 timeout"]);
    bus::streams::ensure(&bench.bus, bus::streams::StreamOptions::default())
        .await
        .expect("streams");
    let store = jetstream.get_object_store(subject::OBJECTS).await.expect("the store");
    store.put("large", &mut "21".as_bytes()).await.expect("stored");
    assert_eq!(bench.endings(1).await, ["waits completed 1 42"]);
    bench.shutdown.cancel();
    bench.left().await;
}

#[tokio::test]
async fn a_running_attempt_says_what_it_has_used_so_far_and_says_it_once() {
    let mut bench = Bench::new().await;
    bench.start();
    bench.release(vec![item("m", "measures", &Value::Null)]).await;
    let (mut far, mut snapshots) = (Vec::new(), Vec::new());
    while far.len() < 3 {
        let event = bench.next(|kind| !matches!(kind, Kind::Started(_))).await;
        if let Kind::Progress(body) = event.kind {
            far.push(body.counters.expect("counters").to_value());
        } else if let Kind::Snapshot(body) = event.kind {
            snapshots.push((body.attempt, body.resource_usage));
        }
    }
    // A second has passed, ten times the pause between two snapshots.
    assert_eq!(snapshots, [(1, Some(one_second()))]);
    assert!(
        far.windows(2).all(|pair| pair[0]["rows"].as_f64() < pair[1]["rows"].as_f64()),
        "{far:?}"
    );
    bench.stop("m").await;
    let end = bench.next(|kind| !matches!(kind, Kind::Started(_) | Kind::Progress(_))).await;
    let Kind::Cancelled(end) = end.kind else { panic!("{:?} was said", end.kind) };
    assert_eq!(end.resource_usage, Some(one_second()), "its end does not say it");
    bench.shutdown.cancel();
    bench.left().await;
}

#[tokio::test]
async fn an_attempt_that_reaches_a_limit_is_ended() {
    let mut bench = Bench::new().await;
    bench.start();
    for (id, timeouts) in [
        ("run", json!({ "run": "100ms" })),
        ("silent", json!({ "heartbeat": "100ms" })),
        ("total", json!({ "total": "1h" })),
        ("late", json!({ "total": "100ms" })),
    ] {
        let mut item = item(id, "slow", &Value::Null);
        item["spec"]["timeouts"] = timeouts;
        if id == "total" {
            item["created_at"] = json!("2001-01-01T00:00:00Z");
        }
        bench.release(vec![item]).await;
    }
    let expected = [
        "late failed 1 timeout timeout",
        "run retrying 1 timeout",
        "silent retrying 1 heartbeat_timeout",
        "total failed 1 timeout timeout",
    ];
    assert_eq!(bench.endings(4).await, expected);
    bench.shutdown.cancel();
    bench.left().await;
}

#[tokio::test]
async fn what_was_delivered_before_is_not_run() {
    let mut bench = Bench::new().await;
    bench.release(vec![item("single", "double", &json!(1))]).await;
    bench.release(vec![item("g1", "double", &json!(1)), item("g2", "double", &json!(1))]).await;
    bench.put("junk", b"{".to_vec()).await;
    let consumer = bus::streams::queue_consumer(&bench.bus, &queue()).await.expect("the queue");
    let mut taken = consumer.fetch().max_messages(10).messages().await.expect("messages");
    while let Some(message) = taken.next().await {
        message.expect("a message").ack_with(AckKind::Nak(None)).await.expect("given back");
    }
    bench.start();
    let expected = [
        "g1 returned 1 its group was delivered again",
        "g2 returned 1 its group was delivered again",
        "single lost 1 delivered again",
    ];
    assert_eq!(bench.endings(3).await, expected);
    bench.shutdown.cancel();
    bench.left().await;
}

/// Ends with the test, also with one that fails.
struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_python(bench: &Bench) -> Python {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let started = Command::new("python3")
        .arg(format!("{root}/examples/python-worker/worker.py"))
        .args(["--url", &bench.server.url(), "--queue", "handlers", "--name", "w1"])
        .env("PYTHONPATH", format!("{root}/.tools/python"))
        .stdout(Stdio::null())
        .spawn();
    Python(started.expect("python3; nats-py comes with `make tools`"))
}

#[tokio::test]
async fn the_worker_in_python_speaks_the_same_protocol() {
    let mut bench = Bench::new().await;
    bench.release_json(&[item("again", "wordcount", &json!({ "text": "" }))]).await;
    let consumer = bus::streams::queue_consumer(&bench.bus, &queue()).await.expect("the queue");
    let mut taken = consumer.fetch().max_messages(10).messages().await.expect("messages");
    while let Some(message) = taken.next().await {
        message.expect("a message").ack_with(AckKind::Nak(None)).await.expect("given back");
    }
    let mut python = start_python(&bench);
    assert_eq!(bench.endings(1).await, ["again lost 1 delivered again"]);
    let listed = bus::heartbeat::list(&bench.bus).await.expect("readable heartbeats");
    assert_eq!((listed.len(), listed[0].encoding.as_str()), (1, "json"));

    let mut outcomes = bench.bus.client().subscribe("outcomes.here").await.expect("a listener");
    let mut first = item("a", "wordcount", &json!({ "text": "to be or not" }));
    first["spec"]["notify"] = json!("outcomes.here");
    bench.release_json(&[first]).await;
    let result = json!({ "lines": 0, "words": 4, "characters": 12 });
    let ended = bench.endings(1).await.remove(0);
    let (line, text) = ended.split_at("a completed 1 ".len());
    assert_eq!(line, "a completed 1 ");
    assert_eq!(serde_json::from_str::<Value>(text).expect("json"), result);
    let outcome = timeout(PATIENCE, outcomes.next()).await.expect("in time").expect("an outcome");
    let outcome: pb::Outcome = serde_json::from_slice(&outcome.payload).expect("an outcome");
    assert_eq!(outcome.state(), pb::TaskState::Completed);

    let gone = json!({ "code": "gone", "retryable": false });
    let group =
        [item("b", "fail", &json!({})), item("c", "fail", &gone), item("d", "nobody", &json!(1))];
    bench.release_json(&group).await;
    let expected =
        ["b retrying 1 told_to_fail", "c failed 1 rejected gone", "d retrying 1 no_handler"];
    assert_eq!(bench.endings(3).await, expected);
    bench.release(vec![item("e", "wordcount", &json!({ "text": "" }))]).await;
    assert_eq!(bench.endings(1).await, ["e returned 1 this worker reads JSON"]);

    let ask = json!({ "worker": "w1", "actor": "test" }).to_string();
    let reply = bench.bus.client().request(subject::DRAIN, ask.into()).await.expect("an answer");
    assert_eq!(reply.payload, r#"{"accepted": true, "running": 0}"#);
    let status = tokio::task::spawn_blocking(move || python.0.wait()).await;
    assert!(status.expect("no panic").expect("a status").success());
    bench.worker.spawn(async { Ok(()) });
    bench.left().await;
}
