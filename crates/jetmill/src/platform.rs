//! Runs any subset of the services in this process: the same code path for `dev` and `serve`.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use common::limits;
use futures::{FutureExt as _, future::BoxFuture};
use runtime::{Context, Readiness, Supervisor};
use tokio::net::TcpListener;

use crate::settings::Settings;

/// What a worker has on top of its drain: grace for what was cancelled, twice over.
const MARGIN: Duration = Duration::from_secs(2);

/// A service of the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Service {
    /// What work is there, and what became of it?
    Registry,
    /// What runs next?
    Scheduler,
    /// Runs it
    WorkerPool,
    /// The door for gRPC
    Gateway,
}

impl Service {
    pub(crate) const ALL: [Self; 4] =
        [Self::Registry, Self::Scheduler, Self::WorkerPool, Self::Gateway];

    fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Scheduler => "scheduler",
            Self::WorkerPool => "worker-pool",
            Self::Gateway => "gateway",
        }
    }
}

/// Where the process listens.
pub(crate) struct Listeners {
    pub(crate) grpc: Option<TcpListener>,
    pub(crate) http: TcpListener,
}

impl Listeners {
    /// Takes the ports; a taken one is an error that names the flag.
    pub(crate) async fn bind(settings: &Settings, services: &[Service]) -> anyhow::Result<Self> {
        let grpc = if services.contains(&Service::Gateway) {
            Some(bind(settings.grpc_addr, "grpc").await?)
        } else {
            None
        };
        Ok(Self { grpc, http: bind(settings.http_addr, "http").await? })
    }
}

async fn bind(address: std::net::SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        crate::exit::bad_input(format!("cannot listen on {address} for {what}: {error}"))
            .hint(format!(
                "choose another with --{what}-port or --{what}-addr; port 0 takes any free one"
            ))
            .into()
    })
}

/// How long the services may take to end after they were asked to.
pub(crate) fn grace(settings: &Settings) -> Duration {
    settings.worker_pool.drain_timeout + 4 * limits::CANCEL_GRACE + MARGIN
}

/// The context of this process.
pub(crate) fn context(bus: bus::Bus, settings: &Settings) -> Context {
    let clock = Arc::new(runtime::clock::SystemClock);
    Context::new(bus, clock, tokio_util::sync::CancellationToken::new(), settings.name.clone())
}

/// Starts the services; the end of one is the end of all. Returns when all have ended.
pub(crate) fn start(
    ctx: &Context,
    services: &[Service],
    settings: &Settings,
    listeners: Listeners,
) -> BoxFuture<'static, anyhow::Result<()>> {
    let mut tasks = Supervisor::new("jetmill", ctx.shutdown.clone()).grace(grace(settings));
    let mut grpc = listeners.grpc;
    for service in services {
        let own = ctx.named(service.name());
        let run = run(*service, own, settings, grpc.take_if(|_| *service == Service::Gateway));
        tasks.spawn(service.name(), run);
    }
    tasks.spawn(
        "http",
        runtime::http::serve(listeners.http, ctx.health.clone(), ctx.shutdown.clone()),
    );
    tasks.join().boxed()
}

fn run(
    service: Service,
    ctx: Context,
    settings: &Settings,
    grpc: Option<TcpListener>,
) -> BoxFuture<'static, anyhow::Result<()>> {
    match service {
        Service::Registry => registry::run(ctx, settings.registry.clone()).boxed(),
        Service::Scheduler => scheduler::run(ctx, settings.scheduler.clone()).boxed(),
        Service::WorkerPool => worker_pool::run(ctx, settings.worker_pool.clone()).boxed(),
        Service::Gateway => {
            let config = settings.gateway;
            async move {
                let listener = grpc.context("the gateway has no listener")?;
                gateway::run(ctx, listener, config).await
            }
            .boxed()
        }
    }
}

/// Waits until every service can do its work; says which cannot when it takes too long.
pub(crate) async fn wait_ready(ctx: &Context, longest: Duration) -> anyhow::Result<()> {
    if tokio::time::timeout(longest, ctx.health.wait_ready()).await.is_ok() {
        return Ok(());
    }
    let missing =
        ctx.health.snapshot().into_iter().filter_map(|(service, readiness)| match readiness {
            Readiness::Ready => None,
            Readiness::NotReady(reason) => Some(format!("{service}: {reason}")),
        });
    anyhow::bail!("not ready after {longest:?}: {}", missing.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_command_line_are_the_names_of_the_services() {
        for service in Service::ALL {
            let word = clap::ValueEnum::to_possible_value(&service).expect("a word");
            assert_eq!(word.get_name(), service.name());
        }
    }
}
