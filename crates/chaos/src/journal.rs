//! What user work notes about itself: only to count how often it ran twice. Nothing is judged by it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Note {
    /// The task.
    pub task: String,
    /// Its attempt.
    pub attempt: u32,
    /// Who runs it.
    pub worker: String,
    /// `start`, `end` or `stopped`.
    pub what: String,
}

/// The journal as its writers see it.
#[derive(Debug)]
pub struct Journal(File);

impl Journal {
    /// Opens it to add to it; others may do so as well.
    pub fn append(path: &Path) -> io::Result<Self> {
        File::options().create(true).append(true).open(path).map(Self)
    }

    /// Adds a line at once.
    pub fn write(&self, note: &Note) -> io::Result<()> {
        let mut line = serde_json::to_vec(note)?;
        line.push(b'\n');
        (&self.0).write_all(&line)
    }
}

/// How often one attempt was begun and came to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Begun.
    pub starts: u32,
    /// Done, well or badly.
    pub ends: u32,
}

/// The runs of each attempt of each task. A line that was cut short by a kill is left out.
pub fn read(path: &Path) -> HashMap<String, BTreeMap<u32, Runs>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut runs: HashMap<String, BTreeMap<u32, Runs>> = HashMap::new();
    for note in text.lines().filter_map(|line| serde_json::from_str::<Note>(line).ok()) {
        let attempt = runs.entry(note.task).or_default().entry(note.attempt).or_default();
        match note.what.as_str() {
            "start" => attempt.starts += 1,
            "end" => attempt.ends += 1,
            _ => {}
        }
    }
    runs
}

/// Why user work ran more often than its outcome needed: how often, by reason.
///
/// `lost` has the reason that the log gives for the end of an attempt that counted for nothing.
#[expect(clippy::implicit_hasher, reason = "nobody has another one")]
pub fn repeats(
    runs: &HashMap<String, BTreeMap<u32, Runs>>,
    lost: &HashMap<(String, u32), String>,
) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut count = |why: String, times: u32| {
        if times > 0 {
            *counts.entry(why).or_insert(0) += u64::from(times);
        }
    };
    for (task, attempts) in runs {
        let later: BTreeSet<_> = attempts.keys().copied().collect();
        for (attempt, runs) in attempts {
            count("delivered twice without a mark".into(), runs.starts.saturating_sub(1));
            let again = later.range(attempt + 1..).next().is_some();
            let Some(reason) = lost.get(&(task.clone(), *attempt)).filter(|_| again) else {
                continue;
            };
            let when = if runs.ends > 0 { "after its end" } else { "in the middle" };
            count(format!("lost {when}: {reason}"), 1);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_counted_with_their_reasons() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let journal = Journal::append(&path).expect("opened");
        for (task, attempt, what) in [
            ("a", 1, "start"),
            ("a", 1, "end"),
            ("b", 1, "start"),
            ("b", 2, "start"),
            ("b", 2, "end"),
            ("c", 1, "start"),
            ("c", 1, "start"),
        ] {
            let (task, worker) = (task.into(), "w".into());
            journal.write(&Note { task, attempt, worker, what: what.into() }).expect("written");
        }
        let lost = HashMap::from([(("b".into(), 1), "gone".into())]);
        let found = repeats(&read(&path), &lost);
        assert_eq!(
            found,
            BTreeMap::from([
                ("delivered twice without a mark".into(), 1),
                ("lost in the middle: gone".into(), 1),
            ])
        );
    }
}
