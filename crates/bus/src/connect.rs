//! One NATS connection a process.

use std::{path::PathBuf, time::Duration};

use async_nats::{Event, jetstream};
use common::error::{ApiError, ErrorCode};

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
}

impl Bus {
    /// The core connection.
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// `JetStream` on that connection.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }
}

/// Connects, or says why it cannot. Afterwards the connection repairs itself for ever.
pub async fn connect(options: &ConnectOptions) -> Result<Bus, ApiError> {
    let unavailable = |why: &dyn std::fmt::Display| {
        ApiError::new(ErrorCode::Unavailable, format!("cannot reach NATS at {}: {why}", options.url))
            .hint("start one with `jetmill dev`, or name yours with --nats-url")
    };
    let servers = options
        .url
        .split(',')
        .map(|url| url.trim().parse::<async_nats::ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| ApiError::invalid_field("nats_url", format!("is no NATS address: {e}")))?;
    let mut connect = async_nats::ConnectOptions::new()
        .name(&options.name)
        .connection_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(10))
        .request_timeout(Some(Duration::from_secs(10)))
        .event_callback(|event| async move { report(&event) });
    if let Some(path) = &options.credentials {
        connect = connect.credentials_file(path).await.map_err(|e| unavailable(&e))?;
    }
    let client = connect.connect(servers).await.map_err(|e| unavailable(&e))?;
    let jetstream = jetstream::context::ContextBuilder::new()
        .timeout(Duration::from_secs(10))
        .ack_timeout(Duration::from_secs(5))
        .max_ack_inflight(20_000)
        .build(client.clone());
    Ok(Bus { client, jetstream })
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
