//! **Pure.** Flow control: which ready task of a queue with limits goes next, and why the others do not.
//!
//! Tasks with the same keys form a *lane*. A lane whose first task may not start is put aside with
//! the *bucket* that holds it, so that nothing behind it is looked at until that bucket has room.
//! A bucket is one key of one limit; a limit without a key has one, the *gate*, that holds all.
//!
//! The lane to go next is the one whose first task counts most (its priority and its age), then the
//! one whose key had the least of its share (start-time fair queueing), then the one that waits longest.
//!
//! Times are microseconds of the planner's clock, which outlive a process.

mod arrivals;
mod bucket;
mod change;
mod lane;
mod show;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
};

use common::policy::limit::Limit;
use slab::Slab;

pub use self::{
    arrivals::{Arrival, ORDER_BITS, Refusal},
    bucket::Hold,
    change::Stand,
    show::{Held, State},
};
use self::{
    bucket::{Bucket, STEP},
    lane::{At, Item, Lane, Rank},
};
use crate::plan::Ticket;

/// Stands for a key that is not known yet: what has it waits until it is.
pub const UNKNOWN: &str = "\0";

/// A limit with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Its name.
    pub name: Box<str>,
    /// What it says.
    pub limit: Limit,
    /// Which message of the log set this version: older tasks are not judged by it.
    pub since: u64,
}

/// The task that goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The task.
    pub ticket: Ticket,
    /// The priority under which it waits.
    pub priority: u8,
    /// Since when it is ready, in microseconds.
    pub since: i64,
    lane: u32,
}

/// The ready tasks of one queue with limits.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    limits: Vec<Named>,
    /// Place of the limit that shares the queue between its keys.
    fair: Option<usize>,
    /// Time that counts as one priority, in microseconds.
    ageing: Option<i64>,
    buckets: Slab<Bucket>,
    by_key: HashMap<(usize, Box<str>), u32>,
    /// The buckets of limits without a key.
    gates: Vec<u32>,
    lanes: Slab<Lane>,
    by_buckets: HashMap<Box<[u32]>, u32>,
    /// Lanes that may go on as far as is known, the next one first.
    eligible: BTreeSet<Rank>,
    /// When buckets are looked at again.
    wakes: BTreeSet<(i64, u32)>,
    /// When lanes come to count as more.
    promotions: BTreeSet<(i64, u32)>,
    /// Buckets with arrivals to be judged.
    fresh: BTreeSet<u32>,
    /// By bucket: tasks that wait after an attempt, for the first judgement of a leader.
    back: HashMap<u32, u64>,
    /// For each limit the last start of something whose key was not known: it may have been any.
    hidden: Vec<i64>,
    /// Tickets and arrivals that came since it was looked for those that have moved on.
    came: usize,
    /// Virtual time: where the key was that went last.
    pass: u64,
    /// The newest `since` of a task: the next one's is later, so that it also orders them.
    last: i64,
}

impl Flow {
    /// A queue with these limits and no tasks.
    pub fn new(limits: Vec<Named>) -> Self {
        let mut flow = Self::default();
        flow.set(limits, i64::MIN);
        flow
    }

    /// Takes other numbers for the same limits: their names and keys must be as before.
    pub fn set(&mut self, limits: Vec<Named>, now: i64) {
        self.fair = limits.iter().position(|named| named.limit.fair.is_some());
        let ageing = limits.iter().filter_map(|named| named.limit.ageing).min();
        self.ageing = ageing.map(|ageing| ageing.as_micros() as i64);
        let old = std::mem::replace(&mut self.limits, limits);
        self.renew_rates(&old, now);
        self.hidden.resize(self.limits.len(), i64::MIN);
        if self.gates.is_empty() {
            let gates =
                self.limits.iter().enumerate().filter(|(_, named)| named.limit.key.is_none());
            let gates = gates.map(|(place, _)| place).collect::<Vec<_>>();
            self.gates = gates.into_iter().map(|place| self.bucket_of(place, "")).collect();
        }
    }

    /// Where a rate is another one than it was in these limits, no key waits by the one before: the
    /// next start could be a day away.
    pub fn renew_rates(&mut self, old: &[Named], now: i64) {
        for (_, bucket) in &mut self.buckets {
            let Some(named) = self.limits.get(bucket.limit) else { continue };
            let before = old.iter().find(|old| old.name == named.name);
            if let Some(rate) = named.limit.rate
                && before.is_some_and(|before| before.limit.rate != Some(rate))
            {
                bucket.new_rate(rate, now);
            }
        }
    }

    /// The limits, by name.
    pub fn limits(&self) -> &[Named] {
        &self.limits
    }

    /// Looks at every lane again, after the limits changed.
    pub fn look_again(&mut self, now: i64) {
        let lanes = self.lanes.iter().map(|(id, _)| id as u32).collect::<Vec<_>>();
        for lane in lanes {
            self.unplace(lane);
            self.place(lane, now);
        }
    }

    /// What goes next, if anything may. A ticket whose task has moved on is dropped.
    pub fn next(&mut self, now: i64, is_ready: impl Fn(Ticket, u8) -> bool) -> Option<Next> {
        self.tick(now);
        if self.gate(now).is_some() {
            return None;
        }
        while let Some(rank) = self.eligible.first().copied() {
            let Some(lane) = self.lanes.get_mut(rank.lane as usize) else {
                self.eligible.remove(&rank);
                continue;
            };
            let head = lane.head(now, self.ageing);
            let head = head.filter(|head| is_ready(head.item.ticket, head.priority));
            let Some(head) = head else {
                lane.drop_stale(&is_ready);
                self.replace(rank.lane, now);
                continue;
            };
            // Others of its key may have gone since.
            if self.rank(rank.lane, now) != Some(rank) {
                self.replace(rank.lane, now);
                continue;
            }
            if let Some((bucket, hold)) = self.holder(rank.lane, now) {
                self.park(rank, bucket, hold);
                self.unpark_beside(rank.lane, now);
                continue;
            }
            let (priority, Item { ticket, since }) = (head.priority, head.item);
            return Some(Next { ticket, priority, since, lane: rank.lane });
        }
        None
    }

    /// The next task goes. That it is out is told by [`Flow::moved`].
    pub fn take(&mut self, next: Next, now: i64) {
        if let Some(lane) = self.lanes.get_mut(next.lane as usize) {
            lane.pop(next.priority);
        }
        if let Some((place, bucket)) = self.share(next.lane)
            && let Some(named) = self.limits.get(place)
            && let Some(bucket) = self.buckets.get_mut(bucket as usize)
        {
            self.pass = self.pass.max(bucket.pass);
            bucket.pass += STEP / u64::from(named.limit.weight(&bucket.key));
        }
        self.replace(next.lane, now);
    }

    /// Time passes: rates, pauses and quiet times end, tasks grow older.
    pub fn tick(&mut self, now: i64) {
        while let Some((at, bucket)) = self.wakes.first().copied()
            && at <= now
        {
            self.wakes.remove(&(at, bucket));
            self.unpark(bucket, now);
            self.forget_idle(bucket, now);
        }
        while let Some((at, lane)) = self.promotions.first().copied()
            && at <= now
        {
            self.promotions.remove(&(at, lane));
            self.replace(lane, now);
        }
    }

    /// When time alone lets something go on.
    pub fn next_wake(&self, now: i64) -> Option<i64> {
        let gate = self.gate(now).and_then(Hold::until).filter(|_| !self.eligible.is_empty());
        gate.or_else(|| self.wakes.first().map(|(at, _)| *at))
    }

    /// What holds the queue as a whole.
    fn gate(&self, now: i64) -> Option<Hold> {
        self.gates.iter().find_map(|gate| self.hold(*gate, now))
    }

    fn hold(&self, bucket: u32, now: i64) -> Option<Hold> {
        let bucket = self.buckets.get(bucket as usize)?;
        let hidden = self.hidden.get(bucket.limit).copied().unwrap_or(i64::MIN);
        bucket.hold(&self.limits.get(bucket.limit)?.limit, now, hidden)
    }

    /// The bucket that holds a lane; the gates are looked at before.
    fn holder(&self, lane: u32, now: i64) -> Option<(u32, Hold)> {
        let lane = self.lanes.get(lane as usize)?;
        let keyed = lane.buckets.iter().filter(|bucket| !self.gates.contains(bucket));
        keyed.into_iter().find_map(|bucket| Some((*bucket, self.hold(*bucket, now)?)))
    }

    /// The bucket whose key shares the queue with others.
    fn share(&self, lane: u32) -> Option<(usize, u32)> {
        let place = self.fair?;
        Some((place, *self.lanes.get(lane as usize)?.buckets.get(place)?))
    }

    /// Where a lane stands now; `None` when it has nothing.
    fn rank(&self, lane: u32, now: i64) -> Option<Rank> {
        let head = self.lanes.get(lane as usize)?.head(now, self.ageing)?;
        let share = self.share(lane).and_then(|(_, bucket)| self.buckets.get(bucket as usize));
        let pass = share.map_or(0, |bucket| bucket.pass);
        Some(Rank { class: Reverse(head.class), pass, since: head.item.since, lane })
    }

    /// Puts a lane to where it belongs now.
    fn replace(&mut self, lane: u32, now: i64) {
        let parked = match self.lanes.get(lane as usize).map(|lane| lane.at) {
            Some(At::Parked(bucket, _)) => Some(bucket).filter(|b| self.hold(*b, now).is_some()),
            Some(At::Eligible(_) | At::Idle) | None => None,
        };
        let was_eligible = self.unplace(lane);
        match (parked, self.rank(lane, now)) {
            (Some(bucket), Some(rank)) => {
                self.stand(lane, At::Parked(bucket, rank));
                self.promote(lane, now);
            }
            (None, Some(_)) => self.place(lane, now),
            // Its turn goes to another one.
            (_, None) if was_eligible => self.unpark_beside(lane, now),
            (_, None) => {}
        }
    }

    /// Puts a lane that is nowhere among those that may go on; one whose keys are not known waits.
    fn place(&mut self, lane: u32, now: i64) {
        let Some(rank) = self.rank(lane, now) else { return };
        let unknown = self.lanes.get(lane as usize).and_then(|lane| lane.unknown);
        self.stand(lane, unknown.map_or(At::Eligible(rank), |bucket| At::Parked(bucket, rank)));
        self.promote(lane, now);
    }

    fn promote(&mut self, id: u32, now: i64) {
        if let Some(lane) = self.lanes.get_mut(id as usize) {
            lane.promotion = lane.next_promotion(now, self.ageing);
            self.promotions.extend(lane.promotion.map(|at| (at, id)));
        }
    }

    fn stand(&mut self, id: u32, at: At) {
        let Some(lane) = self.lanes.get_mut(id as usize) else { return };
        lane.at = at;
        match at {
            At::Idle => {}
            At::Eligible(rank) => {
                self.eligible.insert(rank);
            }
            At::Parked(bucket, rank) => {
                if let Some(bucket) = self.buckets.get_mut(bucket as usize) {
                    bucket.parked.insert(rank);
                }
            }
        }
    }

    /// Takes a lane from where it is; says whether it might have gone on.
    fn unplace(&mut self, id: u32) -> bool {
        let Some(lane) = self.lanes.get_mut(id as usize) else { return false };
        let at = std::mem::replace(&mut lane.at, At::Idle);
        if let Some(at) = lane.promotion.take() {
            self.promotions.remove(&(at, id));
        }
        match at {
            At::Idle => false,
            At::Eligible(rank) => self.eligible.remove(&rank),
            At::Parked(bucket, rank) => {
                if let Some(bucket) = self.buckets.get_mut(bucket as usize) {
                    bucket.parked.remove(&rank);
                }
                false
            }
        }
    }

    /// Puts a lane aside, with the bucket that holds it.
    fn park(&mut self, rank: Rank, bucket: u32, hold: Hold) {
        self.eligible.remove(&rank);
        self.stand(rank.lane, At::Parked(bucket, rank));
        self.wakes.extend(hold.until().map(|at| (at, bucket)));
    }

    /// Lets the first lane go on that this bucket held, if it holds none any more. One is enough:
    /// when it has gone, or is held by another bucket, the next one follows.
    fn unpark(&mut self, id: u32, now: i64) {
        let first = self.buckets.get(id as usize).and_then(|b| b.parked.first().copied());
        let Some(first) = first else { return };
        if let Some(hold) = self.hold(id, now) {
            self.wakes.extend(hold.until().map(|at| (at, id)));
            return;
        }
        self.unplace(first.lane);
        let pass = self.pass;
        if let Some((_, bucket)) = self.share(first.lane)
            && let Some(bucket) = self.buckets.get_mut(bucket as usize)
        {
            bucket.catch_up(pass);
        }
        self.place(first.lane, now);
    }

    /// The same for every bucket of a lane.
    fn unpark_beside(&mut self, lane: u32, now: i64) {
        let buckets = self.lanes.get(lane as usize).map(|lane| lane.buckets.clone());
        for bucket in buckets.into_iter().flatten() {
            self.unpark(bucket, now);
        }
    }
}

#[cfg(test)]
mod tests;
