//! What is said of a pause on the command line: what, why, and until when.

use std::time::Duration;

use common::{time::Timestamp, wire::time as wire};

use crate::{
    submit::{parse_duration, parse_time},
    table,
};

/// Which, or all.
#[derive(Debug, clap::Args)]
#[group(id = "which_to_hold", required = true, multiple = false, args = ["name", "all"])]
pub(crate) struct Which {
    /// Its name
    pub(crate) name: Option<String>,
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
}

/// What to pause.
#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Why, for the record
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// It ends by itself then, such as 2026-11-21T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "length")]
    pub(crate) until: Option<Timestamp>,
    /// It ends by itself after this long
    #[arg(id = "length", long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) length: Option<Duration>,
}

/// What to resume.
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) which: Which,
}

/// A pause in one line.
pub(crate) fn text(now: Timestamp, until: Option<wire::Timestamp>, reason: &str) -> String {
    let until = match until {
        Some(_) => format!(" until {}", table::exact(now, until)),
        None => String::new(),
    };
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("paused{until}{why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_says_until_when_and_why() {
        let now = Timestamp::from_unix(0, 0);
        let until = Some(now.after(Duration::from_secs(90)).into());
        assert_eq!(text(now, None, ""), "paused");
        assert_eq!(text(now, None, "night"), "paused: night");
        let timed = "paused until 1970-01-01T00:01:30.000000Z (in 1m 30s): night";
        assert_eq!(text(now, until, "night"), timed);
    }
}
