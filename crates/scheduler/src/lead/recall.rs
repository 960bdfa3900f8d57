//! Calls back what lies on a queue that nobody serves any more, so that its limits ring and it says
//! for what it waits.

use common::event::Event;

use super::Lead;
use crate::{office, verdict};

/// Time between two looks for such queues.
const LOOK_EVERY_MS: u64 = 1_000;

impl Lead {
    /// The log has it first that an attempt is over; then its message goes. Were it the other way
    /// round, a leader in between would give out the same attempt again, and who had it before may
    /// yet run it.
    pub(super) async fn recall(&mut self, now_ms: u64) {
        if now_ms < self.recall_at {
            return;
        }
        self.recall_at = now_ms + LOOK_EVERY_MS;
        let unserved = self.planner.unserved(now_ms);
        if unserved.is_empty() {
            return;
        }
        self.land().await;
        let lying = match self.dispatcher.lying().await {
            Ok(lying) => lying,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the work queue does not answer");
                return;
            }
        };
        for (sequence, tickets) in office::recall(&self.planner, &unserved, lying) {
            let mut events = Vec::with_capacity(tickets.len());
            for ticket in tickets {
                let Some(entry) = self.planner.entry(ticket) else { continue };
                let payload = self.payloads.get(ticket, entry.sequence, entry.index).await;
                match payload.map(|payload| verdict::called_back(&entry, &payload.spec)) {
                    Ok(event) => events.extend(event.map(Event::Task)),
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "failed to call work back");
                        return;
                    }
                }
            }
            let called_back = match self.publisher.publish_all(events).await {
                Ok(_) => self.dispatcher.delete(sequence).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = called_back {
                // The next look, or the heartbeat of who takes it, finds it again.
                tracing::warn!(error = format!("{error:#}"), "failed to call work back");
                return;
            }
        }
    }
}
