//! `jetmill queue`, `pause` and `resume`.

use comfy_table::Cell;
use common::{id::QueueName, pb};

use crate::{
    connect::Session,
    exit::Exit,
    pause::{self, PauseArgs, ResumeArgs, Which},
    table,
};

/// What about queues.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the queues with what waits in them
    Ls,
    /// Stop new starts in a queue
    Pause(PauseArgs),
    /// Let a queue start work again
    Resume(ResumeArgs),
}

/// Reads a queue's name.
pub(crate) fn queue(text: &str) -> Result<QueueName, String> {
    QueueName::parse(text).map_err(|e| e.to_string())
}

/// Runs one of the commands about queues.
pub(crate) async fn run(session: &Session, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Ls => list(session).await,
        Command::Pause(args) => pause(session, args).await,
        Command::Resume(args) => resume(session, args).await,
    }
}

async fn list(session: &Session) -> anyhow::Result<Exit> {
    let response = session.client.queues(&pb::QueuesRequest {}).await?;
    session.ui.answer(&response, text)?;
    Ok(Exit::Done)
}

fn text(response: &pb::QueuesResponse) -> String {
    if response.queues.is_empty() {
        return "there is no queue yet: the first task, or a worker that serves one, makes it; \
                `jetmill submit -- echo hello`"
            .into();
    }
    let now = Session::now();
    let mut rows = table::table(["QUEUE", "READY", "WAITING", "OUT", "WORKERS", "SLOTS", "STATE"]);
    for queue in &response.queues {
        let mut state = Vec::new();
        if queue.paused {
            state.push(pause::text(now, queue.paused_until, &queue.pause_reason));
        }
        if queue.workers == 0 && queue.queued > 0 {
            state.push("nobody serves it".into());
        }
        rows.add_row(vec![
            Cell::new(&queue.name),
            Cell::new(queue.queued),
            Cell::new(queue.waiting),
            Cell::new(queue.outstanding),
            Cell::new(queue.workers),
            Cell::new(queue.slots),
            Cell::new(state.join("; ")),
        ]);
    }
    let paused = if response.paused {
        let how = pause::text(now, response.paused_until, &response.pause_reason);
        format!("\neverything is {how}; `jetmill resume --all` ends that")
    } else {
        String::new()
    };
    format!("{}{paused}", rows.trim_fmt())
}

/// Stops new starts; what runs goes on.
pub(crate) async fn pause(session: &Session, args: PauseArgs) -> anyhow::Result<Exit> {
    let PauseArgs { which, reason, until, length } = args;
    let request = pb::PauseRequest {
        queue: which.name.clone().unwrap_or_default(),
        reason,
        actor: Session::actor(),
        until: until.map(Into::into),
        duration: length.map(Into::into),
    };
    let response = session.client.pause(&request).await?;
    session.ui.answer(&response, |response| {
        let paused = pause::text(Session::now(), response.until, "");
        changed(response, &which, &paused)
    })?;
    Ok(Exit::Done)
}

/// Starts again.
pub(crate) async fn resume(session: &Session, args: ResumeArgs) -> anyhow::Result<Exit> {
    let queue = args.which.name.clone().unwrap_or_default();
    let request = pb::ResumeRequest { queue, actor: Session::actor() };
    let response = session.client.resume(&request).await?;
    session.ui.answer(&response, |response| changed(response, &args.which, "running"))?;
    Ok(Exit::Done)
}

fn changed(response: &pb::PauseResponse, which: &Which, word: &str) -> String {
    let what = which.name.as_ref().map_or("every queue".into(), |queue| format!("queue {queue}"));
    let already = if response.changed { "" } else { " already" };
    format!("{what} is{already} {word}")
}
