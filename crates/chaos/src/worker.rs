//! The worker of the load, a process of its own so that it can be killed. It notes each run in the
//! journal.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use bus::ConnectOptions;
use common::id::{QueueName, WorkerName};
use jetmill_sdk::{HandlerContext, HandlerError, Worker};
use serde::Deserialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    journal::{Journal, Note},
    load::HANDLER,
};

const DRAIN: Duration = Duration::from_secs(1);

/// What the worker is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where NATS is: a proxy.
    pub url: String,
    /// Who it is to NATS, where that is asked.
    pub credentials: Option<PathBuf>,
    /// Its name.
    pub name: WorkerName,
    /// The queue it serves.
    pub queue: QueueName,
    /// How much of it at once.
    pub slots: u32,
    /// Where it notes what it runs.
    pub journal: PathBuf,
}

#[derive(Deserialize)]
struct Input {
    ms: u64,
    fails: u32,
}

/// Runs until it is told to end, or killed.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<()> {
    let options = ConnectOptions {
        url: settings.url,
        name: format!("chaos-{}", settings.name),
        credentials: settings.credentials,
    };
    let bus = bus::connect(&options).await?;
    let journal =
        Arc::new(Journal::append(&settings.journal).context("failed to open the journal")?);
    let name = settings.name.to_string();
    Worker::builder(bus)
        .name(settings.name)
        .queue(settings.queue, settings.slots)
        .drain_timeout(DRAIN)
        .handler(HANDLER, move |context| {
            let (journal, worker) = (journal.clone(), name.clone());
            async move { handle(&context, &journal, &worker).await }
        })
        .run(shutdown)
        .await
}

async fn handle(
    context: &HandlerContext,
    journal: &Journal,
    worker: &str,
) -> Result<u32, HandlerError> {
    let input: Input = context.input()?;
    let execution = context.execution();
    let note = |what: &str| Note {
        task: execution.id.to_string(),
        attempt: execution.attempt,
        worker: worker.to_owned(),
        what: what.to_owned(),
    };
    journal.write(&note("start"))?;
    if input.ms > 0 {
        tokio::select! {
            () = sleep(Duration::from_millis(input.ms)) => {}
            () = context.cancelled() => {
                journal.write(&note("stopped"))?;
                return Err(HandlerError::retryable("stopped", "it was told to stop"));
            }
        }
    }
    journal.write(&note("end"))?;
    if execution.tries < input.fails {
        return Err(HandlerError::retryable("by_design", "it was to fail"));
    }
    Ok(execution.attempt)
}
