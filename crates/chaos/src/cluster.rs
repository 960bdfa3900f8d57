//! A cluster of our own: every part a process of its own, each behind a proxy of its own, all of
//! them ended with us. Whoever ends by himself is started again, as a service manager would.

mod ask;
mod care;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use launch::{
    NatsServer, postgres,
    process::{self, Stray},
};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    disk::Disk,
    load::{MARK, QUEUE},
    proxy::Proxy,
    storage::{Flavour, Storage},
};

/// Pause before what ended by itself is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);
const SLOTS: u32 = 16;

/// How the cluster is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program `jetmill`.
    pub program: PathBuf,
    /// The program `nats-server`.
    pub nats_server: PathBuf,
    /// Where the ledger is kept.
    pub flavour: Flavour,
    /// What stands before the host in NATS's URL, with its `@`; usually nothing.
    pub login: String,
    /// Credentials of the workers, where NATS asks for them.
    pub credentials: Option<PathBuf>,
    /// The mark of every process of the run.
    pub run: String,
    /// How many tasks there will be, for the size of the disks.
    pub tasks: usize,
}

/// What a process is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Writes the ledger; with a file for it, everything else as well.
    Registry,
    /// Leads or stands by.
    Scheduler,
    /// Runs commands.
    WorkerPool,
    /// Runs handlers.
    Worker,
    /// The door for gRPC.
    Gateway,
}

/// One process of the cluster.
#[derive(Debug)]
pub struct Member {
    /// What it is.
    pub role: Role,
    /// Between it and NATS.
    pub proxy: Proxy,
    /// Whether it is to run.
    pub wanted: bool,
    /// Whether it is stopped by a signal.
    pub stopped: bool,
    args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    ended: Option<Instant>,
    strays: Vec<Stray>,
}

/// The cluster.
pub struct Cluster {
    /// nats-server, where it is ours.
    pub nats: Option<NatsServer>,
    /// Whether it is to run.
    pub nats_wanted: bool,
    /// The ledger, where it is ours.
    pub storage: Option<Storage>,
    /// Whether its server is to run.
    pub storage_wanted: bool,
    /// Everything else.
    pub members: BTreeMap<String, Member>,
    /// The disk of nats-server; none where that is not possible.
    pub nats_disk: Option<Disk>,
    /// The disk of the ledger; none where that is not possible.
    pub ledger_disk: Option<Disk>,
    /// Which process ended by itself, and how.
    pub ended: VecDeque<String>,
    plan: Plan,
    /// Where NATS is, `host:port`.
    upstream: String,
    folder: TempDir,
}

impl Cluster {
    /// Starts workers only, in front of somebody's NATS at `host:port`.
    pub async fn workers_of(plan: Plan, upstream: String) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("jetmill-chaos-").tempdir()?;
        let mut cluster = Self {
            upstream,
            nats: None,
            nats_wanted: false,
            storage: None,
            storage_wanted: false,
            members: BTreeMap::new(),
            nats_disk: None,
            ledger_disk: None,
            ended: VecDeque::new(),
            plan,
            folder,
        };
        cluster.add_workers().await?;
        cluster.launch_all()?;
        Ok(cluster)
    }

    /// Starts everything; returns when the services answer.
    pub async fn start(plan: Plan) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("jetmill-chaos-").tempdir()?;
        let room = 96 + plan.tasks / 20;
        let own = match plan.flavour {
            Flavour::Sqlite => Vec::new(),
            Flavour::Postgres => postgres::unprivileged_prefix(),
        };
        let place = |name: &str| -> anyhow::Result<PathBuf> {
            let place = folder.path().join(name);
            std::fs::create_dir(&place)?;
            Ok(place)
        };
        let (nats_place, ledger_place) = (place("nats")?, place("ledger")?);
        let for_postgres = if plan.flavour == Flavour::Postgres { 128 } else { 0 };
        if !own.is_empty() {
            give_away(folder.path())?;
            give_away(&ledger_place)?;
        }
        let nats_disk = Disk::make(&nats_place, room, Vec::new()).ok();
        let ledger_disk = Disk::make(&ledger_place, room + for_postgres, own).ok();
        let on = |disk: &Option<Disk>, other: &Path| {
            disk.as_ref().map_or_else(|| other.to_owned(), |disk| disk.path().to_owned())
        };
        let nats = NatsServer::builder()
            .binary(&plan.nats_server)
            .store(on(&nats_disk, &nats_place))
            // The sizes of the streams are reserved, and the disk is smaller.
            .jetstream("max_file_store: 16GB")
            .start()?;
        let data = on(&ledger_disk, &ledger_place);
        let storage = Storage::start(plan.flavour, &data, &ledger_place, folder.path())?;
        let mut cluster = Self {
            upstream: format!("127.0.0.1:{}", nats.port()),
            nats: Some(nats),
            nats_wanted: true,
            storage: Some(storage),
            storage_wanted: true,
            members: BTreeMap::new(),
            nats_disk,
            ledger_disk,
            ended: VecDeque::new(),
            plan,
            folder,
        };
        cluster.add_members().await?;
        Ok(cluster)
    }

    async fn add_members(&mut self) -> anyhow::Result<()> {
        let serve = |service: &'static str| ["serve", service];
        match self.plan.flavour {
            Flavour::Sqlite => self.add("registry", Role::Registry, &serve("all")).await?,
            Flavour::Postgres => {
                self.add("registry", Role::Registry, &serve("registry")).await?;
                self.add("scheduler-1", Role::Scheduler, &serve("scheduler")).await?;
                self.add("gateway", Role::Gateway, &serve("gateway")).await?;
            }
        }
        self.add("scheduler-2", Role::Scheduler, &serve("scheduler")).await?;
        self.add("pool-1", Role::WorkerPool, &serve("worker-pool")).await?;
        self.add_workers().await?;
        self.launch_all()
    }

    fn launch_all(&mut self) -> anyhow::Result<()> {
        let names: Vec<_> = self.members.keys().cloned().collect();
        names.iter().try_for_each(|name| self.launch(name))
    }

    async fn add_workers(&mut self) -> anyhow::Result<()> {
        for name in ["hands-1", "hands-2"] {
            self.add_worker(name).await?;
        }
        Ok(())
    }

    async fn add_worker(&mut self, name: &str) -> anyhow::Result<()> {
        let journal = self.journal().display().to_string();
        let slots = SLOTS.to_string();
        // Other runs may go on at the same cluster.
        let own = format!("{}-{name}", self.plan.run);
        let args = [
            "chaos-worker",
            "--journal",
            &journal,
            "--queue",
            QUEUE,
            "--slots",
            &slots,
            "--name",
            &own,
        ];
        self.add(name, Role::Worker, &args).await
    }

    async fn add(&mut self, name: &str, role: Role, args: &[&str]) -> anyhow::Result<()> {
        let proxy = Proxy::start(self.upstream.clone()).await?;
        let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        if role != Role::Worker {
            let any = "127.0.0.1:0";
            args.extend(
                ["--name", name, "--http-addr", any, "--grpc-addr", any].map(str::to_owned),
            );
        }
        let member = Member {
            role,
            proxy,
            wanted: true,
            stopped: false,
            args,
            log: self.folder.path().join(format!("{name}.log")),
            child: None,
            ended: None,
            strays: Vec::new(),
        };
        self.members.insert(name.to_owned(), member);
        Ok(())
    }

    /// Where user work notes that it ran.
    pub fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    /// Starts a process that does not run.
    pub fn launch(&mut self, name: &str) -> anyhow::Result<()> {
        let ledger = self.storage.as_ref().map(Storage::url).unwrap_or_default();
        let member = self.members.get_mut(name).with_context(|| format!("there is no {name}"))?;
        member.wanted = true;
        if member.is_alive() {
            return Ok(());
        }
        let in_disk = member.role == Role::Registry && self.plan.flavour == Flavour::Sqlite;
        let mut words = match self.ledger_disk.as_ref().filter(|_| in_disk) {
            Some(disk) => disk.enter(),
            None => Vec::new(),
        };
        words.push(self.plan.program.clone().into());
        let (program, rest) = words.split_first().context("invariant: a program was pushed")?;
        let mut command = process::bound_command(program);
        command.args(rest);
        let log = File::options().create(true).append(true).open(&member.log)?;
        command
            .args(&member.args)
            .current_dir(self.folder.path())
            .env_remove("JETMILL_CONFIG")
            .env("JETMILL_NATS_URL", member.proxy.url(&self.plan.login))
            .env("JETMILL_LEDGER_URL", ledger)
            .env("JETMILL_NATS__LOG_BYTES_MAX", "1GiB")
            .env("NO_COLOR", "1")
            .env(MARK, &self.plan.run)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(credentials) = &self.plan.credentials {
            command.env("JETMILL_NATS_CREDS", credentials);
        }
        member.child =
            Some(process::spawn(command).with_context(|| format!("failed to start {name}"))?);
        (member.ended, member.stopped) = (None, false);
        Ok(())
    }

    /// Ends a process with SIGKILL; it stays down until it is started again.
    pub fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let member = self.members.get_mut(name).with_context(|| format!("there is no {name}"))?;
        (member.wanted, member.stopped) = (false, false);
        if let Some(child) = member.child.as_mut() {
            for stray in Stray::descendants_of(child.id()) {
                if !member.strays.contains(&stray) {
                    member.strays.push(stray);
                }
            }
            child.kill().with_context(|| format!("failed to kill {name}"))?;
            child.wait().with_context(|| format!("failed to wait for {name}"))?;
        }
        member.child = None;
        Ok(())
    }

    /// Stops a process, or lets it go on.
    pub fn stop(&mut self, name: &str, stop: bool) -> anyhow::Result<()> {
        let member = self.members.get_mut(name).with_context(|| format!("there is no {name}"))?;
        let child = member.child.as_ref().with_context(|| format!("{name} does not run"))?;
        process::signal(child, if stop { Signal::STOP } else { Signal::CONT })?;
        member.stopped = stop;
        Ok(())
    }

    /// The names of the members of a role that run.
    pub fn running(&mut self, role: Role) -> Vec<String> {
        let of_role = self.members.iter_mut().filter(|(_, member)| member.role == role);
        of_role.filter_map(|(name, m)| (m.is_alive() && !m.stopped).then(|| name.clone())).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let names: Vec<_> = self.members.keys().cloned().collect();
        for name in names {
            // There is nobody to tell, and the kernel ends it with us at the latest.
            let _ = self.kill(&name);
        }
        for member in self.members.values() {
            member.strays.iter().for_each(Stray::kill);
        }
    }
}

impl Member {
    /// Whether the process lives.
    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

/// Lets the unprivileged user of PostgreSQL into a folder of root's.
fn give_away(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(folder, open).context("failed to open a folder")
}
