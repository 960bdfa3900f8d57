//! **Pure.** What of the limits outlives a process and a cut of the log: the keys of tasks, and how far
//! rates are used up.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use common::{event::UsedRate, id::QueueName, lifecycle::Phase, limits, time::Timestamp};

use super::{Entry, Place, Planner};
use crate::{
    flow::{State, UNKNOWN},
    plan::store::StoredRate,
};

impl Planner {
    pub(in crate::plan) fn keys_in_flow(&self, slot: u32, entry: &Entry) -> Vec<String> {
        let flow = self.control.flows.get(&entry.queue);
        let keys = flow.zip(self.control.lanes.get(&slot)).map(|(flow, lane)| flow.keys(*lane));
        keys.into_iter().flatten().map(String::from).collect()
    }

    /// What the log has not told of yet is charged when it does: who reads this may never know that it
    /// was out.
    fn rates(&self) -> Vec<(&QueueName, State)> {
        let mut unheard = HashMap::<u32, Vec<u32>>::new();
        for (slot, lane) in &self.control.lanes {
            if let Some(entry) = self.ticket(*slot).and_then(|ticket| self.entry(ticket))
                && matches!(entry.place, Place::Released(_))
                && entry.state.phase == Phase::Pending
            {
                unheard.entry(entry.queue).or_default().push(*lane);
            }
        }
        let mut rates = Vec::new();
        for (id, flow) in &self.control.flows {
            let unheard = unheard.remove(id).unwrap_or_default();
            let Some((name, _)) = self.queues.get(*id as usize) else { continue };
            rates.extend(flow.states(unheard.into_iter()).into_iter().map(|state| (name, state)));
        }
        rates
    }

    pub(in crate::plan) fn store_rates(&self) -> Vec<StoredRate> {
        let stored = self.rates().into_iter().map(|(queue, state)| StoredRate {
            queue: queue.to_string(),
            limit: state.limit.into(),
            key: state.key.into(),
            next: state.next,
            first: state.burst.map(|(first, _)| first),
            held_until: state.burst.map(|(_, until)| until),
        });
        stored.collect()
    }

    /// After the tasks are there: those that run were charged before.
    pub(in crate::plan) fn restore_rates(&mut self, rates: &[StoredRate]) {
        self.forget_rates();
        for rate in rates {
            let burst = rate.first.zip(rate.held_until);
            let (limit, key) = (rate.limit.as_str().into(), rate.key.as_str().into());
            if let Ok(queue) = QueueName::parse(&rate.queue) {
                self.restore_rate(&queue, &State { limit, key, next: rate.next, burst });
            }
        }
    }

    /// What is said of rates when the log is cut. One message has room for so many keys, those that
    /// wait longest; what the others used up is said of every key.
    pub(in crate::plan) fn used_rates(&self) -> Vec<UsedRate> {
        let now = self.log_clock.micros();
        let mut rates = Vec::new();
        let mut of_every_key = BTreeMap::new();
        for (queue, State { limit, key, next, .. }) in self.rates() {
            let is_known = *key != *UNKNOWN;
            let next = if is_known { next } else { self.used_up(queue, &limit, next) };
            if next > now {
                rates.push((is_known, next, queue, limit, key));
            }
        }
        rates.sort_unstable_by_key(|(is_known, next, ..)| Reverse((*is_known, *next)));
        let mut used = Vec::new();
        for (is_known, next, queue, limit, key) in rates {
            if is_known && used.len() < limits::CUT_RATES_MAX {
                used.push(used_rate(queue, limit, Some(key.into()), next));
            } else {
                let most = of_every_key.entry((queue, limit)).or_insert(next);
                *most = next.max(*most);
            }
        }
        let rest = of_every_key.into_iter();
        used.extend(rest.map(|((queue, limit), next)| used_rate(queue, limit, None, next)));
        used
    }

    /// What was said of rates when the log was cut.
    pub(in crate::plan) fn rates_known(&mut self, rates: &[UsedRate]) {
        self.forget_rates();
        for UsedRate { queue, limit, key, next } in rates {
            let next = next.micros();
            let (key, next) = match key {
                Some(key) => (key.as_str(), next),
                // Its last start was as long before.
                None => (UNKNOWN, next - self.used_up(queue, limit, 0)),
            };
            let state = State { limit: limit.as_str().into(), key: key.into(), next, burst: None };
            self.restore_rate(queue, &state);
        }
    }

    /// What is the most that may be used up of a rate after a start at that time.
    fn used_up(&self, queue: &QueueName, limit: &str, at: i64) -> i64 {
        let flow = self.queue_ids.get(queue).and_then(|id| self.control.flows.get(id));
        flow.map_or(at, |flow| flow.used_up(limit, at))
    }

    fn forget_rates(&mut self) {
        for flow in self.control.flows.values_mut() {
            flow.forget_rates();
        }
    }

    fn restore_rate(&mut self, queue: &QueueName, state: &State) {
        let now = self.clock.micros();
        let id = self.queue_ids.get(queue);
        if let Some(flow) = id.and_then(|id| self.control.flows.get_mut(id)) {
            flow.restore(state, now);
        }
    }
}

fn used_rate(queue: &QueueName, limit: Box<str>, key: Option<String>, next: i64) -> UsedRate {
    let next = Timestamp::from_micros(next);
    UsedRate { queue: queue.clone(), limit: limit.into(), key, next }
}
