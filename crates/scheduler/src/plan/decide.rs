//! **Pure.** What follows from the backlog now: releases, decisions, and whom to tell to stop.

use std::{cmp::Reverse, time::Duration};

use common::{
    id::{QueueName, TaskId, TaskKey, Tenant},
    lifecycle::Phase,
    limits, pb,
    time::Timestamp,
};

use super::{Alarm, Decision, Found, Place, Planner, Ticket};
use crate::{
    queue::window,
    workers::{Held, Service},
};

/// Tasks that travel together, at most.
const GROUP_TASKS_MAX: usize = 32;
/// Work that travels together, at most, by the types' measured p95.
const GROUP_WORK: Duration = Duration::from_millis(50);
/// Tasks of a type travel together only while its p95 is below this.
const GROUP_P95: Duration = Duration::from_millis(5);

/// Attempts to release in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The queue.
    pub queue: QueueName,
    /// Whether a worker of the queue reads JSON only.
    pub json: bool,
    /// The tasks: one, or a group of short ones.
    pub tickets: Vec<Ticket>,
}

/// An attempt that a worker holds and should not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopping {
    /// The attempt.
    pub held: Held,
    /// It is over already: nothing is to be said about it. Otherwise somebody asked to cancel it.
    pub stale: bool,
}

impl Planner {
    /// Begins to decide: what was found undecided while following is decided now.
    pub fn lead(&mut self, now_ms: u64) {
        self.leading_since = Some(now_ms);
        self.workers.all_heard(now_ms);
        self.decisions.clear();
        for (slot, entry) in (0..).zip(&self.entries) {
            if let Some(decision) = entry.deciding
                && self.open.get(&entry.key) == Some(&slot)
            {
                self.decisions.push_back((Ticket { slot, generation: entry.generation }, decision));
            }
        }
    }

    /// Stops deciding. What is out stays out.
    pub fn follow(&mut self) {
        self.leading_since = None;
        self.decisions.clear();
    }

    /// The attempt lies in the work queue already: an earlier leader released it.
    pub fn is_out(&mut self, key: TaskKey, attempt: u32, now_ms: u64) {
        if let Some(Found::Open(ticket, entry)) = self.find(key)
            && entry.state.attempt() == attempt
            && matches!(entry.place, Place::Ready | Place::Waiting)
        {
            self.place(ticket, Place::Released(now_ms));
        }
    }

    /// Time passes: delays end, timeouts ring. Call it before [`Planner::release`].
    pub fn tick(&mut self, now: Timestamp, now_ms: u64) {
        self.clock = self.clock.max(now);
        while let Some(Reverse((at, ticket, alarm))) = self.timers.peek().copied()
            && at <= self.clock
        {
            self.timers.pop();
            self.ring(ticket, alarm);
        }
        for id in 0..self.queues.len() as u16 {
            let mut queue = std::mem::take(self.queue_mut(id));
            queue.compact(|ticket, priority| self.is_ready(ticket, priority));
            *self.queue_mut(id) = queue;
        }
        if self.leading_since.is_some() {
            for name in self.workers.lapsed(now_ms) {
                self.worker_left(&name);
            }
            self.orphans(now_ms);
        }
    }

    /// When the next delay or timeout ends.
    pub fn next_alarm(&self) -> Option<Timestamp> {
        self.timers.peek().map(|Reverse((at, ..))| *at)
    }

    fn ring(&mut self, ticket: Ticket, alarm: Alarm) {
        let Some(entry) = self.entry(ticket).copied() else { return };
        let idle = !matches!(entry.place, Place::Released(_)) && entry.deciding.is_none();
        match alarm {
            Alarm::Due => self.settle(ticket),
            Alarm::Total if idle => self.decide(ticket, Decision::TotalTimeout),
            Alarm::Dependency => {
                let missing = |edge: &crate::graph::Edge| self.find(edge.dependency).is_none();
                if idle && self.graph.waits(ticket.slot).iter().any(missing) {
                    self.decide(ticket, Decision::DependencyMissing);
                }
            }
            Alarm::Queue => {
                let rare = self.rare.get(&ticket.slot).copied().unwrap_or_default();
                let rings = rare.ready_since.zip(rare.queue_timeout).map(|(t, d)| t.after(d));
                if entry.place == Place::Ready && rings.is_some_and(|at| at <= self.clock) {
                    self.decide(ticket, Decision::Expired);
                }
            }
            Alarm::Cancel => self.check_cancel(ticket),
            Alarm::Total => {}
        }
    }

    /// Ends a task that was to be cancelled, once nobody holds it.
    fn check_cancel(&mut self, ticket: Ticket) {
        let Some(entry) = self.entry(ticket).copied() else { return };
        let begun = matches!(entry.state.phase, Phase::Running);
        if matches!(entry.place, Place::Released(_)) && (begun || self.is_held(entry.key)) {
            let again = self.clock.after(limits::HEARTBEAT_EVERY);
            self.alarm(again, ticket, Alarm::Cancel);
        } else {
            self.decide(ticket, Decision::Cancel);
        }
    }

    /// Tasks whose attempt went out this long ago and was neither begun nor listed by a worker.
    pub fn suspects(&self, now_ms: u64, older_ms: u64) -> Vec<(Ticket, TaskKey, u32)> {
        let listed = self.workers.held_keys();
        let quiet = |entry: &&super::Entry| {
            matches!(entry.place, Place::Released(at) if now_ms.saturating_sub(at) > older_ms)
                && entry.state.phase == Phase::Pending
                && entry.deciding.is_none()
                && !listed.contains(&entry.key)
        };
        let open =
            self.open.values().filter_map(|slot| Some((*slot, self.entries.get(*slot as usize)?)));
        open.filter(|(_, entry)| quiet(entry))
            .map(|(slot, e)| (Ticket { slot, generation: e.generation }, e.key, e.state.attempt()))
            .collect()
    }

    /// The attempt is neither in the work queue nor with a worker, and nobody said how it ended.
    pub fn vanished(&mut self, ticket: Ticket, attempt: u32) {
        let lost =
            |e: &super::Entry| e.state.attempt() == attempt && e.state.phase == Phase::Pending;
        if self.entry(ticket).is_some_and(|e| lost(e) && matches!(e.place, Place::Released(_))) {
            self.decide(ticket, Decision::Lost);
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
        let began = self.holders.iter().filter(|(_, holder)| holder.as_ref() == name);
        let slots = began.map(|(slot, _)| *slot).collect::<Vec<_>>();
        lost.extend(slots.into_iter().filter_map(|slot| self.ticket(slot)));
        for ticket in lost {
            self.decide(ticket, Decision::Lost);
        }
    }

    /// Attempts whose worker was never heard since this process leads.
    fn orphans(&mut self, now_ms: u64) {
        let patience = limits::WORKER_LOST_AFTER.as_millis() as u64;
        if self.leading_since.is_none_or(|since| now_ms.saturating_sub(since) < patience) {
            return;
        }
        let gone = |holder: &str| !self.workers.lives(holder);
        let orphans = self.holders.iter().filter(|(_, holder)| gone(holder));
        let slots = orphans.map(|(slot, _)| *slot).collect::<Vec<_>>();
        for ticket in slots.into_iter().filter_map(|slot| self.ticket(slot)).collect::<Vec<_>>() {
            if self
                .entry(ticket)
                .is_some_and(|e| e.deciding.is_none() && e.place != Place::External)
            {
                self.decide(ticket, Decision::Lost);
            }
        }
    }

    fn ticket(&self, slot: u32) -> Option<Ticket> {
        let entry = self.entries.get(slot as usize)?;
        Some(Ticket { slot, generation: entry.generation })
    }

    fn open_held(&self, held: &Held) -> Option<(Ticket, super::Entry)> {
        let key = held.key()?;
        match self.find(key)? {
            Found::Open(ticket, entry) => Some((ticket, *entry)),
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
        self.workers.heard(heartbeat, now_ms);
        stop
    }

    /// What to release now, in order, at most `max` tasks. What is returned counts as out.
    pub fn release(&mut self, now_ms: u64, window_max: u32, max: usize) -> Vec<Release> {
        let mut releases = Vec::new();
        let mut left = max;
        if self.paused.is_some() {
            return releases;
        }
        for id in 0..self.queues.len() as u16 {
            let Some((name, queue)) = self.queues.get(usize::from(id)) else { continue };
            if queue.paused.is_some() || queue.queued == 0 {
                continue;
            }
            let name = name.clone();
            let service = self.workers.service(name.as_str());
            let room =
                window(service.slots, queue.pace, window_max).saturating_sub(queue.outstanding);
            let mut room = (room as usize).min(left);
            left -= room;
            while room > 0 {
                let group = self.group(id, service, room, now_ms);
                if group.is_empty() {
                    break;
                }
                room -= group.len();
                releases.push(Release { queue: name.clone(), json: service.json, tickets: group });
            }
            left += room;
        }
        releases
    }

    /// The next task of a queue, or the next few when they are short and many.
    fn group(&mut self, id: u16, service: Service, room: usize, now_ms: u64) -> Vec<Ticket> {
        let mut group = Vec::new();
        let mut work = Duration::ZERO;
        let queue = self.queue_mut(id);
        let free = service.slots.saturating_sub(queue.outstanding);
        let many = queue.queued > 2 * u64::from(free.max(1)) && !service.json;
        let most = if many { room.min(GROUP_TASKS_MAX) } else { 1 };
        while group.len() < most {
            let Some((priority, ticket)) = self.queue_mut(id).pop() else { break };
            if !self.is_ready(ticket, priority) {
                continue;
            }
            let p95 = if many { self.short(ticket) } else { None };
            let fits = p95.is_some_and(|p95| work + p95 <= GROUP_WORK);
            if !group.is_empty() && !fits {
                self.queue_mut(id).push_front(priority, ticket);
                break;
            }
            self.place(ticket, Place::Released(now_ms));
            group.push(ticket);
            match p95 {
                Some(p95) => work += p95,
                None => break,
            }
        }
        group
    }

    /// The p95 of a task's type, if it is known to be short and the task may share a message.
    fn short(&self, ticket: Ticket) -> Option<Duration> {
        let entry = self.entry(ticket).filter(|entry| !entry.alone)?;
        let p95 = self.durations.get(usize::from(entry.kind))?.p95_us?;
        Some(Duration::from_micros(u64::from(p95))).filter(|p95| *p95 < GROUP_P95)
    }

    /// The release did not succeed: the task is ready again, first of its priority.
    pub fn unrelease(&mut self, ticket: Ticket) {
        let Some(entry) = self.entry(ticket).copied() else { return };
        if !matches!(entry.place, Place::Released(_)) {
            return;
        }
        self.place(ticket, Place::Waiting);
        if let Some(entry) = self.entry_mut(ticket) {
            entry.place = Place::Ready;
        }
        let queue = self.queue_mut(entry.queue);
        queue.waiting = queue.waiting.saturating_sub(1);
        queue.queued += 1;
        queue.push_front(entry.priority, ticket);
    }

    /// What the scheduler has to decide, at most `max`.
    pub fn take_decisions(&mut self, max: usize) -> Vec<(Ticket, Decision)> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some((ticket, decision)) = self.decisions.pop_front()
        {
            if self.entry(ticket).is_some_and(|entry| entry.deciding == Some(decision)) {
                taken.push((ticket, decision));
            }
        }
        taken
    }

    /// Keeps a task from being released while its end, decided elsewhere, is on its way into the log.
    pub fn hold(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entry_mut(ticket) {
            entry.deciding = Some(Decision::Cancel);
            if entry.place == Place::Ready {
                self.place(ticket, Place::Waiting);
            }
        }
    }

    /// The end did not get into the log: the task goes on.
    pub fn unhold(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entry_mut(ticket)
            && entry.deciding == Some(Decision::Cancel)
        {
            entry.deciding = None;
            self.settle(ticket);
        }
    }

    /// The decision could not be put into the log: it comes up again.
    pub fn put_back(&mut self, ticket: Ticket, decision: Decision) {
        self.decisions.push_back((ticket, decision));
    }

    /// The planner's time: the later of the log's and the wall's.
    pub fn clock(&self) -> Timestamp {
        self.clock
    }
}

impl Held {
    /// The key of its task; `None` when a worker sent nonsense.
    pub fn key(&self) -> Option<TaskKey> {
        let tenant = Tenant::parse_or_default(&self.tenant).ok()?;
        Some(TaskKey::new(&tenant, &TaskId::parse(&self.task_id).ok()?))
    }
}
