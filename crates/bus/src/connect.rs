//! One NATS connection a process.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Event, jetstream};
use common::error::{ApiError, ErrorCode};
use tokio::sync::watch;

use crate::intake::Hints;

/// Where nats-server is and who we are to it.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// One or several addresses, separated by commas: `nats://host:4222`.
    pub url: String,
    /// How the connection is called in the server's lists.
    pub name: String,
    /// A credentials file (`.creds`), where the server asks for one.
    pub credentials: Option<PathBuf>,
}

/// A connection to NATS, cheap to clone.
#[derive(Clone, Debug)]
pub struct Bus {
    client: async_nats::Client,
    jetstream: jetstream::Context,
    reconnects: watch::Receiver<u64>,
    hints: Arc<Hints>,
}

impl Bus {
    /// What doors are told.
    pub(crate) fn hints(&self) -> &Hints {
        &self.hints
    }

    /// The core connection.
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// `JetStream` on that connection.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Changes whenever a lost connection is there again. What the server kept for this process
    /// only while it ran, such as a reader's consumer, may be gone then.
    pub(crate) fn reconnects(&self) -> watch::Receiver<u64> {
        let mut reconnects = self.reconnects.clone();
        reconnects.mark_unchanged();
        reconnects
    }
}

/// Connects, or says why it cannot. Afterwards the connection repairs itself for ever.
pub async fn connect(options: &ConnectOptions) -> Result<Bus, ApiError> {
    let unavailable = |why: &dyn std::fmt::Display| {
        ApiError::new(
            ErrorCode::Unavailable,
            format!("cannot reach NATS at {}: {why}", options.url),
        )
        .hint("start one with `jetmill dev`, or name yours with --nats-url")
    };
    let servers = options
        .url
        .split(',')
        .map(|url| url.trim().parse::<async_nats::ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| ApiError::invalid_field("nats_url", format!("is no NATS address: {e}")))?;
    let (again, reconnects) = watch::channel(0);
    let lost = AtomicBool::new(false);
    let mut connect = async_nats::ConnectOptions::new()
        .name(&options.name)
        .connection_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(10))
        .request_timeout(Some(Duration::from_secs(10)))
        .event_callback(move |event| {
            if matches!(event, Event::Disconnected) {
                lost.store(true, Ordering::Relaxed);
            } else if matches!(event, Event::Connected) && lost.swap(false, Ordering::Relaxed) {
                again.send_modify(|count| *count += 1);
            }
            async move { report(&event) }
        });
    if let Some(path) = &options.credentials {
        connect = connect.credentials_file(path).await.map_err(|e| unavailable(&e))?;
    }
    let client = connect.connect(servers).await.map_err(|e| unavailable(&e))?;
    let jetstream = jetstream::context::ContextBuilder::new()
        .timeout(Duration::from_secs(10))
        .ack_timeout(Duration::from_secs(5))
        .max_ack_inflight(20_000)
        .build(client.clone());
    Ok(Bus { client, jetstream, reconnects, hints: Arc::default() })
}

/// A refused permission shows only here: the publish itself would just time out.
fn report(event: &Event) {
    match event {
        Event::Connected => tracing::debug!("connected to NATS"),
        Event::Disconnected => tracing::warn!("lost the connection to NATS; trying to reconnect"),
        Event::ServerError(error) => tracing::error!(%error, "NATS refused something"),
        Event::ClientError(error) => tracing::warn!(%error, "trouble on the connection to NATS"),
        Event::SlowConsumer(id) => tracing::warn!(id, "a subscription fell behind"),
        Event::LameDuckMode => tracing::warn!("nats-server is about to stop"),
        Event::Draining | Event::Closed => tracing::debug!(%event, "connection to NATS"),
    }
}
