//! `jetmill dead`: what could not be read or did not end well, and running it again.

use comfy_table::Cell;
use common::{pb, time::Timestamp};

use crate::{connect::Session, exit::Exit, output, table};

/// What about dead letters.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List dead letters, newest first
    Ls {
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=1000))]
        limit: i32,
        /// Go on where the last list ended
        #[arg(long, value_name = "TOKEN", default_value = "")]
        after: String,
        /// Print each letter so, such as '{{ id }} {{ kind }} {{ error }}'
        #[arg(long, value_name = "TEMPLATE", value_parser = output::Format::parse)]
        format: Option<output::Format>,
    },
    /// Show one dead letter with what it came from
    Show {
        /// Its number
        id: u64,
    },
    /// Submit dead tasks again, as new tasks
    #[command(group = clap::ArgGroup::new("letters").required(true).args(["ids", "all"]))]
    Replay {
        /// Their numbers
        ids: Vec<u64>,
        /// All of them
        #[arg(long)]
        all: bool,
        /// Only say how many it would be
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs one of the commands about dead letters.
pub(crate) async fn run(session: &Session, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Ls { limit, after, format } => {
            let request = pb::ListDeadRequest { page_size: limit, page_token: after };
            let response = session.client.list_dead(&request).await?;
            match format {
                Some(format) => format.lines(&response.letters)?,
                None => list(session, &response)?,
            }
            Ok(Exit::Done)
        }
        Command::Show { id } => {
            let letter = session.client.get_dead(&pb::GetDeadRequest { id }).await?;
            session.ui.answer(&letter, detail)?;
            Ok(Exit::Done)
        }
        Command::Replay { ids, all, dry_run, yes } => {
            let request = pb::ReplayDeadRequest { ids, all, dry_run, actor: Session::actor() };
            replay(session, request, yes).await
        }
    }
}

fn list(session: &Session, response: &pb::ListDeadResponse) -> anyhow::Result<()> {
    session.ui.answer(response, |response| {
        if response.letters.is_empty() {
            return "nothing is dead".into();
        }
        let now = Session::now();
        let mut rows = table::table(["NUMBER", "KIND", "AT", "TASK", "SUBJECT", "ERROR"]);
        for letter in &response.letters {
            rows.add_row(vec![
                Cell::new(letter.id),
                Cell::new(&letter.kind),
                Cell::new(table::relative(now, letter.at)),
                Cell::new(&letter.task_id),
                Cell::new(&letter.subject),
                Cell::new(table::cut(&letter.error, 80)),
            ]);
        }
        let more = match response.next_page_token.as_str() {
            "" => String::new(),
            token => format!("\nthere are more: --after {token}"),
        };
        format!("{}{more}", rows.trim_fmt())
    })
}

fn detail(letter: &pb::DeadLetter) -> String {
    let at = letter.at.map(|at| Timestamp::from(at).to_string()).unwrap_or_default();
    let mut text = format!(
        "number:   {}\nkind:     {}\nat:       {at}\nfrom:     {} at {}.{}\nerror:    {}\n",
        letter.id, letter.kind, letter.subject, letter.sequence, letter.index, letter.error
    );
    if !letter.task_id.is_empty() {
        text.extend([format!("task:     {}\n", letter.task_id)]);
    }
    if let Some(spec) = &letter.spec {
        let spec = serde_json::to_string_pretty(spec).unwrap_or_default();
        text.extend([format!("task as submitted:\n{spec}\n")]);
    }
    if !letter.original.is_empty() {
        text.extend([format!(
            "message as it came:\n{}\n",
            String::from_utf8_lossy(&letter.original)
        )]);
    }
    text
}

async fn replay(
    session: &Session,
    request: pb::ReplayDeadRequest,
    yes: bool,
) -> anyhow::Result<Exit> {
    if request.all && !request.dry_run && !yes {
        let counted = pb::ReplayDeadRequest { dry_run: true, ..request.clone() };
        let matched = session.client.replay_dead(&counted).await?.matched;
        output::confirm(false, &format!("submit {matched} dead tasks again?"))?;
    }
    let response = session.client.replay_dead(&request).await?;
    session.ui.answer(&response, |response| {
        if request.dry_run {
            return format!("would submit {} tasks again", response.matched);
        }
        let mut text = String::new();
        for submission in &response.submissions {
            match &submission.error {
                None => text.extend([format!("submitted {}\n", submission.task_id)]),
                Some(error) => {
                    text.extend([format!("refused {}: {}\n", submission.task_id, error.message)]);
                }
            }
        }
        if text.is_empty() { "nothing to submit again".into() } else { text }
    })?;
    let refused = response.submissions.iter().any(|submission| submission.error.is_some());
    Ok(if refused { Exit::Failed } else { Exit::Done })
}
