//! The same way without the product: what bare `JetStream` does with one message a step.
//!
//! Per task three publishes with their `PubAck` and three consumed messages with their ack: accepted,
//! released, completed. A window bounds the tasks on their way. No fold, no ledger, no bundles.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream::{
    self, AckKind,
    consumer::{AckPolicy, PullConsumer, pull},
    stream::{Config, StorageType},
};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Serialize;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout},
};

const WINDOW: usize = 1_000;
const STREAM: &str = "BENCH_RAW";
const STEPS: [&str; 3] = ["bench.raw.accepted", "bench.raw.released", "bench.raw.completed"];
const STALL: Duration = Duration::from_secs(120);

/// What it did.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Raw {
    pub(super) tasks: usize,
    pub(super) window: usize,
    pub(super) seconds: f64,
    pub(super) tasks_per_second: f64,
}

/// Sends so many tasks of this size through all steps.
pub(super) async fn pipeline(url: &str, tasks: usize, bytes: usize) -> anyhow::Result<Raw> {
    let jetstream = connect(url).await?;
    let config = Config {
        name: STREAM.into(),
        subjects: vec!["bench.raw.*".into()],
        storage: StorageType::File,
        max_bytes: 1 << 30,
        ..Config::default()
    };
    jetstream.create_stream(config).await.context("failed to create a stream")?;
    let window = Arc::new(Semaphore::new(WINDOW));
    let mut steps = JoinSet::new();
    for (place, subject) in STEPS.into_iter().enumerate() {
        let own = connect(url).await?;
        let consumer = consumer(&own, subject).await?;
        let next = STEPS.get(place + 1).copied();
        steps.spawn(step(own, consumer, next, window.clone(), tasks));
    }
    let payload = Bytes::from(vec![b'x'; bytes]);
    let start = Instant::now();
    steps.spawn(produce(jetstream.clone(), payload, window, tasks));
    while let Some(ended) = timeout(STALL, steps.join_next()).await.context("it stands still")? {
        ended.context("a step panicked")??;
    }
    let took = start.elapsed();
    jetstream.delete_stream(STREAM).await.context("failed to delete a stream")?;
    Ok(Raw {
        tasks,
        window: WINDOW,
        seconds: (took.as_secs_f64() * 1e3).round() / 1e3,
        tasks_per_second: (tasks as f64 / took.as_secs_f64()).round(),
    })
}

/// A connection a role, as programs of their own would have.
async fn connect(url: &str) -> anyhow::Result<jetstream::Context> {
    Ok(jetmill_sdk::Client::connect(url).await?.bus().jetstream().clone())
}

async fn consumer(jetstream: &jetstream::Context, subject: &str) -> anyhow::Result<PullConsumer> {
    let config = pull::Config {
        durable_name: Some(subject.replace('.', "-")),
        filter_subject: subject.into(),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: 20_000,
        ..pull::Config::default()
    };
    jetstream.create_consumer_on_stream(config, STREAM).await.context("failed to create a consumer")
}

async fn publish(
    jetstream: &jetstream::Context,
    subject: &'static str,
    payload: Bytes,
) -> anyhow::Result<()> {
    jetstream
        .publish(subject, payload)
        .await
        .context("failed to publish")?
        .await
        .context("no PubAck")?;
    Ok(())
}

async fn produce(
    jetstream: jetstream::Context,
    payload: Bytes,
    window: Arc<Semaphore>,
    tasks: usize,
) -> anyhow::Result<()> {
    let [first, ..] = STEPS;
    futures::stream::iter(0..tasks)
        .map(|_| async {
            // Given back by the last step.
            window.acquire().await.context("the window is closed")?.forget();
            publish(&jetstream, first, payload.clone()).await
        })
        .buffer_unordered(WINDOW)
        .fold(Ok(()), async |all: anyhow::Result<()>, one| all.and(one))
        .await
}

async fn step(
    jetstream: jetstream::Context,
    consumer: PullConsumer,
    next: Option<&'static str>,
    window: Arc<Semaphore>,
    tasks: usize,
) -> anyhow::Result<()> {
    let messages = consumer.stream().max_messages_per_batch(500).messages().await;
    messages
        .context("failed to consume")?
        .take(tasks)
        .map(|message| async {
            let message = message.context("failed to consume")?;
            if let Some(next) = next {
                publish(&jetstream, next, message.payload.clone()).await?;
            }
            message
                .ack_with(AckKind::Ack)
                .await
                .map_err(|e| anyhow::anyhow!(e))
                .context("failed to ack")?;
            if next.is_none() {
                window.add_permits(1);
            }
            anyhow::Ok(())
        })
        .buffer_unordered(WINDOW)
        .fold(Ok(()), async |all: anyhow::Result<()>, one| all.and(one))
        .await
}
