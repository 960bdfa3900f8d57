//! **Pure.** What ended attempts teach: how long those of a task type take, and how fast a queue goes.

use super::{Durations, Entry, Place, Planner};

/// Durations of one task type that are remembered.
const DURATIONS_MAX: usize = 64;
/// Task types whose durations are told apart; the rest share the last place.
const KINDS_MAX: usize = 4_096;

impl Planner {
    pub(super) fn kind_id(&mut self, word: &str) -> u16 {
        if let Some(id) = self.kinds.get(word) {
            return *id;
        }
        if self.durations.len() >= KINDS_MAX {
            return KINDS_MAX as u16 - 1;
        }
        let id = self.durations.len() as u16;
        self.kinds.insert(word.into(), id);
        self.durations.push(Durations::default());
        id
    }

    /// Learns how long attempts take, and how long they are under way before.
    pub(super) fn learn(
        &mut self,
        before: Entry,
        duration: Option<common::wire::time::Duration>,
        now_ms: u64,
    ) {
        let Some(duration) = duration.and_then(common::wire::time::Duration::to_std) else {
            return;
        };
        if let Place::Released(at) = before.place {
            let out = now_ms.saturating_sub(at) as f64 / 1_000.0;
            let queue = self.queue_mut(before.queue);
            queue.pace.ended(now_ms, out - duration.as_secs_f64());
        }
        if let Some(durations) = self.durations.get_mut(usize::from(before.kind)) {
            durations.add(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX));
        }
    }
}

impl Durations {
    fn add(&mut self, micros: u32) {
        if self.recent.len() == DURATIONS_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(micros);
        self.since += 1;
        if self.since >= 16 && self.recent.len() >= DURATIONS_MAX / 2 {
            self.since = 0;
            let mut sorted = self.recent.iter().copied().collect::<Vec<_>>();
            sorted.sort_unstable();
            self.p95_us = sorted.get(sorted.len() * 95 / 100).copied();
        }
    }
}
