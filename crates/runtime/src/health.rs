//! Which services of this process are ready. Kubernetes, `jetmill dev` and load balancers wait on it.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

/// Whether a service can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It cannot, for this reason.
    NotReady(String),
}

/// The readiness of every service of the process, seen from one of them; cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    service: &'static str,
    states: Arc<watch::Sender<BTreeMap<&'static str, Readiness>>>,
}

impl Health {
    /// No service has said anything yet.
    pub fn new(service: &'static str) -> Self {
        Self { service, states: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }

    /// The same, seen from another service.
    #[must_use]
    pub fn of(&self, service: &'static str) -> Self {
        Self { service, states: self.states.clone() }
    }

    /// This service can do its work.
    pub fn ready(&self) {
        self.set(self.service, Readiness::Ready);
    }

    /// This service cannot do its work: what is missing, as a sentence.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(self.service, Readiness::NotReady(reason.into()));
    }

    /// Says it of a service by name.
    pub fn set(&self, service: &'static str, readiness: Readiness) {
        self.states.send_if_modified(|states| {
            if states.get(service) == Some(&readiness) {
                return false;
            }
            tracing::debug!(service, ?readiness, "readiness");
            states.insert(service, readiness);
            true
        });
    }

    /// Every service and its readiness.
    pub fn snapshot(&self) -> BTreeMap<&'static str, Readiness> {
        self.states.borrow().clone()
    }

    /// Whether every service that there is is ready.
    pub fn is_ready(&self) -> bool {
        all_ready(&self.states.borrow())
    }

    /// Waits until every service that there is is ready.
    pub async fn wait_ready(&self) {
        let mut states = self.states.subscribe();
        // It fails only when the sender is gone, and `self` holds the sender.
        let _ = states.wait_for(all_ready).await;
    }
}

fn all_ready(states: &BTreeMap<&'static str, Readiness>) -> bool {
    states.values().all(|readiness| *readiness == Readiness::Ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_ready_when_each_of_its_services_is() {
        let health = Health::new("jetmill");
        let (registry, scheduler) = (health.of("registry"), health.of("scheduler"));
        registry.not_ready("it is starting");
        scheduler.ready();
        assert!(!health.is_ready());
        let reason = Readiness::NotReady("it is starting".into());
        assert_eq!(health.snapshot().get("registry"), Some(&reason));

        let ready = health.wait_ready();
        registry.ready();
        ready.await;
        assert!(health.is_ready());
        scheduler.not_ready("the log is another one");
        assert!(!health.is_ready());
    }
}
