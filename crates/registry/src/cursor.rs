//! Says how far the ledger has come, so that the log keeps what it still needs.

use std::sync::Arc;

use bus::cursors;
use common::limits::CURSOR_EVERY;
use runtime::Context;
use tokio::time::{MissedTickBehavior, interval};

use crate::ledger::{Ledger, within};

/// Under this name the ledger's cursor is registered.
pub(crate) const READER: &str = "registry";

/// Registers the cursor of the ledger whenever it has moved, until shutdown. Who wrote last says
/// the same as everybody else: there is one ledger.
pub(crate) async fn keep(ctx: Context, ledger: Arc<dyn Ledger>) -> anyhow::Result<()> {
    let mut ticks = interval(CURSOR_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = None;
    loop {
        tokio::select! {
            () = ctx.shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        // A ledger or a log that is away is the projection's to report.
        let Ok(Some(position)) = within(ledger.position()).await else { continue };
        if said == Some(position.cursor) {
            continue;
        }
        match cursors::register(&ctx.bus, READER, position.cursor).await {
            Ok(()) => said = Some(position.cursor),
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "the cursor was not registered");
            }
        }
    }
}
