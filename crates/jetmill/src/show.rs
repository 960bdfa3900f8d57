//! `jetmill get`, `result`, `history` and `why`: questions about one task.

use std::time::Duration;

use comfy_table::Cell;
use common::{limits, pb, pb::TaskState};
use owo_colors::OwoColorize as _;

use crate::{connect::Session, exit::Exit, output, submit::parse_duration, table, task};

/// One task.
#[derive(Debug, clap::Args)]
pub(crate) struct Id {
    /// The task
    id: String,
}

/// One task's result.
#[derive(Debug, clap::Args)]
pub(crate) struct ResultArgs {
    /// The task
    id: String,
    /// Wait until it has ended
    #[arg(long)]
    wait: bool,
    /// Wait at most this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "wait")]
    wait_timeout: Option<Duration>,
}

/// Shows the task as the ledger has it.
pub(crate) async fn get(session: &Session, args: &Id) -> anyhow::Result<Exit> {
    let id = Session::id(&args.id)?;
    let mut found = session.client.get(&session.tenant, &id).await?;
    if session.ui.json {
        whole(session, &mut found).await?;
    }
    session.ui.answer(&found, |found| task::detail(found, Session::now()))?;
    Ok(Exit::Done)
}

/// Fetches what is large. What is gone must not hide the rest.
async fn whole(session: &Session, task: &mut pb::Task) -> anyhow::Result<()> {
    for (what, place, value) in [
        ("the input", &task.input_object, &mut task.input),
        ("the result", &task.result_object, &mut task.result),
    ] {
        let Some(place) = place else { continue };
        match session.client.fetch(what, place).await {
            Ok(fetched) => *value = Some(fetched),
            Err(error) => output::note(error)?,
        }
    }
    Ok(())
}

/// Prints what the task produced; says by the exit code whether it completed.
pub(crate) async fn result(session: &Session, args: &ResultArgs) -> anyhow::Result<Exit> {
    let id = Session::id(&args.id)?;
    let outcome = if args.wait {
        // A typing error must not be waited for.
        session.client.get(&session.tenant, &id).await?;
        let longest = args.wait_timeout.unwrap_or(limits::DURATION_MAX);
        session.client.wait(&session.tenant, &id, longest).await?
    } else {
        session.client.result(&session.tenant, &id).await?
    };
    finish(session, &outcome)
}

/// Prints an outcome: of a completed task only what it produced.
pub(crate) fn finish(session: &Session, outcome: &pb::Outcome) -> anyhow::Result<Exit> {
    let completed = outcome.state() == TaskState::Completed;
    if session.ui.json {
        output::json(outcome)?;
    } else {
        let produced = task::result(outcome.result.as_ref());
        if !produced.is_empty() {
            output::line(produced.trim_end_matches('\n'))?;
        }
        if !completed {
            output::note(task::end(outcome))?;
        }
    }
    Ok(if completed { Exit::Done } else { Exit::Failed })
}

/// Shows every event of the task.
pub(crate) async fn history(session: &Session, args: &Id) -> anyhow::Result<Exit> {
    let id = Session::id(&args.id)?;
    let history = session.client.history(&session.tenant, &id).await?;
    session.ui.answer(&history, |history| {
        let mut rows = table::table(["SEQUENCE", "AT", "EVENT", "BY", "WHAT"]);
        for entry in &history.entries {
            let at = entry.at.map(|at| common::time::Timestamp::from(at).to_string());
            let actor = entry.event.as_ref().map(|event| event.actor.clone());
            let ignored =
                (!entry.ignored.is_empty()).then(|| format!("ignored: {}", entry.ignored));
            let what = ignored.or_else(|| entry.event.as_ref().map(crate::live::what));
            rows.add_row(vec![
                Cell::new(format!("{}.{}", entry.sequence, entry.index)),
                Cell::new(at.unwrap_or_default()),
                Cell::new(&entry.kind),
                Cell::new(actor.unwrap_or_default()),
                Cell::new(what.unwrap_or_default()),
            ]);
        }
        rows.trim_fmt()
    })?;
    Ok(Exit::Done)
}

/// Says what the task waits for.
pub(crate) async fn why(session: &Session, args: &Id) -> anyhow::Result<Exit> {
    let id = Session::id(&args.id)?;
    let request = pb::WhyRequest { tenant: session.tenant.to_string(), task_id: id.to_string() };
    let answer = session.client.why(&request).await?;
    session.ui.answer(&answer, |answer| {
        let now = Session::now();
        let state = common::lifecycle::state_word(answer.state());
        let mut text = format!("{} is {state}\n", answer.task_id.bold());
        for (n, reason) in (1..).zip(&answer.reasons) {
            let until = reason.until.map(|at| format!(", {}", table::relative(now, Some(at))));
            let until = until.unwrap_or_default();
            text.extend([format!(
                "{n}. {} {}{until}\n",
                format!("{}:", reason.code).bold(),
                reason.message
            )]);
            if !reason.hint.is_empty() {
                text.extend([format!("   {} {}\n", "help:".cyan(), reason.hint)]);
            }
        }
        if let Some(ahead) = answer.ahead {
            text.extend([format!("{ahead} tasks are ahead of it in its queue\n")]);
        }
        if let Some(start) = answer.estimated_start {
            let when = table::relative(now, Some(start));
            text.extend([format!("it may start {when}, by what is known now\n")]);
        }
        text
    })?;
    Ok(Exit::Done)
}
