//! gRPC from outside, by reflection alone: what `grpcurl` would do.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

mod client;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testkit::{Dev, Jetmill, eventually};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::support::{SOON, grpc};
use client::Stranger;

const REGISTRY: &str = "jetmill.v1.Registry";
const SCHEDULER: &str = "jetmill.v1.Scheduler";
const LIVE: &str = "jetmill.v1.Live";

#[tokio::test]
async fn a_client_that_knows_nothing_can_submit_ask_and_watch() -> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    let stranger = Stranger::connect(grpc(&dev).await?).await?;
    for service in [REGISTRY, SCHEDULER, "jetmill.v1.WorkerPool", LIVE, "grpc.health.v1.Health"] {
        ensure!(stranger.services.contains(service), "{service} is not in {:?}", stranger.services);
    }
    let task = json!({
        "task_id": "by-reflection",
        "title": "said by a stranger",
        "input": { "text": "{\"a\":1}" },
        "executor": { "shell": { "argv": ["cat"] } },
    });
    let submitted = stranger.call(REGISTRY, "Submit", json!({ "tasks": [task] })).await??;
    let submission = &submitted["submissions"][0];
    ensure!(submission["task_id"] == "by-reflection", "{submitted}");
    // 64-bit numbers are text in the JSON of protobuf.
    let sequence = submission["sequence"].as_str().context("no sequence")?;
    let asked = json!({ "task_id": "by-reflection", "min_sequence": sequence });
    let task = stranger.call(REGISTRY, "Get", asked).await??;
    ensure!(task["title"] == "said by a stranger", "{task}");

    let events = watched(&stranger, "by-reflection").await?;
    ensure!(events.first().is_some_and(|kind| kind == "created"), "{events:?}");
    ensure!(events.last().is_some_and(|kind| kind == "completed"), "{events:?}");

    let filter = "title = \"said by a stranger\"";
    let list =
        stranger.call(REGISTRY, "List", json!({ "filter": filter, "count": true })).await??;
    ensure!(list["total"] == "1", "{list}");
    ensure!(list["tasks"][0]["task_id"] == "by-reflection", "{list}");
    let why = stranger.call(SCHEDULER, "Why", json!({ "task_id": "by-reflection" })).await??;
    ensure!(why["reasons"][0]["code"] == "finished", "{why}");
    Ok(())
}

/// The kinds of a task's events, from its creation to its end.
async fn watched(stranger: &Stranger, id: &str) -> anyhow::Result<Vec<String>> {
    let mut stream = stranger.watch(LIVE, "Watch", json!({ "task_id": id })).await??;
    let mut kinds = Vec::new();
    let all = async {
        while let Some(event) = stream.message().await? {
            let event = client::to_json(&event)?;
            kinds.push(event["kind"].as_str().context("an event without a kind")?.to_owned());
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(SOON, all).await.context("the stream does not end with the task")??;
    Ok(kinds)
}

#[tokio::test]
async fn health_and_errors_are_what_grpc_clients_expect() -> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    is_healthy(&dev).await?;
    let stranger = Stranger::connect(grpc(&dev).await?).await?;

    let bad = json!({ "tasks": [{ "priority": 11, "delay": "-1s" }] });
    let status = stranger.call(REGISTRY, "Submit", bad).await?.err().context("it was accepted")?;
    ensure!(status.code() == Code::InvalidArgument, "{status}");
    let details = status.get_error_details();
    let request = details.bad_request().context("no google.rpc.BadRequest")?;
    let fields: Vec<_> = request.field_violations.iter().map(|v| v.field.as_str()).collect();
    ensure!(fields == ["priority", "delay"], "{fields:?}");
    let info = details.error_info().context("no google.rpc.ErrorInfo")?;
    ensure!((info.reason.as_str(), info.domain.as_str()) == ("invalid_argument", "jetmill"));

    let refused = refusal(&stranger, REGISTRY, "Get", json!({ "task_id": "nobody" })).await?;
    ensure!(refused.code() == Code::NotFound, "{refused}");
    let hint = refused.get_details_localized_message().context("no hint")?.message;
    ensure!(hint.contains("jetmill ls"), "{hint}");

    let refused = refusal(&stranger, REGISTRY, "List", json!({ "filter": "state =" })).await?;
    ensure!(refused.code() == Code::InvalidArgument, "{refused}");

    let submit = |title: &str| json!({ "tasks": [{ "task_id": "taken", "title": title }] });
    stranger.call(REGISTRY, "Submit", submit("one")).await??;
    let refused = refusal(&stranger, REGISTRY, "Submit", submit("other")).await?;
    ensure!(refused.code() == Code::AlreadyExists, "{refused}");
    Ok(())
}

async fn refusal(
    stranger: &Stranger,
    service: &str,
    method: &str,
    request: Value,
) -> anyhow::Result<tonic::Status> {
    let answer = stranger.call(service, method, request).await?;
    answer.err().with_context(|| format!("{service}.{method} was not refused"))
}

/// The gateway looks at the services now and then.
async fn is_healthy(dev: &Dev) -> anyhow::Result<()> {
    let health = HealthClient::new(grpc(dev).await?);
    for service in ["", REGISTRY, SCHEDULER] {
        let what = format!("{service:?} to be serving");
        let serving = eventually(&what, SOON, async || {
            let asked = HealthCheckRequest { service: service.to_owned() };
            let answer = health.clone().check(asked).await.ok()?.into_inner();
            (answer.status() == ServingStatus::Serving).then_some(())
        });
        serving.await?;
    }
    Ok(())
}
