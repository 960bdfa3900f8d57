//! **Pure.** Which workers live, what they serve and what they hold.

use std::collections::{BTreeMap, HashMap, HashSet};

use common::{id::TaskKey, limits, pb};

/// A worker as its last heartbeat showed it.
#[derive(Clone, Debug)]
struct Worker {
    heard_ms: u64,
    draining: bool,
    json: bool,
    queues: BTreeMap<String, u32>,
    running: HashSet<Held>,
}

/// An attempt that a worker says it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// Its tenant.
    pub tenant: String,
    /// Its task.
    pub task_id: String,
    /// Its number.
    pub attempt: u32,
}

/// What serves one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Workers that take new work.
    pub workers: u32,
    /// Their slots together.
    pub slots: u32,
    /// Whether one of them reads JSON only.
    pub json: bool,
}

/// The workers that live, by name.
#[derive(Clone, Debug, Default)]
pub struct Workers(HashMap<String, Worker>);

impl Workers {
    /// A heartbeat came in.
    pub fn heard(&mut self, heartbeat: pb::Heartbeat, now_ms: u64) {
        let running = heartbeat
            .running
            .into_iter()
            .take(limits::SLOTS_MAX as usize)
            .map(|a| Held { tenant: a.tenant, task_id: a.task_id, attempt: a.attempt })
            .collect();
        let worker = Worker {
            heard_ms: now_ms,
            draining: heartbeat.draining,
            json: heartbeat.encoding == "json",
            queues: heartbeat.queues,
            running,
        };
        self.0.insert(heartbeat.worker, worker);
    }

    /// Takes away the worker that has left; returns what it held.
    pub fn left(&mut self, name: &str) -> Vec<Held> {
        self.0.remove(name).map(|w| w.running.into_iter().collect()).unwrap_or_default()
    }

    /// The workers that were not heard for too long.
    pub fn lapsed(&self, now_ms: u64) -> Vec<String> {
        let lost_after = limits::WORKER_LOST_AFTER.as_millis() as u64;
        let lapsed = |w: &Worker| now_ms.saturating_sub(w.heard_ms) > lost_after;
        let gone = self.0.iter().filter(|(_, w)| lapsed(w)).map(|(name, _)| name.clone());
        let mut gone = gone.collect::<Vec<_>>();
        gone.sort_unstable();
        gone
    }

    /// Whether a worker lives.
    pub fn lives(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether a worker that lives holds an attempt of this task.
    pub fn holds_key(&self, key: TaskKey) -> bool {
        self.0.values().any(|w| w.running.iter().any(|held| held.key() == Some(key)))
    }

    /// The tasks that one worker lists.
    pub fn held_by(&self, name: &str) -> HashSet<TaskKey> {
        let worker = self.0.get(name);
        worker.into_iter().flat_map(|w| w.running.iter().filter_map(Held::key)).collect()
    }

    /// The tasks that workers list.
    pub fn held_keys(&self) -> HashSet<TaskKey> {
        self.0.values().flat_map(|w| w.running.iter().filter_map(Held::key)).collect()
    }

    /// Who serves the queue.
    pub fn service(&self, queue: &str) -> Service {
        let serving = self.0.values().filter(|w| !w.draining);
        serving.filter_map(|w| Some((w, *w.queues.get(queue)?))).fold(
            Service::default(),
            |sum, (worker, slots)| Service {
                workers: sum.workers + 1,
                slots: sum.slots.saturating_add(slots.min(limits::SLOTS_MAX)),
                json: sum.json || worker.json,
            },
        )
    }

    /// The queues that somebody serves.
    pub fn queues(&self) -> HashSet<&str> {
        self.0.values().flat_map(|w| w.queues.keys().map(String::as_str)).collect()
    }

    /// A new leader has heard nobody yet: nobody is late.
    pub fn all_heard(&mut self, now_ms: u64) {
        for worker in self.0.values_mut() {
            worker.heard_ms = now_ms;
        }
    }
}
