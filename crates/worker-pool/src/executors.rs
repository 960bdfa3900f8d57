//! The executors that every worker of the pool has.

use bus::Bus;
use common::task::Executor as How;
use jetmill_sdk::worker::{AttemptContext, AttemptError, AttemptResult, Executor};
use runtime::telemetry;
use tracing::Instrument as _;

use crate::{docker::Docker, http::Http, lua::Lua, nats, roles::Roles, shell::Shell};

/// The words of the executors that the pool has.
pub(crate) const WORDS: [&str; 5] = ["shell", "docker", "http", "lua", "nats"];

/// Runs what the pool can run.
pub(crate) struct Executors {
    pub(crate) bus: Bus,
    pub(crate) roles: Roles,
    pub(crate) shell: Shell,
    pub(crate) http: Http,
    pub(crate) lua: Lua,
    pub(crate) docker: Docker,
}

impl Executor for Executors {
    async fn run(&self, attempt: AttemptContext) -> AttemptResult {
        let execution = attempt.execution();
        let (key, id) = (execution.key(), execution.id.as_str());
        let span = telemetry::task_span("run", "worker-pool", key, id, &execution.traceparent);
        let within = telemetry::traceparent_of(&span);
        let traceparent = if within.is_empty() { execution.traceparent.clone() } else { within };
        async {
            let spec = &attempt.execution().spec;
            let role = match self.roles.of(spec) {
                Ok(role) => role,
                Err(error) => return AttemptResult::failure(error),
            };
            if let Some(Err(error)) = role.map(|role| role.check(spec)) {
                return AttemptResult::failure(error);
            }
            match spec.executor() {
                How::Shell(shell) => self.shell.run(&attempt, shell, role, &traceparent).await,
                How::Nats(nats) => nats::run(&self.bus, &attempt, nats, &traceparent).await,
                How::Http(http) => self.http.run(&attempt, http, role, &traceparent).await,
                How::Lua(lua) => self.lua.run(&attempt, lua).await,
                How::Docker(docker) => self.docker.run(&attempt, docker, role, &traceparent).await,
                How::Worker(worker) => AttemptResult::failure(AttemptError::retryable(
                    "no_handler",
                    format!(
                        "the worker pool has no handlers such as {:?}: name a queue that is served through the SDK",
                        worker.handler,
                    ),
                )),
                How::External => AttemptResult::failure(AttemptError::permanent(
                    "not_dispatchable",
                    "another system runs and reports this task",
                )),
            }
        }
        .instrument(span)
        .await
    }
}
