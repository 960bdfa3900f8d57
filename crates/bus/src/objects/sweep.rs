//! What lies in the object store, and how it goes.

use anyhow::Context as _;
use async_nats::jetstream::{
    consumer::{DeliverPolicy, pull::OrderedConfig},
    object_store::ObjectInfo,
    stream::{LastRawMessageErrorKind, Stream},
};
use common::{limits::OBJECT_PIECE_WAIT, subject, time::Timestamp};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;

use crate::{Bus, streams};

/// An object, or what is left of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name; `None` for pieces without an object: their putting never came to its end.
    pub name: Option<String>,
    /// The number of its pieces.
    pub nuid: String,
    /// When nats-server got the last of it.
    pub at: Timestamp,
    /// The subject of what is said of it; empty for pieces only.
    info: String,
}

/// Everything that lies in the store.
pub async fn list(bus: &Bus) -> anyhow::Result<Vec<Stored>> {
    let stream = streams::get(bus, subject::OBJECTS_STREAM).await?;
    // The pieces first: whoever ends a putting meanwhile is seen with its object below.
    let mut pieces = Vec::new();
    let mut found = stream.info_with_subjects(subject::OBJECTS_PIECES).await?;
    while let Some((subject, _)) = found.try_next().await? {
        pieces.extend(subject.rsplit('.').next().map(str::to_owned));
    }
    let mut all = objects(&stream).await?;
    let known =
        all.iter().map(|object| object.nuid.clone()).collect::<std::collections::HashSet<_>>();
    for nuid in pieces.into_iter().filter(|nuid| !known.contains(nuid)) {
        let last = stream.get_last_raw_message_by_subject(&subject::object_pieces(&nuid)).await;
        let at = match last {
            Ok(message) => micros(message.time.unix_timestamp_nanos()),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => continue,
            Err(error) => return Err(error).context("failed to look at an object's pieces"),
        };
        all.push(Stored { name: None, nuid, at, info: String::new() });
    }
    Ok(all)
}

/// What is said of each object, also of one whose removal did not come to its end.
async fn objects(stream: &Stream) -> anyhow::Result<Vec<Stored>> {
    let config = OrderedConfig {
        filter_subject: subject::OBJECTS_INFO.into(),
        deliver_policy: DeliverPolicy::LastPerSubject,
        ..OrderedConfig::default()
    };
    let mut consumer = stream.create_consumer(config).await?;
    let mut left = consumer.info().await?.num_pending;
    let mut messages = consumer.messages().await?;
    let mut all = Vec::new();
    while left > 0 {
        let message = timeout(OBJECT_PIECE_WAIT, messages.next()).await;
        let message = message.context("the object store does not deliver what it has")?;
        let message = message.context("the object store ended its list")??;
        let told = message.info().map_err(|error| anyhow::anyhow!(error))?;
        left = told.pending;
        let at = micros(told.published.unix_timestamp_nanos());
        let info = message.subject.to_string();
        // Somebody else's message is not ours to take away.
        let Ok(object) = serde_json::from_slice::<ObjectInfo>(&message.payload) else { continue };
        all.push(Stored { name: Some(object.name), nuid: object.nuid, at, info });
    }
    Ok(all)
}

fn micros(nanos: i128) -> Timestamp {
    Timestamp::from_micros(i64::try_from(nanos / 1_000).unwrap_or(0))
}

/// Takes an object away. Broken off in between, it is an object without pieces or pieces without an
/// object, and so listed again.
pub async fn remove(bus: &Bus, stored: &Stored) -> anyhow::Result<()> {
    let stream = streams::get(bus, subject::OBJECTS_STREAM).await?;
    // First what names the pieces: nobody begins to read what is about to lose them.
    if !stored.info.is_empty() {
        stream.purge().filter(&stored.info).await.context("failed to remove an object")?;
    }
    let pieces = subject::object_pieces(&stored.nuid);
    stream.purge().filter(pieces).await.context("failed to remove an object's pieces")?;
    Ok(())
}
