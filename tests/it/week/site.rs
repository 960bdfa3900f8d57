//! The platform of the week: one scheduler with a clock of the test's, everything else as it is.

use std::{
    fs::{self, File},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bus::{ConnectOptions, streams};
use common::{
    event::{Event, Kind, Policy},
    policy::Body,
    time::{Clock, Timestamp},
};
use jetmill_sdk::{SystemClock, pb};
use runtime::Context;
use serde_json::{Value, json};
use testkit::{Jetmill, NatsServer, eventually};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::oracle::minute;
use crate::{
    catalog,
    rig::View,
    support::{self, SOON},
};

const QUEUES: &str = "default=4,maintenance=3,pattern_mining=3,training=1";
/// More than the week: the log keeps all of it, so that it can be read at the end.
const HISTORY: Duration = Duration::from_secs(30 * 24 * 3_600);

/// A wall clock that stands still until it is turned.
pub(super) struct Hands(AtomicI64);

impl Hands {
    pub(super) fn read(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }

    pub(super) fn turn(&self, to: Timestamp) {
        self.0.store(to.micros(), Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        self.read()
    }
}

pub(super) struct Site {
    pub(super) view: View,
    pub(super) hands: Arc<Hands>,
    /// What the jobs keep.
    folder: tempfile::TempDir,
    services: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
    // Ended before the server that it works for.
    _worker: Jetmill,
    _nats: NatsServer,
}

impl Site {
    /// Everything runs, and the catalog is applied.
    pub(super) async fn open() -> anyhow::Result<Self> {
        let nats = NatsServer::start()?;
        let folder = tempfile::tempdir()?;
        let options = ConnectOptions { url: nats.url(), name: "week".into(), credentials: None };
        let bus = bus::connect(&options).await?;
        let small = streams::StreamOptions { log_bytes_max: 256 << 20, ..Default::default() };
        streams::ensure(&bus, small).await?;

        let hands = Arc::new(Hands(AtomicI64::new(SystemClock.now().micros())));
        let shutdown = CancellationToken::new();
        let mut services = JoinSet::new();
        let ledger = format!("sqlite:{}", folder.path().join("ledger.db").display());
        let ctx = Context::new(bus.clone(), Arc::new(SystemClock), shutdown.clone(), "week");
        let config = registry::Config { ledger_url: ledger, ..registry::Config::default() };
        services.spawn(registry::run(ctx.named("registry"), config));
        let ctx = Context::new(bus, hands.clone(), shutdown.clone(), "week");
        let config = scheduler::Config { history_age: HISTORY, ..scheduler::Config::default() };
        services.spawn(scheduler::run(ctx.named("scheduler"), config));
        let worker = worker(&nats.url())?;

        let view = View::of(&nats.url()).await?;
        let site = Self { view, hands, folder, services, shutdown, _worker: worker, _nats: nats };
        site.view.known("maintenance", 1).await?;
        site.apply().await?;
        Ok(site)
    }

    /// Applies the catalog, and tells the jobs of its schedules where their folder is.
    async fn apply(&self) -> anyhow::Result<()> {
        let view = &self.view;
        let examples = catalog::folder();
        view.cli(&["types", "apply", "-f", &examples.to_string_lossy()]).await?;
        let listed = view.cli_json(&["schedule", "ls"]).await?;
        let mut documents = String::new();
        for state in listed["schedules"].as_array().context("schedules")? {
            let (name, mut schedule) = (state["name"].clone(), state["schedule"].clone());
            let known = self.input(name.as_str().context("a name")?)?;
            schedule["task"]["input"] = known;
            documents.push_str(&json!({"name": name, "schedule": schedule}).to_string());
        }
        let file = self.path("schedules.json");
        fs::write(&file, documents)?;
        view.cli(&["schedule", "set", "-f", &file.to_string_lossy()]).await?;
        Ok(())
    }

    /// What a job of this platform is told, as far as its type knows it.
    fn input(&self, name: &str) -> anyhow::Result<Value> {
        let types = catalog::examples()?;
        let schema = types.get(name).and_then(|of| of.input_schema.as_ref());
        let schema = schema.map(pb::Json::to_value).unwrap_or_default();
        let mut input = json!({});
        let dir = self.folder.path().to_string_lossy();
        if schema.pointer("/properties/dir").is_some() {
            input["dir"] = dir.as_ref().into();
        }
        Ok(input)
    }

    /// Runs a job by hand to its good end.
    pub(super) async fn by_hand(&self, name: &str) -> anyhow::Result<()> {
        let input = self.input(name)?.to_string();
        self.view.cli(&["types", "run", name, "--input", &input, "--wait"]).await.map(|_| ())
    }

    /// Something comes that nobody can read.
    pub(super) async fn something_dies(&self) -> anyhow::Result<()> {
        let client = self.view.client.bus().client();
        support::publish(client, "task.created", "{not json").await?;
        eventually("a dead letter", SOON, async || {
            let letters = self.view.client.list_dead(&pb::ListDeadRequest::default()).await.ok()?;
            (letters.letters.len() == 1).then_some(())
        })
        .await
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn text(&self, name: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.path(name)).with_context(|| format!("no {name}"))
    }

    /// Makes a file older.
    pub(super) fn age(&self, name: &str, minutes: u64) -> anyhow::Result<()> {
        let file = File::options().append(true).open(self.path(name))?;
        file.set_modified(file.metadata()?.modified()? - Duration::from_secs(minutes * 60))?;
        Ok(())
    }

    async fn log(&self) -> anyhow::Result<Vec<bus::Message>> {
        let bus = self.view.client.bus();
        let last = streams::last_sequence(bus).await?;
        let mut reader = bus::Reader::open(bus, None).await?;
        let mut log = Vec::new();
        while reader.cursor().sequence < last {
            log.extend(reader.next(256).await?);
        }
        Ok(log)
    }

    /// When the log says that the schedule of this name fires: since it was last set or woken.
    pub(super) async fn set_at(&self, name: &str) -> anyhow::Result<Timestamp> {
        let (mut since, mut rests) = (None, true);
        for message in self.log().await? {
            for event in message.items.into_iter().flatten() {
                if let Event::Policy(event) = event
                    && let Policy::Document(document) = event.policy
                    && let Body::Schedule(schedule) = document.body
                    && document.name.as_str() == name
                {
                    if rests && !schedule.paused {
                        since = Some(message.at);
                    }
                    rests = schedule.paused;
                }
            }
        }
        ensure!(!rests, "{name} rests");
        since.with_context(|| format!("{name} has no schedule"))
    }

    /// The ticks that have a run in the log, as often as it is there.
    pub(super) async fn fired(&self) -> anyhow::Result<Vec<(i64, String)>> {
        let mut fired = Vec::new();
        for message in self.log().await? {
            for event in message.items.into_iter().flatten() {
                if let Event::Task(event) = event
                    && let Kind::Created(spec) = event.kind
                    && let Some(of) = spec.as_pb().schedule.as_ref()
                {
                    let tick = Timestamp::from(of.tick.context("a tick")?);
                    fired.push((minute(tick), of.name.clone()));
                }
            }
        }
        Ok(fired)
    }

    /// Ends the services, which must not have ended before.
    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        ensure!(self.services.try_join_next().is_none(), "a service ended by itself");
        self.shutdown.cancel();
        while let Some(ended) = self.services.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// A worker that serves every queue of the catalog and finds the program.
fn worker(url: &str) -> anyhow::Result<Jetmill> {
    let program = Jetmill::program()?;
    let bin = program.parent().context("a folder")?.display();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = format!("{bin}:{}", others.to_string_lossy());
    let ports = ["--http-addr", "127.0.0.1:0", "--nats-url", url];
    let serve = [&["serve", "worker-pool", "--queues", QUEUES][..], &ports].concat();
    // Its operator gives the jobs, which are commands, the address of the platform.
    let allowed = ("JETMILL_WORKER_POOL__ENV_ALLOW", "PATH,HOME,JETMILL_NATS_URL");
    Jetmill::spawn(&serve, &[("PATH", path.as_str()), ("JETMILL_NATS_URL", url), allowed])
}
