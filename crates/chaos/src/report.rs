//! **Pure.** What was done, what was seen, and the verdict; for people, and as JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use crate::kind::Kind;

/// Problems that are shown one by one.
const PROBLEMS_MAX: usize = 20;

/// What is known of one kind of fault.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Line {
    /// How often it was done.
    pub done: u32,
    /// How often it was planned and could not be done, and why.
    pub not_done: BTreeMap<String, u32>,
    /// Attempts that were lost while it went on or soon after.
    pub lost: u64,
    /// The longest time from its beginning until a task ended, in seconds.
    pub quiet_seconds: f64,
    /// What was seen.
    pub seen: BTreeMap<String, u32>,
}

/// One entry of the time line.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Happened {
    /// Seconds since the start of the load.
    pub at: f64,
    /// What.
    pub what: String,
}

/// The report of one run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The command that does it again.
    pub replay: String,
    /// sqlite, postgres, or theirs.
    pub ledger: String,
    /// Tasks that were submitted.
    pub tasks: usize,
    /// Tasks of the run that the log has.
    pub accepted: usize,
    /// How they ended.
    pub ended: BTreeMap<String, u64>,
    /// How long it took, in seconds, until all was at rest.
    pub seconds: f64,
    /// Each kind of fault.
    pub faults: BTreeMap<String, Line>,
    /// How often user work ran.
    pub runs: u64,
    /// How often it ran again without need, by reason.
    pub ran_twice: BTreeMap<String, u64>,
    /// Tasks that failed because their attempts were lost too often: a person has to look.
    pub dead_of_losses: u64,
    /// Events of the log that changed nothing, by reason.
    pub ignored: BTreeMap<String, u64>,
    /// Processes that ended by themselves, and were started again.
    pub ended_by_themselves: Vec<String>,
    /// What must not be.
    pub problems: Vec<String>,
    /// What happened when.
    pub timeline: Vec<Happened>,
    /// The logs of a failed run.
    pub logs: Option<String>,
}

impl Report {
    /// Whether everything held.
    pub fn held(&self) -> bool {
        self.problems.is_empty()
    }

    /// The line of a kind.
    pub fn line(&mut self, kind: Kind, custom: Option<&str>) -> &mut Line {
        let name = custom.map_or_else(|| kind.word().to_owned(), |name| format!("custom: {name}"));
        self.faults.entry(name).or_default()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let out = &mut text;
        let ended = self.ended.iter().map(|(how, n)| format!("{n} {how}")).collect::<Vec<_>>();
        let _ = writeln!(
            out,
            "seed {}, ledger {}: {} tasks in {:.0} s ({})",
            self.seed,
            self.ledger,
            self.accepted,
            self.seconds,
            ended.join(", ")
        );
        let _ = writeln!(out, "\n{:<22}{:>5}{:>6}{:>9}  SEEN", "FAULT", "DONE", "LOST", "QUIET");
        for (name, line) in &self.faults {
            let not = line.not_done.iter().map(|(why, n)| format!("not done {n}: {why}"));
            let seen = line.seen.iter().map(|(what, n)| format!("{n}x {what}"));
            let seen = not.chain(seen).collect::<Vec<_>>().join("; ");
            let quiet = format!("{:.1} s", line.quiet_seconds);
            let _ = writeln!(out, "{name:<22}{:>5}{:>6}{quiet:>9}  {seen}", line.done, line.lost);
        }
        let _ = writeln!(out, "\nuser work ran {} times", self.runs);
        for (why, times) in &self.ran_twice {
            let _ = writeln!(out, "  of these again without need {times}: {why}");
        }
        for (why, times) in &self.ignored {
            let _ = writeln!(out, "  {times} events changed nothing: {why}");
        }
        if self.dead_of_losses > 0 {
            let _ = writeln!(
                out,
                "  {} tasks were lost too often and wait in DEAD",
                self.dead_of_losses
            );
        }
        if !self.ended_by_themselves.is_empty() {
            let count = self.ended_by_themselves.len();
            let _ = writeln!(out, "  {count} processes ended by themselves and were started again");
        }
        if self.held() {
            let _ = writeln!(out, "\neverything held");
            return text;
        }
        let _ = writeln!(
            out,
            "\nNOT HELD, {} problems; again with: {}",
            self.problems.len(),
            self.replay
        );
        for Happened { at, what } in &self.timeline {
            let _ = writeln!(out, "  {at:>7.2} s  {what}");
        }
        for problem in self.problems.iter().take(PROBLEMS_MAX) {
            let _ = writeln!(out, "- {problem}");
        }
        if let Some(logs) = &self.logs {
            let _ = writeln!(out, "the logs of all processes: {logs}");
        }
        text
    }
}

/// What several runs come to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// How many runs.
    pub seeds: usize,
    /// The seeds of those in which something did not hold.
    pub failed: Vec<u64>,
    /// Tasks of all runs.
    pub tasks: usize,
    /// How they ended.
    pub ended: BTreeMap<String, u64>,
    /// How often each kind of fault was done.
    pub faults: BTreeMap<String, u32>,
    /// Attempts that were lost in and after them.
    pub lost: BTreeMap<String, u64>,
    /// How often user work ran.
    pub runs: u64,
    /// How often again without need, by reason.
    pub ran_twice: BTreeMap<String, u64>,
    /// Tasks that wait in `DEAD` because they were lost too often.
    pub dead_of_losses: u64,
    /// Processes that ended by themselves.
    pub ended_by_themselves: usize,
    /// How long all took, in seconds.
    pub seconds: f64,
}

impl Summary {
    /// Adds up.
    pub fn of(reports: &[Report]) -> Self {
        let mut sum = Self { seeds: reports.len(), ..Self::default() };
        for report in reports {
            if !report.held() {
                sum.failed.push(report.seed);
            }
            sum.tasks += report.accepted;
            sum.runs += report.runs;
            sum.dead_of_losses += report.dead_of_losses;
            sum.ended_by_themselves += report.ended_by_themselves.len();
            sum.seconds += report.seconds;
            for (how, n) in &report.ended {
                *sum.ended.entry(how.clone()).or_default() += n;
            }
            for (why, n) in &report.ran_twice {
                *sum.ran_twice.entry(why.clone()).or_default() += n;
            }
            for (name, line) in &report.faults {
                *sum.faults.entry(name.clone()).or_default() += line.done;
                *sum.lost.entry(name.clone()).or_default() += line.lost;
            }
        }
        sum
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text =
            format!("{} seeds, {} tasks, {:.0} s\n", self.seeds, self.tasks, self.seconds);
        let out = &mut text;
        for (name, done) in &self.faults {
            let lost = self.lost.get(name).copied().unwrap_or_default();
            let _ = writeln!(out, "{name:<22}{done:>5} times {lost:>6} attempts lost meanwhile");
        }
        for (how, n) in &self.ended {
            let _ = writeln!(out, "{n:>8} {how}");
        }
        let _ = writeln!(out, "user work ran {} times", self.runs);
        for (why, n) in &self.ran_twice {
            let _ = writeln!(out, "{n:>8} times again without need: {why}");
        }
        if self.failed.is_empty() {
            let _ = writeln!(out, "everything held");
        } else {
            let _ = writeln!(out, "NOT HELD in seeds {:?}", self.failed);
        }
        text
    }
}
