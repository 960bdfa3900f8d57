//! `jetmill cancel`, `retry` and `reprioritise`: changes to tasks by id, or to all that fit a filter.

use comfy_table::Cell;
use common::{error::ApiError, pb};

use crate::{
    connect::Session,
    exit::{Exit, bad_input},
    output, table,
};

/// Which tasks a change is for.
#[derive(Debug, clap::Args)]
#[group(id = "which", required = true, multiple = false, args = ["ids", "filter"])]
struct Which {
    /// The tasks
    ids: Vec<String>,
    /// Every task that fits this filter
    #[arg(long = "where", value_name = "FILTER")]
    filter: Option<String>,
}

/// How a change goes about it.
#[derive(Debug, clap::Args)]
struct How {
    /// Only say how many tasks it would be
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What to end.
#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: How,
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
}

/// What to run again.
#[derive(Debug, clap::Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: How,
}

/// What to move.
#[derive(Debug, clap::Args)]
pub(crate) struct ReprioritiseArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: How,
    /// 1 to 10, 10 first
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10))]
    priority: i32,
}

impl Which {
    fn selection(self, session: &Session) -> Result<pb::Selection, ApiError> {
        let filter = self.filter.unwrap_or_default();
        if self.ids.is_empty() && filter.trim().is_empty() {
            let told = bad_input("the filter is empty");
            return Err(
                told.hint("name what is to be changed, for example --where 'state = pending'")
            );
        }
        for id in &self.ids {
            Session::id(id)?;
        }
        Ok(pb::Selection { tenant: session.tenant.to_string(), task_ids: self.ids, filter })
    }
}

/// Asks first when a filter decides what is changed.
async fn carry_out<F>(
    session: &Session,
    selection: pb::Selection,
    how: How,
    verb: &str,
    change: impl Fn(pb::Selection, bool) -> F,
) -> anyhow::Result<Exit>
where
    F: Future<Output = Result<pb::ChangeResponse, ApiError>>,
{
    let over_filter = !selection.filter.is_empty();
    if how.dry_run || (over_filter && !how.yes) {
        let counted = change(selection.clone(), true).await?;
        let matched = counted.matched;
        if how.dry_run {
            session.ui.answer(&counted, |_| format!("would {verb} {matched} tasks"))?;
            return Ok(Exit::Done);
        }
        output::confirm(false, &format!("{verb} {matched} tasks?"))?;
    }
    let response = change(selection, false).await?;
    session.ui.answer(&response, text)?;
    let refused = response.changes.iter().any(|change| change.result == "refused");
    Ok(if refused { Exit::Conflict } else { Exit::Done })
}

fn text(response: &pb::ChangeResponse) -> String {
    let mut rows = table::table(["TASK", "RESULT", "NEW TASK", "WHY"]);
    for change in &response.changes {
        rows.add_row(vec![
            Cell::new(&change.task_id),
            Cell::new(&change.result),
            Cell::new(&change.new_task_id),
            Cell::new(&change.reason),
        ]);
    }
    let more = (response.matched as usize).saturating_sub(response.changes.len());
    let more = if more == 0 { String::new() } else { format!("\nand {more} more") };
    if response.matched == 0 { "no task fits".into() } else { format!("{}{more}", rows.trim_fmt()) }
}

/// Ends tasks: before they start, or while they run.
pub(crate) async fn cancel(session: &Session, args: CancelArgs) -> anyhow::Result<Exit> {
    let selection = args.which.selection(session)?;
    carry_out(session, selection, args.how, "cancel", |selection, dry_run| {
        let request = pb::CancelRequest {
            selection: Some(selection),
            dry_run,
            reason: args.reason.clone(),
            actor: Session::actor(),
        };
        async move { session.client.cancel(&request).await }
    })
    .await
}

/// Runs finished tasks again as new ones, and waiting ones now.
pub(crate) async fn retry(session: &Session, args: RetryArgs) -> anyhow::Result<Exit> {
    let selection = args.which.selection(session)?;
    carry_out(session, selection, args.how, "retry", |selection, dry_run| {
        let request =
            pb::RetryRequest { selection: Some(selection), dry_run, actor: Session::actor() };
        async move { session.client.retry(&request).await }
    })
    .await
}

/// Moves tasks in their queues.
pub(crate) async fn reprioritise(
    session: &Session,
    args: ReprioritiseArgs,
) -> anyhow::Result<Exit> {
    let selection = args.which.selection(session)?;
    carry_out(session, selection, args.how, "reprioritise", |selection, dry_run| {
        let request = pb::ReprioritiseRequest {
            selection: Some(selection),
            dry_run,
            priority: args.priority,
            actor: Session::actor(),
        };
        async move { session.client.reprioritise(&request).await }
    })
    .await
}
