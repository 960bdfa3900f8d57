//! `jetmill schedule set`: one schedule from the command line, or many from a file.

use std::{path::PathBuf, time::Duration};

use common::{
    error::ApiError,
    pb::{self, catch_up::Mode, document::Body, schedule},
    time::Timestamp,
};

use super::fires;
use crate::{
    connect::{Session, read_text},
    exit::{Exit, bad_input},
    submit::{self, TaskArgs, parse_duration, parse_time},
};

/// What to set.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true)
    .args(["command", "script", "handler", "nats_subject", "http", "lua", "docker", "external", "file"]))]
#[command(group = clap::ArgGroup::new("kind")
    .args(["script", "handler", "nats_subject", "http", "lua", "docker", "external", "file"]))]
#[command(group = clap::ArgGroup::new("when").args(["cron", "every", "at"]))]
#[command(after_help = "Examples:
  jetmill schedule set nightly --cron '0 2 * * *' --time-zone Europe/Berlin -- ./backup
  jetmill schedule set poll --every 90s --overlap skip --handler poll
  jetmill schedule set once --at 2027-01-01T00:00:00Z --script 'echo happy new year'
  jetmill schedule set -f schedules.json      # {\"name\": \"nightly\", \"schedule\": {\"cron\": …}}")]
pub(crate) struct Args {
    /// Its name: letters, digits, `_` and `-`
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    name: Option<String>,
    /// The command and its arguments; no shell reads them
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = submit::NO_COMMAND)]
    command: Vec<String>,
    /// Schedules in JSON, one after the other; `-` is standard input
    #[arg(long, short, value_name = "FILE", conflicts_with = "when")]
    file: Option<PathBuf>,
    /// Five or six fields (second first), such as '0 2 * * 1-5'; or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "FIELDS")]
    cron: Option<String>,
    /// The cron's time zone, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", requires = "cron")]
    time_zone: Option<String>,
    /// So often, in real time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    every: Option<Duration>,
    /// Where the intervals are counted from [default: 1970-01-01T00:00:00Z]
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "every")]
    anchor: Option<Timestamp>,
    /// Once, at this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
    /// Not before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    starts_at: Option<Timestamp>,
    /// Not at or after this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    ends_at: Option<Timestamp>,
    /// What becomes of a tick while an earlier run is open
    #[arg(long, value_enum, default_value_t = Overlap::Skip)]
    overlap: Overlap,
    /// Open runs at most [default: 100]
    #[arg(long, value_name = "N")]
    runs_max: Option<u32>,
    /// Which ticks have their run that came due while no scheduler led
    #[arg(long, value_enum, default_value_t = CatchUp::Last)]
    catch_up: CatchUp,
    /// How late a tick may be that is caught up [default: 1d]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    catch_up_window: Option<Duration>,
    /// With `--catch-up all`, how many of the newest [default: 100]
    #[arg(long, value_name = "N")]
    catch_up_max: Option<u32>,
    /// Create each task up to so long after its tick
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    jitter: Option<Duration>,
    /// Do not begin yet
    #[arg(long)]
    paused: bool,
    /// Only say what would change, and when it would come
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    task: TaskArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Overlap {
    /// It has no run
    Skip,
    /// Its run waits for the end of the earlier ones
    Queue,
    /// The earlier ones are asked to end, and its run waits for that
    #[value(alias = "cancel_older")]
    CancelOlder,
    /// Its run goes beside them
    Allow,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum CatchUp {
    /// None
    None,
    /// The last
    Last,
    /// Each, one after the other
    All,
}

/// Sets.
pub(super) async fn run(session: &Session, args: Args) -> anyhow::Result<Exit> {
    let documents = if let Some(path) = &args.file {
        read(&read_text(path).await?)?
    } else {
        let task = submit::described(&args.task, &args.command).await?;
        vec![document(session, &args, task)?]
    };
    let preview = documents.clone();
    let dry_run = args.dry_run;
    let request = pb::ApplyPoliciesRequest { documents, actor: Session::actor(), dry_run };
    let response = session.client.apply_policies(&request).await?;
    if session.ui.json {
        session.ui.answer(&response, |_| String::new())?;
        return Ok(Exit::Done);
    }
    let mut lines = vec![super::changes(&response, dry_run, "changed")];
    for pb::Document { name, body, .. } in preview {
        let Some(Body::Schedule(body)) = body else { continue };
        let request = pb::NextFiresRequest {
            name: name.clone(),
            schedule: Some(body),
            count: 3,
            after: None,
        };
        let next = fires(&session.client.next_fires(&request).await?, Session::now());
        lines.push(format!("{name} next:\n  {}", next.replace('\n', "\n  ")));
    }
    session.ui.answer(&response, |_| lines.join("\n"))?;
    Ok(Exit::Done)
}

/// The documents of a file.
fn read(bytes: &[u8]) -> Result<Vec<pb::Document>, ApiError> {
    let values = serde_json::Deserializer::from_slice(bytes).into_iter::<pb::Document>();
    let documents = values.collect::<Result<Vec<_>, _>>().map_err(|error| {
        bad_input(format!("the file cannot be read: {error}"))
            .hint("it has objects such as {\"name\": \"nightly\", \"schedule\": {\"cron\": \"0 2 * * *\", \"task\": {…}}}")
    })?;
    if documents.is_empty() {
        return Err(bad_input("the file has no schedule"));
    }
    Ok(documents)
}

fn document(
    session: &Session,
    args: &Args,
    mut task: pb::TaskSpec,
) -> Result<pb::Document, ApiError> {
    let when = match (&args.cron, args.every, args.at) {
        (Some(cron), ..) => schedule::When::Cron(cron.clone()),
        (_, Some(every), _) => schedule::When::Every(every.into()),
        (.., Some(at)) => schedule::When::At(at.into()),
        (None, None, None) => {
            return Err(bad_input("it has no time").hint("give --cron, --every or --at"));
        }
    };
    if task.tenant.is_empty() {
        task.tenant = session.tenant.to_string();
    }
    let overlap = match args.overlap {
        Overlap::Skip => schedule::Overlap::Skip,
        Overlap::Queue => schedule::Overlap::Queue,
        Overlap::CancelOlder => schedule::Overlap::CancelOlder,
        Overlap::Allow => schedule::Overlap::Allow,
    };
    let mode = match args.catch_up {
        CatchUp::None => Mode::None,
        CatchUp::Last => Mode::Last,
        CatchUp::All => Mode::All,
    };
    let body = pb::Schedule {
        when: Some(when),
        time_zone: args.time_zone.clone().unwrap_or_default(),
        anchor: args.anchor.map(Into::into),
        starts_at: args.starts_at.map(Into::into),
        ends_at: args.ends_at.map(Into::into),
        overlap: overlap.into(),
        runs_max: args.runs_max,
        catch_up: Some(pb::CatchUp {
            mode: mode.into(),
            window: args.catch_up_window.map(Into::into),
            max: args.catch_up_max,
        }),
        jitter: args.jitter.map(Into::into),
        paused: args.paused,
        task: Some(task),
        ..pb::Schedule::default()
    };
    Ok(pb::Document {
        name: args.name.clone().unwrap_or_default(),
        body: Some(Body::Schedule(body)),
        ..pb::Document::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_schedule_after_the_other() {
        let text = r#"{"name": "a", "schedule": {"cron": "@daily", "overlap": "queue"}}
            {"name": "b",
             "schedule": {"every": "90s", "catch_up": {"mode": "none"}}}"#;
        let read_back = read(text.as_bytes()).expect("two schedules");
        assert_eq!(read_back.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(read(b"").is_err() && read(b"[]").is_err());
        let unknown = read(br#"{"name": "a", "schedule": {"crom": "x"}}"#).expect_err("no field");
        assert!(unknown.message.contains("crom"), "{unknown}");
    }
}
