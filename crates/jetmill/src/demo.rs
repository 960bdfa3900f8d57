//! `jetmill demo`: real work on real input, a graph of tasks over the files of a folder.
//!
//! One task lists the files; one a file counts its lines, some as commands and some as calls of a
//! handler that this process registers; and a last one, which waits for all of them, reads their
//! results and reports. Nothing in it is special: these are the doors that anybody has.

mod graph;
mod handlers;
mod report;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use common::{
    id::{QueueName, TaskId, WorkerName},
    pb::{self, TaskState},
    time::Clock as _,
};
use jetmill_sdk::Worker;
use owo_colors::OwoColorize as _;
use runtime::clock::SystemClock;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    connect::Session,
    exit::{Exit, bad_input},
    live, output,
    progress::Progress,
    task,
    wait::Waiter,
};

/// The queue of the handlers of this process.
const QUEUE: &str = "demo";
const SLOTS: u32 = 8;
/// How long the handlers may take to leave.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// What to look at.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder whose files are counted
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
    /// Files, at most
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=900))]
    files: u32,
}

impl Default for Args {
    fn default() -> Self {
        Self { path: ".".into(), files: 200 }
    }
}

/// Runs the demonstration to its end.
pub(crate) async fn run(session: &Session, args: Args) -> anyhow::Result<Exit> {
    let folder = args.path.canonicalize().map_err(|e| {
        bad_input(format!("there is no folder {}: {e}", args.path.display()))
            .hint("name one with --path")
    })?;
    // Somebody must be there to run it; the error says how to start them.
    session.client.stats(&pb::StatsRequest::default()).await?;
    session.client.queues(&pb::QueuesRequest::default()).await?;
    session.client.list_workers(&pb::ListWorkersRequest::default()).await?;
    let run = graph::Run {
        name: format!("demo-{:x}", SystemClock.now().micros() / 1_000 % 0x1_0000_0000),
        folder,
        files_max: args.files,
        tenant: session.tenant.clone(),
        actor: Session::actor(),
    };
    let leave = CancellationToken::new();
    let mut workers = JoinSet::new();
    workers.spawn(worker(session, &run.name)?.run(leave.clone()));
    // Both arms may be dropped: the tasks are in the log, whoever runs them.
    let ended = tokio::select! {
        ended = show(session, &run) => ended,
        Some(left) = workers.join_next() => {
            left.context("the handlers of the demonstration panicked")?
                .context("the handlers of the demonstration ended")?;
            Err(anyhow::anyhow!("somebody sent the worker of the demonstration away"))
        }
    };
    leave.cancel();
    // Late handlers are dropped with the set.
    let _ = timeout(LEAVE_WITHIN, workers.join_next()).await;
    ended
}

fn worker(session: &Session, name: &str) -> anyhow::Result<Worker> {
    let queue = QueueName::parse(QUEUE)?;
    let client = session.client.clone();
    Ok(Worker::builder(session.client.bus().clone())
        .name(WorkerName::parse(name)?)
        .queue(queue, SLOTS)
        .drain_timeout(LEAVE_WITHIN)
        .handler("file-stats", handlers::file_stats)
        .handler("file-report", move |context| handlers::file_report(client.clone(), context))
        .build())
}

async fn show(session: &Session, run: &graph::Run) -> anyhow::Result<Exit> {
    let mut waiter = Waiter::new(&session.client).await?;
    output::note(format_args!("{} the files of {}", "listing".bold(), run.folder.display()))?;
    let listing = session.client.submit(run.listing(waiter.inbox())?).await?;
    waiter.expect(&listing);
    let listed = waiter.next().await;
    if listed.state() != TaskState::Completed {
        output::note(task::outcome(&listed))?;
        return Ok(Exit::Failed);
    }
    let files = run.files(&listed);
    if files.is_empty() {
        return Err(bad_input(format!("there are no files in {}", run.folder.display())).into());
    }
    let graph = run.graph(&files, waiter.inbox())?;
    output::note(format_args!(
        "{} {} tasks: one a file, and a report that waits for all of them",
        "submitting".bold(),
        graph.len()
    ))?;
    let start = Instant::now();
    let mut progress = Progress::new("done", graph.len() as u64);
    for submission in session.client.submit_all(graph).await {
        waiter.expect(&submission?);
    }
    let mut last = None;
    while !waiter.is_done() {
        let outcome = waiter.next().await;
        progress.advance(1);
        if outcome.state() != TaskState::Completed {
            progress.say(&task::end(&outcome));
        }
        if outcome.task_id == run.report_id() {
            last = Some(outcome);
        }
    }
    drop(progress);
    let took = start.elapsed();
    let outcome = last.context("the report has no outcome")?;
    if outcome.state() != TaskState::Completed {
        output::note(format_args!("the report {}", live::word(outcome.state())))?;
        return Ok(Exit::Failed);
    }
    tell(session, run, &outcome, took)?;
    Ok(Exit::Done)
}

fn tell(
    session: &Session,
    run: &graph::Run,
    outcome: &pb::Outcome,
    took: Duration,
) -> anyhow::Result<()> {
    if session.ui.json {
        return output::json(outcome);
    }
    let report = outcome.result.as_ref().map(pb::Json::to_value).unwrap_or_default();
    let report: report::Report =
        serde_json::from_value(report).context("the report cannot be read")?;
    let id = TaskId::parse(&run.report_id())?;
    let took = crate::table::duration(took);
    output::line(report.text())?;
    output::line(format_args!("{took} from the submission of the graph to its last end"))?;
    let next = [
        String::new(),
        "Next:".to_owned(),
        format!("  jetmill ls --where 'tag:{}'", run.name),
        format!("  jetmill get {id}"),
        format!("  jetmill history {id}"),
        format!("  jetmill logs {}", run.file_id(0)),
        "  jetmill queue ls".to_owned(),
    ];
    Ok(output::line(next.join("\n"))?)
}
