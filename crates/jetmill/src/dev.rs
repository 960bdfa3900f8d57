//! `jetmill dev`: the whole product in one process, with its own nats-server and a SQLite ledger.
//!
//! It is `serve all` with a longer preparation and a shorter end: nobody waits for a drain here, so
//! Ctrl-C ends everything within two seconds and the next start goes on where it was.

mod addresses;
mod bound;
mod find;
mod folder;
mod nats_server;

use std::{
    io::IsTerminal as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use bus::{ConnectOptions, streams};
use common::id::Tenant;
use jetmill_sdk::Client;
use owo_colors::OwoColorize as _;
use runtime::config::Layers;
use tokio::time::{sleep, timeout};

pub(crate) use addresses::Addresses;
pub(crate) use bound::bound_to_us;
pub(crate) use find::{VERSION_MIN, at_least, nats_server as find_nats_server};
pub(crate) use nats_server::NatsServer;

use crate::{
    cli::Global,
    connect::Session,
    demo,
    exit::Exit,
    output::{self, Ui},
    platform::{self, Listeners, Service},
    settings::{self, Settings},
};
use folder::Folder;

/// How long running work may go on after Ctrl-C, and how long everything may take.
const DRAIN: &str = "1s";
const GRACE: Duration = Duration::from_millis(1_500);
/// How long the services may take to be ready: a large log takes its time.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Where it keeps its data and listens.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of all data; it is kept
    #[arg(long, value_name = "DIR", default_value = ".jetmill")]
    data_dir: PathBuf,
    /// Port of NATS; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 4222)]
    nats_port: u16,
    /// Port of gRPC; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 7443)]
    grpc_port: u16,
    /// Port of metrics and probes; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 7080)]
    http_port: u16,
    /// Attempts that the worker runs at once [default: twice the processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    worker_slots: Option<u32>,
    /// Queues that the worker serves, and slots of each, such as default=8,maintenance=3
    #[arg(long, value_name = "QUEUES", conflicts_with = "worker_slots")]
    queues: Option<String>,
    /// Run the demonstration after the start. Without a terminal, end when it is done
    #[arg(long)]
    demo: bool,
}

impl Args {
    fn settings(&self, folder: &Path) -> anyhow::Result<Settings> {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let slots = self.worker_slots.map(|slots| format!("default={slots}"));
        let queues = self.queues.clone().or(slots);
        let said = settings::environment(true);
        // Quiet, so that the banner is seen; whoever wants more says so.
        let quiet = !said.iter().any(|(name, _)| name == "JETMILL_LOG__FILTER");
        let layers = Layers::new()
            .file(None)
            .env(said)
            .flag("grpc_addr", Some(local(self.grpc_port)))
            .flag("http_addr", Some(local(self.http_port)))
            .flag("queues", queues)
            .flag("drain_timeout", Some(DRAIN))
            .flag("log.filter", quiet.then_some("warn"));
        let mut settings = Settings::read(layers)?;
        settings.nats.streams.log_bytes_max = nats_server::log_bytes_max(folder);
        if settings.registry.ledger_url.is_empty() {
            settings.registry.ledger_url = format!("sqlite:{}", folder.join("ledger.db").display());
        }
        Ok(settings)
    }
}

/// Runs until a signal, or until the demonstration is done where nobody watches.
pub(crate) async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let ui = Ui { json: global.json };
    let folder = Folder::open(&args.data_dir)?;
    let settings = args.settings(folder.path())?;
    let _telemetry = runtime::telemetry::init(&settings.telemetry)?;
    let listeners = Listeners::bind(&settings, &Service::ALL).await?;
    let program = find_nats_server(settings.nats.server.as_deref(), folder.path()).await?;
    let mut nats =
        NatsServer::start(&program, folder.path(), args.nats_port, &settings.nats).await?;
    let ended = serve(ui, &args, &settings, (folder.path(), listeners), &mut nats).await;
    Addresses::remove(folder.path());
    nats.stop().await;
    ended
}

async fn serve(
    ui: Ui,
    args: &Args,
    settings: &Settings,
    (folder, listeners): (&Path, Listeners),
    nats: &mut NatsServer,
) -> anyhow::Result<Exit> {
    let url = nats.url();
    let options =
        ConnectOptions { url: url.clone(), name: "jetmill-dev".into(), credentials: None };
    let bus = bus::connect(&options).await?;
    streams::ensure(&bus, settings.nats.streams).await?;
    let ctx = platform::context(bus.clone(), settings);
    let http = |address: std::io::Result<SocketAddr>| address.map(|a| format!("http://{a}"));
    let grpc = listeners.grpc.as_ref().context("the gateway has no listener")?.local_addr();
    let addresses = Addresses {
        nats: url,
        grpc: http(grpc)?,
        http: http(listeners.http.local_addr())?,
        data_dir: folder.display().to_string(),
    };
    let mut services = platform::start(&ctx, &Service::ALL, settings, listeners);
    let mut exit = Exit::Done;
    let shutdown = ctx.shutdown.clone();
    let work = async {
        let meanwhile = async {
            platform::wait_ready(&ctx, READY_WITHIN).await?;
            addresses.write(folder)?;
            announce(ui, &addresses)?;
            if args.demo {
                exit = demonstrate(ui, bus).await?;
                if !std::io::stdout().is_terminal() {
                    return Ok(());
                }
            }
            std::future::pending::<anyhow::Result<()>>().await
        };
        // Whatever ends first ends the process; all arms may be dropped then.
        let ended = tokio::select! {
            ended = &mut services => return ended,
            ended = meanwhile => ended,
            error = nats.keep() => Err(error),
            () = ctx.shutdown.cancelled() => Ok(()),
        };
        ctx.shutdown.cancel();
        let services = timeout(GRACE, &mut services).await.unwrap_or_else(|_| {
            tracing::warn!("some work did not end in time; the next start takes it up");
            Ok(())
        });
        ended.and(services)
    };
    runtime::process::run(shutdown, GRACE * 2, Box::pin(work)).await?;
    // Lets the last messages of the connection leave.
    sleep(Duration::from_millis(10)).await;
    Ok(exit)
}

async fn demonstrate(ui: Ui, bus: bus::Bus) -> anyhow::Result<Exit> {
    let session = Session { ui, tenant: Tenant::default(), client: Client::new(bus) };
    Box::pin(demo::run(&session, demo::Args::default())).await
}

fn announce(ui: Ui, addresses: &Addresses) -> anyhow::Result<()> {
    if ui.json {
        return output::json(addresses);
    }
    let Addresses { nats, grpc, http, data_dir } = addresses;
    let line = |name: &str, value: &str| format!("  {:<8}{value}", name.dimmed());
    // Commands find the instance of the folder that they are started in.
    let here = std::path::Path::new(".jetmill").canonicalize().ok();
    let found_here = here.is_some_and(|here| here == std::path::Path::new(data_dir));
    let where_to = if found_here {
        "Next, in another terminal in this folder:".to_owned()
    } else {
        format!("Next, in another terminal:\n  export JETMILL_NATS_URL={nats}")
    };
    let text = [
        format!("{} {} is ready", "jetmill".bold(), env!("CARGO_PKG_VERSION")),
        line("NATS", nats),
        line("gRPC", grpc),
        line("HTTP", &format!("{http}/metrics, /livez, /readyz")),
        line("data", &format!("{data_dir} (kept: the next start goes on from there)")),
        String::new(),
        where_to,
        "  jetmill submit --wait -- echo hello".to_owned(),
        "  jetmill demo".to_owned(),
        "  jetmill ls".to_owned(),
        "Ctrl-C ends it.".to_owned(),
    ];
    Ok(output::line(text.join("\n"))?)
}
