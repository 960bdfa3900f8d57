//! `jetmill limit`: how the tasks of a queue share it.

use std::time::Duration;

use comfy_table::Cell;
use common::{
    id::{DocumentName, QueueName},
    pb::{self, document::Body},
};

use crate::{
    connect::Session,
    exit::{Exit, bad_input},
    queue::queue,
    submit::parse_duration,
    table,
};

/// What about limits.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the limits
    Ls,
    /// Set a limit, or replace it as a whole; it holds at once, for what waits already as well
    Set(Box<SetArgs>),
    /// Take limits away
    Rm(RmArgs),
}

/// What a limit says.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// Its name
    #[arg(value_parser = name)]
    name: DocumentName,
    /// The queue whose tasks it is for
    #[arg(long, value_name = "QUEUE", value_parser = queue)]
    queue: QueueName,
    /// Each value of this expression by itself, such as `input.customer` or `tenant`
    #[arg(long, value_name = "EXPRESSION", default_value = "")]
    key: String,
    /// Tasks that may be out at once
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Starts in a time, such as 10/1m
    #[arg(long, value_name = "N/DURATION", value_parser = rate)]
    rate: Option<pb::LimitRate>,
    /// Starts at once after a quiet time [default: 1, evenly spaced]
    #[arg(long, value_name = "N", requires = "rate")]
    burst: Option<u32>,
    /// Its keys share the queue fairly
    #[arg(long)]
    fair: bool,
    /// The share of a key beside the others, which have 1
    #[arg(long = "weight", value_name = "KEY=N", value_parser = weight)]
    weights: Vec<(String, u32)>,
    /// One of a key at a time; with `waiting` also at most one that waits
    #[arg(long, value_name = "WHAT")]
    singleton: Option<Singleton>,
    /// Of a burst only the newest runs, when no other came for this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    debounce: Option<Duration>,
    /// It runs at the latest this long after the first came [default: ten times --debounce]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "debounce")]
    longest: Option<Duration>,
    /// What is ready for longer expires
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Tasks that may wait; newer ones are rejected
    #[arg(long, value_name = "N")]
    depth: Option<u64>,
    /// Being ready for this long counts as one priority more
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ageing: Option<Duration>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
}

/// What to take away.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Their names
    #[arg(required = true, value_parser = name)]
    names: Vec<DocumentName>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
}

/// One of a key at a time.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Singleton {
    /// One is out
    Running,
    /// One is out and one waits
    Waiting,
}

fn name(text: &str) -> Result<DocumentName, String> {
    DocumentName::parse(text).map_err(|e| e.to_string())
}

fn rate(text: &str) -> Result<pb::LimitRate, String> {
    let wrong = || "write it as 10/1m: starts, and the time for them".to_owned();
    let (count, per) = text.split_once('/').ok_or_else(wrong)?;
    let count = count.trim().parse().map_err(|_| wrong())?;
    // A unit alone is one of it.
    let per = Some(per.trim()).filter(|per| !per.is_empty()).ok_or_else(wrong)?;
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) { per } else { &format!("1{per}") };
    let per = parse_duration(per).map_err(|_| wrong())?;
    Ok(pb::LimitRate { count, per: Some(per.into()), burst: None })
}

fn weight(text: &str) -> Result<(String, u32), String> {
    let wrong = || "write it as KEY=N, with N from 1 to 1000".to_owned();
    let (key, weight) = text.rsplit_once('=').ok_or_else(wrong)?;
    Ok((key.to_owned(), weight.parse().map_err(|_| wrong())?))
}

impl SetArgs {
    fn limit(&self) -> pb::Limit {
        let fair = self.fair || !self.weights.is_empty();
        let singleton = match self.singleton {
            None => pb::LimitSingleton::Unspecified,
            Some(Singleton::Running) => pb::LimitSingleton::Running,
            Some(Singleton::Waiting) => pb::LimitSingleton::Waiting,
        };
        pb::Limit {
            queue: self.queue.to_string(),
            key: self.key.clone(),
            concurrency: self.concurrency,
            rate: self.rate.map(|rate| pb::LimitRate { burst: self.burst, ..rate }),
            fair: fair.then(|| pb::LimitFair { weights: self.weights.iter().cloned().collect() }),
            singleton: singleton.into(),
            debounce: self.debounce.map(|quiet| pb::LimitDebounce {
                quiet: Some(quiet.into()),
                longest: self.longest.map(Into::into),
            }),
            ttl: self.ttl.map(Into::into),
            depth: self.depth,
            ageing: self.ageing.map(Into::into),
        }
    }
}

/// Runs one of the commands about limits.
pub(crate) async fn run(session: &Session, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Ls => list(session).await,
        Command::Set(args) => {
            let document = document(&args.name, Body::Limit(args.limit()));
            apply(session, vec![document], args.dry_run).await
        }
        Command::Rm(args) => {
            let kind = pb::DocumentKind::Limit.into();
            let removed = args.names.iter().map(|name| document(name, Body::Removed(kind)));
            apply(session, removed.collect(), args.dry_run).await
        }
    }
}

fn document(name: &DocumentName, body: Body) -> pb::Document {
    pb::Document { name: name.to_string(), body: Some(body), ..pb::Document::default() }
}

async fn list(session: &Session) -> anyhow::Result<Exit> {
    let documents = session.policies(pb::DocumentKind::Limit, "").await?;
    let response = pb::PoliciesResponse { documents, ..pb::PoliciesResponse::default() };
    session.ui.answer(&response, text)?;
    Ok(Exit::Done)
}

fn text(response: &pb::PoliciesResponse) -> String {
    let mut rows = table::table(["LIMIT", "QUEUE", "KEY", "SAYS", "VERSION"]);
    for document in &response.documents {
        if let Some(Body::Limit(limit)) = &document.body {
            rows.add_row(vec![
                Cell::new(&document.name),
                Cell::new(&limit.queue),
                Cell::new(&limit.key),
                Cell::new(says(limit)),
                Cell::new(document.version),
            ]);
        }
    }
    if response.documents.is_empty() {
        return "no limit is set: `jetmill limit set NAME --queue QUEUE --concurrency N`".into();
    }
    rows.trim_fmt()
}

/// What a limit says, in the words of the flags.
fn says(limit: &pb::Limit) -> String {
    let mut words = Vec::new();
    let time = |time: common::wire::time::Duration| {
        time.to_std().map_or_else(String::new, |time| format!("{time:?}"))
    };
    words.extend(limit.concurrency.map(|most| format!("concurrency {most}")));
    if let Some(rate) = limit.rate {
        let per = rate.per.map_or("1s".into(), time);
        words.push(format!("rate {}/{per}", rate.count));
        words.extend(rate.burst.map(|burst| format!("burst {burst}")));
    }
    if let Some(fair) = &limit.fair {
        let weights = fair.weights.iter().map(|(key, weight)| format!(" {key}={weight}"));
        words.push(format!("fair{}", weights.collect::<String>()));
    }
    match limit.singleton() {
        pb::LimitSingleton::Unspecified => {}
        pb::LimitSingleton::Running => words.push("singleton running".into()),
        pb::LimitSingleton::Waiting => words.push("singleton waiting".into()),
    }
    if let Some(debounce) = limit.debounce {
        words.extend(debounce.quiet.map(|quiet| format!("debounce {}", time(quiet))));
        words.extend(debounce.longest.map(|longest| format!("longest {}", time(longest))));
    }
    words.extend(limit.ttl.map(|ttl| format!("ttl {}", time(ttl))));
    words.extend(limit.depth.map(|depth| format!("depth {depth}")));
    words.extend(limit.ageing.map(|ageing| format!("ageing {}", time(ageing))));
    words.join(", ")
}

async fn apply(
    session: &Session,
    documents: Vec<pb::Document>,
    dry_run: bool,
) -> anyhow::Result<Exit> {
    let request = pb::ApplyPoliciesRequest { documents, actor: Session::actor(), dry_run };
    let response = session.client.apply_policies(&request).await?;
    session.ui.answer(&response, |response| changed(response, dry_run))?;
    if response.changes.iter().all(|change| change.result == "absent") {
        let told = bad_input("there is no such limit");
        return Err(told.hint("`jetmill limit ls` lists them").into());
    }
    Ok(Exit::Done)
}

fn changed(response: &pb::ApplyPoliciesResponse, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let lines = response.changes.iter().map(|change| match change.result.as_str() {
        "absent" => format!("there is no limit {}\n", change.name),
        result => format!("limit {} {would}{result}\n", change.name),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        let read = |text| {
            rate(text)
                .map(|rate| (rate.count, rate.per.and_then(common::wire::time::Duration::to_std)))
        };
        assert_eq!(read("10/1m"), Ok((10, Some(Duration::from_secs(60)))));
        assert_eq!(read("5/s"), Ok((5, Some(Duration::from_secs(1)))));
        assert_eq!(read("1/1h30m"), Ok((1, Some(Duration::from_secs(5_400)))));
        assert!(["10", "x/1m", "1/", "1/x"].into_iter().all(|text| rate(text).is_err()));
    }

    #[test]
    fn a_limit_says_what_was_set() {
        let limit = pb::Limit {
            concurrency: Some(3),
            rate: Some(rate("10/1m").expect("a rate")),
            fair: Some(pb::LimitFair { weights: [("a".to_owned(), 2)].into() }),
            singleton: pb::LimitSingleton::Waiting.into(),
            ttl: Some(Duration::from_secs(5).into()),
            ..pb::Limit::default()
        };
        let text = "concurrency 3, rate 10/60s, fair a=2, singleton waiting, ttl 5s";
        assert_eq!(says(&limit), text);
    }
}
