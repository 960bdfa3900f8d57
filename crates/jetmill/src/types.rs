//! `jetmill types`: the catalog of task types.

mod files;
mod show;

use std::path::PathBuf;

use anyhow::Context as _;
use common::{
    error::{ApiError, ErrorCode},
    limits, pb,
    task::TaskSpec,
    time::Clock as _,
};
use pb::document::Body;
use prost::Message as _;
use runtime::clock::SystemClock;

use crate::{
    connect::Session,
    exit::{Exit, bad_input},
    submit,
};

/// What about task types.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Create and change task types from files
    #[command(after_help = "Examples:
  jetmill types apply -f examples/catalog --dry-run
  jetmill types apply -f report.yaml")]
    Apply(ApplyArgs),
    /// List task types with their tasks by state
    Ls,
    /// Show one task type
    Show(Name),
    /// Let a type start work again
    Enable(ChangeArgs),
    /// Hold a type's tasks that have not started, and its schedule; what runs goes on
    Disable(ChangeArgs),
    /// Run a task of a type now, although the type may be disabled
    Run(RunArgs),
    /// Remove a type: its tasks go on as they are
    Rm(ChangeArgs),
}

/// Which files.
#[derive(Debug, clap::Args)]
pub(crate) struct ApplyArgs {
    /// A YAML or JSON file, or a folder of such; may be repeated
    #[arg(long = "file", short, required = true, value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
}

/// One type.
#[derive(Debug, clap::Args)]
pub(crate) struct Name {
    /// Its name
    name: String,
}

/// Types to change.
#[derive(Debug, clap::Args)]
pub(crate) struct ChangeArgs {
    /// Their names
    #[arg(required = true)]
    names: Vec<String>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
}

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The type
    name: String,
    /// The input, as JSON
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// 1 to 10, 10 first
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10))]
    priority: Option<i32>,
    /// An idempotency key: the same key is the same task
    #[arg(long, default_value = "")]
    key: String,
    /// Only check the input and print the task as it would run
    #[arg(long)]
    dry_run: bool,
    /// Wait for the end; the exit code says whether it completed
    #[arg(long)]
    wait: bool,
}

/// How often a type is read that somebody changes at the same time.
const TURN_TRIES: usize = 5;

/// Runs one of the commands about task types.
pub(crate) async fn run(session: &Session, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Apply(args) => {
            let types = files::read(&args.files).await?;
            let documents = types.into_iter().map(|task_type| pb::Document {
                name: task_type.name.clone(),
                body: Some(Body::TaskType(task_type)),
                ..pb::Document::default()
            });
            apply(session, documents.collect(), args.dry_run).await
        }
        Command::Ls => show::list(session, known(session, "").await?).await,
        Command::Show(Name { name }) => show::one(session, one(session, &name).await?).await,
        Command::Enable(args) => turn(session, args, true).await,
        Command::Disable(args) => turn(session, args, false).await,
        Command::Rm(ChangeArgs { names, dry_run }) => {
            let kind = pb::DocumentKind::TaskType.into();
            let documents = names.into_iter().map(|name| pb::Document {
                name,
                body: Some(Body::Removed(kind)),
                ..pb::Document::default()
            });
            apply(session, documents.collect(), dry_run).await
        }
        Command::Run(args) => by_hand(session, args).await,
    }
}

/// The documents of one type, or of all.
async fn known(session: &Session, name: &str) -> anyhow::Result<Vec<pb::Document>> {
    Ok(session.policies(pb::DocumentKind::TaskType, name).await?)
}

/// A type that must be there, with its version.
async fn one(session: &Session, name: &str) -> anyhow::Result<(u64, pb::TaskType)> {
    let found = known(session, name).await?.into_iter().next();
    if let Some(pb::Document { version, body: Some(Body::TaskType(task_type)), .. }) = found {
        return Ok((version, task_type));
    }
    let error = ApiError::new(ErrorCode::NotFound, format!("there is no task type {name:?}"));
    Err(error.hint("`jetmill types ls` shows the types there are").into())
}

/// What else a type says may be changed at the same time: then it is read again.
async fn turn(session: &Session, args: ChangeArgs, enabled: bool) -> anyhow::Result<Exit> {
    let mut tries = 0;
    loop {
        tries += 1;
        let documents = turned(session, &args.names, enabled).await?;
        match apply(session, documents, args.dry_run).await {
            Err(error) if tries < TURN_TRIES && is_conflict(&error) => {}
            outcome => return outcome,
        }
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ApiError>().is_some_and(|error| error.code == ErrorCode::Conflict)
}

/// The types as they are, enabled or disabled.
async fn turned(
    session: &Session,
    names: &[String],
    enabled: bool,
) -> anyhow::Result<Vec<pb::Document>> {
    let mut documents = Vec::new();
    for name in names {
        let (version, task_type) = one(session, name).await?;
        let before = task_type.enabled.unwrap_or(true);
        // What says nothing is enabled: that is no change.
        let enabled = if before == enabled { task_type.enabled } else { Some(enabled) };
        let body = Some(Body::TaskType(pb::TaskType { enabled, ..task_type }));
        let name = name.clone();
        documents.push(pb::Document { name, version, body, ..pb::Document::default() });
    }
    Ok(documents)
}

/// Applies documents, a request's worth at a time, and tells what became of each.
async fn apply(
    session: &Session,
    documents: Vec<pb::Document>,
    dry_run: bool,
) -> anyhow::Result<Exit> {
    let mut all = pb::ApplyPoliciesResponse::default();
    let mut rest = documents.into_iter().peekable();
    while rest.peek().is_some() {
        let mut request =
            pb::ApplyPoliciesRequest { actor: Session::actor(), dry_run, ..Default::default() };
        let mut room = limits::REQUEST_BYTES_MAX / 2;
        while let Some(document) =
            rest.next_if(|next| next.encoded_len() <= room || room > limits::REQUEST_BYTES_MAX / 4)
        {
            room = room.saturating_sub(document.encoded_len());
            request.documents.push(document);
        }
        let response = session.client.apply_policies(&request).await.map_err(|error| {
            let before = all.changes.len();
            // The requests before this one hold.
            let message = format!("{}; {before} documents were applied before", error.message);
            if before > 0 && !dry_run { ApiError { message, ..error } } else { error }
        })?;
        all.changes.extend(response.changes);
        all.sequence = response.sequence.max(all.sequence);
    }
    session.ui.answer(&all, |all| {
        let would = if dry_run { "would be " } else { "" };
        let lines = all.changes.iter().map(|change| {
            let schedule = change.kind() == pb::DocumentKind::Schedule;
            let name = format!("{}{}", if schedule { "schedule " } else { "" }, change.name);
            match change.result.as_str() {
                "absent" => format!("{name} is not there"),
                "unchanged" => format!("{name} unchanged"),
                result => format!("{name} {would}{result}, version {}", change.version),
            }
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Done)
}

/// Submits a task of a type; what is wrong with its input is said before.
async fn by_hand(session: &Session, args: RunArgs) -> anyhow::Result<Exit> {
    let (_, task_type) = one(session, &args.name).await?;
    let input =
        args.input.as_deref().map(|text| submit::parse_json("--input", text)).transpose()?;
    let spec = pb::TaskSpec {
        tenant: session.tenant.to_string(),
        task_type: args.name,
        title: task_type.name.clone(),
        created_by: Session::actor(),
        priority: args.priority,
        idempotency_key: args.key,
        input,
        by_hand: task_type.enabled == Some(false),
        ..pb::TaskSpec::default()
    };
    let compiled = catalog::Compiled::new(&task_type).map_err(ApiError::invalid);
    let compiled = compiled.context("the type is of a newer version of Jetmill: upgrade")?;
    let resolved = compiled.resolve(spec.clone(), SystemClock.now()).map_err(|violations| {
        let told = ApiError { violations, ..bad_input("the input does not fit the type") };
        told.hint(format!("`jetmill types show {}` shows its schema", task_type.name))
    })?;
    if args.dry_run {
        session.ui.answer(&resolved.spec, |spec| {
            serde_json::to_string_pretty(spec).unwrap_or_default()
        })?;
        return Ok(Exit::Done);
    }
    TaskSpec::submitted(spec.clone()).map_err(ApiError::invalid)?;
    submit::send(session, spec, args.wait).await
}
