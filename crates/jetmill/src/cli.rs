//! The command line: its words, and what answers each of them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use common::id::Tenant;

use crate::{
    bench, change, chaos, completions, config, connect::Session, dead, demo, dev, doctor,
    exit::Exit, limit, list, live, log, pause, queue, schedule, serve, services, show, stats,
    submit, types, worker,
};

/// Runs an organisation's work on NATS `JetStream`.
#[derive(Debug, Parser)]
#[command(name = "jetmill", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Start with `jetmill dev`, then `jetmill demo` or `jetmill submit --wait -- echo hello`."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Answer in JSON: one object, or one a line where there are several
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// NATS to connect to [env: `JETMILL_NATS_URL`; else the `jetmill dev` of this folder]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub(crate) nats_url: Option<String>,
    /// Credentials for NATS, a `.creds` file [env: `JETMILL_NATS_CREDS`]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) nats_creds: Option<PathBuf>,
    /// Whose tasks [default: default]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options", value_parser = tenant)]
    pub(crate) tenant: Option<Tenant>,
}

fn tenant(text: &str) -> Result<Tenant, String> {
    Tenant::parse(text).map_err(|e| e.to_string())
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole platform on this machine, with its own NATS and ledger
    Dev(dev::Args),
    /// Run services against a given NATS
    Serve(serve::Args),
    /// Show the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Measure this build on this machine
    Bench(bench::Args),
    /// Break a cluster on purpose, under load, and check that everything held
    Chaos(Box<chaos::Args>),
    /// The worker of `chaos`, a process of its own so that it can be killed
    #[command(hide = true)]
    ChaosWorker(chaos::WorkerArgs),
    /// Print a completion script for a shell
    Completions(completions::Args),
    #[command(flatten)]
    Client(Client),
}

/// The commands that talk to a running platform.
#[derive(Debug, Subcommand)]
enum Client {
    /// Look for what is wrong and say what to do about it
    Doctor,
    /// Submit a task, or many from a file
    Submit(Box<submit::Args>),
    /// List tasks
    Ls(list::Args),
    /// Show one task
    Get(show::Id),
    /// Print what a task produced
    Result(show::ResultArgs),
    /// Show every event of a task
    History(show::Id),
    /// Say why a task is not running
    Why(show::Id),
    /// Print the output of a task
    Logs(live::LogsArgs),
    /// Follow events as they enter the log
    Watch(live::WatchArgs),
    /// End tasks
    Cancel(change::CancelArgs),
    /// Run finished tasks again, and waiting ones now
    Retry(change::RetryArgs),
    /// Change the priority of tasks that have not ended
    #[command(alias = "reprioritize")]
    Reprioritise(change::ReprioritiseArgs),
    /// Stop new starts in a queue
    Pause(pause::PauseArgs),
    /// Let a queue start work again
    Resume(pause::ResumeArgs),
    /// Look at queues and pause them
    #[command(subcommand)]
    Queue(queue::Command),
    /// Look at limits and set them
    #[command(subcommand)]
    Limit(limit::Command),
    /// Create tasks by the clock
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Look at workers and send them away
    #[command(subcommand)]
    Worker(worker::Command),
    /// Look at what could not be read or did not end well
    #[command(subcommand)]
    Dead(dead::Command),
    /// Look at how far the log is trimmed, and at who reads it
    #[command(subcommand)]
    Log(log::Command),
    /// Kinds of work, as data: what a submission gets that names one
    #[command(subcommand)]
    Types(types::Command),
    /// List the services that answer
    Services,
    /// Count everything
    Stats,
    /// Run real work on the files of a folder and show it
    Demo(demo::Args),
}

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<Exit> {
    let Cli { global, command } = cli;
    match command {
        Command::Dev(args) => dev::run(&global, args).await,
        Command::Serve(args) => serve::run(&global, args).await,
        Command::Config(command) => config::run(&global, &command),
        Command::Completions(args) => completions::run(&args),
        Command::Bench(args) => until_interrupted(bench::run(&global, args)).await,
        Command::Chaos(args) => until_interrupted(chaos::run(&global, *args)).await,
        Command::ChaosWorker(args) => until_interrupted(chaos::work(&global, args)).await,
        Command::Client(Client::Doctor) => until_interrupted(doctor::run(&global)).await,
        Command::Client(command) => {
            until_interrupted(async {
                let session = Session::open(&global).await?;
                Box::pin(ask(&session, command)).await
            })
            .await
        }
    }
}

/// Ctrl-C ends a command like any other end: what it holds is dropped in order.
async fn until_interrupted(
    work: impl Future<Output = anyhow::Result<Exit>>,
) -> anyhow::Result<Exit> {
    // Both arms may be dropped: the work is a client's, and the process ends with it.
    tokio::select! {
        ended = work => ended,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
    }
}

async fn ask(session: &Session, command: Client) -> anyhow::Result<Exit> {
    match command {
        Client::Doctor => Ok(Exit::Done),
        Client::Submit(args) => submit::run(session, *args).await,
        Client::Ls(args) => list::run(session, args).await,
        Client::Get(args) => show::get(session, &args).await,
        Client::Result(args) => show::result(session, &args).await,
        Client::History(args) => show::history(session, &args).await,
        Client::Why(args) => show::why(session, &args).await,
        Client::Logs(args) => Box::pin(live::logs(session, args)).await,
        Client::Watch(args) => Box::pin(live::watch(session, args)).await,
        Client::Cancel(args) => change::cancel(session, args).await,
        Client::Retry(args) => change::retry(session, args).await,
        Client::Reprioritise(args) => change::reprioritise(session, args).await,
        Client::Pause(args) => queue::pause(session, args).await,
        Client::Resume(args) => queue::resume(session, args).await,
        Client::Queue(command) => queue::run(session, command).await,
        Client::Limit(command) => limit::run(session, command).await,
        Client::Schedule(command) => schedule::run(session, command).await,
        Client::Worker(command) => worker::run(session, command).await,
        Client::Dead(command) => dead::run(session, command).await,
        Client::Log(command) => log::run(session, command).await,
        Client::Types(command) => Box::pin(types::run(session, command)).await,
        Client::Services => services::run(session).await,
        Client::Stats => stats::run(session).await,
        Client::Demo(args) => demo::run(session, args).await,
    }
}
