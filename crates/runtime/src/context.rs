//! What a service is given: it reads no environment, installs nothing and finds nobody by itself.

use std::sync::Arc;

use bus::Bus;
use common::time::Clock;
use tokio_util::sync::CancellationToken;

use crate::{Health, Supervisor};

/// The surroundings of one service, cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The process's connection to NATS.
    pub bus: Bus,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Cancelled when this service is to end: finish what is under way and return.
    pub shutdown: CancellationToken,
    /// The name of this service.
    pub service: &'static str,
    /// Where this service says whether it is ready.
    pub health: Health,
    /// The name of this process among others.
    pub instance: String,
}

impl Context {
    /// The context of a process, from which each service gets its own by [`Context::named`].
    pub fn new(
        bus: Bus,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
        instance: impl Into<String>,
    ) -> Self {
        let service = "jetmill";
        Self {
            bus,
            clock,
            shutdown,
            service,
            health: Health::new(service),
            instance: instance.into(),
        }
    }

    /// The context of one service: it counts as not ready until it says otherwise, and its token can
    /// be cancelled without ending the others.
    #[must_use]
    pub fn named(&self, service: &'static str) -> Self {
        let health = self.health.of(service);
        health.not_ready("it is starting");
        Self { service, health, shutdown: self.shutdown.child_token(), ..self.clone() }
    }

    /// A supervisor for the tasks of this service.
    pub fn supervisor(&self) -> Supervisor {
        Supervisor::new(self.service, self.shutdown.clone())
    }
}
