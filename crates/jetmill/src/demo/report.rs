//! **Pure.** What the demonstration found out.

use std::collections::{BTreeMap, HashMap};

use comfy_table::Cell;
use serde::{Deserialize, Serialize};

use super::handlers::Counts;
use crate::table;

const LARGEST: usize = 5;

/// What one file has, and who counted it.
pub(super) struct File {
    pub(super) counts: Counts,
    pub(super) by: &'static str,
}

/// The sums.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    files: u64,
    lines: u64,
    bytes: u64,
    /// By ending, the most lines first.
    kinds: Vec<Kind>,
    largest: Vec<Largest>,
    /// How many files each kind of executor counted.
    counted_by: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kind {
    ending: String,
    files: u64,
    lines: u64,
    bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Largest {
    path: String,
    lines: u64,
    bytes: u64,
}

fn ending(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => format!(".{ending}"),
        _ => "(none)".to_owned(),
    }
}

impl Report {
    /// Adds everything up.
    pub(super) fn new(found: HashMap<String, File>) -> Self {
        let mut kinds = BTreeMap::<String, Kind>::new();
        let mut counted_by = BTreeMap::new();
        let mut largest = Vec::with_capacity(found.len());
        for (path, File { counts: Counts { lines, bytes }, by }) in found {
            let ending = ending(&path);
            let kind = kinds.entry(ending.clone()).or_insert(Kind {
                ending,
                files: 0,
                lines: 0,
                bytes: 0,
            });
            kind.files += 1;
            kind.lines += lines;
            kind.bytes += bytes;
            *counted_by.entry(by.to_owned()).or_default() += 1;
            largest.push(Largest { path, lines, bytes });
        }
        let files = largest.len() as u64;
        largest.sort_by(|a, b| (b.bytes, &a.path).cmp(&(a.bytes, &b.path)));
        largest.truncate(LARGEST);
        let mut kinds = kinds.into_values().collect::<Vec<_>>();
        kinds.sort_by(|a, b| (b.lines, &a.ending).cmp(&(a.lines, &b.ending)));
        Self {
            files,
            lines: kinds.iter().map(|kind| kind.lines).sum(),
            bytes: kinds.iter().map(|kind| kind.bytes).sum(),
            kinds,
            largest,
            counted_by,
        }
    }

    /// As tables.
    pub(super) fn text(&self) -> String {
        let mut kinds = table::table(["KIND", "FILES", "LINES", "BYTES"]);
        for Kind { ending, files, lines, bytes } in &self.kinds {
            kinds.add_row(vec![
                Cell::new(ending),
                Cell::new(files),
                Cell::new(lines),
                Cell::new(table::bytes(*bytes)),
            ]);
        }
        let all = [self.files.to_string(), self.lines.to_string(), table::bytes(self.bytes)];
        kinds.add_row(["all".to_owned()].into_iter().chain(all).map(Cell::new).collect::<Vec<_>>());
        let mut largest = table::table(["LARGEST", "LINES", "BYTES"]);
        for Largest { path, lines, bytes } in &self.largest {
            largest.add_row(vec![
                Cell::new(table::cut(path, 60)),
                Cell::new(lines),
                Cell::new(table::bytes(*bytes)),
            ]);
        }
        let by = self.counted_by.iter().map(|(by, count)| format!("{count} by {by}"));
        let by = by.collect::<Vec<_>>().join(", ");
        format!("\n{}\n\n{}\n\ncounted {by}", kinds.trim_fmt(), largest.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_by_ending_and_the_largest_come_first() {
        let file = |lines, bytes, by| File { counts: Counts { lines, bytes }, by };
        let report = Report::new(HashMap::from([
            ("a/x.rs".to_owned(), file(10, 100, "handler")),
            ("b/y.rs".to_owned(), file(5, 300, "handler")),
            ("Makefile".to_owned(), file(1, 20, "shell")),
            (".gitignore".to_owned(), file(1, 2, "shell")),
        ]));
        assert_eq!((report.files, report.lines, report.bytes), (4, 17, 422));
        let kinds = report.kinds.iter().map(|k| (k.ending.as_str(), k.files)).collect::<Vec<_>>();
        assert_eq!(kinds, [(".rs", 2), ("(none)", 2)]);
        assert_eq!(report.largest.first().map(|l| l.path.as_str()), Some("b/y.rs"));
        assert!(report.text().contains("2 by handler, 2 by shell"));
    }
}
