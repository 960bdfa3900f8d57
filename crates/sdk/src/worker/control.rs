//! What a worker is told from outside: end these attempts, or leave.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use async_nats::{Message, Subscriber};
use common::{pb, subject, wire};
use futures::StreamExt as _;
use serde::{Serialize, de::DeserializeOwned};

use super::{attempt::Stop, engine::Engine, executor::Executor};

/// The subscriptions, made before the worker shows itself.
pub(super) struct Ears {
    stops: Subscriber,
    drains: Subscriber,
}

pub(super) async fn listen<E: Executor>(engine: &Engine<E>) -> anyhow::Result<Ears> {
    let client = engine.bus.client();
    Ok(Ears {
        stops: client.subscribe(subject::STOP).await.context("failed to listen for stops")?,
        drains: client.subscribe(subject::DRAIN).await.context("failed to listen for drains")?,
    })
}

/// Does what it is told, for as long as the worker lives.
pub(super) async fn obey<E: Executor>(
    engine: Arc<Engine<E>>,
    mut ears: Ears,
) -> anyhow::Result<()> {
    loop {
        // Cancel-safe: a message that is not taken stays in its subscription.
        tokio::select! {
            Some(message) = ears.stops.next() => stop(&engine, &message),
            Some(message) = ears.drains.next() => drain(&engine, message).await,
            else => bail!("the connection to NATS was closed"),
        }
    }
}

/// Reads a message in protobuf or JSON.
fn read<T: prost::Message + Default + DeserializeOwned>(message: &Message) -> Option<T> {
    let body = &message.payload;
    let read = if wire::is_json(None, body) {
        serde_json::from_slice(body).map_err(|e| e.to_string())
    } else {
        T::decode(body.clone()).map_err(|e| e.to_string())
    };
    read.inspect_err(
        |error| tracing::warn!(subject = %message.subject, error, "unreadable message"),
    )
    .ok()
}

fn stop<E: Executor>(engine: &Engine<E>, message: &Message) {
    let Some(pb::Stop { attempts, reason, stale }) = read::<pb::Stop>(message) else { return };
    let why = if stale { Stop::Stale } else { Stop::Cancel(reason) };
    for attempt in attempts {
        if engine.running.stop(&attempt, why.clone()) {
            tracing::info!(
                task = attempt.task_id,
                attempt = attempt.attempt,
                stale,
                "told to stop"
            );
        }
    }
}

async fn drain<E: Executor>(engine: &Engine<E>, message: Message) {
    let Some(request) = read::<pb::DrainRequest>(&message) else { return };
    if request.worker != engine.options.name.as_str() {
        return;
    }
    tracing::info!(actor = request.actor, "told to leave");
    let response = pb::DrainResponse { accepted: true, running: engine.running.len() as u32 };
    engine.draining.cancel();
    let Some(reply) = message.reply else { return };
    let body = answer(&response, wire::is_json(None, &message.payload));
    if let Err(error) = engine.bus.client().publish(reply, body.into()).await {
        tracing::warn!(%error, "failed to answer a drain request");
    }
}

/// Answers in the form of the question.
fn answer<T: prost::Message + Serialize>(response: &T, json: bool) -> Vec<u8> {
    if json { serde_json::to_vec(response).unwrap_or_default() } else { response.encode_to_vec() }
}
