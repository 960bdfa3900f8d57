//! The admin API of the workers: any process of the pool answers for all of them.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::{RequestErrorKind, client::Request};
use bus::{Bus, endpoint::Endpoints, heartbeat};
use common::{
    error::{ApiError, ErrorCode},
    pb, subject, wire,
};
use prost::Message as _;
use runtime::Context;

/// How long a worker may take to say that it will leave.
const DRAIN_ANSWER_MAX: Duration = Duration::from_secs(5);

/// Answers until shutdown.
pub(crate) async fn serve(ctx: Context) -> anyhow::Result<()> {
    let (list, drains) = (ctx.bus.clone(), ctx.bus.clone());
    Endpoints::new("worker_pool")
        .on("list_workers", move |_: pb::ListWorkersRequest| {
            let bus = list.clone();
            async move { Ok(pb::ListWorkersResponse { workers: workers(&bus).await? }) }
        })
        .on("drain", move |request: pb::DrainRequest| {
            let bus = drains.clone();
            async move { drain(&bus, request).await }
        })
        .serve(&ctx.bus, ctx.shutdown.clone())
        .await
        .context("failed to serve the admin API of the worker pool")
}

async fn workers(bus: &Bus) -> Result<Vec<pb::Heartbeat>, ApiError> {
    heartbeat::list(bus).await.map_err(|e| {
        ApiError::new(ErrorCode::Unavailable, format!("cannot list the workers: {e:#}"))
            .hint("see `jetmill doctor`")
    })
}

/// Tells one worker to leave; any worker hears it, and the one that is meant answers.
async fn drain(bus: &Bus, request: pb::DrainRequest) -> Result<pb::DrainResponse, ApiError> {
    let name = request.worker.clone();
    let unknown = || {
        ApiError::new(ErrorCode::NotFound, format!("there is no worker {name:?}"))
            .hint("`jetmill worker ls` shows the workers there are")
    };
    let silent = |why: &str| {
        ApiError::new(ErrorCode::Unavailable, format!("the worker {name:?} {why}")).hint(
            "it may have just left, or speak a protocol without drain: see `jetmill worker ls`",
        )
    };
    if !workers(bus).await?.iter().any(|worker| worker.worker == name) {
        return Err(unknown());
    }
    // In JSON, which workers in every language read.
    let body = serde_json::to_vec(&request)
        .map_err(|e| ApiError::new(ErrorCode::Internal, format!("a request has no JSON: {e}")))?;
    let ask = Request::new().payload(body.into()).timeout(Some(DRAIN_ANSWER_MAX));
    match bus.client().send_request(subject::DRAIN, ask).await {
        Ok(reply) if wire::is_json(None, &reply.payload) => serde_json::from_slice(&reply.payload)
            .map_err(|e| silent(&format!("answered badly: {e}"))),
        Ok(reply) => pb::DrainResponse::decode(reply.payload)
            .map_err(|e| silent(&format!("answered badly: {e}"))),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => {
            Err(silent("does not listen"))
        }
        Err(error) if error.kind() == RequestErrorKind::TimedOut => Err(silent("did not answer")),
        Err(error) => Err(silent(&format!("could not be asked: {error}"))),
    }
}
