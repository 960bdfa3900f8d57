//! `jetmill chaos`: breaks a cluster on purpose, under load, and checks that everything held: one of
//! its own, or the user's when he says so.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use chaos::{Kind, Options, Report, Target, act::Custom, storage::Flavour, worker};
use common::{
    error::ApiError,
    id::{QueueName, WorkerName},
    time::parse_duration,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::Global,
    connect, dev,
    exit::{Exit, bad_input},
    output::{self, Ui},
};

/// Nothing goes on for longer.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// What to break, and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Start a cluster for it, as processes in a temporary folder, instead of using that of --nats-url
    #[arg(long)]
    own: bool,
    /// Decides which tasks are submitted and which faults come when
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many seeds are run, one after the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: u64,
    /// Tasks of each run
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    tasks: u32,
    /// How long submissions and faults go on
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    time: Duration,
    /// How often each kind of fault comes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Kinds of fault, separated by commas [default: all that are possible]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = kind)]
    faults: Vec<Kind>,
    /// A fault of your own: its name, and a command for `sh` that does it; may be repeated
    #[arg(long = "fault", value_name = "NAME=COMMAND", value_parser = custom)]
    customs: Vec<Custom>,
    /// The ledger of an own cluster; with several seeds `both` takes turns
    #[arg(long, value_enum, default_value = "sqlite")]
    ledger: Ledger,
    /// Keep the report of each seed here, and run only seeds that have none
    #[arg(long, value_name = "FOLDER")]
    resume: Option<PathBuf>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Ledger {
    /// A file
    Sqlite,
    /// A PostgreSQL of its own
    Postgres,
    /// One for odd seeds, the other for even ones
    Both,
}

impl Ledger {
    fn of(self, seed: u64) -> Flavour {
        match self {
            Self::Postgres => Flavour::Postgres,
            Self::Both if seed.is_multiple_of(2) => Flavour::Postgres,
            Self::Sqlite | Self::Both => Flavour::Sqlite,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).ok_or("must be a duration such as 90s or 2m")?;
    if time.is_zero() || time > TIME_MAX { Err("must be at most 1h".into()) } else { Ok(time) }
}

fn kind(word: &str) -> Result<Kind, String> {
    let words = || Kind::ALL.map(Kind::word).join(", ");
    Kind::parse(word).ok_or_else(|| format!("there are {}", words()))
}

fn custom(text: &str) -> Result<Custom, String> {
    let (name, command) = text.split_once('=').ok_or("must be NAME=COMMAND")?;
    match (name.trim(), command.trim()) {
        ("", _) | (_, "") => Err("must be NAME=COMMAND".into()),
        (name, command) => Ok(Custom { name: name.to_owned(), command: command.to_owned() }),
    }
}

/// What the worker is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    journal: PathBuf,
    #[arg(long)]
    queue: String,
    #[arg(long)]
    slots: u32,
    #[arg(long)]
    name: String,
}

/// Runs the worker until it is ended.
pub(crate) async fn work(global: &Global, args: WorkerArgs) -> anyhow::Result<Exit> {
    let name = |error| ApiError::invalid_field("--name", format!("{error}"));
    let settings = worker::Settings {
        url: connect::options(global).url,
        credentials: connect::options(global).credentials,
        name: WorkerName::parse(&args.name).map_err(name)?,
        queue: QueueName::parse(&args.queue).map_err(name)?,
        slots: args.slots,
        journal: args.journal,
    };
    worker::run(settings, CancellationToken::new()).await?;
    Ok(Exit::Done)
}

/// Runs every seed; the last line is one JSON object where that was asked for.
pub(crate) async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let ui = Ui { json: global.json };
    if !args.own {
        agree(global, &args)?;
    }
    let mut reports = Vec::new();
    for seed in args.seed..args.seed + args.seeds {
        let report = match kept(&args, seed) {
            Some(report) => report,
            None => Box::pin(one(global, &args, seed)).await?,
        };
        keep(&args, &report)?;
        if !ui.json {
            output::line(report.text())?;
        }
        reports.push(report);
    }
    let held = reports.iter().all(Report::held);
    if ui.json || args.seeds > 1 {
        let summary = chaos::report::Summary::of(&reports);
        if !ui.json {
            output::line(summary.text())?;
        }
        match reports.as_slice() {
            [report] => output::json(report)?,
            _ => output::json(&summary)?,
        }
    }
    Ok(if held { Exit::Done } else { Exit::Failed })
}

/// Nothing is broken of which the user did not hear before.
fn agree(global: &Global, args: &Args) -> anyhow::Result<()> {
    if args.resume.is_some() || args.seeds > 1 {
        return Err(bad_input("several seeds are for a cluster of its own")
            .hint("add --own")
            .into());
    }
    let url = connect::options(global).url;
    let kinds = kinds(args)?;
    let names = kinds.iter().map(|kind| kind.word().to_owned());
    let names = names.chain(args.customs.iter().map(|c| format!("{} ({})", c.name, c.command)));
    let question = format!(
        "This submits {} tasks to queue `chaos` of the cluster at {url}, runs them on two workers of its \
         own, and does {} for {:?}. The tasks stay in its log and ledger. Go on?",
        args.tasks,
        names.collect::<Vec<_>>().join(", "),
        args.time
    );
    output::confirm(args.yes, &question)
}

fn kinds(args: &Args) -> Result<Vec<Kind>, ApiError> {
    let possible: &[Kind] = if args.own { &Kind::ALL } else { &Kind::FROM_OUTSIDE };
    if args.faults.is_empty() {
        return Ok(possible.to_vec());
    }
    match args.faults.iter().find(|kind| !possible.contains(kind)) {
        Some(kind) => Err(ApiError::invalid_field("--faults", format!("{kind} needs --own"))),
        None => Ok(args.faults.clone()),
    }
}

async fn one(global: &Global, args: &Args, seed: u64) -> anyhow::Result<Report> {
    let own = args.own;
    let flavour = args.ledger.of(seed);
    let nats_server = if own {
        let named = std::env::var_os("JETMILL_NATS_SERVER").map(PathBuf::from);
        dev::find_nats_server(named.as_deref(), &std::env::temp_dir()).await?
    } else {
        PathBuf::new()
    };
    let faults = args.faults.iter().map(|kind| kind.word()).collect::<Vec<_>>();
    let replay = format!(
        "jetmill chaos {}--seed {seed} --tasks {} --for {:?} --rounds {}{}{}",
        if own { "--own " } else { "" },
        args.tasks,
        args.time,
        args.rounds,
        if own { format!(" --ledger {}", flavour.word()) } else { String::new() },
        if faults.is_empty() { String::new() } else { format!(" --faults {}", faults.join(",")) },
    );
    let client = connect::options(global);
    let options = Options {
        target: if own { Target::Own(flavour) } else { Target::Theirs(client.url) },
        credentials: client.credentials.filter(|_| !own),
        seed,
        tasks: args.tasks as usize,
        time: args.time,
        kinds: kinds(args)?,
        rounds: args.rounds,
        customs: args.customs.clone(),
        program: std::env::current_exe().context("failed to find this program")?,
        nats_server,
        replay,
    };
    let say = |what: &str| {
        // With nobody to hear it the run goes on.
        let _ = output::note(what);
    };
    chaos::run(options, &say).await
}

fn file(args: &Args, seed: u64) -> Option<PathBuf> {
    Some(args.resume.as_ref()?.join(format!("seed-{seed}.json")))
}

/// The report of a seed that held before.
fn kept(args: &Args, seed: u64) -> Option<Report> {
    let report: Report = serde_json::from_slice(&fs::read(file(args, seed)?).ok()?).ok()?;
    report.held().then_some(report)
}

fn keep(args: &Args, report: &Report) -> anyhow::Result<()> {
    let Some(file) = file(args, report.seed) else { return Ok(()) };
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&file, serde_json::to_vec_pretty(report)?)
        .with_context(|| format!("failed to write {}", file.display()))
}
