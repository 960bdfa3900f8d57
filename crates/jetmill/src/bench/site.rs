//! The platform that is measured: processes of their own in a folder of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use common::error::{ApiError, ErrorCode};
use jetmill_sdk::{Client, pb};
use launch::postgres::{Postgres, Programs};
use runtime::config::Layers;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::{Instant, sleep, timeout},
};

use super::{
    plan::{Ledger, Scenario, Services},
    process::Part,
    service::Service,
};
use crate::{
    dev::{self, Addresses, NatsServer},
    settings::Settings,
};

const START_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// As a small server is set up; it is as durable as PostgreSQL is by default.
const POSTGRES: [&str; 3] = ["shared_buffers=128MB", "max_wal_size=4GB", "max_connections=100"];

/// A running platform. What it is made of ends in this order.
pub(super) struct Site {
    pub(super) url: String,
    pub(super) services: Vec<Service>,
    nats: Option<NatsServer>,
    postgres: Option<Postgres>,
    data: PathBuf,
    ledger: Ledger,
    folder: TempDir,
}

/// Where the ledger of services in processes of their own is.
struct Place {
    url: String,
    server: Option<Postgres>,
}

impl Site {
    /// Starts it; returns when it answers.
    pub(super) async fn start(scenario: &Scenario) -> anyhow::Result<Self> {
        match scenario.services {
            Services::Together => Self::together(scenario).await,
            Services::Separate => {
                let mut site = Self::bare(scenario).await?;
                site.serve("scheduler", "scheduler", &[]).await?;
                site.answers().await?;
                Ok(site)
            }
        }
    }

    /// A nats-server and, where there is a ledger, a registry: nobody decides yet.
    pub(super) async fn bare(scenario: &Scenario) -> anyhow::Result<Self> {
        let (folder, program) = prepare().await?;
        let data = folder.path().join("data");
        let layers =
            Layers::new().flag("nats.sync_interval", scenario.sync_always.then_some("always"));
        let settings = Settings::read(layers)?;
        fs::create_dir_all(&data).context("failed to make a folder")?;
        let place = place(&scenario.ledger)?;
        let nats = NatsServer::start(&program, &data, 0, &settings.nats).await?;
        let mut site = Self {
            url: nats.url(),
            services: Vec::new(),
            nats: Some(nats),
            postgres: None,
            data,
            ledger: scenario.ledger.clone(),
            folder,
        };
        if let Some(place) = place {
            site.postgres = place.server;
            site.serve("registry", "registry", &["--ledger-url", &place.url]).await?;
        }
        Ok(site)
    }

    async fn together(scenario: &Scenario) -> anyhow::Result<Self> {
        let (folder, program) = prepare().await?;
        let place = match &scenario.ledger {
            Ledger::Sqlite => None,
            Ledger::Postgres | Ledger::At(_) | Ledger::Nowhere => place(&scenario.ledger)?,
        };
        let data = folder.path().join("data");
        let (data_text, program) = (data.display().to_string(), program.display().to_string());
        let sync = if scenario.sync_always { "always" } else { "2m" };
        let mut env =
            vec![("JETMILL_NATS_SERVER", program.as_str()), ("JETMILL_NATS__SYNC_INTERVAL", sync)];
        env.extend(place.as_ref().map(|place| ("JETMILL_LEDGER_URL", place.url.as_str())));
        let mut args = vec!["dev", "--json", "--data-dir", &data_text];
        args.extend(["--nats-port", "0", "--grpc-port", "0", "--http-port", "0"]);
        let mut dev = Service::spawn(folder.path(), "jetmill", &args, &env).await?;
        let output = dev.output().context("jetmill dev has no output")?;
        let mut line = String::new();
        let mut output = BufReader::new(output);
        let read = timeout(START_WITHIN, output.read_line(&mut line)).await;
        let failed = || format!("jetmill dev did not start: {}", dev.said());
        read.with_context(failed)??;
        let addresses = serde_json::from_str::<Addresses>(&line).with_context(failed)?;
        Ok(Self {
            url: addresses.nats,
            services: vec![dev],
            nats: None,
            postgres: place.and_then(|place| place.server),
            data,
            ledger: scenario.ledger.clone(),
            folder,
        })
    }

    /// Starts a service in a process of its own.
    pub(super) async fn serve(
        &mut self,
        service: &str,
        name: &str,
        more: &[&str],
    ) -> anyhow::Result<()> {
        self.serve_with(service, name, (more, &[])).await
    }

    /// The same with more in its environment.
    pub(super) async fn serve_with(
        &mut self,
        service: &str,
        name: &str,
        (more, env): (&[&str], &[(&str, &str)]),
    ) -> anyhow::Result<()> {
        let mut args = vec!["serve", service, "--nats-url", &self.url, "--name", name];
        args.extend(["--http-addr", "127.0.0.1:0"]);
        args.extend(more);
        let env = [&[("JETMILL_LOG__FILTER", "warn")], env].concat();
        self.services.push(Service::spawn(self.folder.path(), name, &args, &env).await?);
        Ok(())
    }

    /// A process of its own that answers nobody: the worker.
    pub(super) async fn spawn(&self, name: &str, args: &[&str]) -> anyhow::Result<Service> {
        Service::spawn(self.folder.path(), name, args, &[]).await
    }

    /// The service of this name.
    pub(super) fn service(&mut self, name: &str) -> anyhow::Result<&mut Service> {
        let found = self.services.iter_mut().find(|service| service.name == name);
        found.with_context(|| format!("there is no {name}"))
    }

    /// Forgets a service that has ended.
    pub(super) fn forget(&mut self, name: &str) {
        self.services.retain(|service| service.name != name);
    }

    /// Waits until the scheduler, and the registry if there is one, answer.
    pub(super) async fn answers(&mut self) -> anyhow::Result<()> {
        let registry = self.services.iter().any(|service| service.name == "registry");
        let end = Instant::now() + START_WITHIN;
        let client = loop {
            match Client::connect(&self.url).await {
                Ok(client) => break client,
                Err(error) => ensure!(Instant::now() < end, "no connection: {error}"),
            }
            sleep(LOOK_EVERY).await;
        };
        loop {
            let scheduler = client.queues(&pb::QueuesRequest {}).await.is_ok();
            let ledger = !registry || client.stats(&pb::StatsRequest::default()).await.is_ok();
            if scheduler && ledger {
                return Ok(());
            }
            self.services.iter_mut().try_for_each(Service::check)?;
            if Instant::now() >= end {
                let said = self.services.iter().map(Service::said).collect::<String>();
                anyhow::bail!("the services do not answer within {START_WITHIN:?}: {said}");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The processes of the platform, its nats-server and its PostgreSQL.
    pub(super) fn parts(&self) -> Vec<Part> {
        let mut parts =
            self.services.iter().map(|s| Part::new(&s.name, s.pid())).collect::<Vec<_>>();
        let pid = fs::read_to_string(self.data.join("nats/nats-server.pid")).ok();
        let nats = pid.and_then(|text| text.trim().parse().ok());
        parts.extend(nats.map(|pid| Part::new("nats-server", pid)));
        let postgres = self.postgres.as_ref().and_then(Postgres::pid);
        parts.extend(postgres.map(|pid| Part::new("postgres", pid)));
        parts
    }

    /// Where data is on disk.
    pub(super) fn disks(&self) -> Disks {
        let ledger = match (&self.ledger, &self.postgres) {
            (Ledger::Sqlite, _) => Some(self.data.join("ledger.db")),
            (_, Some(server)) => Some(server.data_dir().join("base")),
            (Ledger::Postgres | Ledger::At(_) | Ledger::Nowhere, None) => None,
        };
        Disks { nats: self.data.join("nats/store"), ledger }
    }

    /// Ends everything in order.
    pub(super) async fn stop(mut self) {
        for service in self.services.iter_mut().rev() {
            service.end().await;
        }
        if let Some(nats) = self.nats.take() {
            nats.stop().await;
        }
    }
}

/// Where the data of a platform is.
#[derive(Clone, Debug)]
pub(super) struct Disks {
    nats: PathBuf,
    ledger: Option<PathBuf>,
}

impl Disks {
    /// MB of nats-server's streams.
    pub(super) fn nats_mb(&self) -> f64 {
        disk_usage(&self.nats) as f64 / 1e6
    }

    /// MB of the ledger, its own log left out; unknown for a database of somebody else's.
    pub(super) fn ledger_mb(&self) -> Option<f64> {
        self.ledger.as_deref().map(|path| disk_usage(path) as f64 / 1e6)
    }
}

async fn prepare() -> anyhow::Result<(TempDir, PathBuf)> {
    let folder = tempfile::Builder::new().prefix("jetmill-bench-").tempdir();
    let folder = folder.context("failed to make a temporary folder")?;
    let named = std::env::var_os("JETMILL_NATS_SERVER").map(PathBuf::from);
    let program = dev::find_nats_server(named.as_deref(), folder.path()).await?;
    // The services run in another folder.
    let program = program.canonicalize().context("failed to find nats-server")?;
    Ok((folder, program))
}

fn place(ledger: &Ledger) -> anyhow::Result<Option<Place>> {
    Ok(match ledger {
        Ledger::At(url) => Some(Place { url: url.clone(), server: None }),
        Ledger::Postgres => {
            let server = Postgres::start(&postgres_programs()?, None, &POSTGRES)?;
            Some(Place { url: server.url("postgres"), server: Some(server) })
        }
        Ledger::Nowhere => None,
        Ledger::Sqlite => {
            let why = "must be postgres for separate services: a file has one process";
            return Err(ApiError::invalid_field("--ledger", why).into());
        }
    })
}

/// The PostgreSQL of this machine.
pub(super) fn postgres_programs() -> Result<Programs, ApiError> {
    let here = std::env::current_dir().unwrap_or_default();
    let tools = here.ancestors().map(|parent| parent.join(".tools/pg/bin")).collect::<Vec<_>>();
    Programs::find(&tools).ok_or_else(|| {
        let why = "this machine has no PostgreSQL (initdb, postgres)";
        ApiError::new(ErrorCode::Unavailable, why)
            .hint("install it, or name an empty database: --ledger postgres=postgres://user@host/database")
    })
}

/// Bytes that a file, or everything in a folder, takes on disk.
fn disk_usage(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(path) else {
        return fs::symlink_metadata(path).map_or(0, |file| file.blocks() * 512);
    };
    // What goes away meanwhile takes nothing.
    entries.flatten().map(|entry| disk_usage(&entry.path())).sum()
}
