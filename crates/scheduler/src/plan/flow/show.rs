//! **Pure.** What the limits say about one task.

use std::time::Duration;

use common::{limits, pb, time::Timestamp};

use super::{Entry, Place, Planner, Ticket};
use crate::flow::Held;

impl Planner {
    /// The limits that hold a task, in their order.
    pub fn holds(&self, ticket: Ticket, entry: &Entry) -> Vec<Held> {
        let flow = self.control.flows.get(&entry.queue);
        let lane = self.control.lanes.get(&ticket.slot);
        flow.zip(lane).map_or_else(Vec::new, |(flow, lane)| flow.holds(*lane, self.clock.micros()))
    }

    /// The priority that a ready task has by its age, where that is above its own.
    pub fn counts_as(&self, ticket: Ticket) -> Option<u8> {
        let entry = self.entry(ticket).filter(|entry| entry.place == Place::Ready)?;
        let lane = self.control.lanes.get(&ticket.slot)?;
        self.control.flows.get(&entry.queue)?.counts_as(*lane, ticket, self.clock.micros())
    }

    /// What the doors are to know.
    pub fn intake(&self) -> pb::Intake {
        pb::Intake { full: self.full_queues(), types: self.has_types() }
    }

    /// The queues in which no more may wait, and when they may have room again.
    pub fn full_queues(&self) -> Vec<pb::FullQueue> {
        let full = self.control.flows.iter().filter_map(|(id, flow)| {
            let (limit, depth) = flow.full()?;
            let (name, queue) = self.queues.get(*id as usize)?;
            let pace = queue.pace.per_second().map(|per_second| 1.0 / per_second);
            let wait = pace.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let within = Duration::from_secs(1)..=limits::ROOM_RETRY_MAX;
            let wait = wait.map(|wait| wait.clamp(*within.start(), *within.end()));
            Some(pb::FullQueue {
                queue: name.to_string(),
                limit: limit.to_owned(),
                depth,
                retry_after: wait.map(Into::into),
            })
        });
        let mut full = full.collect::<Vec<_>>();
        full.sort_by(|a, b| a.queue.cmp(&b.queue));
        full
    }

    /// Tasks that are out and for which a limit holds this one, at most `max`.
    pub fn holders(&self, ticket: Ticket, entry: &Entry, limit: &str, max: usize) -> Vec<Ticket> {
        let flow = self.control.flows.get(&entry.queue);
        let Some((flow, lane)) = flow.zip(self.control.lanes.get(&ticket.slot)) else {
            return Vec::new();
        };
        let out = self.entries.iter().filter(|(other, e)| {
            e.queue == entry.queue
                && matches!(e.place, Place::Released(_))
                && self
                    .control
                    .lanes
                    .get(&other.slot)
                    .is_some_and(|o| flow.shares(limit, *lane, *o))
        });
        out.map(|(other, _)| other).take(max).collect()
    }

    pub(in crate::plan) fn ahead_in_lane(&self, ticket: Ticket, entry: &Entry) -> Option<u64> {
        let lane = self.control.lanes.get(&ticket.slot)?;
        Some(self.control.flows.get(&entry.queue)?.ahead(*lane, ticket))
    }

    /// When a task may start at the earliest, by the rates of its limits and its place among those of
    /// its keys.
    pub fn due_by_rate(&self, ticket: Ticket, entry: &Entry) -> Option<Timestamp> {
        let flow = self.control.flows.get(&entry.queue)?;
        let lane = *self.control.lanes.get(&ticket.slot)?;
        let (rate, next) = flow.slowest(lane)?;
        let ahead = i64::try_from(flow.ahead(lane, ticket)).ok()?;
        let each = rate.per.as_micros() as i64 / i64::from(rate.count.max(1));
        let ahead = ahead - i64::from(rate.burst) + 1;
        Some(Timestamp::from_micros(next.max(self.clock.micros()) + ahead.max(0) * each))
    }
}
