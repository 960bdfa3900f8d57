//! `jetmill ls`: the tasks that fit a filter, newest first.

use std::time::Duration;

use clap::ValueEnum;
use comfy_table::Cell;
use common::{limits, pb};

use crate::{connect::Session, exit::Exit, output, table};

/// Time between two looks of `--watch`.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Which tasks.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A filter, such as 'state = failed AND subsystem = "healing" AND age < 1d'
    #[arg(long = "where", value_name = "FILTER")]
    filter: Option<String>,
    /// Only tasks in these states
    #[arg(long, value_delimiter = ',', value_name = "STATE")]
    state: Vec<State>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print each task so, such as '{{ title }} {{ state }} {{ duration }}'
    #[arg(long, value_name = "TEMPLATE", value_parser = output::Format::parse)]
    format: Option<output::Format>,
    /// Look again every two seconds
    #[arg(long, short)]
    watch: bool,
}

/// A state as the filter knows it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
    Skipped,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

/// The filter that the flags make together.
fn filter(given: Option<&str>, states: &[State], tenant: Option<&str>) -> String {
    let states = states.iter().map(|state| format!("state = {}", state.word())).collect::<Vec<_>>();
    let states = (!states.is_empty()).then(|| states.join(" OR "));
    let tenant = tenant.map(|name| format!("tenant = \"{name}\""));
    let given = given.map(str::to_owned).filter(|text| !text.trim().is_empty());
    let mut terms = [given, states, tenant].into_iter().flatten().collect::<Vec<_>>();
    match terms.len() {
        1 => terms.remove(0),
        _ => terms.iter().map(|term| format!("({term})")).collect::<Vec<_>>().join(" AND "),
    }
}

/// Prints the list, once or again and again.
pub(crate) async fn run(session: &Session, args: Args) -> anyhow::Result<Exit> {
    let limit = if args.all { usize::MAX } else { args.limit as usize };
    let filter = filter(args.filter.as_deref(), &args.state, Some(session.tenant.as_str()));
    loop {
        let response = fetch(session, &filter, limit).await?;
        if args.watch && output::is_terminal() && !session.ui.json {
            // Clears the screen, as `watch` does.
            output::raw(b"\x1b[2J\x1b[H")?;
        }
        match &args.format {
            Some(format) => format.lines(&response.tasks)?,
            None => session.ui.answer(&response, text)?,
        }
        if !args.watch {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Gathers pages up to the limit into one answer.
pub(crate) async fn fetch(
    session: &Session,
    filter: &str,
    limit: usize,
) -> anyhow::Result<pb::ListResponse> {
    let mut all = pb::ListResponse::default();
    // Read your writes: what was in the log when the command began is in the list.
    let min_sequence = bus::streams::last_sequence(session.client.bus()).await.unwrap_or(0);
    loop {
        let room = limit - all.tasks.len();
        let request = pb::ListRequest {
            filter: filter.to_owned(),
            page_size: i32::try_from(room).unwrap_or(i32::MAX).min(limits::PAGE_SIZE_MAX),
            page_token: std::mem::take(&mut all.next_page_token),
            min_sequence,
            count: false,
        };
        let page = session.client.list(&request).await?;
        all.tasks.extend(page.tasks);
        all.next_page_token = page.next_page_token;
        all.sequence = page.sequence;
        if all.next_page_token.is_empty() || all.tasks.len() >= limit {
            return Ok(all);
        }
    }
}

fn text(response: &pb::ListResponse) -> String {
    if response.tasks.is_empty() {
        return "no tasks; submit one with `jetmill submit -- echo hello`".into();
    }
    let now = Session::now();
    let mut rows = table::table([
        "ID",
        "STATE",
        "PRI",
        "TYPE",
        "SUBSYSTEM",
        "QUEUE",
        "TITLE",
        "CREATED",
        "TOOK",
    ]);
    for task in &response.tasks {
        rows.add_row(vec![
            Cell::new(&task.task_id),
            table::state(task),
            Cell::new(task.priority),
            Cell::new(&task.task_type),
            Cell::new(&task.subsystem),
            Cell::new(&task.queue),
            Cell::new(table::cut(&task.title, 48)),
            Cell::new(table::relative(now, task.created_at)),
            Cell::new(table::wire_duration(task.duration)),
        ]);
    }
    let more = match response.next_page_token.as_str() {
        "" => String::new(),
        _ => "\nthere are more: --limit N or --all".into(),
    };
    format!("{}{more}", rows.trim_fmt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_make_one_filter_that_keeps_the_meaning_of_each() {
        let check = |given, states: &[State], expected: &str| {
            let made = filter(given, states, None);
            assert_eq!(made, expected);
            let now = common::time::Timestamp::default();
            common::filter::parse(&made, now).expect("a filter");
        };
        check(Some("priority > 5"), &[], "priority > 5");
        check(None, &[State::Failed], "state = failed");
        check(
            Some("tag:a OR tag:b"),
            &[State::Failed, State::Skipped],
            "(tag:a OR tag:b) AND (state = failed OR state = skipped)",
        );
        assert_eq!(filter(None, &[], Some("a")), "tenant = \"a\"");
    }
}
