//! `jetmill serve`: some services, or all of them, against a given NATS.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use bus::{ConnectOptions, streams};
use common::error::ApiError;
use runtime::config::{LEDGER_URL, Layers, NATS_URL};

use crate::{
    cli::Global,
    exit::{Exit, bad_input},
    platform::{self, Listeners, Service},
    settings::{self, Settings},
};

/// Which services, and their settings that are often given by hand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// registry, scheduler, worker-pool, gateway, or all
    #[arg(required = true, value_parser = parse_services)]
    services: Vec<Services>,
    #[command(flatten)]
    flags: Flags,
}

/// The settings that are often given by hand.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Flags {
    /// The configuration file [default: jetmill.toml, when it is there]
    #[arg(long, value_name = "FILE", env = "JETMILL_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// The ledger, for the registry: `postgres://user@host/database`
    #[arg(long, value_name = "URL")]
    pub(crate) ledger_url: Option<String>,
    /// Where gRPC is served [default: 127.0.0.1:7443]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) grpc_addr: Option<SocketAddr>,
    /// Where metrics and probes are served [default: 127.0.0.1 and any free port, which is logged]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http_addr: Option<SocketAddr>,
    /// Queues that the worker serves, and slots of each: default=8,gpu=1
    #[arg(long, value_name = "LIST")]
    pub(crate) queues: Option<String>,
    /// The name of this process among others
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// How long running work may take to end after SIGTERM
    #[arg(long, value_name = "DURATION")]
    pub(crate) drain_timeout: Option<String>,
}

/// One word of the list.
#[derive(Clone, Debug)]
struct Services(Vec<Service>);

fn parse_services(text: &str) -> Result<Services, String> {
    if text == "all" {
        return Ok(Services(Service::ALL.to_vec()));
    }
    let one = <Service as clap::ValueEnum>::from_str(text, false);
    one.map(|service| Services(vec![service]))
        .map_err(|_| "there are registry, scheduler, worker-pool, gateway and all".into())
}

/// The layers of configuration below and including the flags.
pub(crate) fn layers(global: &Global, flags: &Flags) -> Layers {
    Layers::new()
        .file(flags.config.as_deref())
        .env(settings::environment(false))
        .flag(NATS_URL, global.nats_url.as_deref())
        .flag("nats.credentials", global.nats_creds.as_ref().map(|path| path.display()))
        .flag(LEDGER_URL, flags.ledger_url.as_deref())
        .flag("grpc_addr", flags.grpc_addr)
        .flag("http_addr", flags.http_addr)
        .flag("queues", flags.queues.as_deref())
        .flag("name", flags.name.as_deref())
        .flag("drain_timeout", flags.drain_timeout.as_deref())
}

/// Serves until a signal.
pub(crate) async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let mut services = Vec::new();
    for service in args.services.into_iter().flat_map(|word| word.0) {
        if !services.contains(&service) {
            services.push(service);
        }
    }
    let settings = Settings::read(layers(global, &args.flags))?;
    if services.contains(&Service::Registry) {
        refuse_sqlite(&settings.registry.ledger_url, services.len() == Service::ALL.len())?;
    }
    let _telemetry = runtime::telemetry::init(&settings.telemetry)?;
    let listeners = Listeners::bind(&settings, &services).await?;
    let options = ConnectOptions {
        url: settings.nats.url.clone(),
        name: format!("jetmill-{}", settings.name),
        credentials: settings.nats.credentials.clone(),
    };
    let bus = bus::connect(&options).await?;
    streams::ensure(&bus, settings.nats.streams).await.context(
        "failed to make the streams; nats-server must have room for nats.log_bytes_max, nats.objects_bytes_max and some 2.3 GiB more",
    )?;
    let ctx = platform::context(bus, &settings);
    let grpc = listeners.grpc.as_ref().and_then(|listener| listener.local_addr().ok());
    let http = listeners.http.local_addr().ok();
    tracing::info!(?services, nats = %settings.nats.url, ?grpc, ?http, name = settings.name, "serving");
    let work = platform::start(&ctx, &services, &settings, listeners);
    runtime::process::run(ctx.shutdown.clone(), platform::grace(&settings) + GRACE_MARGIN, work)
        .await?;
    Ok(Exit::Done)
}

/// What the process waits for its services beyond what they wait for their own tasks.
const GRACE_MARGIN: std::time::Duration = std::time::Duration::from_secs(2);

/// A file can have one process; services that may be started twice need a server.
fn refuse_sqlite(url: &str, all: bool) -> Result<(), ApiError> {
    if url.is_empty() {
        return Err(bad_input("the registry needs a ledger").hint(
            "name it with --ledger-url postgres://user@host/database, or use `jetmill dev`",
        ));
    }
    if url.starts_with("sqlite:") && !all {
        return Err(bad_input("a SQLite ledger is for one process with all services")
            .hint("use `jetmill serve all` or `jetmill dev`, or give --ledger-url postgres://…"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_is_only_for_all_services_in_one_process() {
        assert!(refuse_sqlite("sqlite:a.db", false).is_err());
        assert!(refuse_sqlite("sqlite:a.db", true).is_ok());
        assert!(refuse_sqlite("postgres://a/b", false).is_ok());
        assert!(refuse_sqlite("", true).is_err());
    }

    #[test]
    fn all_is_every_service() {
        assert_eq!(parse_services("all").map(|s| s.0.len()), Ok(4));
        assert_eq!(parse_services("worker-pool").map(|s| s.0), Ok(vec![Service::WorkerPool]));
        assert!(parse_services("router").is_err());
    }
}
