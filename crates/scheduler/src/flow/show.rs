//! **Pure.** What the limits can say of themselves: why a task waits, and what outlives a process.

use common::policy::limit::Rate;

use super::{
    Flow, UNKNOWN,
    arrivals::Arrivals,
    bucket::{Hold, interval, used_up},
    lane::class,
};

/// A limit that holds a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The name of the limit.
    pub limit: Box<str>,
    /// The key, if the limit has keys.
    pub key: Option<Box<str>>,
    /// How.
    pub hold: Hold,
}

/// What is known of a key that does not follow from the open tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The name of the limit.
    pub limit: Box<str>,
    /// The key.
    pub key: Box<str>,
    /// When the next start would be due if there were no burst, in microseconds; the smallest number
    /// for one that never started.
    pub next: i64,
    /// When its burst of submissions began, and until when it is waited for.
    pub burst: Option<(i64, i64)>,
}

impl Flow {
    /// The limits that hold the tasks of a lane now.
    pub fn holds(&self, lane: u32, now: i64) -> Vec<Held> {
        let Some(lane) = self.lanes.get(lane as usize) else { return Vec::new() };
        let held = |id: &u32| {
            let bucket = self.buckets.get(*id as usize)?;
            let named = self.limits.get(bucket.limit)?;
            Some(Held {
                limit: named.name.clone(),
                key: named.limit.key.is_some().then(|| bucket.key.clone()),
                hold: self.hold(*id, now)?,
            })
        };
        lane.buckets.iter().filter_map(held).collect()
    }

    /// The priority that a ready task of a lane has by its age.
    pub fn counts_as(&self, lane: u32, ticket: crate::plan::Ticket, now: i64) -> Option<u8> {
        let mut items = self.lanes.get(lane as usize)?.items();
        let (priority, item) = items.find(|(_, item)| item.ticket == ticket)?;
        Some(class(priority, item, now, self.ageing)).filter(|class| *class > priority)
    }

    /// The limit of the queue as a whole by which no more may wait, with its depth.
    pub fn full(&self) -> Option<(&str, u64)> {
        let full = self.gates.iter().filter_map(|gate| {
            let bucket = self.buckets.get(*gate as usize)?;
            let named = self.limits.get(bucket.limit)?;
            let depth = named.limit.depth?;
            (bucket.ready + bucket.waiting >= depth).then_some((named.name.as_ref(), depth))
        });
        full.min_by_key(|(_, depth)| *depth)
    }

    /// The rate of a lane that lets the fewest start, and when its next start is due.
    pub fn slowest(&self, lane: u32) -> Option<(Rate, i64)> {
        let lane = self.lanes.get(lane as usize)?;
        let rates = lane.buckets.iter().filter_map(|id| {
            let bucket = self.buckets.get(*id as usize)?;
            Some((self.limits.get(bucket.limit)?.limit.rate?, bucket.next))
        });
        rates.max_by_key(|(rate, _)| interval(*rate))
    }

    /// Whether a key of the lane is not known yet.
    pub fn is_unknown(&self, lane: u32) -> bool {
        self.lanes.get(lane as usize).is_some_and(|lane| lane.unknown.is_some())
    }

    /// Whether something is out whose keys are not known: how much room there is is not known either.
    pub fn unknown_are_out(&self) -> bool {
        self.unknown_buckets().any(|bucket| bucket.out > 0)
    }

    /// Whether something is ready whose keys are not known.
    pub fn unknown_are_ready(&self) -> bool {
        self.unknown_buckets().any(|bucket| !bucket.parked.is_empty())
    }

    /// Whether two lanes share the bucket of a limit.
    pub fn shares(&self, limit: &str, lane: u32, other: u32) -> bool {
        let place = self.limits.iter().position(|named| named.name.as_ref() == limit);
        let bucket = |lane: u32| self.lanes.get(lane as usize)?.buckets.get(place?).copied();
        bucket(lane).is_some() && bucket(lane) == bucket(other)
    }

    /// The keys of a lane, one for each limit that has one.
    pub fn keys(&self, lane: u32) -> Vec<Box<str>> {
        let Some(lane) = self.lanes.get(lane as usize) else { return Vec::new() };
        let keyed = lane.buckets.iter().filter(|bucket| !self.gates.contains(bucket));
        keyed.filter_map(|id| Some(self.buckets.get(*id as usize)?.key.clone())).collect()
    }

    /// The tasks of the lane that would go before this one.
    pub fn ahead(&self, lane: u32, ticket: crate::plan::Ticket) -> u64 {
        let Some(lane) = self.lanes.get(lane as usize) else { return 0 };
        lane.items().take_while(|(_, item)| item.ticket != ticket).count() as u64
    }

    /// The ready tasks, each with its lane, its priority and since when it is ready; the oldest first.
    pub fn ready(&self) -> Vec<(i64, u32, u8, crate::plan::Ticket)> {
        let lanes = self.lanes.iter().flat_map(|(id, lane)| {
            lane.items().map(move |(p, item)| (item.since, id as u32, p, item.ticket))
        });
        let mut ready = lanes.collect::<Vec<_>>();
        ready.sort_unstable();
        ready
    }

    /// What must be stored of the rates. What is out and was not heard of yet is charged anew when it
    /// is: `unheard` are the lanes of these.
    pub fn states(&self, unheard: impl Iterator<Item = u32>) -> Vec<State> {
        let mut early = std::collections::HashMap::<u32, i64>::new();
        for lane in unheard {
            for bucket in self.lanes.get(lane as usize).map_or(&[][..], |lane| &lane.buckets) {
                *early.entry(*bucket).or_default() += 1;
            }
        }
        let state = |(id, bucket): (usize, &super::Bucket)| {
            let named = self.limits.get(bucket.limit)?;
            let taken = early.get(&(id as u32)).copied().unwrap_or(0);
            let each = named.limit.rate.map_or(0, interval);
            let next = bucket.next.saturating_sub(taken * each);
            let burst = bucket.arrivals.as_ref().map(|arrivals| arrivals.burst());
            let (limit, key) = (named.name.clone(), bucket.key.clone());
            let is_known = bucket.next > i64::MIN || burst.is_some();
            is_known.then_some(State { limit, key, next, burst })
        };
        let hidden = self.limits.iter().zip(&self.hidden).filter(|(_, at)| **at > i64::MIN);
        let hidden = hidden.map(|(named, at)| {
            let (limit, key) = (named.name.clone(), UNKNOWN.into());
            State { limit, key, next: *at, burst: None }
        });
        self.buckets.iter().filter_map(state).chain(hidden).collect()
    }

    /// What is the most that may be used up of a rate after a start at that time.
    pub fn used_up(&self, limit: &str, at: i64) -> i64 {
        let named = self.limits.iter().find(|named| named.name.as_ref() == limit);
        named.and_then(|named| named.limit.rate).map_or(at, |rate| used_up(rate, at))
    }

    /// Nothing of any rate is used up, before what was stored is taken back.
    pub fn forget_rates(&mut self) {
        for (_, bucket) in &mut self.buckets {
            bucket.next = i64::MIN;
        }
        self.hidden.fill(i64::MIN);
    }

    /// Takes back what was stored.
    pub fn restore(&mut self, state: &State, now: i64) {
        let place = self.limits.iter().position(|named| named.name == state.limit);
        let Some(place) = place else { return };
        if *state.key == *UNKNOWN {
            if let Some(hidden) = self.hidden.get_mut(place) {
                *hidden = state.next;
            }
            return;
        }
        let id = self.bucket_of(place, &state.key);
        if let Some(bucket) = self.buckets.get_mut(id as usize) {
            bucket.next = state.next;
            if let Some(burst) = state.burst {
                bucket.arrivals.get_or_insert_with(|| Box::new(Arrivals::new())).restore(burst);
            }
        }
        self.forget_idle(id, now);
    }
}
