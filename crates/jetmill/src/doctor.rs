//! `jetmill doctor`: looks for what is wrong and says what to do about it. It changes nothing.

mod checks;

use std::fmt;

use common::error::ApiError;
use owo_colors::OwoColorize as _;
use serde::Serialize;

use crate::{cli::Global, connect, exit::Exit, output::Ui};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    level: Level,
    what: &'static str,
    found: String,
    /// What to do about it; empty when there is nothing to do.
    help: String,
}

impl Finding {
    fn new(level: Level, what: &'static str, found: impl Into<String>) -> Self {
        Self { level, what, found: found.into(), help: String::new() }
    }

    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Ok, what, found)
    }

    fn warn(what: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Warn, what, found)
    }

    fn fail(what: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Fail, what, found)
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    /// What an error says.
    fn of(what: &'static str, error: &ApiError) -> Self {
        Self::fail(what, error.to_string()).help(error.hint.clone())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => " ok ".green().to_string(),
            Level::Warn => "warn".yellow().bold().to_string(),
            Level::Fail => "fail".red().bold().to_string(),
        };
        write!(f, "{level} {:<14}{}", self.what, self.found)?;
        if !self.help.is_empty() {
            write!(f, "\n     {} {}", "help:".cyan(), self.help)?;
        }
        Ok(())
    }
}

/// Looks at everything; fails when anything does.
pub(crate) async fn run(global: &Global) -> anyhow::Result<Exit> {
    let ui = Ui { json: global.json };
    let mut worst = Level::Ok;
    let mut tell = |finding: Finding| -> anyhow::Result<()> {
        worst = worst.max(finding.level);
        ui.answer(&finding, Finding::to_string)
    };
    for finding in checks::machine() {
        tell(finding)?;
    }
    tell(checks::containers(global).await)?;
    let options = connect::options(global);
    match bus::connect(&options).await {
        Err(error) => tell(Finding::of("connection", &error))?,
        Ok(bus) => {
            tell(Finding::ok("connection", options.url))?;
            for finding in checks::platform(&bus).await {
                tell(finding)?;
            }
        }
    }
    Ok(if worst == Level::Fail { Exit::Failed } else { Exit::Done })
}
