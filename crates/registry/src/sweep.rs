//! Takes large inputs and results away that no task needs any more.
//!
//! The ledger knows every task, so it can say what is needed; but only once it has read what was in
//! the log when the store was looked at: an object that an event names is in the store before that
//! event. What nobody names was put in by somebody who did not come to the event, or is of an
//! attempt that did not count. It goes at the same age.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::Context as _;
use bus::{
    Bus,
    objects::sweep::{self, Stored},
};
use common::{
    limits::{CATCH_UP_WAIT, SWEEP_EVERY_MAX, SWEEP_OBJECTS_MAX},
    time::Timestamp,
};
use runtime::Context;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::ledger::{Ledger, within};

/// Time between two looks: a tenth of the time for which objects are kept.
fn every(kept: Duration) -> Duration {
    (kept / 10).clamp(Duration::from_millis(200), SWEEP_EVERY_MAX)
}

/// Sweeps until shutdown. Registries that share a ledger do the same twice.
pub(crate) async fn keep(
    ctx: Context,
    ledger: Arc<dyn Ledger>,
    committed: watch::Receiver<u64>,
    kept: Duration,
) -> anyhow::Result<()> {
    let mut ticks = interval(every(kept));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let removed = opentelemetry::global::meter("jetmill")
        .u64_counter("jetmill_registry_objects_removed")
        .build();
    loop {
        let swept = tokio::select! {
            () = ctx.shutdown.cancelled() => return Ok(()),
            swept = async {
                ticks.tick().await;
                sweep(&ctx, &*ledger, &mut committed.clone(), kept).await
            } => swept,
        };
        match swept {
            Ok(0) => {}
            Ok(count) => {
                removed.add(count, &[]);
                tracing::info!(count, "removed large inputs and results that nobody needs");
            }
            // A ledger or a log that is away is the projection's to report.
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "the object store was not swept");
            }
        }
    }
}

/// One look; returns how many objects went.
async fn sweep(
    ctx: &Context,
    ledger: &dyn Ledger,
    committed: &mut watch::Receiver<u64>,
    kept: Duration,
) -> anyhow::Result<u64> {
    let before = before(ctx.clock.now(), kept);
    let mut old = sweep::list(&ctx.bus).await?;
    old.retain(|stored| stored.at < before);
    if old.is_empty() {
        return Ok(0);
    }
    let last = bus::streams::last_sequence(&ctx.bus).await?;
    timeout(CATCH_UP_WAIT, committed.wait_for(|committed| *committed >= last))
        .await
        .context("the ledger lags")?
        .context("the ledger is not followed any more")?;
    let mut count = 0;
    for some in old.chunks(SWEEP_OBJECTS_MAX) {
        let names = some.iter().filter_map(|stored| stored.name.clone()).collect::<Vec<_>>();
        let needed = within(ledger.needed(&names, before)).await?;
        count += remove(&ctx.bus, some, &needed.into_iter().collect()).await?;
    }
    Ok(count)
}

/// What is older than this goes.
fn before(now: Timestamp, kept: Duration) -> Timestamp {
    let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.micros().saturating_sub(kept))
}

async fn remove(bus: &Bus, old: &[Stored], needed: &HashSet<String>) -> anyhow::Result<u64> {
    let mut count = 0;
    for stored in old {
        if !stored.name.as_ref().is_some_and(|name| needed.contains(name)) {
            sweep::remove(bus, stored).await?;
            count += 1;
        }
    }
    Ok(count)
}
