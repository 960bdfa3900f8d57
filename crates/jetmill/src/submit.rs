//! `jetmill submit`: one task from the command line, or many from a file.

mod container;
mod cycle;
mod file;
mod many;
mod parse;
mod spec;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use common::{error::ApiError, pb, task::TaskSpec};
use tokio::time::timeout;

pub(crate) use parse::{parse_duration, parse_json, parse_time};
pub(crate) use spec::TaskArgs;

use crate::{
    connect::{Session, read_text},
    exit::{Exit, bad_input},
    output, show, task,
    wait::Waiter,
};

/// Who waits this long hears what the task waits for.
const QUIET_MAX: Duration = Duration::from_secs(5);

/// Flags of tasks that have no command.
pub(crate) const NO_COMMAND: [&str; 7] =
    ["script", "handler", "nats_subject", "http", "lua", "external", "file"];

/// What to submit.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true)
    .args(["command", "script", "handler", "nats_subject", "http", "lua", "docker", "external", "file"]))]
#[command(group = clap::ArgGroup::new("kind")
    .args(["script", "handler", "nats_subject", "http", "lua", "docker", "external", "file"]))]
#[command(after_help = "Examples:
  jetmill submit --wait -- echo hello
  jetmill submit --script 'date; uptime' --title health --priority 8
  jetmill submit --handler resize --input '{\"path\": \"a.png\"}'
  jetmill submit --http https://example.com/hook --input '{\"a\": 1}' --wait
  jetmill submit --lua score.lua --input '{\"a\": 1}' --wait
  jetmill submit --docker alpine:3 --cpus 0.5 --limits memory_mb=64 --wait -- echo hello
  jetmill submit -f tasks.jsonl --wait        # one task a line, in JSON")]
pub(crate) struct Args {
    /// The command and its arguments; no shell reads them
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = NO_COMMAND)]
    command: Vec<String>,
    /// Tasks in JSON, one a line; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    task: spec::TaskArgs,
    /// Wait for the end; the exit code says whether all completed
    #[arg(long)]
    wait: bool,
    /// Wait at most this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "wait")]
    wait_timeout: Option<Duration>,
}

/// Submits.
pub(crate) async fn run(session: &Session, args: Args) -> anyhow::Result<Exit> {
    let waiting = async {
        match &args.file {
            Some(path) => {
                args.task.refuse_with_file()?;
                let text = read_text(path).await?;
                Box::pin(many::run(session, &text, args.wait)).await
            }
            None => one(session, &args).await,
        }
    };
    let Some(longest) = args.wait_timeout else { return waiting.await };
    tokio::time::timeout(longest, waiting).await.unwrap_or_else(|_| {
        let why = format!("it did not end within {}", crate::table::duration(longest));
        let told = ApiError::new(common::error::ErrorCode::Unavailable, why);
        Err(told.hint("it goes on: see `jetmill ls --state pending,running`").into())
    })
}

/// The task that the flags describe, with what they name files for.
pub(crate) async fn described(args: &TaskArgs, command: &[String]) -> anyhow::Result<pb::TaskSpec> {
    let files = spec::Files {
        stdin: text("--stdin", args.stdin.as_deref()).await?,
        input: text("--input-file", args.input_file.as_deref()).await?,
        lua: text("--lua", args.lua.as_deref()).await?,
    };
    Ok(spec::build(args, command, files)?)
}

async fn one(session: &Session, args: &Args) -> anyhow::Result<Exit> {
    let mut spec = described(&args.task, &args.command).await?;
    if spec.tenant.is_empty() {
        spec.tenant = session.tenant.to_string();
    }
    if spec.created_by.is_empty() {
        spec.created_by = Session::actor();
    }
    send(session, spec, args.wait).await
}

/// Submits one task, and waits for its end if that is wanted.
pub(crate) async fn send(
    session: &Session,
    mut spec: pb::TaskSpec,
    wait: bool,
) -> anyhow::Result<Exit> {
    if !wait {
        let submission =
            session.client.submit(TaskSpec::submitted(spec).map_err(ApiError::invalid)?).await?;
        session.ui.answer(&submission, submitted)?;
        return Ok(Exit::Done);
    }
    let mut waiter =
        Waiter::new(&session.client).await.context("failed to listen for the outcome")?;
    waiter.inbox().clone_into(&mut spec.notify);
    let spec = TaskSpec::submitted(spec).map_err(ApiError::invalid)?;
    let submission = session.client.submit(spec).await?;
    if !session.ui.json {
        output::note(submitted(&submission))?;
    }
    waiter.expect(&submission);
    let outcome = if let Ok(outcome) = timeout(QUIET_MAX, waiter.next()).await {
        outcome
    } else {
        say_why(session, &submission).await;
        waiter.next().await
    };
    let outcome = session.client.whole(outcome).await?;
    let exit = show::finish(session, &outcome)?;
    if !session.ui.json && exit == Exit::Done {
        output::note(task::end(&outcome))?;
    }
    Ok(exit)
}

/// Says what keeps a task that somebody waits for from running; one that runs is not disturbed.
async fn say_why(session: &Session, submission: &pb::Submission) {
    let pb::Submission { tenant, task_id, .. } = submission.clone();
    let asked = session.client.why(&pb::WhyRequest { tenant, task_id }).await;
    let Ok(pb::WhyResponse { reasons, .. }) = asked else { return };
    let Some(first) =
        reasons.first().filter(|first| !["running", "released"].contains(&first.code.as_str()))
    else {
        return;
    };
    // What cannot be said keeps nobody from waiting.
    let _ = output::note(format!(
        "it waits: {}; `jetmill why {}` says more, Ctrl-C leaves it waiting",
        first.message, submission.task_id
    ));
}

/// The text of the file that a flag names.
async fn text(flag: &str, path: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let text = String::from_utf8(read_text(path).await?);
    Ok(Some(text.map_err(|_| bad_input(format!("{flag} must be UTF-8 text")))?))
}

fn submitted(submission: &pb::Submission) -> String {
    let there = if submission.existing { " (it was there already)" } else { "" };
    format!("submitted {}{there}", submission.task_id)
}
