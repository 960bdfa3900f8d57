//! `jetmill schedule`: tasks that are created by the clock.

mod set;
mod show;

use comfy_table::Cell;
use common::{
    error::ApiError,
    limits,
    pb::{self, document::Body},
    time::Timestamp,
};

use crate::{
    connect::Session,
    exit::Exit,
    pause::{self, PauseArgs, ResumeArgs, Which},
    submit::parse_time,
    table,
};

/// Of which schedules something is asked.
const PATTERN: &str = "Names that fit; `*` stands for any text";

/// What about schedules.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Create or change a schedule, or many from a file
    Set(Box<set::Args>),
    /// List the schedules
    Ls {
        /// Names that fit; `*` stands for any text
        #[arg(default_value = "")]
        pattern: String,
    },
    /// Show one schedule
    Show {
        /// Its name
        name: String,
    },
    /// List when it comes next
    Next {
        /// Its name
        name: String,
        /// So many times
        #[arg(long, short = 'n', default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
        /// After this time, such as 2026-11-21T08:00:00Z [default: now]
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        after: Option<Timestamp>,
    },
    /// Pause schedules; what was created goes on
    #[command(mut_arg("name", |arg| arg.help(PATTERN).value_name("PATTERN")))]
    Pause {
        #[command(flatten)]
        args: PauseArgs,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Resume schedules; what was not created in between is not made up for
    #[command(mut_arg("name", |arg| arg.help(PATTERN).value_name("PATTERN")))]
    Resume {
        #[command(flatten)]
        args: ResumeArgs,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Create a task of a schedule now
    Run {
        /// Its name
        name: String,
        /// An idempotency key: the same key is the same run
        #[arg(long, default_value = "")]
        key: String,
    },
    /// Remove schedules; what was created goes on
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs one of the commands about schedules.
pub(crate) async fn run(session: &Session, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Set(args) => return Box::pin(set::run(session, *args)).await,
        Command::Ls { pattern } => return list(session, pattern).await,
        Command::Show { name } => {
            let schedule = one(session, &name).await?;
            session.ui.answer(&schedule, show::text)?;
        }
        Command::Next { name, count, after } => {
            let after = after.map(Into::into);
            let request = pb::NextFiresRequest { name, schedule: None, count, after };
            let response = session.client.next_fires(&request).await?;
            session.ui.answer(&response, |response| fires(response, Session::now()))?;
        }
        Command::Pause { args: PauseArgs { which, reason, until, length }, dry_run } => {
            let (until, duration) = (until.map(Into::into), length.map(Into::into));
            let asked = pb::PauseSchedulesRequest {
                paused: true,
                reason,
                until,
                duration,
                dry_run,
                ..pb::PauseSchedulesRequest::default()
            };
            hold(session, which, asked).await?;
        }
        Command::Resume { args: ResumeArgs { which }, dry_run } => {
            let asked = pb::PauseSchedulesRequest { dry_run, ..Default::default() };
            hold(session, which, asked).await?;
        }
        Command::Run { name, key } => {
            let actor = Session::actor();
            let request = pb::RunScheduleRequest { name, idempotency_key: key, actor };
            let run = session.client.run_schedule(&request).await?;
            session.ui.answer(&run, |run| {
                let there = if run.existing { " (it was there already)" } else { "" };
                format!("submitted {}{there}", run.task_id)
            })?;
        }
        Command::Rm { names, dry_run } => return remove(session, names, dry_run).await,
    }
    Ok(Exit::Done)
}

async fn hold(
    session: &Session,
    which: Which,
    asked: pb::PauseSchedulesRequest,
) -> anyhow::Result<()> {
    let pattern = which.name.unwrap_or_else(|| "*".into());
    let request = pb::PauseSchedulesRequest { pattern, actor: Session::actor(), ..asked };
    let response = session.client.pause_schedules(&request).await?;
    let verb = if request.paused { "paused" } else { "resumed" };
    session.ui.answer(&response, |response| changes(response, request.dry_run, verb))
}

async fn remove(session: &Session, names: Vec<String>, dry_run: bool) -> anyhow::Result<Exit> {
    let removed = |name| pb::Document {
        name,
        body: Some(Body::Removed(pb::DocumentKind::Schedule.into())),
        ..pb::Document::default()
    };
    let documents = names.into_iter().map(removed).collect();
    let request = pb::ApplyPoliciesRequest { documents, actor: Session::actor(), dry_run };
    let response = session.client.apply_policies(&request).await?;
    session.ui.answer(&response, |response| changes(response, dry_run, "removed"))?;
    let absent = response.changes.iter().any(|change| change.result == "absent");
    Ok(if absent { Exit::Conflict } else { Exit::Done })
}

/// What became of each schedule, a line each.
fn changes(response: &pb::ApplyPoliciesResponse, dry_run: bool, changed: &str) -> String {
    let line = |change: &pb::PolicyChange| {
        let word = match change.result.as_str() {
            "changed" => changed,
            "absent" => "is not there",
            other => other,
        };
        format!("{} {word}", change.name)
    };
    let mut lines = response.changes.iter().map(line).collect::<Vec<_>>();
    if dry_run {
        lines.push("nothing was changed: --dry-run".into());
    }
    lines.join("\n")
}

async fn list(session: &Session, pattern: String) -> anyhow::Result<Exit> {
    let all = fetch(session, pattern).await?;
    session.ui.answer(&all, table_of)?;
    Ok(Exit::Done)
}

async fn fetch(session: &Session, pattern: String) -> Result<pb::SchedulesResponse, ApiError> {
    let mut all = pb::SchedulesResponse::default();
    let mut request = pb::SchedulesRequest { pattern, next: 1, page_token: String::new() };
    loop {
        let page = session.client.schedules(&request).await?;
        all.schedules.extend(page.schedules);
        if page.next_page_token.is_empty() || all.schedules.len() >= limits::DOCUMENTS_MAX {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

/// The schedule of this name.
async fn one(session: &Session, name: &str) -> Result<pb::ScheduleState, ApiError> {
    let request =
        pb::SchedulesRequest { pattern: name.to_owned(), next: 5, page_token: String::new() };
    let found = session.client.schedules(&request).await?.schedules;
    found.into_iter().find(|schedule| schedule.name == name).ok_or_else(|| {
        let missing = format!("there is no schedule {name:?}");
        ApiError::new(common::error::ErrorCode::NotFound, missing)
            .hint("`jetmill schedule ls` shows the schedules there are")
    })
}

fn table_of(response: &pb::SchedulesResponse) -> String {
    if response.schedules.is_empty() {
        return "there is no schedule; `jetmill schedule set --help` shows how to make one".into();
    }
    let now = Session::now();
    let mut rows = table::table(["SCHEDULE", "WHEN", "NEXT", "LAST", "OPEN", "STATE"]);
    for state in &response.schedules {
        let body = state.schedule.clone().unwrap_or_default();
        let next = state.next.first().and_then(|fire| fire.at);
        rows.add_row(vec![
            Cell::new(&state.name),
            Cell::new(show::when(&body)),
            Cell::new(table::relative(now, next)),
            Cell::new(table::relative(now, state.last)),
            Cell::new(state.open_runs.len()),
            Cell::new(show::standing(&body, next.is_some(), now)),
        ]);
    }
    rows.trim_fmt()
}

/// The next times, a line each.
fn fires(response: &pb::NextFiresResponse, now: Timestamp) -> String {
    let line = |fire: &pb::Fire| {
        let late = match (fire.tick, fire.at) {
            (Some(tick), Some(at)) if tick != at => format!(", {} of jitter", jitter(tick, at)),
            _ => String::new(),
        };
        format!("{}{late}", table::exact(now, fire.at))
    };
    let mut lines = response.fires.iter().map(line).collect::<Vec<_>>();
    if response.paused_until.is_some() {
        lines.insert(0, format!("it is {}", pause::text(now, response.paused_until, "")));
    } else if response.paused {
        lines.push("it is paused: nothing comes until it is resumed".into());
    } else if lines.is_empty() {
        lines.push("it never comes again".into());
    }
    lines.join("\n")
}

fn jitter(tick: common::wire::time::Timestamp, at: common::wire::time::Timestamp) -> String {
    table::duration(Timestamp::from(at).since(tick.into()))
}
