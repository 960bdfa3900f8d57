//! The backlog stored beside its cursor, so that a start folds only what came since.
//!
//! A snapshot that is missing, unreadable or of another fold version costs time, never truth: the
//! log is folded from its beginning instead.

use anyhow::Context as _;
use bus::{Bus, Cursor, streams};
use prost::Message as _;
use tokio::io::AsyncReadExt as _;

use crate::plan::{Planner, Stored};

const NAME: &str = "scheduler";
/// Largest snapshot that is read back, in bytes.
const BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Stores the backlog as it is after the cursor, which is what it returns.
pub(crate) async fn save(bus: Bus, bytes: Vec<u8>, cursor: Cursor) -> anyhow::Result<Cursor> {
    let store = streams::snapshots(&bus).await?;
    store.put(NAME, &mut bytes.as_slice()).await.context("failed to store snapshot")?;
    tracing::debug!(bytes = bytes.len(), sequence = cursor.sequence, "stored a snapshot");
    Ok(cursor)
}

/// Messages of the log after which a backlog of so many tasks is stored again.
///
/// To make the bytes of many tasks holds up everything else, so that many are stored less often: an
/// eighth of them is read back quickly.
pub(crate) fn every(messages: u64, tasks: usize) -> u64 {
    messages.max(tasks as u64 / 8)
}

/// The stored backlog, if there is one that fits.
///
/// One of another log is returned as well, for the reader to refuse its cursor: a log that was made
/// anew must not be taken for the old one because everybody was started again.
pub(crate) async fn load(bus: &Bus) -> Option<(Planner, Cursor)> {
    match try_load(bus).await {
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::info!(
                error = format!("{error:#}"),
                "no usable snapshot; folding the whole log"
            );
            None
        }
    }
}

async fn try_load(bus: &Bus) -> anyhow::Result<Option<(Planner, Cursor)>> {
    let store = streams::snapshots(bus).await?;
    let object = store.get(NAME).await.context("failed to find snapshot")?;
    let mut bytes = Vec::new();
    object.take(BYTES_MAX).read_to_end(&mut bytes).await.context("failed to read snapshot")?;
    let stored = Stored::decode(bytes.as_slice()).context("failed to decode snapshot")?;
    let stream = stored.stream.parse().context("the snapshot names no log")?;
    let cursor = Cursor { stream, sequence: stored.sequence };
    Ok(Planner::restore(stored).map(|planner| (planner, cursor)))
}
