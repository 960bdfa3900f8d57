//! **Pure.** How long a task may be ready, by itself and by the limits of its queue.

use std::time::Duration;

use super::{Entry, Place, Planner, Ticket};
use crate::plan::Alarm;

impl Planner {
    /// The longest time that tasks of a queue may be ready, and the limit that says so.
    pub fn ttl(&self, queue: u32) -> Option<(&str, Duration)> {
        let limits = self.control.flows.get(&queue)?.limits();
        let ttls = limits.iter().filter_map(|n| Some((n.name.as_ref(), n.limit.ttl?)));
        ttls.min_by_key(|(_, ttl)| *ttl)
    }

    /// The same for a task.
    pub fn ttl_of(&self, entry: &Entry) -> Option<(&str, Duration)> {
        self.ttl(entry.queue)
    }

    /// Tasks that are ready already have their time from now on.
    pub(in crate::plan) fn arm_ttl(&mut self, id: u32) {
        if self.ttl(id).is_none() || self.queue_mut(id).queued == 0 {
            return;
        }
        let ready = self.entries.iter();
        let ready = ready.filter(|(_, e)| e.queue == id && e.place == Place::Ready);
        for (ticket, _) in ready.collect::<Vec<_>>() {
            self.wait_for_queue(ticket);
        }
    }

    /// The time that a ready task may wait begins, or goes on if it has begun.
    pub(in crate::plan) fn wait_for_queue(&mut self, ticket: Ticket) {
        let Some(timeout) = self.queue_timeout(ticket) else { return };
        let clock = self.clock;
        let rare = self.rare.entry(ticket.slot).or_default();
        let since = *rare.ready_since.get_or_insert(clock);
        self.alarm(since.after(timeout).max(clock), ticket, Alarm::Queue);
    }

    /// The longest time that a task may be ready, by itself and by its limits.
    pub(in crate::plan) fn queue_timeout(&self, ticket: Ticket) -> Option<Duration> {
        let own = self.rare.get(&ticket.slot).and_then(|rare| rare.queue_timeout);
        let ttl = self.entry(ticket).and_then(|entry| self.ttl(entry.queue));
        own.into_iter().chain(ttl.map(|(_, ttl)| ttl)).min()
    }
}
