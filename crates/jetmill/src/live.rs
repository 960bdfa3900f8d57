//! `jetmill logs` and `jetmill watch`: what happens, as it happens.

use std::pin::pin;

use common::{
    lifecycle::state_word,
    pb::{self, event::Kind},
    time::Timestamp,
};
use futures::StreamExt as _;
use owo_colors::OwoColorize as _;

use crate::{connect::Session, exit::Exit, output, table, task};

/// Whose output.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The task
    id: String,
    /// Stay until the task has ended
    #[arg(long, short)]
    follow: bool,
    /// Only this attempt
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

/// Whose events.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// The task; without one every task's events from now on
    id: Option<String>,
    /// Begin after this position of the log
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: u64,
}

/// Prints output as it was written: each stream of the task on the same one here.
pub(crate) async fn logs(session: &Session, args: LogsArgs) -> anyhow::Result<Exit> {
    let request = pb::LogsRequest {
        tenant: session.tenant.to_string(),
        task_id: Session::id(&args.id)?.to_string(),
        follow: args.follow,
        attempt: args.attempt.unwrap_or(0),
    };
    let mut chunks = pin!(bus::live::logs(session.client.bus(), request));
    let mut attempt = None;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if session.ui.json {
            output::json(&json_chunk(&chunk))?;
            continue;
        }
        if attempt.is_some_and(|attempt| attempt != chunk.attempt) {
            output::note(format_args!("--- attempt {}", chunk.attempt))?;
        }
        attempt = Some(chunk.attempt);
        match chunk.stream.as_str() {
            "stderr" => std::io::Write::write_all(&mut anstream::stderr().lock(), &chunk.data)?,
            _ => output::raw(&chunk.data)?,
        }
    }
    Ok(Exit::Done)
}

/// The chunk with its bytes as text too: base64 is for programs that need the exact bytes.
fn json_chunk(chunk: &pb::LogChunk) -> serde_json::Value {
    let mut value = serde_json::to_value(chunk).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("text".into(), String::from_utf8_lossy(&chunk.data).into());
    }
    value
}

/// Prints events as they enter the log.
pub(crate) async fn watch(session: &Session, args: WatchArgs) -> anyhow::Result<Exit> {
    let task_id = args.id.as_deref().map(Session::id).transpose()?;
    let request = pb::WatchRequest {
        tenant: session.tenant.to_string(),
        task_id: task_id.map(|id| id.to_string()).unwrap_or_default(),
        after_sequence: args.after,
    };
    let mut events = pin!(bus::live::watch(session.client.bus(), request));
    while let Some(event) = events.next().await {
        session.ui.answer(&event?, line)?;
    }
    Ok(Exit::Done)
}

fn line(event: &pb::WatchEvent) -> String {
    let at = event.at.map(|at| Timestamp::from(at).to_string()).unwrap_or_default();
    let (id, what) = match &event.event {
        Some(inner) => (id(inner), what(inner)),
        None => (String::new(), String::new()),
    };
    format!("{} {:<16} {} {what}", at.dimmed(), event.kind.bold(), id.cyan())
}

/// The task that an event is about.
fn id(event: &pb::Event) -> String {
    match &event.kind {
        Some(Kind::Created(spec)) => spec.task_id.clone(),
        _ => event.task_id.clone(),
    }
}

/// What an event says, in a line.
pub(crate) fn what(event: &pb::Event) -> String {
    let error = |error: &Option<pb::TaskError>| error.as_ref().map(task::error).unwrap_or_default();
    let attempt = |n: u32| if n == 0 { String::new() } else { format!("attempt {n} ") };
    match &event.kind {
        None => String::new(),
        Some(Kind::Created(e)) => table::cut(&e.title, 80),
        Some(Kind::Started(e)) => format!("{}on {}", attempt(e.attempt), e.worker),
        Some(Kind::Progress(e)) => {
            let share = e.fraction.map(|f| format!("{:.0} % ", f * 100.0)).unwrap_or_default();
            let counters = e.counters.as_ref().map(pb::Json::to_value);
            format!("{share}{} {}", e.message, task::counters(counters.as_ref()))
        }
        Some(Kind::Updated(e)) => e.status.clone(),
        Some(Kind::Snapshot(e)) => {
            let used = e.resource_usage.as_ref().map(task::usage).unwrap_or_default();
            format!("{}used so far: {used}", attempt(e.attempt))
        }
        Some(Kind::Completed(e)) => {
            format!("{}in {}", attempt(e.attempt), table::wire_duration(e.duration))
        }
        Some(Kind::Failed(e)) => {
            let message = if e.error.is_some() { error(&e.error) } else { e.error_message.clone() };
            format!("{}{}: {message}", attempt(e.attempt), table::cause(e.cause()))
        }
        Some(Kind::Retrying(e)) => {
            format!(
                "{}again in {}: {}",
                attempt(e.attempt),
                table::wire_duration(e.delay),
                error(&e.error)
            )
        }
        Some(Kind::Lost(e)) => format!("{}{}", attempt(e.attempt), e.reason),
        Some(Kind::Returned(e)) => format!("{}{}", attempt(e.attempt), e.reason),
        Some(Kind::Skipped(e)) => e.reason.clone(),
        Some(Kind::Cancelled(e)) => format!("{}{}", attempt(e.attempt), e.reason),
        Some(Kind::CancelRequested(e)) => e.reason.clone(),
        Some(Kind::Reprioritised(e)) => format!("priority {}", e.priority),
        Some(Kind::Expedited(_)) => "now".into(),
        Some(Kind::Carried(e)) => format!("as of {}", e.as_of),
        Some(Kind::Resolved(e)) => format!("by version {} of its type", e.version),
        Some(Kind::Paused(e)) => format!("{} {}", queue(&e.queue), e.reason),
        Some(Kind::Resumed(e)) => queue(&e.queue),
        Some(Kind::Trimmed(e)) => format!("the log counts from {}", e.floor),
        Some(Kind::ScheduleAdvanced(e)) => match e.why.as_str() {
            "" => format!("where schedule {:?} stands", e.name),
            why => format!("schedule {:?} has ticks without a run: {why}", e.name),
        },
        Some(Kind::Document(e)) => format!("version {} of {:?}", e.version, e.name),
    }
}

fn queue(name: &str) -> String {
    if name.is_empty() { "every queue".into() } else { format!("queue {name}") }
}

/// The word for a state, for lines of progress.
pub(crate) fn word(state: pb::TaskState) -> &'static str {
    state_word(state)
}
