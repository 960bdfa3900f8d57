//! The worker of the benchmark: a program of its own, on the SDK, whose handler does nothing.
//!
//! It writes how often its handler ran, a line each time that changed, and ends on SIGTERM or when
//! nobody reads that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use common::id::QueueName;
use jetmill_sdk::{Client, HandlerContext, HandlerError, Worker, pb};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{process::Part, service::Service, site::Site};
use crate::output;

const TELL_EVERY: Duration = Duration::from_millis(5);
const KNOWN_WITHIN: Duration = Duration::from_secs(20);

/// The handler's name.
pub(super) const HANDLER: &str = "noop";

/// What the worker is told. It is started by the benchmark, and is no command for people.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Where NATS is
    #[arg(long)]
    url: String,
    /// The queue that it serves
    #[arg(long)]
    queue: String,
    /// How many attempts it runs at once
    #[arg(long)]
    slots: u32,
}

/// Runs the worker.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let executed = Arc::new(AtomicU64::new(0));
    let count = executed.clone();
    let handler = move |_: HandlerContext| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, HandlerError>(serde_json::json!({ "ok": true })) }
    };
    let bus = Client::connect(&args.url).await?.bus().clone();
    let worker = Worker::builder(bus)
        .queue(QueueName::parse(&args.queue)?, args.slots)
        .drain_timeout(Duration::from_secs(1))
        .handler(HANDLER, handler)
        .build();
    let leave = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(worker.run(leave.clone()));
    let (mut told, mut tick) = (0, interval(TELL_EVERY));
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen to signals")?;
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            ended = tasks.join_next() => return ended.context("the worker is gone")??,
            _ = terminate.recv() => break,
            _ = tick.tick() => {
                let count = executed.load(Ordering::Relaxed);
                if count != told {
                    told = count;
                    output::line(count)?;
                }
            }
        }
    }
    leave.cancel();
    // The benchmark is over: what is left is nobody's.
    let _ = timeout(Duration::from_secs(2), tasks.join_next()).await;
    Ok(())
}

/// The worker's process, seen from the benchmark.
pub(super) struct Hands {
    service: Service,
    /// How often its handler ran.
    pub(super) executed: watch::Receiver<u64>,
    _reader: JoinSet<()>,
}

impl Hands {
    /// Starts it; returns when the scheduler knows it.
    pub(super) async fn start(
        site: &Site,
        client: &Client,
        (queue, slots): (&str, u32),
    ) -> anyhow::Result<Self> {
        let slots_text = slots.to_string();
        let args =
            ["bench", "worker", "--url", &site.url, "--queue", queue, "--slots", &slots_text];
        let mut service = site.spawn("worker", &args).await?;
        let output = service.output().context("the worker has no output")?;
        let (sender, executed) = watch::channel(0);
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(count) = line.trim().parse() {
                    sender.send_replace(count);
                }
            }
        });
        let end = Instant::now() + KNOWN_WITHIN;
        loop {
            let queues = client.queues(&pb::QueuesRequest {}).await.unwrap_or_default().queues;
            if queues.iter().any(|q| q.name == queue && q.workers > 0) {
                return Ok(Self { service, executed, _reader: reader });
            }
            service.check()?;
            anyhow::ensure!(Instant::now() < end, "the scheduler does not know the worker");
            sleep(TELL_EVERY).await;
        }
    }

    pub(super) fn part(&self) -> Part {
        Part::new("worker", self.service.pid())
    }

    /// Sends it away.
    pub(super) async fn leave(mut self) {
        self.service.end().await;
    }
}
