//! **Pure.** What the log says about how work is done.

use common::event::Policy;

use super::Planner;

impl Planner {
    pub(super) fn policy(&mut self, at: u64, policy: &Policy) {
        let (queue, reason) = match policy {
            Policy::Paused { queue, reason } => (queue, Some(reason.clone())),
            Policy::Resumed { queue } => (queue, None),
            Policy::Trimmed(trimmed) => return self.trimmed(at, trimmed),
            Policy::Document(document) => {
                self.policies.fold(at, document);
                return;
            }
        };
        if at <= self.pauses_known {
            return;
        }
        match queue {
            None => self.paused = reason,
            Some(name) => {
                let id = self.queue_id(name);
                self.queue_mut(id).paused = reason;
            }
        }
    }
}
