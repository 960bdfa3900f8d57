//! Where a ledger goes on: behind its cursor; at the floor of a log that was cut, with what was
//! carried over it; or at the log's beginning.

use anyhow::Context as _;
use bus::{
    Cursor, ReadError, Reader, cursors,
    trim::{self, Cut},
};
use common::{
    event::{Event, Kind, Policy, PolicyEvent, Trimmed},
    id::TaskKey,
};
use runtime::telemetry;

use super::{Projector, Stop};
use crate::{
    cursor::READER,
    ledger::{Position, within},
    project::{Cold, Fold},
};

/// A fold, and the log from where it goes on.
pub(super) struct Begin {
    pub(super) fold: Fold,
    pub(super) reader: Reader,
    /// Where the ledger is; `None` for an empty one.
    pub(super) from: Option<Cursor>,
}

impl Projector {
    pub(super) async fn begin(&self) -> Result<Begin, Stop> {
        let position = within(self.ledger.position()).await?;
        let newest = within(self.ledger.newest_id()).await?;
        let from = position.map(|p| p.cursor);
        self.committed.send_replace(from.map_or(0, |cursor| cursor.sequence));
        let clock = position.map(|p| p.clock).unwrap_or_default();
        let fold = |clock| Fold::new(clock, newest.as_deref(), telemetry::exporting());
        match position {
            None => {
                let reader = match Reader::open(&self.ctx.bus, None).await {
                    Err(ReadError::Gap { expected, found }) => return Err(purged(expected, found)),
                    reader => reader?,
                };
                // After it was opened: else a cut might come in between.
                match trim::last(&self.ctx.bus).await.map_err(Stop::Again)? {
                    None => Ok(Begin { fold: fold(clock), reader, from }),
                    Some(cut) => self.begin_at(&cut, fold(cut.trimmed.clock)).await,
                }
            }
            Some(position) => {
                let reader = Reader::open(&self.ctx.bus, from).await?;
                let fold = fold(clock).counting_from(position.floor);
                if position.cold_until == 0 {
                    return Ok(Begin { fold, reader, from });
                }
                self.begin_again(position, fold).await
            }
        }
    }

    /// An empty ledger on a log that was cut.
    async fn begin_at(&self, cut: &Cut, mut fold: Fold) -> Result<Begin, Stop> {
        let floor = cut.trimmed.floor;
        let begin = async {
            let stream = bus::streams::identity(&self.ctx.bus).await.map_err(ReadError::Nats)?;
            let start = Cursor { stream, sequence: floor.saturating_sub(1) };
            // The log must not be cut again before it is read from here.
            cursors::register(&self.ctx.bus, READER, start).await.map_err(ReadError::Nats)?;
            let cold = self.remember(cut, floor).await?;
            Ok((cold, Reader::open(&self.ctx.bus, Some(start)).await?))
        };
        match begin.await {
            Ok((cold, reader)) => {
                fold.begin_at(cold);
                Ok(Begin { fold, reader, from: None })
            }
            Err(ReadError::Gap { found, .. }) => {
                let newest = trim::last(&self.ctx.bus).await.map_err(Stop::Again)?;
                if newest.is_some_and(|newest| newest.sequence != cut.sequence) {
                    return Err(Stop::Again(anyhow::anyhow!("the log was cut once more")));
                }
                Err(purged(floor, found))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A ledger that began at a cut and has not come to it.
    async fn begin_again(&self, position: Position, mut fold: Fold) -> Result<Begin, Stop> {
        let Position { cursor, cold_until, .. } = position;
        let message = bus::fetch(&self.ctx.bus, cursor.stream, cold_until).await;
        let message = message.map_err(Stop::Again)?;
        let cut =
            message.into_iter().flat_map(|message| message.items).find_map(|item| match item {
                Ok(Event::Policy(PolicyEvent { policy: Policy::Trimmed(trimmed), .. })) => {
                    Some(trimmed)
                }
                _ => None,
            });
        let cut = cut
            .with_context(|| format!("message {cold_until} of the log is no policy.trimmed"))
            .map_err(Stop::Fatal)?;
        // What lies behind the cursor is in the ledger.
        let rest = Trimmed { floor: cursor.sequence + 1, ..cut };
        let rest = Cut { sequence: cold_until, trimmed: rest };
        fold.begin_at(self.remember(&rest, cut.floor).await?);
        let reader = Reader::open(&self.ctx.bus, Some(cursor)).await?;
        Ok(Begin { fold, reader, from: Some(cursor) })
    }

    /// The first pass: what was carried up to a cut.
    async fn remember(&self, cut: &Cut, floor: u64) -> Result<Cold, ReadError> {
        self.ctx.health.not_ready("it looks for what was carried over the floor of the log");
        let mut cold = Cold::new(floor, cut.sequence);
        trim::carried(&self.ctx.bus, cut, |at, event| {
            if let Event::Task(event) = event
                && let Kind::Carried(carried) = &event.kind
            {
                cold.remember(at, TaskKey::new(&event.tenant, &event.id), carried);
            }
        })
        .await?;
        tracing::info!(floor, cut = cut.sequence, carried = cold.tasks(), "begins at the floor");
        Ok(cold)
    }
}

/// A log whose open tasks are gone.
fn purged(floor: u64, found: u64) -> Stop {
    Stop::Fatal(anyhow::anyhow!(
        "the log counts from message {floor}, but begins at {found}: it was purged by hand, and \
         tasks that are open are not in it. Restore a copy of the log, or a copy of the ledger \
         that has it up to {} at least",
        found.saturating_sub(1)
    ))
}
