//! **Pure.** What is measured: the rows of the table, on which platforms, and what they should be.

use std::fmt;

/// How the services run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Services {
    /// In one process, as `jetmill dev`
    Together,
    /// Registry and scheduler in processes of their own, beside their nats-server
    Separate,
}

/// Where the ledger is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ledger {
    Sqlite,
    /// A PostgreSQL of the machine's programs, in the temporary folder.
    Postgres,
    /// An empty database.
    At(String),
    /// No registry at all.
    Nowhere,
}

impl Ledger {
    /// As it is given on the command line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let url = text.strip_prefix("postgres=").unwrap_or(text);
        match text {
            "sqlite" => Ok(Self::Sqlite),
            "postgres" => Ok(Self::Postgres),
            _ if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Ok(Self::At(url.to_owned()))
            }
            _ => Err("must be sqlite, postgres, or postgres=postgres://user@host/database".into()),
        }
    }
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Row {
    /// One task after the other, from the call to its stored outcome
    Idle,
    /// Tasks that each wait for the one before
    Chain,
    /// Arrivals at a fixed rate, whatever became of those before
    Steady,
    /// Many tasks, a thousand a call
    Bulk,
    /// Bulk without a limit, and with one for each of a thousand keys
    Limits,
    /// Many callers that submit one task at a time
    Callers,
    /// Graphs of twelve tasks: one, ten after it, one after these
    Diamonds,
    /// The same way through bare `JetStream`
    Raw,
    /// Commands: as many as go, and arrivals at a fixed rate that take a second each
    Shell,
    /// Tasks in a queue that nobody serves: what each takes of the scheduler's memory
    Backlog,
}

/// A platform, and the rows that are measured on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) services: Services,
    pub(super) ledger: Ledger,
    pub(super) sync_always: bool,
    pub(super) rows: Vec<Row>,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.services {
            Services::Together => "together",
            Services::Separate => "separate",
        })?;
        f.write_str(match self.ledger {
            Ledger::Sqlite => ", sqlite",
            Ledger::Postgres | Ledger::At(_) => ", postgres",
            Ledger::Nowhere => ", no ledger",
        })?;
        f.write_str(if self.sync_always { ", sync always" } else { "" })
    }
}

/// What was said on the command line about the platform; nothing said is the usual plan.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) services: Option<Services>,
    pub(super) ledger: Option<Ledger>,
    pub(super) sync_always: bool,
    pub(super) rows: Vec<Row>,
}

/// Every row, in the order in which they are measured: what leaves the least behind comes first.
const ALL: [Row; 10] = [
    Row::Idle,
    Row::Chain,
    Row::Steady,
    Row::Bulk,
    Row::Limits,
    Row::Callers,
    Row::Diamonds,
    Row::Raw,
    Row::Shell,
    Row::Backlog,
];

/// The platforms to measure. Without a wish: one in full, and what others are held to.
pub(super) fn plan(asked: &Asked) -> Vec<Scenario> {
    let wanted = |rows: &[Row]| {
        let wanted = |row: &&Row| asked.rows.is_empty() || asked.rows.contains(row);
        rows.iter().filter(wanted).copied().collect::<Vec<_>>()
    };
    let usual = asked.services.is_none() && asked.ledger.is_none() && !asked.sync_always;
    let first = Scenario {
        // A file has one process: SQLite is for services that are together.
        services: asked.services.unwrap_or(Services::Together),
        ledger: match (&asked.ledger, asked.services) {
            (Some(ledger), _) => ledger.clone(),
            (None, Some(Services::Separate)) => Ledger::Postgres,
            (None, Some(Services::Together) | None) => Ledger::Sqlite,
        },
        sync_always: asked.sync_always,
        rows: wanted(&ALL),
    };
    let mut scenarios = vec![first];
    if usual {
        scenarios.push(Scenario {
            services: Services::Together,
            ledger: Ledger::Sqlite,
            sync_always: true,
            rows: wanted(&[Row::Bulk]),
        });
        scenarios.push(Scenario {
            services: Services::Separate,
            ledger: Ledger::Postgres,
            sync_always: false,
            rows: wanted(&[Row::Bulk, Row::Callers]),
        });
    }
    scenarios.retain(|scenario| !scenario.rows.is_empty());
    scenarios
}

/// The names of figures that have a goal.
pub(super) const BULK: &str = "bulk, end to end";
pub(super) const LIMITS: &str = "bulk with a limit on 1,000 keys, of bulk without";
pub(super) const CALLERS: &str = "one submit a call, end to end";
pub(super) const IDLE_P50: &str = "idle, submit to stored outcome, p50";
pub(super) const IDLE_P99: &str = "idle, submit to stored outcome, p99";
pub(super) const STEADY_P99: &str = "steady, p99";
pub(super) const CHAIN: &str = "chain, a step";
pub(super) const DIAMONDS: &str = "diamonds 1-10-1";
pub(super) const MEMORY_IDLE: &str = "memory idle (PSS)";
pub(super) const MEMORY_LOAD: &str = "memory under bulk load (PSS), peak";
pub(super) const SHELL_MOST: &str = "commands, as many as go";
pub(super) const SHELL_OUT: &str = "commands of a second each, at once";
pub(super) const BACKLOG_BYTES: &str = "scheduler, a queued task";

/// What a figure should be: at least or at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    pub(super) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(goal) => value >= goal,
            Self::AtMost(goal) => value <= goal,
        }
    }
}

/// The goal of a figure on a platform, where there is one. They are for two cores.
pub(super) fn goal(scenario: &Scenario, figure: &str) -> Option<Goal> {
    use Goal::{AtLeast, AtMost};
    let sqlite = scenario.ledger == Ledger::Sqlite;
    let goal = match figure {
        BULK if scenario.sync_always => AtLeast(10_000.0),
        BULK if sqlite => AtLeast(20_000.0),
        BULK => AtLeast(15_000.0),
        // What is left is for nats-server's default fsync.
        _ if scenario.sync_always => return None,
        LIMITS => AtLeast(85.0),
        CALLERS if scenario.services == Services::Together => AtLeast(15_000.0),
        CALLERS => AtLeast(10_000.0),
        IDLE_P50 => AtMost(1.5),
        IDLE_P99 => AtMost(4.0),
        STEADY_P99 => AtMost(8.0),
        CHAIN => AtMost(1.0),
        MEMORY_IDLE => AtMost(100.0),
        MEMORY_LOAD => AtMost(350.0),
        SHELL_MOST | SHELL_OUT => AtLeast(100.0),
        BACKLOG_BYTES => AtMost(128.0),
        name if name.ends_with(DIAMONDS) => AtLeast(1_500.0),
        _ => return None,
    };
    Some(goal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_is_one_platform_in_full_and_two_in_short() {
        let names = |asked: &Asked| plan(asked).iter().map(ToString::to_string).collect::<Vec<_>>();
        let usual = ["together, sqlite", "together, sqlite, sync always", "separate, postgres"];
        assert_eq!(names(&Asked::default()), usual);
        assert_eq!(plan(&Asked::default())[0].rows, ALL);
        let separate = Asked { services: Some(Services::Separate), ..Asked::default() };
        assert_eq!(names(&separate), ["separate, postgres"]);
        let always = Asked { sync_always: true, ..Asked::default() };
        assert_eq!(names(&always), ["together, sqlite, sync always"]);
    }

    #[test]
    fn a_platform_without_rows_is_not_started() {
        let idle = Asked { rows: vec![Row::Idle], ..Asked::default() };
        assert_eq!(plan(&idle).len(), 1);
        let bulk = Asked { rows: vec![Row::Bulk], ..Asked::default() };
        assert_eq!(plan(&bulk).len(), 3);
    }

    #[test]
    fn ledgers_are_read_as_they_are_written() {
        assert_eq!(Ledger::parse("sqlite"), Ok(Ledger::Sqlite));
        assert_eq!(Ledger::parse("postgres"), Ok(Ledger::Postgres));
        let at = Ok(Ledger::At("postgres://a/b".into()));
        assert_eq!(
            (Ledger::parse("postgres=postgres://a/b"), Ledger::parse("postgres://a/b")),
            (at.clone(), at)
        );
        assert!(Ledger::parse("mysql").is_err());
    }

    #[test]
    fn goals_are_of_the_platform() {
        let [full, always, separate] = plan(&Asked::default()).try_into().expect("three");
        assert_eq!(goal(&full, BULK), Some(Goal::AtLeast(20_000.0)));
        assert_eq!(goal(&always, BULK), Some(Goal::AtLeast(10_000.0)));
        assert_eq!(goal(&separate, BULK), Some(Goal::AtLeast(15_000.0)));
        assert_eq!(goal(&separate, CALLERS), Some(Goal::AtLeast(10_000.0)));
        assert_eq!(goal(&full, "200 diamonds 1-10-1"), Some(Goal::AtLeast(1_500.0)));
        assert_eq!(goal(&full, "bulk, accepted"), None);
        assert!(Goal::AtMost(1.0).is_met(1.0) && !Goal::AtLeast(2.0).is_met(1.0));
    }
}
