//! The executors that are not processes: `nats`, and handlers of the Rust SDK.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::StreamExt as _;
use jetmill_sdk::{
    HandlerError, TaskId,
    pb::{Cause, TaskState, event::Kind},
};
use serde_json::{Value, json};
use testkit::Jetmill;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
    task::JoinSet,
};

use crate::{
    rig::{Rig, gate, value},
    support::SOON,
};

/// A plain program that answers on a subject: its own payload back, with the task's id.
async fn answer(client: async_nats::Client, subject: &str) -> anyhow::Result<JoinSet<()>> {
    let mut requests = client.subscribe(subject.to_owned()).await?;
    client.flush().await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(request) = requests.next().await {
            let header = |name| request.headers.as_ref()?.get(name).map(ToString::to_string);
            let input: Value = serde_json::from_slice(&request.payload).unwrap_or_default();
            let id = header("Jetmill-Task-Id");
            let body = json!({ "input": input, "task": id, "attempt": header("Jetmill-Attempt") });
            let Some(reply) = request.reply else { continue };
            let _ = client.publish(reply, body.to_string().into()).await;
        }
    });
    Ok(tasks)
}

#[tokio::test]
async fn any_program_that_answers_on_a_subject_runs_tasks() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let client = async_nats::connect(&rig.url).await?;
    let _billing = answer(client.clone(), "billing.charge").await?;
    let task = |subject: &str, tries: u32, backoff: &str| {
        json!({
            "executor": { "nats": { "subject": subject } }, "input": { "cents": 5 },
            "retry": { "max_attempts": tries, "backoff": backoff, "factor": 1 },
        })
    };
    let served = rig.submit(task("billing.charge", 1, "1s")).await?;
    let nobody = rig.submit(task("billing.refund", 2, "10ms")).await?;
    let soon = rig.submit(task("billing.late", 1000, "100ms")).await?;

    let done = rig.completes(&served).await?;
    let expected = json!({ "input": { "cents": 5 }, "task": served.as_str(), "attempt": "1" });
    assert_eq!(value(done.result.as_ref()), expected);
    let usage = done.resource_usage.unwrap_or_default();
    assert!(usage.network_tx_mb > Some(0.0) && usage.network_rx_mb > usage.network_tx_mb);
    assert_eq!((usage.cpu_seconds, usage.memory_peak_mb), (None, None), "nobody can tell");

    let failed = rig.fails(&nobody, Cause::Error, "no_responders").await?;
    assert_eq!(failed.tries, 2);
    let retried = rig.history(&nobody).await?.into_iter().find_map(|entry| {
        let Kind::Retrying(body) = entry.event?.kind? else { return None };
        body.error
    });
    let error = retried.context("it was not tried again")?;
    assert_eq!(error.code, "no_responders");
    assert!(error.message.contains("billing.refund"), "{}", error.message);

    rig.until(&soon, "tried in vain", |task| task.tries >= 1).await?;
    let _late = answer(client, "billing.late").await?;
    assert!(rig.completes(&soon).await?.attempts >= 2);
    Ok(())
}

/// Answers one request after the other with what it was asked.
async fn serve() -> anyhow::Result<(std::net::SocketAddr, JoinSet<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 8192];
            let count = stream.read(&mut request).await.unwrap_or(0);
            let body = json!({ "asked": String::from_utf8_lossy(request.get(..count).unwrap_or_default()) }).to_string();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
            let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok((address, tasks))
}

#[tokio::test]
async fn scripts_and_requests_run_from_the_command_line() -> anyhow::Result<()> {
    let dev = Jetmill::dev()
        .env("JETMILL_WORKER_POOL__HTTP__ALLOW_PRIVATE", "127.0.0.1")
        .env("JETMILL_SECRET_HOOK", "s3cret-value");
    let rig = Rig::with(dev).await?;
    let (address, _server) = serve().await?;
    let url = format!("http://{address}/hook?a=b");
    let submit = async |args: &[&str]| {
        let args = [&["--json", "submit", "--wait", "--max-attempts", "1"], args].concat();
        let said = rig.cli(&args).await?;
        let outcome: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
        anyhow::Ok(outcome["result"].clone())
    };
    let secret = "Authorization=Bearer env:HOOK";
    let answer = submit(&["--http", &url, "--secret", secret, "--input", "{\"n\": 1}"]).await?;
    assert_eq!((&answer["status"], &answer["encoding"]), (&json!(200), &json!("json")));
    let asked = answer["body"]["asked"].as_str().unwrap_or_default();
    for part in ["POST /hook?a=b HTTP/1.1", "authorization: Bearer ***", "{\"n\":1}"] {
        assert!(asked.contains(part), "{part} is missing in {asked}");
    }
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/score.lua");
    let input = "{\"name\": \"a\", \"points\": [1, 2]}";
    let scored = submit(&["--id", "score", "--lua", example, "--input", input]).await?;
    assert_eq!(scored, json!({ "name": "a", "score": 3 }));
    assert!(rig.cli(&["logs", "score"]).await?.contains("scoring"));
    let usage = rig.task(&TaskId::parse("score")?).await?.resource_usage.unwrap_or_default();
    assert!(usage.cpu_seconds.is_some() && usage.memory_peak_mb.unwrap_or_default() > 0.0);
    let limited = ["--limits", "open_files=77", "--id", "files", "--script", "ulimit -n"];
    assert_eq!(submit(&limited).await?["stdout"], "77\n");
    Ok(())
}

fn handler(name: &str) -> Value {
    json!({
        "executor": { "worker": { "handler": name } }, "queue": "rust",
        "input": { "words": ["to", "be"] }, "retry": { "max_attempts": 1 },
    })
}

#[tokio::test]
async fn handlers_report_progress_see_their_cancellation_and_may_panic() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let (go, noticed) = (gate(), Arc::new(Notify::new()));
    let (progress, saw) = (go.clone(), noticed.clone());
    let worker = rig
        .worker("rust", 2, move |worker| {
            worker
                .handler("count", move |handler| {
                    let gate = progress.clone();
                    async move {
                        let input: Value = handler.input()?;
                        handler.log("counting");
                        handler.progress(0.5, "half of it");
                        gate.acquire().await?.forget();
                        Ok(json!({ "words": input["words"].as_array().map(Vec::len) }))
                    }
                })
                .handler("stop", move |handler| {
                    let saw = saw.clone();
                    async move {
                        handler.cancelled().await;
                        saw.notify_one();
                        Ok("on its way out")
                    }
                })
                .handler("panic", async |handler| {
                    let input: Value = handler.input()?;
                    Ok(input["absent"].as_str().expect("this handler always panics").to_owned())
                })
                .handler("refuse", async |_handler| {
                    Err::<(), _>(HandlerError::permanent("out_of_stock", "there is none left"))
                })
        })
        .await?;
    let ids = [rig.submit(handler("count")).await?, rig.submit(handler("stop")).await?];
    let [count, stop] = &ids;
    let half = rig.until(count, "half done", |task| task.progress == Some(0.5)).await?;
    assert_eq!(half.progress_message, "half of it");
    assert_eq!(half.worker, worker.name);
    assert_eq!(rig.why(count).await?, ["running"]);
    go.add_permits(1);
    let done = rig.completes(count).await?;
    assert_eq!(value(done.result.as_ref()), json!({ "words": 2 }));
    assert!(rig.cli(&["logs", count.as_str()]).await?.contains("counting"));

    rig.running(stop).await?;
    rig.cli(&["cancel", stop.as_str()]).await?;
    tokio::time::timeout(SOON, noticed.notified()).await.context("the handler was not told")?;
    rig.ends(stop, TaskState::Cancelled).await?;

    let panicked = rig.submit(handler("panic")).await?;
    let panicked = rig.fails(&panicked, Cause::Error, "handler_panicked").await?;
    let message = panicked.error.unwrap_or_default().message;
    assert!(message.contains("always panics"), "{message}");
    let refused = rig.submit(handler("refuse")).await?;
    rig.fails(&refused, Cause::Rejected, "out_of_stock").await?;
    let unknown = rig.submit(handler("unheard-of")).await?;
    rig.fails(&unknown, Cause::Error, "no_handler").await?;

    // The worker has survived all of it, and leaves in order.
    tokio::time::timeout(Duration::from_secs(10), worker.leave()).await??;
    let last = rig.submit(handler("count")).await?;
    rig.waits_for(&last, &["no_worker"]).await
}
