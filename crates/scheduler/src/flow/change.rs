//! **Pure.** How tasks come, move and leave, and what the buckets count of it.

use crate::plan::Ticket;

use super::{
    Flow, UNKNOWN,
    arrivals::{Arrival, Arrivals, Refusal, Refused},
    bucket::Bucket,
    lane::{At, Item, Lane},
};

/// Where an open task is, for the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// It waits for something else than its limits.
    Waiting,
    /// It could start.
    Ready,
    /// An attempt of it is out.
    Out,
}

impl Flow {
    /// A task with these keys comes: one for each limit that has a key, in their order. Returns its
    /// lane.
    pub fn enter(&mut self, keys: &[Box<str>], stand: Stand) -> u32 {
        let mut keys = keys.iter();
        let keyed = self.limits.iter().map(|named| named.limit.key.is_some()).collect::<Vec<_>>();
        let buckets = keyed.into_iter().enumerate().map(|(place, keyed)| {
            let key = if keyed { keys.next().map_or("", |key| key) } else { "" };
            self.bucket_of(place, key)
        });
        let buckets = buckets.collect::<Box<[u32]>>();
        let id = self.lane_of(buckets);
        if let Some(lane) = self.lanes.get_mut(id as usize) {
            lane.tasks += 1;
        }
        self.count(id, Some(stand), None);
        id
    }

    /// A task leaves its lane.
    pub fn leave(&mut self, id: u32, stand: Stand, now: i64) {
        self.count(id, None, Some(stand));
        let Some(lane) = self.lanes.get_mut(id as usize) else { return };
        lane.tasks = lane.tasks.saturating_sub(1);
        if lane.tasks > 0 {
            if stand == Stand::Out {
                self.unpark_beside(id, now);
            }
            return;
        }
        self.unplace(id);
        let Some(lane) = self.lanes.try_remove(id as usize) else { return };
        self.by_buckets.remove(&lane.buckets);
        for bucket in lane.buckets {
            if let Some(bucket) = self.buckets.get_mut(bucket as usize) {
                bucket.lanes -= 1;
            }
            self.unpark(bucket, now);
            self.forget_idle(bucket, now);
        }
    }

    /// A task of the lane moves.
    pub fn moved(&mut self, lane: u32, from: Stand, to: Stand, now: i64) {
        if from != to {
            self.count(lane, Some(to), Some(from));
            if to == Stand::Out {
                self.charge(lane, now);
            }
            if from == Stand::Out || to == Stand::Out {
                self.unpark_beside(lane, now);
            }
        }
    }

    /// An attempt began, of which this process learns only now. Where its key is not known, it may be
    /// any.
    pub fn charge(&mut self, lane: u32, at: i64) {
        let Some(lane) = self.lanes.get(lane as usize) else { return };
        for id in &lane.buckets {
            let Some(bucket) = self.buckets.get_mut(*id as usize) else { continue };
            let Some(named) = self.limits.get(bucket.limit) else { continue };
            let Some(hidden) = self.hidden.get_mut(bucket.limit) else { continue };
            if bucket.is_unknown() {
                *hidden = at.max(*hidden);
            } else {
                bucket.charge(&named.limit, at, *hidden);
            }
        }
    }

    /// A task of the lane became ready.
    pub fn push(&mut self, lane: u32, priority: u8, ticket: Ticket, now: i64) {
        self.last = now.max(self.last + 1);
        let item = Item { ticket, since: self.last };
        if let Some(lane) = self.lanes.get_mut(lane as usize) {
            lane.push(priority, item);
        }
        self.came(lane, now);
    }

    /// The same for one that has been ready since then.
    pub fn push_since(
        &mut self,
        lane: u32,
        (priority, ticket): (u8, Ticket),
        since: i64,
        now: i64,
    ) {
        self.last = self.last.max(since);
        if let Some(lane) = self.lanes.get_mut(lane as usize) {
            lane.push(priority, Item { ticket, since });
        }
        self.came(lane, now);
    }

    /// A task of the lane is first again: its release did not happen. It has been ready since then,
    /// so that it stands among the other lanes where it stood.
    pub fn push_front(
        &mut self,
        lane: u32,
        (priority, ticket): (u8, Ticket),
        since: i64,
        now: i64,
    ) {
        if let Some(lane) = self.lanes.get_mut(lane as usize) {
            lane.push_front(priority, Item { ticket, since });
        }
        self.came(lane, now);
    }

    /// Where the lane stands may have changed; the others stay where they are.
    fn came(&mut self, id: u32, now: i64) {
        self.came += 1;
        let Some(lane) = self.lanes.get(id as usize) else { return };
        let at = match lane.at {
            At::Idle => None,
            At::Eligible(rank) | At::Parked(_, rank) => Some(rank),
        };
        if at.is_none() || at != self.rank(id, now) {
            self.replace(id, now);
        }
    }

    /// A task of the lane came, for the limits that judge arrivals: for all, or for one by its name.
    pub fn arrived(
        &mut self,
        lane: u32,
        arrival: Arrival,
        only: Option<&str>,
        waits: impl Fn(Ticket) -> bool,
    ) {
        self.came += 1;
        let Some(lane) = self.lanes.get(lane as usize) else { return };
        for id in &lane.buckets {
            let Some(bucket) = self.buckets.get_mut(*id as usize) else { continue };
            let judges = self.limits.get(bucket.limit).is_some_and(|named| {
                named.limit.judges_arrivals() && only.is_none_or(|only| *only == *named.name)
            });
            // Those whose key is not known were there before the limit.
            if judges && !bucket.is_unknown() {
                let arrivals = bucket.arrivals.get_or_insert_with(|| Box::new(Arrivals::new()));
                arrivals.push(arrival, &waits);
                self.fresh.insert(*id);
            }
        }
    }

    /// Says which of the new tasks are not to run, and why. Caps come first: what is refused by one
    /// replaces no other.
    pub fn judge(&mut self, waits: impl Fn(Ticket) -> bool) -> Vec<(Ticket, Refusal)> {
        let fresh = std::mem::take(&mut self.fresh);
        let back = std::mem::take(&mut self.back);
        let mut refused = Refused::default();
        for is_cap in [true, false] {
            for id in &fresh {
                let Some(bucket) = self.buckets.get_mut(*id as usize) else { continue };
                let Some(named) = self.limits.get(bucket.limit) else { continue };
                let back = back.get(id).copied().unwrap_or(0);
                let waiting = (bucket.ready + bucket.waiting).saturating_sub(back);
                let Some(arrivals) = &mut bucket.arrivals else { continue };
                let limit = (&named.limit, named.since);
                let stands = |t: Ticket, refused: &Refused| waits(t) && !refused.has(t);
                if is_cap {
                    arrivals.cap(limit, waiting, stands, &mut refused);
                } else {
                    arrivals.judge(limit, stands, &mut refused);
                }
            }
        }
        refused.sorted()
    }

    /// A task of the lane waits after an attempt. Who takes over has not judged anything: at its first
    /// judgement it is not counted, or tasks that came before it and were accepted would be refused.
    pub fn came_back(&mut self, lane: u32) {
        let Some(lane) = self.lanes.get(lane as usize) else { return };
        for bucket in &lane.buckets {
            *self.back.entry(*bucket).or_default() += 1;
        }
    }

    /// The arrivals that each limit knows of, by its name.
    pub fn arrivals(&self) -> Vec<(Box<str>, Arrival)> {
        let all = self.buckets.iter().filter_map(|(_, bucket)| {
            let name = &self.limits.get(bucket.limit)?.name;
            Some((name, bucket.arrivals.as_ref()?))
        });
        let all = all.flat_map(|(name, arrivals)| arrivals.list().map(|a| (name.clone(), a)));
        let mut all = all.collect::<Vec<_>>();
        all.sort_unstable_by_key(|(_, arrival)| (arrival.is_new, arrival.order));
        all
    }

    /// Forgets what has moved on, where it has come to outnumber the rest: one that follows takes
    /// nothing off.
    pub fn compact(
        &mut self,
        is_ready: impl Fn(Ticket, u8) -> bool,
        waits: impl Fn(Ticket) -> bool,
    ) {
        // Looking costs as much as there are lanes and buckets: so many must have come before.
        let stale_max = crate::queue::STALE_TICKETS_MAX;
        if self.came < stale_max as usize + self.lanes.len() + self.fresh.len() {
            return;
        }
        self.came = 0;
        for id in self.fresh.clone() {
            let Some(bucket) = self.buckets.get_mut(id as usize) else { continue };
            let waiting = bucket.ready + bucket.waiting;
            if let Some(arrivals) = &mut bucket.arrivals {
                arrivals.prune(waiting, &waits);
            }
        }
        let tickets = self.lanes.iter().map(|(_, lane)| lane.len()).sum::<usize>();
        let open = self.lanes.iter().map(|(_, lane)| lane.tasks).sum::<u64>();
        if tickets as u64 > 2 * open + stale_max {
            for (_, lane) in &mut self.lanes {
                lane.retain(&is_ready);
            }
            let now = self.last;
            let lanes = self.lanes.iter().map(|(id, _)| id as u32).collect::<Vec<_>>();
            for lane in lanes {
                self.replace(lane, now);
            }
        }
    }

    /// Takes off ready tasks whose keys are not known, at most `max`.
    pub fn take_unknown(&mut self, max: usize, now: i64) -> Vec<(u8, Ticket)> {
        let mut taken = Vec::new();
        while taken.len() < max {
            let first = self.unknown_buckets().find_map(|bucket| bucket.parked.first().copied());
            let Some(lane) = first.map(|rank| rank.lane) else { break };
            if let Some(lane) = self.lanes.get_mut(lane as usize) {
                let items = lane.take_up_to(max - taken.len());
                taken.extend(items.into_iter().map(|(priority, item)| (priority, item.ticket)));
            }
            self.replace(lane, now);
        }
        taken
    }

    pub(super) fn unknown_buckets(&self) -> impl Iterator<Item = &Bucket> {
        let unknown = |place| self.by_key.get(&(place, Box::from(UNKNOWN)));
        let ids = (0..self.limits.len()).filter_map(unknown);
        ids.filter_map(|id| self.buckets.get(*id as usize))
    }

    fn count(&mut self, lane: u32, to: Option<Stand>, from: Option<Stand>) {
        let Some(lane) = self.lanes.get(lane as usize) else { return };
        for id in &lane.buckets {
            let Some(bucket) = self.buckets.get_mut(*id as usize) else { continue };
            match from {
                Some(Stand::Waiting) => bucket.waiting = bucket.waiting.saturating_sub(1),
                Some(Stand::Ready) => bucket.ready = bucket.ready.saturating_sub(1),
                Some(Stand::Out) => bucket.out = bucket.out.saturating_sub(1),
                None => {}
            }
            match to {
                Some(Stand::Waiting) => bucket.waiting += 1,
                Some(Stand::Ready) => {
                    if bucket.ready == 0 {
                        bucket.wake(self.pass);
                    }
                    bucket.ready += 1;
                }
                Some(Stand::Out) => bucket.out += 1,
                None => {}
            }
        }
    }

    pub(super) fn bucket_of(&mut self, limit: usize, key: &str) -> u32 {
        if let Some(id) = self.by_key.get(&(limit, Box::from(key))) {
            return *id;
        }
        let id = self.buckets.insert(Bucket::new(limit, key)) as u32;
        self.by_key.insert((limit, key.into()), id);
        id
    }

    fn lane_of(&mut self, buckets: Box<[u32]>) -> u32 {
        if let Some(id) = self.by_buckets.get(&buckets) {
            return *id;
        }
        for bucket in &buckets {
            if let Some(bucket) = self.buckets.get_mut(*bucket as usize) {
                bucket.lanes += 1;
            }
        }
        let is_unknown =
            |id: &&u32| self.buckets.get(**id as usize).is_some_and(Bucket::is_unknown);
        let unknown = buckets.iter().find(is_unknown).copied();
        let id = self.lanes.insert(Lane::new(buckets.clone(), unknown)) as u32;
        self.by_buckets.insert(buckets, id);
        id
    }

    /// Forgets a bucket that nobody uses, once nothing is lost with it.
    pub(super) fn forget_idle(&mut self, id: u32, now: i64) {
        let Some(bucket) = self.buckets.get(id as usize).filter(|bucket| bucket.lanes == 0) else {
            return;
        };
        if self.gates.contains(&id) {
            return;
        }
        let idle_from = bucket.idle_from();
        if idle_from > now {
            self.wakes.insert((idle_from, id));
            return;
        }
        let bucket = self.buckets.remove(id as usize);
        self.by_key.remove(&(bucket.limit, bucket.key));
        self.fresh.remove(&id);
    }
}
