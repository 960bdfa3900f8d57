//! **Pure.** What the log says about how work is done.

use common::{
    event::Policy,
    policy::{Body, Id, Kind, Known, limit::Limit},
};

use super::Planner;

impl Planner {
    pub(super) fn policy(&mut self, at: u64, policy: &Policy) {
        let (queue, reason) = match policy {
            Policy::Paused { queue, reason } => (queue, Some(reason.clone())),
            Policy::Resumed { queue } => (queue, None),
            Policy::Trimmed(trimmed) => return self.trimmed(at, trimmed),
            Policy::ScheduleAdvanced(advanced) => return self.schedules.advanced(advanced, at),
            Policy::Document(document) => {
                if self.policies.fold(at, document) {
                    self.document_changed(&document.body, document.version, document.name.as_str());
                    self.schedule_changed(document);
                    self.policy_changed(&document.id());
                }
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

    /// Another version of a document holds, or none any more.
    pub(super) fn policy_changed(&mut self, id: &Id) {
        match id.0 {
            Kind::Limit => {
                let limit =
                    self.policies.get(id).and_then(|known| Some((limit(known)?, known.sequence)));
                let (limit, since) = limit.unzip();
                self.set_limit(id.1.as_str(), limit, since.unwrap_or_default());
            }
            Kind::Schedule | Kind::TaskType => {}
        }
    }

    /// All documents hold that are known: they came from a snapshot.
    pub(super) fn policies_restored(&mut self) {
        let ids = self.policies.of(None).map(|known| known.document.id()).collect::<Vec<_>>();
        for id in ids {
            self.policy_changed(&id);
        }
    }
}

fn limit(known: &Known) -> Option<Limit> {
    match &known.document.body {
        Body::Limit(limit) => Limit::parse(limit).ok(),
        Body::Schedule(_) | Body::TaskType(_) | Body::Removed(_) => None,
    }
}
