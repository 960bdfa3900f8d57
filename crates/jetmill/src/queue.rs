//! `jetmill queue`, `pause` and `resume`.

use comfy_table::Cell;
use common::{id::QueueName, pb};

use crate::{connect::Session, exit::Exit, table};

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

/// Which queue, or all of them.
#[derive(Debug, clap::Args)]
#[group(id = "which_queue", required = true, multiple = false, args = ["queue", "all"])]
struct Which {
    /// The queue
    #[arg(value_parser = queue)]
    queue: Option<QueueName>,
    /// Every queue
    #[arg(long)]
    all: bool,
}

/// What to pause.
#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    which: Which,
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
}

/// What to resume.
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    which: Which,
}

impl Which {
    fn name(&self) -> String {
        self.queue.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    fn said(&self) -> String {
        self.queue.as_ref().map_or("every queue".into(), |queue| format!("queue {queue}"))
    }
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
    let mut rows = table::table(["QUEUE", "READY", "WAITING", "OUT", "WORKERS", "SLOTS", "STATE"]);
    for queue in &response.queues {
        let state = match (queue.paused, queue.pause_reason.as_str()) {
            (true, "") => "paused".to_owned(),
            (true, reason) => format!("paused: {reason}"),
            (false, _) if queue.workers == 0 && queue.queued > 0 => "nobody serves it".into(),
            (false, _) => String::new(),
        };
        rows.add_row(vec![
            Cell::new(&queue.name),
            Cell::new(queue.queued),
            Cell::new(queue.waiting),
            Cell::new(queue.outstanding),
            Cell::new(queue.workers),
            Cell::new(queue.slots),
            Cell::new(state),
        ]);
    }
    let paused =
        if response.paused { "\neverything is paused: `jetmill resume --all`" } else { "" };
    format!("{}{paused}", rows.trim_fmt())
}

/// Stops new starts; what runs goes on.
pub(crate) async fn pause(session: &Session, args: PauseArgs) -> anyhow::Result<Exit> {
    let request =
        pb::PauseRequest { queue: args.which.name(), reason: args.reason, actor: Session::actor() };
    let response = session.client.pause(&request).await?;
    session.ui.answer(&response, |response| changed(response, &args.which, "paused"))?;
    Ok(Exit::Done)
}

/// Starts again.
pub(crate) async fn resume(session: &Session, args: ResumeArgs) -> anyhow::Result<Exit> {
    let request = pb::ResumeRequest { queue: args.which.name(), actor: Session::actor() };
    let response = session.client.resume(&request).await?;
    session.ui.answer(&response, |response| changed(response, &args.which, "running"))?;
    Ok(Exit::Done)
}

fn changed(response: &pb::PauseResponse, which: &Which, word: &str) -> String {
    let already = if response.changed { "" } else { " already" };
    format!("{} is {word}{already}", which.said())
}
