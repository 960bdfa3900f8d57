//! The containers of this worker: which of them run, and the removal of all others.
//!
//! Every end of an attempt removes its own container. What is left over, because the worker was
//! killed, the attempt was dropped or the engine was away, is found by its labels and removed here:
//! at the start of a worker, from time to time, and as soon as something is known to be left.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bus::Bus;
use common::limits;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    engine::{Client, Trouble},
    owner::{self, Lookout},
};

/// How long the last look of a worker that leaves may take.
const LAST_LOOK_MAX: Duration = Duration::from_secs(10);

/// The containers that this worker runs, by name.
#[derive(Debug, Default)]
pub(super) struct Yard {
    running: Mutex<BTreeSet<String>>,
    left_over: Notify,
}

/// An attempt's place in the yard. Dropped without `gone`, its container is left over.
#[derive(Debug)]
pub(super) struct Place {
    yard: Arc<Yard>,
    name: String,
    gone: bool,
}

impl Yard {
    /// Before the engine hears of a container, it has a place here.
    pub(super) fn enter(self: &Arc<Self>, name: String) -> Place {
        self.lock().insert(name.clone());
        Place { yard: self.clone(), name, gone: false }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The container is not there any more.
    pub(super) fn gone(mut self) {
        self.gone = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.yard.lock().remove(&self.name);
        if !self.gone {
            self.yard.left_over.notify_one();
        }
    }
}

/// Removes what is left over.
pub(crate) struct Keeper {
    pub(super) yard: Arc<Yard>,
    pub(super) socket: PathBuf,
    pub(super) bus: Bus,
    pub(super) worker: String,
}

impl Keeper {
    /// Looks until it is dropped.
    pub(crate) async fn keep(&self) -> Infallible {
        let mut lookout = None;
        loop {
            self.look(&mut lookout).await;
            tokio::select! {
                () = sleep(limits::ORPHANS_EVERY) => {}
                () = self.yard.left_over.notified() => {}
            }
        }
    }

    /// Looks a last time, when the worker has stopped.
    pub(crate) async fn leave(&self) {
        if timeout(LAST_LOOK_MAX, self.look(&mut None)).await.is_err() {
            tracing::warn!("containers may be left over; the next worker of this log removes them");
        }
    }

    async fn look(&self, lookout: &mut Option<Lookout>) {
        // Most workers have no engine.
        if !self.socket.exists() {
            return;
        }
        if lookout.is_none() {
            *lookout = match bus::streams::identity(&self.bus).await {
                Ok(log) => Some(Lookout::new(&log.to_string(), &self.worker)),
                Err(error) => {
                    tracing::debug!(error = format!("{error:#}"), "the log has no identity yet");
                    None
                }
            };
        }
        let Some(lookout) = lookout else { return };
        if let Err(trouble) = self.sweep(lookout).await {
            tracing::debug!(%trouble, "cannot look for containers that are left over");
        }
    }

    async fn sweep(&self, lookout: &mut Lookout) -> Result<(), Trouble> {
        let client = Client::connect(&self.socket).await?;
        let found = client.list(owner::filter_log(lookout.log())).await?;
        let living = if lookout.needs_the_living(&found) { self.living().await } else { None };
        // Only now: what entered the yard before the list was made is in here, or is over.
        let running = self.yard.lock().clone();
        for orphan in lookout.orphans(&found, &running, living.as_ref()) {
            let (name, owner) = (&orphan.name, &orphan.owner);
            match client.remove(&orphan.id).await {
                Ok(()) => tracing::info!(
                    task.id = owner.task,
                    attempt = owner.attempt,
                    worker = owner.worker,
                    "removed the container {name}, which nobody ran any more",
                ),
                Err(trouble) => {
                    tracing::warn!(task.id = owner.task, %trouble, "cannot remove the container {name}");
                }
            }
        }
        Ok(())
    }

    async fn living(&self) -> Option<BTreeSet<String>> {
        match bus::heartbeat::list(&self.bus).await {
            Ok(workers) => Some(workers.into_iter().map(|worker| worker.worker).collect()),
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "cannot tell which workers live");
                None
            }
        }
    }
}
