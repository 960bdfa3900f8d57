//! What runs here now: for the heartbeat, for those who stop it, and against running it twice.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use common::{
    id::{TaskId, TaskKey, Tenant},
    pb,
};
use tokio_util::sync::CancellationToken;

use super::{attempt::Stop, execution::Execution};

type Key = (TaskKey, u32);

/// Tells an attempt to stop, and why. The first reason stands.
#[derive(Debug, Default)]
pub(super) struct StopFlag {
    pub(super) token: CancellationToken,
    why: OnceLock<Stop>,
}

impl StopFlag {
    fn stop(&self, why: Stop) {
        // A second request changes nothing: the attempt is ending already.
        let _ = self.why.set(why);
        self.token.cancel();
    }

    /// Why it was told to stop, if it was.
    pub(super) fn why(&self) -> Option<Stop> {
        self.why.get().cloned()
    }
}

#[derive(Debug)]
struct Entry {
    attempt: pb::Attempt,
    stop: Arc<StopFlag>,
}

/// The attempts that this worker holds.
#[derive(Debug, Default)]
pub(super) struct Running {
    entries: Mutex<HashMap<Key, Entry>>,
}

/// An attempt is held for as long as this lives.
#[derive(Debug)]
pub(super) struct Held {
    running: Arc<Running>,
    key: Key,
    pub(super) stop: Arc<StopFlag>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds an attempt; `None` when it is held already.
    pub(super) fn hold(self: &Arc<Self>, execution: &Execution) -> Option<Held> {
        let key = (execution.key(), execution.attempt);
        let mut entries = self.lock();
        if entries.contains_key(&key) {
            return None;
        }
        let stop = Arc::new(StopFlag::default());
        let attempt = pb::Attempt {
            tenant: execution.tenant.to_string(),
            task_id: execution.id.to_string(),
            attempt: execution.attempt,
            queue: execution.queue.to_string(),
        };
        entries.insert(key, Entry { attempt, stop: stop.clone() });
        drop(entries);
        Some(Held { running: self.clone(), key, stop })
    }

    /// Whether an attempt is held.
    pub(super) fn holds(&self, execution: &Execution) -> bool {
        self.lock().contains_key(&(execution.key(), execution.attempt))
    }

    /// Tells one attempt to stop; says whether it is held here.
    pub(super) fn stop(&self, attempt: &pb::Attempt, why: Stop) -> bool {
        let (Ok(tenant), Ok(id)) =
            (Tenant::parse_or_default(&attempt.tenant), TaskId::parse(&attempt.task_id))
        else {
            return false;
        };
        let entries = self.lock();
        let entry = entries.get(&(TaskKey::new(&tenant, &id), attempt.attempt));
        entry.inspect(|entry| entry.stop.stop(why)).is_some()
    }

    /// Tells every attempt to stop.
    pub(super) fn stop_all(&self, why: &Stop) {
        for entry in self.lock().values() {
            entry.stop.stop(why.clone());
        }
    }

    /// What is held, for the heartbeat.
    pub(super) fn list(&self) -> Vec<pb::Attempt> {
        self.lock().values().map(|entry| entry.attempt.clone()).collect()
    }

    /// How many attempts are held.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}
