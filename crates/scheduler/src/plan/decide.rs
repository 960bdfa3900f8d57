//! **Pure.** What follows from the backlog now: releases, decisions, and whom to tell to stop.

use std::{cmp::Reverse, collections::HashSet, time::Duration};

use common::{
    id::{QueueName, TaskKey},
    lifecycle::Phase,
    limits,
    time::Timestamp,
};

use super::{Alarm, Decision, Found, Place, Planner, Ticket};
use crate::{queue::window, workers::Service};

/// Tasks that travel together, at most.
const GROUP_TASKS_MAX: usize = 32;
/// Work that travels together, at most, by the types' measured p95.
const GROUP_WORK: Duration = Duration::from_millis(50);
/// Tasks of a type travel together only while its p95 is below this.
const GROUP_P95: Duration = Duration::from_millis(5);

/// Timers of tasks that are over that are kept before they are looked for.
const STALE_TIMERS_MAX: usize = 4_096;

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

impl Planner {
    /// Begins to decide: what was found undecided while following is decided now.
    ///
    /// Queue timeouts stood still while nobody led, so they begin anew.
    pub fn lead(&mut self, now: Timestamp, now_ms: u64) {
        self.leading_since = Some(now_ms);
        self.clock = self.clock.max(now);
        self.was_deaf(now_ms);
        self.schedules.lead(self.clock);
        self.takes_over();
        self.decisions.clear();
        let mut timed = self.rare.keys().copied().collect::<Vec<_>>();
        timed.sort_unstable();
        for ticket in timed.into_iter().filter_map(|slot| self.ticket(slot)).collect::<Vec<_>>() {
            let is_ready = self.entry(ticket).is_some_and(|entry| entry.place == Place::Ready);
            if let Some(rare) = self.rare.get_mut(&ticket.slot) {
                rare.ready_since = None;
            }
            // The others get theirs when they are ready.
            if is_ready {
                self.wait_for_queue(ticket);
            }
        }
        for (ticket, entry) in self.entries.iter() {
            if let Some(decision) = entry.deciding {
                self.decisions.push_back((ticket, decision));
            }
        }
    }

    /// Stops deciding. What is out stays out.
    pub fn follow(&mut self) {
        self.leading_since = None;
        self.schedules.follow();
        self.decisions.clear();
    }

    /// The attempt lies in the work queue already: an earlier leader released it.
    fn is_out(&mut self, key: TaskKey, attempt: u32, now_ms: u64) {
        if let Some(Found::Open(ticket, entry)) = self.find(key)
            && entry.state.attempt() == attempt
            && matches!(entry.place, Place::Ready | Place::Waiting)
        {
            self.place(ticket, Place::Released(now_ms));
        }
    }

    /// What this process released in an earlier term, and what neither lies in the work queue nor was
    /// begun: it never got there, or its answer never came. It is ready again, at no cost. All that
    /// the log ended before the work queue was read must be folded.
    pub fn only_these_are_out(&mut self, out: &[(TaskKey, u32)], now_ms: u64) {
        for (key, attempt) in out {
            self.is_out(*key, *attempt, now_ms);
        }
        let out = out.iter().copied().collect::<HashSet<_>>();
        let listed = self.workers.held_keys();
        let nowhere = self.entries.iter().filter(|(_, entry)| {
            matches!(entry.place, Place::Released(_))
                && entry.state.phase == Phase::Pending
                && !out.contains(&(entry.key, entry.state.attempt()))
                && !listed.contains(&entry.key)
        });
        let nowhere = nowhere.map(|(ticket, _)| ticket).collect::<Vec<_>>();
        for ticket in nowhere.into_iter().rev() {
            self.unrelease(ticket);
        }
    }

    /// Time passes: delays end, timeouts ring. Call it before [`Planner::release`].
    ///
    /// Only a leader's timers ring. One that follows does not know what is out, and what it folds
    /// may be old: the wall's time has no place in it.
    pub fn tick(&mut self, now: Timestamp, now_ms: u64) {
        self.compact();
        if self.leading_since.is_none() {
            return;
        }
        self.clock = self.clock.max(now);
        while let Some(Reverse((at, ticket, alarm))) = self.timers.peek().copied()
            && at <= self.clock
        {
            self.timers.pop();
            self.ring(ticket, alarm);
        }
        self.tick_flows();
        for name in self.workers.lapsed(now_ms) {
            self.worker_left(&name);
        }
        self.orphans(now_ms);
    }

    /// Forgets tickets and timers of tasks that have moved on, when they outnumber the others.
    fn compact(&mut self) {
        for id in 0..self.queues.len() as u32 {
            let mut queue = std::mem::take(self.queue_mut(id));
            queue.compact(|ticket, priority| self.is_ready(ticket, priority));
            *self.queue_mut(id) = queue;
        }
        self.compact_flows();
        self.compact_timers();
    }

    fn compact_timers(&mut self) {
        let enough = 2 * self.entries.len() + STALE_TIMERS_MAX;
        // All that were found last may still be of use. Looking costs as much as there are.
        let (found, was_enough) = self.timers_looked;
        let worth_it = self.timers.len() > 2 * found || enough < was_enough / 2;
        if self.timers.len() <= enough || !worth_it {
            return;
        }
        let mut timers = std::mem::take(&mut self.timers).into_vec();
        timers.retain(|Reverse((_, ticket, _))| self.entries.is_open(*ticket));
        if timers.len() > enough {
            // Of those of one task that ring for the same reason the first is enough: when it rings
            // too early it is set anew.
            timers.sort_unstable_by_key(|Reverse((at, ticket, alarm))| (*ticket, *alarm, *at));
            timers.dedup_by_key(|Reverse((_, ticket, alarm))| (*ticket, *alarm));
        }
        self.timers_looked = (timers.len(), enough);
        self.timers = timers.into();
    }

    /// When the next delay, timeout or pause ends, or the next tick of a schedule comes.
    pub fn next_alarm(&self) -> Option<Timestamp> {
        let timer = self.timers.peek().map(|Reverse((at, ..))| *at);
        let others = [self.schedules.next_alarm(), self.next_wake(), self.pause_ends()];
        timer.into_iter().chain(others.into_iter().flatten()).min()
    }

    fn ring(&mut self, ticket: Ticket, alarm: Alarm) {
        let Some(entry) = self.entry(ticket) else { return };
        let idle = !matches!(entry.place, Place::Released(_)) && entry.deciding.is_none();
        match alarm {
            Alarm::Due => self.settle(ticket),
            Alarm::Total | Alarm::Dependency if !idle => {
                // Its worker minds it now. What becomes of it is not known: it is looked at again.
                self.alarm(self.clock.after(limits::HEARTBEAT_EVERY), ticket, alarm);
            }
            Alarm::Total => self.decide(ticket, Decision::TotalTimeout),
            Alarm::Dependency => {
                let missing = |edge: &crate::graph::Edge| self.find(edge.dependency).is_none();
                if self.graph.waits(ticket.slot).iter().any(missing) {
                    self.decide(ticket, Decision::DependencyMissing);
                }
            }
            // Its release may yet be refused: then it has waited all along.
            Alarm::Queue
                if matches!(entry.place, Place::Released(_))
                    && entry.state.phase == Phase::Pending =>
            {
                self.alarm(self.clock.after(limits::HEARTBEAT_EVERY), ticket, alarm);
            }
            Alarm::Queue => {
                let since = self.rare.get(&ticket.slot).and_then(|rare| rare.ready_since);
                let rings = since.zip(self.queue_timeout(ticket)).map(|(t, d)| t.after(d));
                let Some(rings) = rings.filter(|_| entry.place == Place::Ready) else { return };
                if rings <= self.clock {
                    self.decide(ticket, Decision::Expired);
                } else {
                    // It became ready again, or a limit gave it more time.
                    self.alarm(rings, ticket, alarm);
                }
            }
            Alarm::Cancel => self.check_cancel(ticket),
        }
    }

    /// What to release now, in order, at most `max` tasks. What is returned counts as out.
    pub fn release(&mut self, now_ms: u64, window_max: u32, max: usize) -> Vec<Release> {
        let mut releases = Vec::new();
        let mut left = max;
        if self.pause_of_all().is_some() {
            return releases;
        }
        for id in 0..self.queues.len() as u32 {
            let Some((name, queue)) = self.queues.get(id as usize) else { continue };
            if queue.queued == 0 || self.pause_of(queue).is_some() {
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
    fn group(&mut self, id: u32, service: Service, room: usize, now_ms: u64) -> Vec<Ticket> {
        let mut group = Vec::new();
        let mut work = Duration::ZERO;
        let queue = self.queue_mut(id);
        let free = service.slots.saturating_sub(queue.outstanding);
        let many = queue.queued > 2 * u64::from(free.max(1)) && !service.json;
        let most = if many { room.min(GROUP_TASKS_MAX) } else { 1 };
        while group.len() < most {
            let Some(candidate) = self.candidate(id) else { break };
            let ticket = candidate.ticket();
            let p95 = if many { self.short(ticket) } else { None };
            let fits = p95.is_some_and(|p95| work + p95 <= GROUP_WORK);
            if !group.is_empty() && !fits {
                self.pass_over(id, candidate);
                break;
            }
            self.take(id, candidate, now_ms);
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
        let Some(entry) = self.entry(ticket) else { return };
        if !matches!(entry.place, Place::Released(_)) {
            return;
        }
        let since = self.was_ready_since(ticket);
        self.place(ticket, Place::Waiting);
        if entry.deciding.is_some()
            || entry.state.cancel_requested
            || self.type_holds(ticket, &entry)
        {
            return;
        }
        self.entries.update(ticket, |entry| entry.place = Place::Ready);
        let is_lined_up = self.line_up_first(ticket, (entry.queue, entry.priority), since);
        let queue = self.queue_mut(entry.queue);
        queue.waiting = queue.waiting.saturating_sub(1);
        queue.queued += 1;
        if !is_lined_up {
            queue.push_front(entry.priority, ticket);
        }
        // While it was out a limit may have got a time for what is ready.
        self.wait_for_queue(ticket);
    }

    /// The attempts that are released with these tickets. While a release is under way a task may move
    /// on, and then the answer is not about its next attempt.
    pub fn attempts(&self, tickets: &[Ticket]) -> Vec<(Ticket, u32)> {
        let attempt = |ticket: &Ticket| Some((*ticket, self.entry(*ticket)?.state.attempt()));
        tickets.iter().filter_map(attempt).collect()
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
    /// Returns what was to be decided about it before.
    pub fn hold(&mut self, ticket: Ticket) -> Option<Decision> {
        let entry = self.entry(ticket)?;
        self.entries.update(ticket, |entry| entry.deciding = Some(Decision::Cancel));
        if entry.place == Place::Ready {
            self.place(ticket, Place::Waiting);
        }
        entry.deciding
    }

    /// The end did not get into the log: the task goes on as it was before [`Planner::hold`].
    pub fn unhold(&mut self, ticket: Ticket, before: Option<Decision>) {
        self.entries.update(ticket, |entry| entry.deciding = before);
        match before {
            Some(decision) => self.decisions.push_back((ticket, decision)),
            None => self.settle(ticket),
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
