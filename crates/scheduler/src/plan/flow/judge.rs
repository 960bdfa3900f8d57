//! **Pure.** What arrives, and what who leads says about it.

use common::time::Timestamp;

use super::{Decision, Entries, Place, Planner, Ticket, stand};
use crate::flow::{Arrival, Flow, ORDER_BITS};

impl Planner {
    /// A task came, at that time: its limits may have something to say.
    pub(in crate::plan) fn arrived(&mut self, ticket: Ticket, at: Timestamp, is_new: bool) {
        let Some(entry) = self.entry(ticket) else { return };
        let carried = self.carried.get(&ticket.slot);
        let (sequence, index) = carried.map_or((entry.sequence, entry.index), |c| c.created);
        let order = sequence << ORDER_BITS | u64::from(index);
        if let Some(lane) = self.control.lanes.get(&ticket.slot)
            && let Some(flow) = self.control.flows.get_mut(&entry.queue)
        {
            let arrival = Arrival { ticket, at: at.micros(), order, is_new };
            let entries: &Entries = &self.entries;
            flow.arrived(*lane, arrival, None, |ticket| entries.waits(ticket));
        }
    }

    /// This process begins to lead.
    pub(in crate::plan) fn takes_over(&mut self) {
        self.control.takes_over = true;
    }

    /// Tells the limits which tasks wait after an attempt.
    fn count_back(&mut self) {
        let has_depth = |flow: &Flow| flow.limits().iter().any(|named| named.limit.depth.is_some());
        if !self.control.flows.values().any(has_depth) {
            return;
        }
        for (ticket, entry) in self.entries.iter().filter(|(_, entry)| entry.state.ended > 0) {
            if matches!(entry.place, Place::Waiting | Place::Ready)
                && let Some(lane) = self.control.lanes.get(&ticket.slot)
                && let Some(flow) = self.control.flows.get_mut(&entry.queue)
            {
                flow.came_back(*lane);
            }
        }
    }

    /// Time passes for the limits, and who leads judges what arrived.
    pub(in crate::plan) fn tick_flows(&mut self) {
        if std::mem::take(&mut self.control.takes_over) {
            self.count_back();
        }
        let now = self.clock.micros();
        let mut refused = Vec::new();
        for flow in self.control.flows.values_mut() {
            flow.tick(now);
            let entries: &Entries = &self.entries;
            refused.extend(flow.judge(|ticket| entries.waits(ticket)));
        }
        // The same facts give the same decisions in the same order.
        refused.sort_unstable_by_key(|(ticket, _)| *ticket);
        for (ticket, refusal) in refused {
            self.leave_flow(ticket);
            self.decide(ticket, Decision::Refused(refusal));
        }
    }

    /// The task will never start: it does not count any more.
    fn leave_flow(&mut self, ticket: Ticket) {
        let Some(entry) = self.entry(ticket) else { return };
        let now = self.clock.micros();
        if let Some(lane) = self.control.lanes.remove(&ticket.slot)
            && let Some(flow) = self.control.flows.get_mut(&entry.queue)
            && let Some(stand) = stand(entry.place)
        {
            flow.leave(lane, stand, now);
        }
    }
}
