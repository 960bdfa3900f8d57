//! How far the readers of the log have come durably: the log keeps what one of them still needs,
//! until somebody says that it will not come back.

use anyhow::Context as _;
use async_nats::jetstream::kv;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use crate::{Bus, Cursor, streams};

/// A reader of the log as it registered itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// What it has stored.
    pub cursor: Cursor,
}

#[derive(Serialize, Deserialize)]
struct Value {
    stream: String,
    sequence: u64,
}

/// Says how far a reader has come durably.
pub async fn register(bus: &Bus, name: &str, cursor: Cursor) -> anyhow::Result<()> {
    let value = Value { stream: cursor.stream.to_string(), sequence: cursor.sequence };
    let body = serde_json::to_vec(&value).context("failed to write a cursor")?;
    let bucket = streams::cursors(bus).await?;
    bucket.put(name, body.into()).await.context("failed to register a cursor")?;
    Ok(())
}

/// Every reader that registered, by name.
pub async fn list(bus: &Bus) -> anyhow::Result<Vec<Registered>> {
    let bucket = streams::cursors(bus).await?;
    let names: Vec<String> = bucket
        .keys()
        .await
        .context("failed to list cursors")?
        .try_collect()
        .await
        .context("failed to list cursors")?;
    let mut readers = Vec::with_capacity(names.len());
    for name in names {
        let Some(body) = bucket.get(&name).await.context("failed to read a cursor")? else {
            continue;
        };
        let value: Value = serde_json::from_slice(&body)
            .with_context(|| format!("cursor {name:?} of bucket CURSORS cannot be read"))?;
        let stream = value.stream.parse().context("a cursor names no log")?;
        let cursor = Cursor { stream, sequence: value.sequence };
        readers.push(Registered { name, cursor });
    }
    readers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(readers)
}

/// The reader will not come back: the log keeps nothing for it any more. Says whether it was there.
pub async fn forget(bus: &Bus, name: &str) -> anyhow::Result<bool> {
    let bucket = streams::cursors(bus).await?;
    let found = bucket.entry(name).await.context("failed to find a cursor")?;
    let there = found.is_some_and(|entry| entry.operation == kv::Operation::Put);
    if there {
        bucket.purge(name).await.context("failed to forget a cursor")?;
    }
    Ok(there)
}
