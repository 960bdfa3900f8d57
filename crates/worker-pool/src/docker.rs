//! The executor `docker`: a container on this machine's engine.
//!
//! It trusts neither the task nor the image: a container has no network, no capability, no root, no
//! file system that it could fill, and of the machine only what the worker's configuration names
//! (`access`). It never pulls an image: that would fetch, for a task, whatever a task names, as much
//! as there is of it. And it touches no container but those of its own attempts (`owner`): an engine
//! is shared with others.

pub(crate) mod access;
mod engine;
mod judge;
mod owner;
mod plan;
mod usage;
mod watch;
pub(crate) mod yard;

use std::{path::Path, sync::Arc, time::Duration};

use bus::Bus;
use common::{limits, pb};
use jetmill_sdk::worker::{AttemptContext, AttemptError, AttemptResult, Execution};
use tokio::sync::OnceCell;

use crate::{
    attend::limits::Limits,
    environment::{self, Environment},
    redact::Redactor,
    roles::Role,
};
use access::Engine;
use engine::{Client, Trouble};
use owner::Owner;
use plan::Granted;
use watch::Running;
use yard::{Keeper, Place, Yard};

/// Runs containers.
#[derive(Clone)]
pub(crate) struct Docker {
    engine: Engine,
    environment: Environment,
    /// The most that a container may use.
    most: Limits,
    worker: String,
    bus: Bus,
    /// The identity of the log.
    log: Arc<OnceCell<String>>,
    yard: Arc<Yard>,
    /// How long the engine may be away while a container runs.
    patience: Duration,
}

/// Everything that one container needs.
struct Plan {
    name: String,
    owner: Owner,
    granted: Granted,
    stdin: Option<String>,
    redactor: Redactor,
}

/// The version of the engine that answers at this socket, or why none does.
pub async fn look(socket: &Path) -> Result<String, String> {
    let asked = async { Client::connect(socket).await?.version().await };
    asked.await.map_err(|trouble: Trouble| trouble.to_string())
}

impl Docker {
    /// Containers run on `engine`, with at most so much of it, for the worker of this name.
    pub(crate) fn new(
        engine: Engine,
        environment: Environment,
        most: Limits,
        (bus, worker): (Bus, String),
    ) -> Self {
        let (log, yard, patience) = (Arc::default(), Arc::default(), limits::ENGINE_AWAY_MAX);
        Self { engine, environment, most, worker, bus, log, yard, patience }
    }

    /// Whoever removes what is left over.
    pub(crate) fn keeper(&self) -> Keeper {
        Keeper {
            yard: self.yard.clone(),
            socket: self.engine.socket.clone(),
            bus: self.bus.clone(),
            worker: self.worker.clone(),
        }
    }

    /// Runs the container of an attempt.
    pub(crate) async fn run(
        &self,
        attempt: &AttemptContext,
        docker: &pb::Docker,
        role: Option<&Role>,
        traceparent: &str,
    ) -> AttemptResult {
        let planned = self.plan(attempt.execution(), docker, role, traceparent).await;
        let mut plan = match planned {
            Ok(plan) => plan,
            Err(error) => return AttemptResult::failure(error),
        };
        let place = self.yard.enter(plan.name.clone());
        let begun = tokio::select! {
            begun = self.begin(docker, &mut plan) => begun,
            () = attempt.cancellation().cancelled() => return AttemptResult::given_up(),
        };
        let running = match begun {
            Ok(running) => running,
            Err(error) => {
                let message = plan.redactor.text(&error.message);
                return AttemptResult::failure(AttemptError { message, ..error });
            }
        };
        let (client, id) = (running.client.clone(), running.id.clone());
        let result = running.see_through(attempt, docker, (&plan.redactor, self.patience)).await;
        remove(&client, &id, place).await;
        result
    }

    async fn plan(
        &self,
        execution: &Execution,
        docker: &pb::Docker,
        role: Option<&Role>,
        traceparent: &str,
    ) -> Result<Plan, AttemptError> {
        role.map_or(Ok(()), |role| role.check_image(&docker.image))?;
        let network = self.engine.network(&docker.network, role)?;
        let binds = self.engine.binds(&docker.mounts, role)?;
        let asked = pb::Limits {
            memory_mb: Some(docker.memory_mb),
            processes: docker.processes,
            ..pb::Limits::default()
        };
        let default = Limits { processes: Some(limits::CONTAINER_PROCESSES), ..Limits::default() };
        let granted = default.of_task(self.most, Some(&asked));
        let granted = granted.map_err(|why| AttemptError::permanent("forbidden_limit", why))?;
        let secrets = self.environment.secrets(&docker.secrets, role)?;
        let redactor = Redactor::new(secrets.values().map(String::as_str));
        let given = docker.env.clone().into_iter();
        let facts = environment::of_attempt(execution, traceparent);
        let stdin = docker.stdin.clone().or_else(|| environment::input(execution));
        let log = self.log().await?;
        Ok(Plan {
            name: Owner::name(&log, execution.key(), execution.attempt),
            owner: Owner::of(&log, &self.worker, execution),
            granted: Granted {
                env: given.chain(facts).chain(secrets).collect(),
                binds,
                network,
                processes: granted.processes.unwrap_or(limits::CONTAINER_PROCESSES),
                stdin: stdin.is_some(),
                volumes: Vec::new(),
            },
            stdin,
            redactor,
        })
    }

    async fn log(&self) -> Result<String, AttemptError> {
        let identity = async {
            let identity = bus::streams::identity(&self.bus).await?;
            anyhow::Ok(identity.to_string())
        };
        self.log.get_or_try_init(|| identity).await.cloned().map_err(|error| {
            AttemptError::retryable("cannot_start", format!("the log tells no identity: {error:#}"))
        })
    }

    /// Creates and starts the container, with nothing of the same task beside it.
    async fn begin(&self, docker: &pb::Docker, plan: &mut Plan) -> Result<Running, AttemptError> {
        let socket = self.engine.socket.display();
        let away = |trouble| judge::cannot_start(&trouble, &socket.to_string());
        let client = Client::connect(&self.engine.socket).await.map_err(away)?;
        clear(&client, &plan.owner).await?;
        plan.granted.volumes = match client.image_volumes(&docker.image).await {
            Err(Trouble::Missing(_)) => return Err(judge::no_image(&docker.image)),
            asked => asked.map_err(away)?,
        };
        let body = plan::body(docker, &plan.owner, &plan.granted);
        let id = match client.create(&plan.name, body).await {
            Err(Trouble::Missing(_)) => return Err(judge::no_image(&docker.image)),
            Err(Trouble::Conflict(_)) => return Err(judge::name_taken(&plan.name)),
            created => created.map_err(away)?,
        };
        let streams = client.attach(&id, plan.granted.stdin).await.map_err(away)?;
        client.start(&id).await.map_err(away)?;
        Ok(Running::new(client, id, streams, plan.stdin.take()))
    }
}

/// Ends what is left of earlier attempts of the same task: the log has ended them, or this very
/// attempt was begun before by somebody who vanished. A later attempt says that this one is over.
async fn clear(client: &Client, owner: &Owner) -> Result<(), AttemptError> {
    let failed = |trouble: Trouble| {
        let message = format!("an earlier attempt's container cannot be removed: {trouble}");
        AttemptError::retryable("engine_failed", message)
    };
    let found = client.list(owner.filter_task()).await.map_err(failed)?;
    let same = found.iter().filter(|container| container.owner.is_same_task(owner));
    for container in same {
        if container.owner.attempt > owner.attempt {
            let message = "a later attempt of this task runs already; nothing is to be done";
            return Err(AttemptError::retryable("superseded", message));
        }
        client.remove(&container.id).await.map_err(failed)?;
    }
    Ok(())
}

/// Removes a container that is over; what cannot be removed now is left over.
async fn remove(client: &Client, id: &str, place: Place) {
    match client.remove(id).await {
        Ok(()) => place.gone(),
        Err(trouble) => tracing::warn!(%trouble, "a container could not be removed yet"),
    }
}

#[cfg(test)]
mod tests;
