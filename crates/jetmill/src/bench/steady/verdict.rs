//! **Pure.** What a long run says: its first third against its last.

use serde::Serialize;

use crate::{bench::report::spread, table};

/// What one look found, in the order of the columns; a cell may be unknown.
#[derive(Clone, Debug, Default)]
pub(super) struct Line(Vec<(String, Option<f64>)>);

impl Line {
    pub(super) fn add(&mut self, name: &str, value: f64) {
        self.add_known(name, Some(value));
    }

    pub(super) fn add_known(&mut self, name: &str, value: Option<f64>) {
        self.0.push((name.to_owned(), value));
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name)?.1
    }

    /// The names of the columns.
    pub(super) fn head(&self) -> String {
        self.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",")
    }

    /// The cells.
    pub(super) fn row(&self) -> String {
        let cell = |value: &Option<f64>| {
            value.map_or_else(String::new, |value| format!("{}", (value * 1e3).round() / 1e3))
        };
        self.0.iter().map(|(_, value)| cell(value)).collect::<Vec<_>>().join(",")
    }

    /// What somebody who waits wants to see.
    pub(super) fn short(&self) -> String {
        let of = |name| self.get(name).unwrap_or_default();
        let memory = self.0.iter().filter(|(name, _)| name.starts_with(PSS) && name != CLIENT);
        let memory = memory.filter_map(|(_, value)| *value).sum::<f64>();
        format!(
            "{:.0} s: {:.0} tasks/s, p50 {:.2}, p99 {:.2} ms, {memory:.0} MB, log {:.0} MB on disk, lag {}",
            of("seconds"),
            of("tasks_per_second"),
            of("p50_ms"),
            of("p99_ms"),
            of("nats_disk_mb"),
            of("lag_messages"),
        )
    }
}

const PSS: &str = "pss_mb ";
const CLIENT: &str = "pss_mb client";
/// A third with fewer looks says nothing.
const LOOKS_MIN: usize = 2;

/// A figure at the beginning and at the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Change {
    name: String,
    first_third: f64,
    last_third: f64,
    /// The most that counts as flat.
    flat_until: f64,
    flat: bool,
}

/// What the whole run says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Verdict {
    looks: usize,
    changes: Vec<Change>,
    /// Bytes on disk that the ledger grew a completed task.
    ledger_bytes_a_task: Option<f64>,
    /// Whether there are enough looks to say anything.
    enough: bool,
}

/// Judges the medians of the thirds: noise moves single looks, and growth moves the median.
pub(super) fn judge(lines: &[Line]) -> Verdict {
    let third = lines.len() / 3;
    let first = lines.get(..third).unwrap_or_default();
    let last = lines.get(lines.len() - third..).unwrap_or_default();
    let names = lines.first().map(|line| line.0.as_slice()).unwrap_or_default();
    let changes = names.iter().filter_map(|(name, _)| {
        let (share, beyond) = allowed(name)?;
        let median = |lines: &[Line]| {
            let known = lines.iter().filter_map(|line| line.get(name)).collect::<Vec<_>>();
            (spread(&known).0 * 1e3).round() / 1e3
        };
        let (first_third, last_third) = (median(first), median(last));
        let flat_until = first_third * share + beyond;
        let flat = last_third <= flat_until;
        Some(Change { name: name.clone(), first_third, last_third, flat_until, flat })
    });
    Verdict {
        looks: lines.len(),
        changes: changes.collect(),
        ledger_bytes_a_task: ledger_bytes_a_task(lines),
        enough: third >= LOOKS_MIN,
    }
}

/// What may be at the end of what was at the beginning: a share of it, and so much beyond.
fn allowed(name: &str) -> Option<(f64, f64)> {
    match name {
        CLIENT => None,
        _ if name.starts_with(PSS) => Some((1.10, 8.0)),
        "nats_disk_mb" => Some((1.15, 32.0)),
        "p50_ms" | "p99_ms" => Some((1.25, 0.5)),
        "lag_messages" => Some((2.0, 50.0)),
        _ => None,
    }
}

fn ledger_bytes_a_task(lines: &[Line]) -> Option<f64> {
    let (first, last) = (lines.first()?, lines.last()?);
    let bytes = (last.get("ledger_mb")? - first.get("ledger_mb")?) * 1e6;
    let tasks = last.get("completed")? - first.get("completed")?;
    (tasks > 0.0).then(|| (bytes / tasks).round())
}

impl Verdict {
    /// Whether nothing grew.
    pub(super) fn holds(&self) -> bool {
        !self.enough || self.changes.iter().all(|change| change.flat)
    }

    /// As a table.
    pub(super) fn text(&self) -> String {
        let mut rows = table::table(["WHAT", "FIRST THIRD", "LAST THIRD", "FLAT UNTIL", ""]);
        for change in &self.changes {
            let Change { name, first_third, last_third, flat_until, flat } = change;
            let verdict = if *flat { "flat" } else { "grows" };
            let number = |value: &f64| format!("{value:.2}");
            rows.add_row([
                name.clone(),
                number(first_third),
                number(last_third),
                number(flat_until),
                verdict.to_owned(),
            ]);
        }
        let bytes = self.ledger_bytes_a_task.map_or("unknown".into(), |bytes| format!("{bytes}"));
        let enough = if self.enough { "" } else { ", which is too few to judge" };
        format!(
            "{}\nbytes a task of the ledger: {bytes}; {} looks{enough}",
            rows.trim_fmt(),
            self.looks
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize, memory: impl Fn(usize) -> f64) -> Vec<Line> {
        let line = |n: usize| {
            let mut line = Line::default();
            line.add("completed", n as f64 * 1_000.0);
            line.add("ledger_mb", n as f64);
            line.add("pss_mb jetmill", memory(n));
            line.add("pss_mb client", n as f64 * 1e6);
            line
        };
        (0..count).map(line).collect()
    }

    #[test]
    fn growth_is_told_from_noise() {
        let flat = judge(&lines(30, |n| 100.0 + (n % 3) as f64));
        assert!(flat.holds(), "{flat:?}");
        let grows = judge(&lines(30, |n| 100.0 + n as f64));
        assert!(!grows.holds() && grows.text().contains("grows"), "{grows:?}");
        assert_eq!(grows.ledger_bytes_a_task, Some(1_000.0));
        assert_eq!(grows.changes.len(), 1, "the client is not the platform");
    }

    #[test]
    fn few_looks_say_nothing() {
        let few = judge(&lines(3, |n| n as f64 * 1e6));
        assert!(few.holds() && !few.enough, "{few:?}");
        assert!(judge(&[]).holds());
    }

    #[test]
    fn a_line_is_a_row_of_the_csv() {
        let mut line = Line::default();
        line.add("a", 1.0);
        line.add_known("b", None);
        line.add("c", 2.000_4);
        assert_eq!((line.head().as_str(), line.row().as_str()), ("a,b,c", "1,,2"));
    }
}
