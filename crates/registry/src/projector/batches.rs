//! The fold between the reader and the ledger.

use std::{collections::VecDeque, task::Poll};

use anyhow::Context as _;
use bus::{Cursor, Message};
use common::limits;
use futures::{FutureExt as _, future::BoxFuture};
use uuid::Uuid;

use super::{Projector, Stop};
use crate::{
    ledger::within,
    project::{self, Fold},
};

/// Events of one batch while each may bring a carried task with it.
const COLD_EVENTS_MAX: usize = 256;
/// Messages with carried tasks that are kept: tasks that began together end together.
const CARRIERS_MAX: usize = 32;

pub(super) type Written = Result<(), Stop>;

/// The fold between the reader and the ledger, with at most one batch being written.
pub(super) struct Batches<'a> {
    projector: &'a Projector,
    stream: Uuid,
    fold: Fold,
    /// Where the ledger is once nothing is being written.
    from: Option<Cursor>,
    /// The last message that was folded.
    folded: u64,
    writing: Option<BoxFuture<'a, Written>>,
    /// Messages with carried tasks, the last ones that were asked for.
    carriers: VecDeque<Message>,
}

impl<'a> Batches<'a> {
    /// Goes on behind `at`, with what the ledger at `from` has.
    pub(super) fn new(
        projector: &'a Projector,
        at: Cursor,
        from: Option<Cursor>,
        fold: Fold,
    ) -> Self {
        let (stream, folded) = (at.stream, at.sequence);
        let carriers = VecDeque::new();
        Self { projector, stream, fold, from, folded, writing: None, carriers }
    }

    pub(super) fn is_full(&self) -> bool {
        self.fold.is_full(1, 1)
    }

    /// Waits until the batch that is being written is; for ever when there is none. Cancel-safe.
    pub(super) async fn written(&mut self) -> Written {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let written = writing.await;
        self.writing = None;
        written
    }

    /// Begins to write what is folded, unless the ledger is busy or has it all.
    pub(super) async fn begin_writing(&mut self) -> Written {
        let has = self.from.map_or(0, |cursor| cursor.sequence);
        if self.writing.is_some() || self.folded == has {
            return Ok(());
        }
        let to = Cursor { stream: self.stream, sequence: self.folded };
        let from = self.from.replace(to);
        let changes = self.fold.take();
        let write = self.projector.write(self.stream, from, self.folded, changes);
        let mut writing = write.boxed();
        // From here on it goes on while the next batch is folded.
        match futures::poll!(&mut writing) {
            Poll::Ready(written) => written,
            Poll::Pending => {
                self.writing = Some(writing);
                Ok(())
            }
        }
    }

    pub(super) async fn fold(&mut self, mut messages: Vec<Message>) -> Written {
        let (count, newer) = project::known(&messages);
        messages.truncate(count);
        let max =
            if self.fold.is_cold() { COLD_EVENTS_MAX } else { limits::LEDGER_BATCH_EVENTS_MAX };
        for batch in batches(messages, max) {
            let events = batch.iter().map(|m| m.items.len()).sum();
            let bytes = batch.iter().map(|m| m.payload.len()).sum();
            if self.fold.is_full(events, bytes) {
                self.settle().await?;
                self.begin_writing().await?;
            }
            let missing = self.fold.missing(&batch);
            if !missing.is_empty() {
                // What is being written may be among it.
                self.settle().await?;
                self.fold.load(within(self.projector.ledger.load(&missing)).await?);
            }
            self.thaw(&batch).await?;
            self.folded = batch.last().map_or(self.folded, |message| message.sequence);
            self.fold.fold(batch);
        }
        let Some(version) = newer else { return Ok(()) };
        self.settle().await?;
        self.begin_writing().await?;
        self.settle().await?;
        Err(Stop::Upgrade(version))
    }

    /// Brings the carried tasks that a batch is about.
    async fn thaw(&mut self, batch: &[Message]) -> Written {
        for sequence in self.fold.wanted(batch) {
            if let Some(message) = batch.iter().find(|message| message.sequence == sequence) {
                self.fold.thaw(message);
                continue;
            }
            if let Some(message) = self.carriers.iter().find(|m| m.sequence == sequence) {
                self.fold.thaw(message);
                continue;
            }
            let message = bus::fetch(&self.projector.ctx.bus, self.stream, sequence).await;
            let message = message.and_then(|message| {
                message.with_context(|| format!("the log has no message {sequence} any more"))
            });
            let message = message.map_err(Stop::Again)?;
            self.fold.thaw(&message);
            if self.carriers.len() == CARRIERS_MAX {
                self.carriers.pop_front();
            }
            self.carriers.push_back(message);
        }
        Ok(())
    }

    /// Waits until nothing is being written.
    async fn settle(&mut self) -> Written {
        if self.writing.is_some() { self.written().await } else { Ok(()) }
    }
}

/// Cuts messages into batches of a bounded number of events and bytes, at least one message each.
fn batches(messages: Vec<Message>, max: usize) -> Vec<Vec<Message>> {
    let mut batches: Vec<Vec<Message>> = Vec::new();
    let (mut events, mut bytes) = (0, 0);
    for message in messages {
        let full = events + message.items.len() > max
            || bytes + message.payload.len() > limits::READ_BYTES_MAX;
        if full {
            (events, bytes) = (0, 0);
        }
        events += message.items.len();
        bytes += message.payload.len();
        match batches.last_mut().filter(|_| !full) {
            Some(batch) => batch.push(message),
            None => batches.push(vec![message]),
        }
    }
    batches
}
