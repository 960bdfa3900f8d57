//! Puts a worker of handlers together.

use std::{fmt, sync::Arc, time::Duration};

use bus::Bus;
use common::{
    id::{QueueName, WorkerName},
    limits,
    task::HANDLER_QUEUE,
    time::Clock,
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    engine::{self, Options},
    handler::{HandlerContext, HandlerError, Handlers},
};
use crate::clock::SystemClock;

/// Attempts that a worker runs at once when nothing else is said.
const SLOTS: u32 = 8;

/// A worker of handlers, ready to run.
pub struct Worker {
    bus: Bus,
    options: Options,
    handlers: Handlers,
    clock: Arc<dyn Clock>,
}

/// Puts a worker together: `Worker::builder(bus).queue(name, slots).handler("x", f).run(shutdown)`.
pub struct WorkerBuilder {
    worker: Worker,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.options.name)
            .field("queues", &self.options.queues)
            .field("handlers", &self.handlers)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.worker.fmt(f)
    }
}

impl Worker {
    /// A worker on this connection, with a name drawn at random.
    pub fn builder(bus: Bus) -> WorkerBuilder {
        let name = format!("sdk-{:08x}", rand::random::<u32>());
        let options = Options {
            name: WorkerName::parse(&name).expect("invariant: letters, digits and a dash"),
            queues: Vec::new(),
            handlers: Vec::new(),
            executors: Vec::new(),
            drain_timeout: Duration::from_secs(30),
            snapshot_every: limits::SNAPSHOT_EVERY,
            observe: Arc::new(|_| {}),
        };
        let worker =
            Self { bus, options, handlers: Handlers::default(), clock: Arc::new(SystemClock) };
        WorkerBuilder { worker }
    }

    /// Its name, as `jetmill worker ls` shows it.
    pub fn name(&self) -> &WorkerName {
        &self.options.name
    }

    /// Runs until shutdown, or until somebody drains it; returns when it has left.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        engine::run(self.bus, self.options, self.handlers, self.clock, shutdown).await
    }
}

impl WorkerBuilder {
    /// Gives the worker a name, unique among the living ones.
    #[must_use]
    pub fn name(mut self, name: WorkerName) -> Self {
        self.worker.options.name = name;
        self
    }

    /// Serves a queue with so many slots. Without any, it serves `handlers` with eight.
    #[must_use]
    pub fn queue(mut self, name: QueueName, slots: u32) -> Self {
        self.worker.options.queues.retain(|(queue, _)| *queue != name);
        self.worker.options.queues.push((name, slots));
        self
    }

    /// Registers a handler: what tasks of executor `worker` name.
    #[must_use]
    pub fn handler<F, Fut, R>(mut self, name: &str, handler: F) -> Self
    where
        F: Fn(HandlerContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: Serialize,
    {
        self.worker.handlers.add(name, handler);
        self
    }

    /// How long running work may go on after the worker was told to leave; 30 s without.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.worker.options.drain_timeout = timeout;
        self
    }

    /// How long an attempt runs before the log hears what it has used so far, and then at least
    /// between two times that it does; 10 s without.
    #[must_use]
    pub fn snapshot_every(mut self, least: Duration) -> Self {
        self.worker.options.snapshot_every = least;
        self
    }

    /// Takes the time from another clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.worker.clock = clock;
        self
    }

    /// The worker.
    pub fn build(self) -> Worker {
        let mut worker = self.worker;
        worker.options.handlers = worker.handlers.names().map(str::to_owned).collect();
        if worker.options.queues.is_empty() {
            let queue = QueueName::parse(HANDLER_QUEUE).expect("invariant: a constant token");
            worker.options.queues.push((queue, SLOTS));
        }
        worker
    }

    /// Builds the worker and runs it.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        self.build().run(shutdown).await
    }
}
