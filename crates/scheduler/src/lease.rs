//! Who leads: a lease in KV, renewed by its holder and taken over from one that does not renew it.
//!
//! Nobody compares clocks. A standby takes over when it has seen no renewal for a whole lease by
//! its own monotonic clock; a leader stops by itself when its last renewal is older than half a
//! lease by its own. What two leaders could do to each other in between is fenced by the work
//! queue's sequence and settled by the fold.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::Context as _;
use async_nats::jetstream::kv;
use common::limits;
use runtime::Context;
use tokio::{sync::watch, time::Instant};

use crate::office;

const KEY: &str = "scheduler";

/// Whether this process leads, and since which epoch.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    holder: String,
    born: Instant,
    /// Milliseconds from `born` to the last renewal; 0 is never.
    renewed_ms: Arc<AtomicU64>,
    epoch: watch::Sender<Option<u64>>,
    another_leads: Arc<AtomicBool>,
}

impl Lease {
    pub(crate) fn new(holder: String) -> Self {
        let (epoch, _) = watch::channel(None);
        Self {
            holder,
            born: Instant::now(),
            renewed_ms: Arc::default(),
            epoch,
            another_leads: Arc::default(),
        }
    }

    /// Hears of the leadership's beginning and end, also of one that was before anybody listened.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<u64>> {
        let mut receiver = self.epoch.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Whether the lease is fresh enough to act on.
    pub(crate) fn is_held(&self) -> bool {
        let renewed = self.renewed_ms.load(Ordering::Acquire);
        renewed > 0 && self.epoch.borrow().is_some() && office::is_fresh(renewed, self.now_ms())
    }

    /// Whether somebody else was seen to renew the lease.
    pub(crate) fn another_leads(&self) -> bool {
        self.another_leads.load(Ordering::Acquire)
    }

    fn now_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64 + 1
    }

    fn hold(&self, asked_ms: u64, epoch: u64) {
        // The age counts from when the renewal was asked for, not from its answer.
        self.renewed_ms.store(asked_ms, Ordering::Release);
        self.epoch.send_if_modified(|held| held.replace(epoch) != Some(epoch));
    }

    fn lose(&self) {
        self.epoch.send_if_modified(|held| held.take().is_some());
    }
}

/// What a standby knows of the holder.
struct Seen {
    revision: u64,
    /// In milliseconds of the lease's own clock.
    at_ms: u64,
}

/// Keeps the lease, or waits for it, until shutdown; then gives it up.
pub(crate) async fn keep(ctx: Context, lease: Lease) -> anyhow::Result<()> {
    let bucket = bus::streams::leases(&ctx.bus).await?;
    let mut held: Option<(u64, u64)> = None;
    let mut seen: Option<Seen> = None;
    loop {
        let asked = lease.now_ms();
        let step =
            tokio::time::timeout(limits::LEASE / 2, step(&bucket, &lease, held, &mut seen)).await;
        match step {
            Ok(Ok(Some((revision, epoch)))) => {
                held = Some((revision, epoch));
                lease.hold(asked, epoch);
            }
            Ok(Ok(None)) => {
                held = None;
                lease.lose();
            }
            // NATS does not answer: the lease runs out by itself.
            Ok(Err(error)) => tracing::debug!(%error, "the lease could not be renewed"),
            Err(_) => tracing::debug!("the lease could not be renewed in time"),
        }
        if held.is_some() && !lease.is_held() {
            tracing::warn!("stopped leading: the lease could not be renewed");
            held = None;
            lease.lose();
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => break,
            () = tokio::time::sleep(limits::LEASE_RENEW_EVERY) => {}
        }
    }
    lease.lose();
    if let Some((revision, _)) = held {
        let gone = bucket.delete_expect_revision(KEY, Some(revision));
        // Not given up: the next leader waits for a lease's time.
        let _ = tokio::time::timeout(limits::LEASE_RENEW_EVERY, gone).await;
    }
    Ok(())
}

/// Renews, takes or watches; returns revision and epoch while the lease is ours.
async fn step(
    bucket: &kv::Store,
    lease: &Lease,
    held: Option<(u64, u64)>,
    seen: &mut Option<Seen>,
) -> anyhow::Result<Option<(u64, u64)>> {
    let value = || lease.holder.clone().into_bytes().into();
    if let Some((revision, epoch)) = held {
        return Ok(match bucket.update(KEY, value(), revision).await {
            Ok(revision) => Some((revision, epoch)),
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {
                // Either somebody took it, or the answer to our last renewal got lost.
                let entry = bucket.entry(KEY).await.context("failed to read lease")?;
                let ours = entry.filter(|e| {
                    e.value == lease.holder.as_bytes() && e.operation == kv::Operation::Put
                });
                ours.map(|entry| (entry.revision, epoch))
            }
            Err(error) => return Err(error).context("failed to renew lease"),
        });
    }
    let entry = bucket.entry(KEY).await.context("failed to read lease")?;
    let revision = entry.as_ref().map_or(0, |e| e.revision);
    let free = entry.is_none_or(|e| e.operation != kv::Operation::Put);
    if seen.as_ref().is_none_or(|s| s.revision != revision) {
        lease.another_leads.store(seen.is_some() && !free, Ordering::Release);
        *seen = Some(Seen { revision, at_ms: lease.now_ms() });
    }
    let lapsed = seen.as_ref().is_some_and(|s| office::has_lapsed(s.at_ms, lease.now_ms()));
    if free || lapsed {
        lease.another_leads.store(false, Ordering::Release);
    }
    if !free && !lapsed {
        return Ok(None);
    }
    match bucket.update(KEY, value(), revision).await {
        Ok(revision) => {
            tracing::info!(epoch = revision, "this scheduler leads");
            Ok(Some((revision, revision)))
        }
        Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(None),
        Err(error) => Err(error).context("failed to take lease"),
    }
}
