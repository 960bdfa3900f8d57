//! **Pure.** What the log says about how work is done.

use common::{
    event::{Pause, Policy},
    id::QueueName,
    policy::{Body, Id, Kind, Known, limit::Limit},
    time::Timestamp,
};

use super::Planner;
use crate::queue::Queue;

impl Planner {
    pub(super) fn policy(&mut self, at: u64, policy: &Policy) {
        let (queue, pause) = match policy {
            Policy::Paused(pause) => (&pause.queue, Some(pause.clone())),
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
        self.set_pause(queue.as_ref(), pause);
    }

    /// A queue is held, or all are; or that is over.
    pub(super) fn set_pause(&mut self, queue: Option<&QueueName>, pause: Option<Pause>) {
        match queue {
            None => self.paused = pause,
            Some(name) => {
                let id = self.queue_id(name);
                self.queue_mut(id).paused = pause;
            }
        }
    }

    /// What holds every queue now.
    pub fn pause_of_all(&self) -> Option<&Pause> {
        self.paused.as_ref().filter(|pause| pause.holds_at(self.clock))
    }

    /// What holds this queue now, beside that.
    pub fn pause_of<'a>(&self, queue: &'a Queue) -> Option<&'a Pause> {
        queue.paused.as_ref().filter(|pause| pause.holds_at(self.clock))
    }

    /// The same for the queue of a name.
    pub fn pause_named(&self, name: &QueueName) -> Option<&Pause> {
        let id = self.queue_ids.get(name)?;
        self.pause_of(&self.queues.get(*id as usize)?.1)
    }

    /// The queues, and until when each is held now, if it is: the later of its own pause and that of
    /// all counts.
    pub fn pauses(&self) -> Vec<(QueueName, Option<Timestamp>)> {
        let end = |pause: &Pause| pause.until.unwrap_or(Timestamp::MAX);
        let all = self.pause_of_all().map(end);
        let held = |queue| self.pause_of(queue).map(end).max(all);
        self.queues.iter().map(|(name, queue)| (name.clone(), held(queue))).collect()
    }

    /// When the next pause ends by itself.
    pub fn pause_ends(&self) -> Option<Timestamp> {
        let queues = self.queues.iter().filter_map(|(_, queue)| self.pause_of(queue));
        queues.chain(self.pause_of_all()).filter_map(|pause| pause.until).min()
    }

    /// The pauses that are not over by the log's time, as they are said again when it is cut.
    pub(super) fn lasting_pauses(&self) -> Vec<Pause> {
        let queues = self.queues.iter().filter_map(|(_, queue)| queue.paused.as_ref());
        let all = self.paused.iter().chain(queues);
        all.filter(|pause| pause.holds_at(self.log_clock)).cloned().collect()
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
