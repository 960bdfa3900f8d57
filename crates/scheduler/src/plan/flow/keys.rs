//! **Pure.** Keys of tasks that were there before their limit: their submissions lie in the log, and
//! are read when their turn comes.

use common::task::TaskSpec;

use super::{Entry, Place, Planner, Ticket, has_keys};

impl Planner {
    /// Tasks whose keys are to be read, at most `max`: what is out comes first. Each comes once, until
    /// it is given back.
    pub fn unkeyed(&mut self, max: usize) -> Vec<Ticket> {
        let mut ids = self
            .control
            .flows
            .iter()
            .filter(|(_, flow)| has_keys(flow))
            .map(|(id, _)| *id)
            .collect::<Vec<_>>();
        ids.sort_unstable();
        let mut unkeyed = Vec::new();
        for id in ids {
            let out = self.control.unkeyed_out.entry(id).or_default();
            let (entries, lanes) = (&self.entries, &self.control.lanes);
            out.retain(|ticket| {
                !lanes.contains_key(&ticket.slot)
                    && entries.get(*ticket).is_some_and(|e| matches!(e.place, Place::Released(_)))
            });
            unkeyed.extend(out.iter().take(max - unkeyed.len()).copied());
            while unkeyed.len() < max
                && let Some((priority, ticket)) = self.queue_mut(id).pop()
            {
                if self.is_ready(ticket, priority) && !self.control.lanes.contains_key(&ticket.slot)
                {
                    unkeyed.push(ticket);
                }
            }
        }
        unkeyed
    }

    /// A task's submission was read: its limits are known from here on.
    pub fn keyed(&mut self, ticket: Ticket, spec: &TaskSpec) {
        let Some(entry) = self.entry(ticket) else { return };
        let Some(keys) = self.keys_of(entry.queue, spec) else { return };
        if self.control.lanes.contains_key(&ticket.slot) {
            return;
        }
        self.enter_flow(ticket, Some(&keys));
        if entry.place == Place::Ready {
            self.control.restoring = true;
            self.line_up(ticket, entry.queue, entry.priority);
            self.control.restoring = false;
        }
    }

    /// A task's submission could not be read: it is asked for again.
    pub fn not_keyed(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entry(ticket).filter(|entry| entry.place == Place::Ready)
            && !self.control.lanes.contains_key(&ticket.slot)
        {
            self.queue_mut(entry.queue).push_front(entry.priority, ticket);
        }
    }

    /// Whether a limit waits for keys to be read.
    pub fn awaits_keys(&self, entry: &Entry, ticket: Ticket) -> bool {
        self.control.flows.contains_key(&entry.queue)
            && !self.control.lanes.contains_key(&ticket.slot)
    }
}
