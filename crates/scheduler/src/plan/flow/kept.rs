//! **Pure.** What of the limits outlives a process: the keys of tasks, and how far rates are used up.

use std::collections::HashMap;

use common::{id::QueueName, lifecycle::Phase};

use super::{Entry, Place, Planner};
use crate::{flow::State, plan::store::StoredRate};

impl Planner {
    pub(in crate::plan) fn keys_in_flow(&self, slot: u32, entry: &Entry) -> Vec<String> {
        let flow = self.control.flows.get(&entry.queue);
        let keys = flow.zip(self.control.lanes.get(&slot)).map(|(flow, lane)| flow.keys(*lane));
        keys.into_iter().flatten().map(String::from).collect()
    }

    /// What the log has not told of yet is charged when it does: who reads this may never know that it
    /// was out.
    pub(in crate::plan) fn store_rates(&self) -> Vec<StoredRate> {
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
            rates.extend(flow.states(unheard.into_iter()).into_iter().map(|state| StoredRate {
                queue: name.to_string(),
                limit: state.limit.into(),
                key: state.key.into(),
                next: state.next,
                first: state.burst.map(|(first, _)| first),
                held_until: state.burst.map(|(_, until)| until),
            }));
        }
        rates
    }

    /// After the tasks are there: those that run were charged before.
    pub(in crate::plan) fn restore_rates(&mut self, rates: &[StoredRate]) {
        let now = self.clock.micros();
        for flow in self.control.flows.values_mut() {
            flow.forget_rates();
        }
        for rate in rates {
            let id = QueueName::parse(&rate.queue).ok().and_then(|q| self.queue_ids.get(&q));
            if let Some(flow) = id.and_then(|id| self.control.flows.get_mut(id)) {
                let (limit, key) = (rate.limit.as_str().into(), rate.key.as_str().into());
                let burst = rate.first.zip(rate.held_until);
                flow.restore(&State { limit, key, next: rate.next, burst }, now);
            }
        }
    }
}
