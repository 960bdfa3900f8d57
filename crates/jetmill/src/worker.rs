//! `jetmill worker`: who runs the work, and sending a worker away.

use comfy_table::Cell;
use common::pb;

use crate::{connect::Session, exit::Exit, output, table};

/// What about workers.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the workers that live
    Ls,
    /// Tell a worker to hand back what it has not started and to leave
    Drain {
        /// The worker
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs one of the commands about workers.
pub(crate) async fn run(session: &Session, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Ls => list(session).await,
        Command::Drain { name, yes } => drain(session, name, yes).await,
    }
}

async fn list(session: &Session) -> anyhow::Result<Exit> {
    let response = session.client.list_workers(&pb::ListWorkersRequest {}).await?;
    session.ui.answer(&response, |response| {
        if response.workers.is_empty() {
            return "no worker lives; start one with `jetmill serve worker-pool`".into();
        }
        let now = Session::now();
        let mut rows = table::table([
            "WORKER", "QUEUES", "RUNNING", "RUNS", "HANDLERS", "HOST", "VERSION", "SINCE", "STATE",
        ]);
        for worker in &response.workers {
            let queues = worker.queues.iter().map(|(name, slots)| format!("{name}={slots}"));
            rows.add_row(vec![
                Cell::new(&worker.worker),
                Cell::new(queues.collect::<Vec<_>>().join(" ")),
                Cell::new(worker.running.len()),
                Cell::new(if worker.executors.is_empty() {
                    "worker".to_owned()
                } else {
                    worker.executors.join(" ")
                }),
                Cell::new(worker.handlers.join(" ")),
                Cell::new(format!("{}:{}", worker.host, worker.pid)),
                Cell::new(&worker.version),
                Cell::new(table::relative(now, worker.started_at)),
                Cell::new(if worker.draining { "draining" } else { "" }),
            ]);
        }
        rows.trim_fmt()
    })?;
    Ok(Exit::Done)
}

async fn drain(session: &Session, worker: String, yes: bool) -> anyhow::Result<Exit> {
    output::confirm(yes, &format!("drain worker {worker}? It takes no new work and leaves."))?;
    let request = pb::DrainRequest { worker: worker.clone(), actor: Session::actor() };
    let response = session.client.drain(&request).await?;
    session.ui.answer(&response, |response| {
        if response.accepted {
            format!("{worker} is leaving; it still runs {} tasks", response.running)
        } else {
            format!("{worker} refused")
        }
    })?;
    Ok(if response.accepted { Exit::Done } else { Exit::Conflict })
}
