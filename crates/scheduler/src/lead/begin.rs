//! Where a scheduler begins: at its snapshot, at the floor of the log, or at the log's beginning; and
//! how it listens to the workers.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::kv;
use bus::{Cursor, ReadError, Reader, streams};
use futures::{StreamExt as _, stream::BoxStream};
use runtime::Context;
use tokio::time::sleep;

use crate::{plan::Planner, snapshot};

pub(super) type Heartbeats = BoxStream<'static, Result<kv::Entry, kv::WatcherError>>;

/// Goes on from the snapshot; or from the floor of the log with what was carried over it; or from
/// the beginning. Says whether it was the snapshot.
pub(super) async fn planner(ctx: &Context) -> anyhow::Result<(Planner, Reader, bool)> {
    if let Some((planner, cursor)) = snapshot::load(&ctx.bus).await {
        match open(ctx, Some(cursor)).await {
            Ok(reader) => return Ok((planner, reader, true)),
            Err(error @ ReadError::Gap { .. }) => {
                tracing::warn!(error = describe(&error), "the snapshot is of no use");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let Some(cut) = bus::trim::last(&ctx.bus).await? else {
        return Ok((Planner::default(), open(ctx, None).await?, false));
    };
    let mut planner = Planner::begin_at(&cut.trimmed);
    let cursor = bus::trim::carried(&ctx.bus, &cut, |at, event| planner.preload(at, event)).await?;
    planner.preloaded();
    tracing::info!(floor = cut.trimmed.floor, open = planner.open_tasks(), "begins at the floor");
    Ok((planner, open(ctx, Some(cursor)).await?, false))
}

/// Opens the log, for as long as that is a matter of time.
pub(super) async fn open(ctx: &Context, from: Option<Cursor>) -> Result<Reader, ReadError> {
    let mut pause = Duration::from_millis(100);
    loop {
        match Reader::open(&ctx.bus, from).await {
            Err(error) if error.is_transient() && !ctx.shutdown.is_cancelled() => {
                ctx.health.not_ready("the log does not answer");
                tracing::warn!(error = describe(&error), "the log does not answer");
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            outcome => return outcome,
        }
    }
}

pub(super) fn describe(error: &ReadError) -> String {
    match error {
        ReadError::Nats(cause) => format!("{error}: {cause:#}"),
        ReadError::OtherLog { .. } | ReadError::Gap { .. } => error.to_string(),
    }
}

pub(super) async fn heartbeats(ctx: &Context) -> anyhow::Result<Heartbeats> {
    let mut pause = Duration::from_millis(100);
    loop {
        let watched = match streams::workers(&ctx.bus).await {
            Ok(bucket) => bucket.watch_with_history(">").await.context("failed to watch workers"),
            Err(error) => Err(error),
        };
        match watched {
            Ok(watch) => return Ok(watch.boxed()),
            Err(error) if ctx.shutdown.is_cancelled() => return Err(error),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the heartbeats cannot be watched");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}
