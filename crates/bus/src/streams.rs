//! The streams, buckets and consumers: made and brought up to date, idempotently.

use std::{collections::HashMap, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{AckPolicy, PullConsumer, pull},
    context::{CreateStreamError, CreateStreamErrorKind},
    kv, object_store,
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream},
};
use common::{id::QueueName, limits, subject};
use uuid::Uuid;

use crate::Bus;

/// Key of a stream's identity in its metadata.
const IDENTITY: &str = "jetmill.identity";
const MIB: i64 = 1024 * 1024;

/// What an operator may choose about the streams.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Copies of each stream: 1, or 3 on a cluster.
    pub replicas: usize,
    /// Most bytes of the log. A full log refuses new work.
    pub log_bytes_max: i64,
    /// Most bytes of the object store. A full one refuses large inputs and results.
    pub objects_bytes_max: i64,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            replicas: 1,
            log_bytes_max: limits::LOG_BYTES_MAX,
            objects_bytes_max: limits::OBJECTS_BYTES_MAX,
        }
    }
}

/// Makes every stream and bucket that is missing, and brings the others up to date but for the
/// options: these count when a stream is made.
pub async fn ensure(bus: &Bus, options: StreamOptions) -> anyhow::Result<()> {
    for config in [log(options), executions(options), logs(options), dead(options)] {
        ensure_stream(bus, config).await?;
    }
    let cursors = kv::Config {
        bucket: subject::CURSORS.into(),
        history: 1,
        num_replicas: options.replicas,
        ..kv::Config::default()
    };
    let workers = kv::Config {
        bucket: subject::WORKERS.into(),
        history: 1,
        // In memory it would be gone, bucket and all, with a restart of nats-server.
        storage: StorageType::File,
        limit_markers: Some(limits::WORKER_LOST_AFTER),
        num_replicas: options.replicas,
        ..kv::Config::default()
    };
    let leases = kv::Config {
        bucket: subject::LEASES.into(),
        history: 1,
        num_replicas: options.replicas,
        ..kv::Config::default()
    };
    let intake = kv::Config {
        bucket: subject::INTAKE.into(),
        history: 1,
        max_age: limits::INTAKE_HINT_AGE,
        num_replicas: options.replicas,
        ..kv::Config::default()
    };
    for config in [workers, leases, cursors, intake] {
        let bucket = config.bucket.clone();
        if bus.jetstream().get_key_value(&bucket).await.is_err() {
            bus.jetstream()
                .create_or_update_key_value(config)
                .await
                .with_context(|| format!("failed to create bucket {bucket}"))?;
        }
    }
    let snapshots = object_store::Config {
        bucket: subject::SNAPSHOTS.into(),
        num_replicas: options.replicas,
        ..object_store::Config::default()
    };
    let objects = object_store::Config {
        bucket: subject::OBJECTS.into(),
        description: Some("inputs and results that are too large for events".into()),
        max_bytes: options.objects_bytes_max,
        num_replicas: options.replicas,
        ..object_store::Config::default()
    };
    for config in [snapshots, objects] {
        let bucket = config.bucket.clone();
        if bus.jetstream().get_object_store(&bucket).await.is_err() {
            bus.jetstream()
                .create_object_store(config)
                .await
                .with_context(|| format!("failed to create the object store {bucket}"))?;
        }
    }
    Ok(())
}

async fn ensure_stream(bus: &Bus, config: Config) -> anyhow::Result<()> {
    let name = config.name.clone();
    let context = || format!("failed to create or update stream {name}");
    if bus.jetstream().get_stream(&name).await.is_err() {
        #[expect(clippy::disallowed_methods, reason = "a stream's identity is drawn once, here")]
        let identity = Uuid::new_v4().to_string();
        let metadata = HashMap::from([(IDENTITY.to_owned(), identity)]);
        match bus.jetstream().create_stream(Config { metadata, ..config.clone() }).await {
            Ok(_) => return Ok(()),
            // Another process was faster, and its identity stands.
            Err(error) if is_taken(&error) => {}
            Err(error) => return Err(error).with_context(context),
        }
    }
    // The identity is the stream's for life: only a new stream gets a new one.
    let stream = bus.jetstream().get_stream(&name).await.with_context(context)?;
    let found = &stream.cached_info().config;
    // Sizes and copies are whoever's who made it, or an operator's: a process that comes later and
    // was told other ones must not change them behind his back.
    let config = Config {
        metadata: found.metadata.clone(),
        max_bytes: found.max_bytes,
        num_replicas: found.num_replicas,
        // Whether it takes new work is for the leading scheduler to say.
        subjects: match name.as_str() {
            subject::TASKS => subject::log_subjects(subject::takes_new_work(&found.subjects)),
            _ => config.subjects,
        },
        ..config
    };
    bus.jetstream().update_stream(config).await.with_context(context)?;
    Ok(())
}

fn is_taken(error: &CreateStreamError) -> bool {
    matches!(error.kind(), CreateStreamErrorKind::JetStream(inner)
        if inner.error_code() == ErrorCode::STREAM_NAME_EXIST)
}

fn log(options: StreamOptions) -> Config {
    Config {
        name: subject::TASKS.into(),
        description: Some("every fact about every task".into()),
        subjects: subject::log_subjects(true),
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_bytes: options.log_bytes_max,
        num_replicas: options.replicas,
        allow_direct: true,
        ..Config::default()
    }
}

fn executions(options: StreamOptions) -> Config {
    Config {
        name: subject::EXECUTIONS.into(),
        description: Some("released attempts, one message a subject".into()),
        subjects: subject::EXECUTION_SUBJECTS.map(Into::into).to_vec(),
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages_per_subject: 1,
        max_bytes: 1024 * MIB,
        num_replicas: options.replicas,
        allow_direct: true,
        ..Config::default()
    }
}

fn logs(options: StreamOptions) -> Config {
    Config {
        name: subject::LOGS.into(),
        description: Some("output of attempts".into()),
        subjects: vec![subject::LOGS_ALL.into()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: limits::LOGS_AGE_MAX,
        max_bytes: 1024 * MIB,
        num_replicas: options.replicas,
        ..Config::default()
    }
}

fn dead(options: StreamOptions) -> Config {
    Config {
        name: subject::DEAD.into(),
        description: Some("what could not be read or did not end well".into()),
        subjects: vec![subject::DEAD_ALL.into()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: limits::DEAD_AGE_MAX,
        max_bytes: 256 * MIB,
        duplicate_window: Duration::from_secs(3600),
        num_replicas: options.replicas,
        allow_direct: true,
        ..Config::default()
    }
}

/// One of our streams; an error says how to make it.
pub async fn get(bus: &Bus, name: &str) -> anyhow::Result<Stream> {
    bus.jetstream().get_stream(name).await.with_context(|| {
        format!("failed to find stream {name}: `jetmill serve` makes it when it may, see `jetmill doctor`")
    })
}

/// The identity of the log: another log at the same address has another one.
pub async fn identity(bus: &Bus) -> anyhow::Result<Uuid> {
    identity_of(&get(bus, subject::TASKS).await?.cached_info().config.metadata)
}

pub(crate) fn identity_of(metadata: &HashMap<String, String>) -> anyhow::Result<Uuid> {
    let text = metadata
        .get(IDENTITY)
        .context("the stream TASKS was not made by Jetmill: it has no identity")?;
    text.parse().context("the identity of the stream TASKS is no UUID")
}

/// The sequence of the last message of the log.
pub async fn last_sequence(bus: &Bus) -> anyhow::Result<u64> {
    Ok(get(bus, subject::TASKS).await?.cached_info().state.last_sequence)
}

/// Whether the log takes new work.
pub async fn takes_new_work(bus: &Bus) -> anyhow::Result<bool> {
    Ok(subject::takes_new_work(&get(bus, subject::TASKS).await?.cached_info().config.subjects))
}

/// Opens or closes the log to new work. What is under way goes on.
pub async fn set_intake(bus: &Bus, open: bool) -> anyhow::Result<()> {
    let stream = get(bus, subject::TASKS).await?;
    let config =
        Config { subjects: subject::log_subjects(open), ..stream.cached_info().config.clone() };
    bus.jetstream().update_stream(config).await.context("failed to open or close intake")?;
    Ok(())
}

/// The durable consumer that the workers of a queue share.
pub async fn queue_consumer(bus: &Bus, queue: &QueueName) -> anyhow::Result<PullConsumer> {
    let stream = bus.jetstream().get_stream_no_info(subject::EXECUTIONS).await?;
    let name = subject::executions_consumer(queue);
    let config = pull::Config {
        durable_name: Some(name.clone()),
        filter_subject: subject::executions_of(queue),
        ack_policy: AckPolicy::Explicit,
        ack_wait: limits::EXECUTION_ACK_WAIT,
        max_ack_pending: limits::EXECUTIONS_UNACKED_MAX,
        max_deliver: -1,
        ..pull::Config::default()
    };
    stream
        .get_or_create_consumer(&name, config)
        .await
        .with_context(|| format!("failed to create the consumer of queue {queue}"))
}

/// The bucket of heartbeats.
pub async fn workers(bus: &Bus) -> anyhow::Result<kv::Store> {
    bucket(bus, subject::WORKERS).await
}

/// The bucket of readers' cursors.
pub async fn cursors(bus: &Bus) -> anyhow::Result<kv::Store> {
    bucket(bus, subject::CURSORS).await
}

/// The bucket of what doors are told.
pub async fn intake(bus: &Bus) -> anyhow::Result<kv::Store> {
    bucket(bus, subject::INTAKE).await
}

/// The bucket of leases.
pub async fn leases(bus: &Bus) -> anyhow::Result<kv::Store> {
    bucket(bus, subject::LEASES).await
}

async fn bucket(bus: &Bus, name: &str) -> anyhow::Result<kv::Store> {
    let found = bus.jetstream().get_key_value(name).await;
    found.with_context(|| format!("failed to find bucket {name}: see `jetmill doctor`"))
}

/// The object store of snapshots.
pub async fn snapshots(bus: &Bus) -> anyhow::Result<jetstream::object_store::ObjectStore> {
    let found = bus.jetstream().get_object_store(subject::SNAPSHOTS).await;
    found.context("failed to find the object store SNAPSHOTS: see `jetmill doctor`")
}
