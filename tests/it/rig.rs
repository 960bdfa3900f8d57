//! A running platform with a client of it, and the questions that these tests ask of a task.

use std::{fs, ops::Deref, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use common::time::Timestamp;
use jetmill_sdk::{Client, QueueName, TaskId, TaskSpec, Tenant, WorkerBuilder, pb};
use serde_json::Value;
use testkit::{Dev, DevBuilder, Jetmill, eventually};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::support::SOON;

/// A `jetmill dev` of one test's own.
pub(crate) struct Rig {
    pub(crate) dev: Dev,
    view: View,
}

impl Rig {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::with(Jetmill::dev()).await
    }

    pub(crate) async fn with(builder: DevBuilder) -> anyhow::Result<Self> {
        let dev = builder.start().await?;
        let view = View::of(&dev.addresses().nats).await?;
        Ok(Self { dev, view })
    }

    /// Kills the platform, where it still runs, and starts it again on the same data.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.dev.restart().await?;
        self.view = View::of(&self.dev.addresses().nats).await?;
        Ok(())
    }
}

impl Deref for Rig {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

/// What one sees of a platform that answers at this NATS server.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) client: Client,
    pub(crate) url: String,
}

impl View {
    pub(crate) async fn of(url: &str) -> anyhow::Result<Self> {
        Ok(Self { client: Client::connect(url).await?, url: url.to_owned() })
    }

    /// Submits a task written as JSON: its id.
    pub(crate) async fn submit(&self, task: Value) -> anyhow::Result<TaskId> {
        let submission = self.client.submit(spec(task)?).await?;
        Ok(TaskId::parse(&submission.task_id)?)
    }

    pub(crate) async fn task(&self, id: &TaskId) -> anyhow::Result<pb::Task> {
        Ok(self.client.get(&Tenant::default(), id).await?)
    }

    /// Waits until the ledger shows the task as described.
    pub(crate) async fn until(
        &self,
        id: &TaskId,
        what: &str,
        fits: impl Fn(&pb::Task) -> bool,
    ) -> anyhow::Result<pb::Task> {
        let what = format!("task {id} to be {what}");
        let found = eventually(&what, SOON, async || self.task(id).await.ok().filter(&fits)).await;
        match found {
            Ok(task) => Ok(task),
            Err(error) => {
                let last = self.task(id).await.map(|t| format!("{:?} {:?}", t.state(), t.error));
                let (last, why) = (last.unwrap_or_default(), self.why(id).await);
                Err(error.context(format!("the last that was seen is {last}, because {why:?}")))
            }
        }
    }

    pub(crate) async fn running(&self, id: &TaskId) -> anyhow::Result<pb::Task> {
        self.until(id, "running", |t| t.state() == pb::TaskState::Running).await
    }

    /// Waits for the end of a task, which must be this one.
    pub(crate) async fn ends(&self, id: &TaskId, state: pb::TaskState) -> anyhow::Result<pb::Task> {
        let task = self.until(id, "over", |t| is_over(t.state())).await?;
        ensure!(task.state() == state, "task {id} ended {:?}: {:?}", task.state(), task.error);
        Ok(task)
    }

    pub(crate) async fn completes(&self, id: &TaskId) -> anyhow::Result<pb::Task> {
        self.ends(id, pb::TaskState::Completed).await
    }

    /// What a task that ended produced, whole.
    pub(crate) async fn result(&self, id: &TaskId) -> anyhow::Result<Value> {
        Ok(value(self.client.result(&Tenant::default(), id).await?.result.as_ref()))
    }

    /// Waits for a failure with this cause and code.
    pub(crate) async fn fails(
        &self,
        id: &TaskId,
        cause: pb::Cause,
        code: &str,
    ) -> anyhow::Result<pb::Task> {
        let task = self.ends(id, pb::TaskState::Failed).await?;
        let found = task.error.as_ref().map_or("", |e| e.code.as_str());
        let fits = task.cause() == cause && found == code;
        ensure!(fits, "task {id} failed as {:?} {:?}", task.cause(), task.error);
        Ok(task)
    }

    /// The entries of the task's history that took effect.
    pub(crate) async fn history(&self, id: &TaskId) -> anyhow::Result<Vec<pb::HistoryEntry>> {
        let mut entries = self.client.history(&Tenant::default(), id).await?.entries;
        entries.retain(|entry| entry.ignored.is_empty());
        Ok(entries)
    }

    /// The kinds of the events that took effect.
    pub(crate) async fn kinds(&self, id: &TaskId) -> anyhow::Result<Vec<String>> {
        let words = self
            .history(id)
            .await?
            .into_iter()
            .map(|entry| entry.kind.rsplit('.').next().unwrap_or_default().to_owned());
        Ok(words.collect())
    }

    /// The codes of the reasons for which the task does not run.
    pub(crate) async fn why(&self, id: &TaskId) -> anyhow::Result<Vec<String>> {
        let request = pb::WhyRequest { tenant: String::new(), task_id: id.to_string() };
        let answer = self.client.why(&request).await?;
        Ok(answer.reasons.into_iter().map(|reason| reason.code).collect())
    }

    /// Waits until these are the reasons.
    pub(crate) async fn waits_for(&self, id: &TaskId, codes: &[&str]) -> anyhow::Result<()> {
        let mut last = Vec::new();
        let what = format!("task {id} to wait for {codes:?}");
        let waited = eventually(&what, SOON, async || {
            last = self.why(id).await.ok()?;
            (last == codes).then_some(())
        });
        let waited = waited.await;
        waited.with_context(|| format!("the last reasons were {last:?}"))
    }

    /// Waits until this is the first of the reasons.
    pub(crate) async fn first_waits_for(&self, id: &TaskId, code: &str) -> anyhow::Result<()> {
        eventually(&format!("task {id} to wait for {code} first"), SOON, async || {
            (self.why(id).await.ok()?.first()? == code).then_some(())
        })
        .await
    }

    /// Runs a command that must succeed: what it prints.
    pub(crate) async fn cli(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = Jetmill::cli(&self.url, args).await?;
        if !output.status.success() {
            bail!(
                "jetmill {args:?} ended with {}: {}{}",
                output.status,
                output.stdout,
                output.stderr
            );
        }
        Ok(output.stdout)
    }

    /// The same with `--json`: the value that it prints.
    pub(crate) async fn cli_json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = self.cli(&[&["--json"], args].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("jetmill {args:?} printed {text}"))
    }

    /// Runs a worker of this process until the returned one is dropped; returns once it is known.
    pub(crate) async fn worker(
        &self,
        queue: &str,
        slots: u32,
        handlers: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> anyhow::Result<Guest> {
        let bus = self.client.bus().clone();
        let builder = jetmill_sdk::Worker::builder(bus).queue(QueueName::parse(queue)?, slots);
        let worker = handlers(builder.drain_timeout(Duration::from_secs(1))).build();
        let (name, shutdown) = (worker.name().to_string(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(worker.run(shutdown.clone()));
        self.known(queue, 1).await?;
        Ok(Guest { name, shutdown, task })
    }

    /// Waits until the scheduler counts at least so many workers of a queue.
    pub(crate) async fn known(&self, queue: &str, workers: u32) -> anyhow::Result<()> {
        eventually(&format!("{workers} workers of queue {queue}"), SOON, async || {
            let queues = self.client.queues(&pb::QueuesRequest {}).await.ok()?.queues;
            queues.iter().any(|q| q.name == queue && q.workers >= workers).then_some(())
        })
        .await
    }
}

/// A worker that runs in the test's own process.
pub(crate) struct Guest {
    pub(crate) name: String,
    shutdown: CancellationToken,
    task: JoinSet<anyhow::Result<()>>,
}

impl Guest {
    /// Tells the worker to leave and waits until it has.
    pub(crate) async fn leave(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.ended().await
    }

    /// Waits until it has left.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(SOON, self.task.join_next()).await;
        ended.context("the worker did not leave")?.context("the worker ran already")??
    }
}

/// Handlers wait here until the test lets them go.
pub(crate) type Gate = Arc<Semaphore>;

pub(crate) fn gate() -> Gate {
    Arc::new(Semaphore::new(0))
}

/// Reads a submission written as JSON.
pub(crate) fn spec(task: Value) -> anyhow::Result<TaskSpec> {
    let spec: pb::TaskSpec = serde_json::from_value(task).context("no submission")?;
    TaskSpec::submitted(spec)
        .map_err(|problems| anyhow::anyhow!("no valid submission: {problems:?}"))
}

pub(crate) fn is_over(state: pb::TaskState) -> bool {
    !matches!(state, pb::TaskState::Unspecified | pb::TaskState::Pending | pb::TaskState::Running)
}

/// A JSON field that may be absent.
pub(crate) fn value(json: Option<&pb::Json>) -> Value {
    json.map_or(Value::Null, pb::Json::to_value)
}

/// A time that must be there.
pub(crate) fn time(
    at: Option<common::wire::time::Timestamp>,
    what: &str,
) -> anyhow::Result<Timestamp> {
    at.map(Into::into).with_context(|| format!("{what} is missing"))
}

/// Marks processes by a variable of their environment, which their children inherit.
pub(crate) struct Mark(String);

impl Mark {
    /// The variable.
    pub(crate) const NAME: &str = "TEST_MARK";

    /// A mark that no other run of the tests has.
    pub(crate) fn new(what: &str) -> Self {
        Self(format!("{what}-{}-", std::process::id()))
    }

    /// The variable's value.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The marked processes that live.
    pub(crate) fn processes(&self) -> Vec<PathBuf> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let variable = format!("{}={}", Self::NAME, self.0);
        processes
            .map(|process| process.path())
            .filter(|path| {
                let environment = fs::read(path.join("environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|pair| pair == variable.as_bytes())
            })
            .collect()
    }

    /// Waits until so many live.
    pub(crate) async fn seen(&self, processes: usize) -> anyhow::Result<()> {
        eventually(&format!("{processes} processes marked {}", self.0), SOON, async || {
            (self.processes().len() >= processes).then_some(())
        })
        .await
    }

    /// Waits until none lives.
    pub(crate) async fn gone(&self) -> anyhow::Result<()> {
        let ended = eventually("the end of every marked process", SOON, async || {
            self.processes().is_empty().then_some(())
        });
        let ended = ended.await;
        ended.with_context(|| format!("{:?} live on", self.processes()))
    }
}
