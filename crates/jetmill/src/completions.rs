//! Completion scripts for shells.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{cli::Cli, exit::Exit, output};

/// Which shell.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell that reads the script
    shell: Shell,
}

/// Prints the script: `source <(jetmill completions bash)`.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "jetmill", &mut script);
    output::raw(&script)?;
    Ok(Exit::Done)
}
