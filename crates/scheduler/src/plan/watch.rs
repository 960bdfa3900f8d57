//! **Pure.** What heartbeats, and their absence, say about attempts that are out.

use common::{
    id::{TaskId, TaskKey, Tenant},
    lifecycle::Phase,
    limits, pb,
};

use super::{Alarm, Decision, Found, Place, Planner, Ticket};
use crate::workers::Held;

/// An attempt that a worker holds and should not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopping {
    /// The attempt.
    pub held: Held,
    /// It is over already: nothing is to be said about it. Otherwise somebody asked to cancel it.
    pub stale: bool,
}

impl Planner {
    /// Ends a task that was to be cancelled, once nobody holds it.
    pub(super) fn check_cancel(&mut self, ticket: Ticket) {
        let Some(entry) = self.entry(ticket) else { return };
        let begun = matches!(entry.state.phase, Phase::Running);
        if matches!(entry.place, Place::Released(_)) && (begun || self.is_held(entry.key)) {
            let again = self.clock.after(limits::HEARTBEAT_EVERY);
            self.alarm(again, ticket, Alarm::Cancel);
        } else {
            self.decide(ticket, Decision::Cancel);
        }
    }

    /// Tasks whose attempt went out this long ago and is not listed by a worker. It may have begun: its
    /// worker may have been started again under the same name, so that its heartbeat never lapsed.
    pub fn suspects(&self, now_ms: u64, older_ms: u64) -> Vec<(Ticket, TaskKey, u32)> {
        let listed = self.workers.held_keys();
        let quiet = |entry: &super::Entry| {
            matches!(entry.place, Place::Released(at) if now_ms.saturating_sub(at) > older_ms)
                && matches!(entry.state.phase, Phase::Pending | Phase::Running)
                && entry.deciding.is_none()
                && !listed.contains(&entry.key)
        };
        let open = self.entries.iter().filter(|(_, entry)| quiet(entry));
        open.map(|(ticket, entry)| (ticket, entry.key, entry.state.attempt())).collect()
    }

    /// Attempts that lie on a queue that nobody has served for a while, and that nobody began: as
    /// long as they are out their limits do not ring. Each is named once in a while.
    pub fn unserved(&mut self, now_ms: u64) -> Vec<(Ticket, TaskKey, u32)> {
        let patience = limits::WORKER_LOST_AFTER.as_millis() as u64;
        let mut due = Vec::new();
        for (id, (name, queue)) in (0..).zip(&self.queues) {
            if queue.outstanding == 0 || self.workers.service(name.as_str()).slots > 0 {
                self.unserved.remove(&id);
                continue;
            }
            let since = self.unserved.entry(id).or_insert(now_ms);
            if now_ms.saturating_sub(*since) > patience {
                *since = now_ms;
                due.push(id);
            }
        }
        if due.is_empty() {
            return Vec::new();
        }
        let on_these = self.suspects(now_ms, 0).into_iter();
        let is_due = |ticket| self.entry(ticket).is_some_and(|e| due.contains(&e.queue));
        on_these.filter(|(ticket, ..)| is_due(*ticket)).collect()
    }

    /// The attempt is neither in the work queue nor with a worker, and nobody said how it ended.
    pub fn vanished(&mut self, ticket: Ticket, attempt: u32) {
        let lost = |e: super::Entry| {
            e.state.attempt() == attempt
                && matches!(e.state.phase, Phase::Pending | Phase::Running)
                && !self.is_held(e.key)
        };
        if self.entry(ticket).is_some_and(|e| lost(e) && matches!(e.place, Place::Released(_))) {
            self.decide(ticket, Decision::Lost);
        }
    }

    /// The attempt never reached the work queue: the task is ready again.
    pub fn never_left(&mut self, ticket: Ticket, attempt: u32) {
        if self.entry(ticket).is_some_and(|e| {
            e.state.attempt() == attempt && e.state.phase == Phase::Pending && e.deciding.is_none()
        }) {
            self.unrelease(ticket);
        }
    }

    fn is_held(&self, key: TaskKey) -> bool {
        self.workers.holds_key(key)
    }

    /// The worker is gone, and with it what it held.
    pub fn worker_left(&mut self, name: &str) {
        let mut lost = Vec::new();
        for held in self.workers.left(name) {
            if let Some((ticket, entry)) = self.open_held(&held)
                && entry.state.attempt() == held.attempt
            {
                lost.push(ticket);
            }
        }
        let began = self.holders.iter().filter(|(_, holder)| holder.worker.as_ref() == name);
        let slots = began.map(|(slot, _)| *slot).collect::<Vec<_>>();
        lost.extend(slots.into_iter().filter_map(|slot| self.ticket(slot)));
        // The same facts give the same decisions in the same order.
        lost.sort_unstable();
        for ticket in lost {
            self.decide(ticket, Decision::Lost);
        }
    }

    /// Attempts whose worker was never heard since this process leads.
    pub(super) fn orphans(&mut self, now_ms: u64) {
        let patience = limits::WORKER_LOST_AFTER.as_millis() as u64;
        if self.leading_since.is_none_or(|since| now_ms.saturating_sub(since) < patience) {
            return;
        }
        let gone = |holder: &str| !self.workers.lives(holder);
        let orphans = self.holders.iter().filter(|(_, holder)| gone(&holder.worker));
        let mut slots = orphans.map(|(slot, _)| *slot).collect::<Vec<_>>();
        slots.sort_unstable();
        for ticket in slots.into_iter().filter_map(|slot| self.ticket(slot)).collect::<Vec<_>>() {
            if self
                .entry(ticket)
                .is_some_and(|e| e.deciding.is_none() && e.place != Place::External)
            {
                self.decide(ticket, Decision::Lost);
            }
        }
    }

    pub(super) fn ticket(&self, slot: u32) -> Option<Ticket> {
        self.entries.ticket(slot)
    }

    fn open_held(&self, held: &Held) -> Option<(Ticket, super::Entry)> {
        let key = held.key()?;
        match self.find(key)? {
            Found::Open(ticket, entry) => Some((ticket, entry)),
            Found::Over(_) => None,
        }
    }

    /// A heartbeat came in: returns the attempts that the worker should end.
    pub fn heard(&mut self, heartbeat: pb::Heartbeat, now_ms: u64) -> Vec<Stopping> {
        let mut stop = Vec::new();
        for attempt in heartbeat.running.iter().take(limits::SLOTS_MAX as usize) {
            let held = Held {
                tenant: attempt.tenant.clone(),
                task_id: attempt.task_id.clone(),
                attempt: attempt.attempt,
            };
            let Some(found) = held.key().and_then(|key| self.find(key)) else { continue };
            match found {
                Found::Over(_) => stop.push(Stopping { held, stale: true }),
                Found::Open(_, entry) if held.attempt <= entry.state.ended => {
                    stop.push(Stopping { held, stale: true });
                }
                Found::Open(_, entry) if entry.state.cancel_requested => {
                    stop.push(Stopping { held, stale: false });
                }
                Found::Open(..) => {}
            }
        }
        let worker = heartbeat.worker.clone();
        self.workers.heard(heartbeat, now_ms);
        self.dropped(&worker, now_ms);
        stop
    }

    /// Finds attempts that this worker began and does not list, such as those of a process that was
    /// started again under its name: they are lost. What it ended it lists until the log has it.
    fn dropped(&mut self, worker: &str, now_ms: u64) {
        if self.leading_since.is_none() {
            return;
        }
        let patience = 3 * limits::HEARTBEAT_EVERY.as_millis() as u64;
        let listed = self.workers.held_by(worker);
        let began = self.holders.iter().filter(|(_, holder)| {
            holder.worker.as_ref() == worker && holder.since_ms + patience < now_ms
        });
        let began = began.filter_map(|(slot, _)| self.ticket(*slot)).collect::<Vec<_>>();
        for ticket in began {
            let running = |e: &super::Entry| e.state.phase == Phase::Running && !e.state.external;
            if self.entry(ticket).is_some_and(|e| running(&e) && !listed.contains(&e.key)) {
                self.decide(ticket, Decision::Lost);
            }
        }
    }

    /// This process did not listen for a while: nobody is late, and what it hears now may be old.
    pub fn was_deaf(&mut self, now_ms: u64) {
        self.workers.all_heard(now_ms);
        self.unserved.clear();
        for holder in self.holders.values_mut() {
            holder.since_ms = now_ms;
        }
    }
}

impl Held {
    /// The key of its task; `None` when a worker sent nonsense.
    pub fn key(&self) -> Option<TaskKey> {
        let tenant = Tenant::parse_or_default(&self.tenant).ok()?;
        Some(TaskKey::new(&tenant, &TaskId::parse(&self.task_id).ok()?))
    }
}
