//! **Pure.** Keys of tasks that were there before their limit: their submissions lie in the log, and
//! are read when their turn comes.

use common::task::TaskSpec;

use super::{Entry, Planner, Ticket, stand};

impl Planner {
    /// Tasks whose keys are to be read, at most `max`: what is out comes first. One that is ready comes
    /// once, until it is given back.
    pub fn unkeyed(&mut self, max: usize) -> Vec<Ticket> {
        let now = self.clock.micros();
        let mut unkeyed = Vec::new();
        let out = self.control.flows.iter().filter(|(_, flow)| flow.unknown_are_out());
        for (id, flow) in out {
            let here =
                self.entries.iter().filter(|(t, e)| e.queue == *id && self.entries.is_out(*t));
            let lane = |ticket: Ticket| self.control.lanes.get(&ticket.slot);
            let unknown = here.filter(|(t, _)| lane(*t).is_some_and(|lane| flow.is_unknown(*lane)));
            unkeyed.extend(unknown.map(|(ticket, _)| ticket));
        }
        unkeyed.sort_unstable();
        unkeyed.truncate(max);
        let mut ids = self.control.flows.keys().copied().collect::<Vec<_>>();
        ids.sort_unstable();
        for id in ids {
            let Some(flow) = self.control.flows.get_mut(&id) else { continue };
            for (priority, ticket) in flow.take_unknown(max - unkeyed.len(), now) {
                if self.entries.is_ready(ticket, priority) {
                    unkeyed.push(ticket);
                }
            }
        }
        unkeyed
    }

    /// Whether keys are to be read.
    pub fn has_unkeyed(&self) -> bool {
        let mut flows = self.control.flows.values();
        flows.any(|flow| flow.unknown_are_out() || flow.unknown_are_ready())
    }

    /// A task's submission was read: its limits are known from here on.
    pub fn keyed(&mut self, ticket: Ticket, spec: &TaskSpec) {
        let Some(entry) = self.entry(ticket) else { return };
        let Some(keys) = self.keys_of(entry.queue, spec) else { return };
        let now = self.clock.micros();
        let Some(stand) = stand(entry.place) else { return };
        let Some(lane) = self.control.lanes.get(&ticket.slot).copied() else { return };
        let Some(flow) = self.control.flows.get_mut(&entry.queue) else { return };
        if flow.is_unknown(lane) {
            let known = flow.enter(&keys, stand);
            flow.leave(lane, stand, now);
            self.control.lanes.insert(ticket.slot, known);
            self.not_keyed(ticket);
        }
    }

    /// A task's submission could not be read: it is asked for again.
    pub fn not_keyed(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entry(ticket)
            && self.entries.is_ready(ticket, entry.priority)
        {
            let since = Some(self.since(ticket));
            self.line_up(ticket, entry.queue, entry.priority, since);
        }
    }

    /// Whether a limit waits for the key of a task to be read.
    pub fn awaits_keys(&self, entry: &Entry, ticket: Ticket) -> bool {
        let flow = self.control.flows.get(&entry.queue);
        let lane = self.control.lanes.get(&ticket.slot);
        flow.zip(lane).is_some_and(|(flow, lane)| flow.is_unknown(*lane))
    }
}
