//! Run this: takes attempts off the queues and runs them with the executors `shell`, `http`,
//! `lua`, `docker` and `nats`.
//!
//! The engine is the SDK's (`jetmill_sdk::worker`); here is what it runs. This service owns no
//! stream and no state: what it holds is in its heartbeat, and what it did is in the log. It does
//! not decide about retries, queues or limits.
//!
//! A command sees of the worker's environment only `PATH`, `HOME`, `LANG`, `LC_ALL`, `TZ`, `TMPDIR`
//! and `USER` (`env_allow` changes the list), the task's own `env`, `JETMILL_TASK_ID`,
//! `JETMILL_ATTEMPT`, `JETMILL_TENANT`, `TRACEPARENT`, and its secrets: `env:NAME` is the worker's
//! variable `JETMILL_SECRET_NAME`, `file:NAME` a file of `secrets_dir`. Values of secrets of four
//! bytes and more appear as `***` in output, results and errors.

mod admin;
pub mod attend;
mod attendant;
mod capture;
pub mod docker;
mod environment;
mod executors;
mod http;
pub mod lua;
mod metrics;
mod nats;
mod program;
mod redact;
pub mod roles;
mod shell;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use common::{
    id::{QueueName, WorkerName},
    limits,
    task::DEFAULT_QUEUE,
};
use jetmill_sdk::worker::{self, Options};
use runtime::Context;

use docker::Docker;
pub use docker::access::{Engine, Folder, Network, SOCKET};
use environment::{ENV_ALLOW, Environment};
use executors::Executors;
use http::Http;
pub use http::access::{Access, Host, Private};
use lua::Lua;
use roles::Roles;
pub use shell::Bounds;
use shell::Shell;

/// How the worker of this process works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name among the living workers; without one, that of the process.
    pub name: Option<String>,
    /// The queues it serves, and how many attempts of each it runs at once.
    pub queues: Vec<(QueueName, u32)>,
    /// Variables of its environment that commands may see.
    pub env_allow: Vec<String>,
    /// The folder of the secrets that tasks name as `file:NAME`.
    pub secrets_dir: Option<PathBuf>,
    /// What the roles of tasks may use.
    pub roles: Roles,
    /// What commands may use.
    pub limits: Bounds,
    /// Which hosts and addresses the executor `http` may reach.
    pub http: Access,
    /// Which engine runs containers, and what of this machine they may have.
    pub docker: Engine,
    /// How long running work may go on after the worker was told to leave.
    pub drain_timeout: Duration,
    /// The program `jetmill`, started again as `jetmill attend` for each command.
    pub executable: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        let queue = QueueName::parse(DEFAULT_QUEUE).expect("invariant: a constant token");
        let slots = std::thread::available_parallelism().map_or(4, |n| 2 * n.get() as u32);
        Self {
            name: None,
            queues: vec![(queue, slots)],
            env_allow: ENV_ALLOW.map(str::to_owned).to_vec(),
            secrets_dir: None,
            roles: Roles::default(),
            limits: Bounds::default(),
            http: Access::default(),
            docker: Engine::default(),
            drain_timeout: Duration::from_secs(30),
            executable: std::env::current_exe().unwrap_or_else(|_| "jetmill".into()),
        }
    }
}

/// Runs until shutdown is requested; returns once the worker has handed back what it held. A worker
/// that was drained by request stays, without work, until then.
pub async fn run(ctx: Context, config: Config) -> anyhow::Result<()> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let environment = Environment::new(variables, &config.env_allow, config.secrets_dir);
    let options = Options {
        name: name(config.name.as_deref(), &ctx.instance)?,
        queues: config.queues,
        handlers: Vec::new(),
        drain_timeout: config.drain_timeout,
        observe: metrics::observer(ctx.health.clone()),
    };
    let roots = http::system_roots();
    let http = Http::new(config.http, roots, environment.clone(), ctx.clock.clone())?;
    let owner = (ctx.bus.clone(), options.name.to_string());
    let docker = Docker::new(config.docker, environment.clone(), config.limits.most, owner);
    let keeper = docker.keeper();
    let executors = Executors {
        bus: ctx.bus.clone(),
        roles: config.roles,
        lua: Lua::new(config.executable.clone(), ctx.clock.clone()),
        shell: Shell::new(config.executable, environment, config.limits),
        http,
        docker,
    };
    let leave = config.drain_timeout + 4 * limits::CANCEL_GRACE;
    let mut tasks = ctx.supervisor().grace(leave);
    tasks.spawn("endpoints", admin::serve(ctx.clone()));
    tasks.spawn("worker", async move {
        let shutdown = ctx.shutdown.clone();
        tokio::select! {
            left = worker::run(ctx.bus, options, executors, ctx.clock, shutdown.clone()) => left?,
            never = keeper.keep() => match never {},
        }
        keeper.leave().await;
        shutdown.cancelled().await;
        Ok(())
    });
    tasks.join().await
}

/// The configured name, or one made from the process's.
fn name(configured: Option<&str>, instance: &str) -> anyhow::Result<WorkerName> {
    if let Some(name) = configured {
        return WorkerName::parse(name)
            .with_context(|| format!("worker_pool.name {name:?} is no name"));
    }
    let token = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let made = instance.chars().map(token).take(limits::NAME_BYTES_MAX).collect::<String>();
    let made = made.trim_matches('-');
    let name = if made.is_empty() { format!("worker-{}", std::process::id()) } else { made.into() };
    WorkerName::parse(&name).with_context(|| format!("the worker's name {name:?} is no name"))
}

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod tests;
