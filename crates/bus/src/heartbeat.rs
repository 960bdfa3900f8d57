//! Workers' signs of life: one key a worker, which goes by itself when the worker does.

use anyhow::Context as _;
use async_nats::jetstream::message::PublishMessage;
use common::{id::WorkerName, limits, pb, subject, wire};
use futures::StreamExt as _;
use prost::Message as _;

use crate::{Bus, streams};

/// Says that a worker lives. The key lasts for `WORKER_LOST_AFTER`; a KV put would make it permanent.
pub async fn put(bus: &Bus, heartbeat: &pb::Heartbeat) -> anyhow::Result<()> {
    let message = PublishMessage::build()
        .payload(heartbeat.encode_to_vec().into())
        .ttl(limits::WORKER_LOST_AFTER);
    let subject = format!("$KV.{}.{}", subject::WORKERS, heartbeat.worker);
    let ack =
        bus.jetstream().send_publish(subject, message).await.context("failed to send heartbeat")?;
    ack.await.context("failed to store heartbeat")?;
    Ok(())
}

/// Says that a worker has left.
pub async fn delete(bus: &Bus, worker: &WorkerName) -> anyhow::Result<()> {
    let bucket = streams::workers(bus).await?;
    bucket.delete(worker.as_str()).await.context("failed to delete heartbeat")
}

/// Reads a heartbeat, in protobuf or JSON.
pub fn decode(bytes: &[u8]) -> anyhow::Result<pb::Heartbeat> {
    if wire::is_json(None, bytes) {
        serde_json::from_slice(bytes).context("not a heartbeat")
    } else {
        pb::Heartbeat::decode(bytes).context("not a heartbeat")
    }
}

/// The workers that live, by name.
pub async fn list(bus: &Bus) -> anyhow::Result<Vec<pb::Heartbeat>> {
    let bucket = streams::workers(bus).await?;
    let mut names = bucket.keys().await.context("failed to list workers")?;
    let mut workers = Vec::new();
    while let Some(name) = names.next().await {
        let name = name.context("failed to list workers")?;
        if let Some(bytes) = bucket.get(&name).await.context("failed to read heartbeat")? {
            match decode(&bytes) {
                Ok(heartbeat) => workers.push(heartbeat),
                Err(error) => tracing::warn!(worker = name, %error, "unreadable heartbeat"),
            }
        }
    }
    workers.sort_by(|a, b| a.worker.cmp(&b.worker));
    Ok(workers)
}
