//! The processes below this one, and what they use together.
//!
//! The operating system counts the time of a process, and hands it to the parent that waits for it.
//! A parent that does not want to hear of its children loses what they took: so what was seen of a
//! process stays counted here, when it is gone and its time has reached nobody.

use std::{collections::BTreeMap, fs};

use nix::unistd::Pid;

use super::accounting;

/// Ticks a second in `/proc`: part of Linux's interface on every machine that Rust is built for.
const TICKS: f64 = 100.0;
/// Looks at a tree from which time seems to be lost.
const LOOKS_MAX: usize = 3;

/// A process: its number, and when it began, since numbers are given out again.
type Process = (i32, u64);

/// What one process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Use {
    /// Its processor time.
    ticks: u64,
    /// That of the children that it has waited for.
    waited_ticks: u64,
    /// Its memory, with what it has in common with others since a fork.
    memory_kb: u64,
    /// The most that it has had, with pages of files.
    largest_kb: u64,
}

/// The processes of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Look {
    /// Processor time of those that this process has waited for.
    reaped_seconds: f64,
    living: BTreeMap<Process, Use>,
}

/// What there was until now.
#[derive(Debug, Default)]
pub(super) struct Tree {
    now: Look,
    /// Processor time of those that nobody has waited for.
    lost_seconds: f64,
}

impl Look {
    fn take(before: &Self) -> Self {
        // Before the living, and parents before their children: what is waited for meanwhile does not
        // count twice.
        let reaped_seconds = accounting::reaped_seconds();
        let mut living = descendants().into_iter().filter_map(used).collect::<BTreeMap<_, _>>();
        // A list of children that is read while one ends may lack others.
        for known in before.living.keys() {
            if !living.contains_key(known)
                && let Some((process, used)) = used(known.0)
                && process == *known
            {
                living.insert(process, used);
            }
        }
        Self { reaped_seconds, living }
    }

    /// How many there are. One that has ended and that nobody has waited for is one: its number is
    /// still taken.
    pub(super) fn processes(&self) -> usize {
        self.living.len()
    }

    pub(super) fn pids(&self) -> Vec<i32> {
        self.living.keys().map(|(pid, _)| *pid).collect()
    }

    /// Memory of all of them, each page once. For more than one process the operating system walks
    /// through all pages: that takes milliseconds.
    pub(super) fn memory_kb(&self) -> u64 {
        let alone = self.processes() == 1;
        let of = |(process, used): (&Process, &Use)| {
            let share = if alone { None } else { share_kb(process.0) };
            share.unwrap_or(used.memory_kb)
        };
        self.living.iter().map(of).sum()
    }

    /// The most that one of them has had.
    pub(super) fn largest_kb(&self) -> u64 {
        self.living.values().map(|used| used.largest_kb).max().unwrap_or_default()
    }

    fn seconds(&self) -> f64 {
        let ticks = self.living.values().map(|used| used.ticks + used.waited_ticks).sum::<u64>();
        self.reaped_seconds + ticks as f64 / TICKS
    }

    /// Processor time of those that have gone until `later`, as far as it has reached nobody. What was
    /// never seen may hide some of it, and never adds to it.
    fn lost_until(&self, later: &Self) -> f64 {
        let gone = self.living.iter().filter(|(process, _)| !later.living.contains_key(process));
        let gone = gone.map(|(_, used)| used.ticks + used.waited_ticks).sum::<u64>();
        let reached = later.living.iter().map(|(process, used)| {
            let before = self.living.get(process).map_or(0, |before| before.waited_ticks);
            used.waited_ticks.saturating_sub(before)
        });
        let lost = gone as f64 - reached.sum::<u64>() as f64;
        let lost = lost / TICKS - (later.reaped_seconds - self.reaped_seconds);
        // Less than a tick is what is lost by counting in ticks.
        if lost * TICKS < 1.0 { 0.0 } else { lost }
    }
}

impl Tree {
    /// Looks again.
    pub(super) fn look(&mut self) {
        let mut now = Look::take(&self.now);
        let mut lost = self.now.lost_until(&now);
        for _ in 1..LOOKS_MAX {
            if lost == 0.0 {
                break;
            }
            // One that was just being waited for is in neither place, and the next time in one.
            let again = Look::take(&self.now);
            let less = self.now.lost_until(&again);
            if less < lost {
                (now, lost) = (again, less);
            }
        }
        self.lost_seconds += lost;
        self.now = now;
    }

    pub(super) fn now(&self) -> &Look {
        &self.now
    }

    /// Processor time of all that there was.
    pub(super) fn seconds(&self) -> f64 {
        self.now.seconds() + self.lost_seconds
    }

    /// The part of it that the operating system has forgotten.
    pub(super) fn lost_seconds(&self) -> f64 {
        self.lost_seconds
    }
}

/// Every process below this one, parents before their children.
pub(super) fn descendants() -> Vec<i32> {
    let own = Pid::this().as_raw();
    // Not every kernel was built to keep lists of children.
    if fs::metadata(format!("/proc/{own}/task/{own}/children")).is_ok() {
        below(own, children)
    } else {
        let known = all_children();
        below(own, |pid| known.get(&pid).cloned().unwrap_or_default())
    }
}

fn below(top: i32, children: impl Fn(i32) -> Vec<i32>) -> Vec<i32> {
    let mut found = Vec::new();
    let mut open = vec![top];
    while let Some(pid) = open.pop() {
        for child in children(pid) {
            open.push(child);
            found.push(child);
        }
    }
    found
}

/// The processes that one has started and that nobody has waited for: each of its threads has a list.
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// The same of every process of the machine, at once.
fn all_children() -> BTreeMap<i32, Vec<i32>> {
    let mut children = BTreeMap::<i32, Vec<i32>>::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let parent = pid.and_then(stat).and_then(|fields| fields.get(1)?.parse::<i32>().ok());
        if let Some((parent, pid)) = parent.zip(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

/// What `/proc` says of a process, from the field `state` on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// What one process uses; `None` when there is none any more.
fn used(pid: i32) -> Option<(Process, Use)> {
    let fields = stat(pid)?;
    let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
    let mut used = Use {
        ticks: number(11)? + number(12)?,
        waited_ticks: number(13)? + number(14)?,
        ..Use::default()
    };
    let process = (pid, number(19)?);
    if matches!(fields.first().map(String::as_str), Some("Z" | "X")) {
        return Some((process, used));
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kb = |name| field(&status, name).unwrap_or(0);
    // Pages of files can be taken back at any time: they are nobody's.
    used.memory_kb = kb("RssAnon:") + kb("RssShmem:");
    used.largest_kb = kb("VmHWM:");
    Some((process, used))
}

/// The memory of a process, and its share of what it has in common with others; `None` where the
/// kernel does not say.
fn share_kb(pid: i32) -> Option<u64> {
    let sums = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(field(&sums, "Pss_Anon:")? + field(&sums, "Pss_Shmem:")?)
}

/// A number of a list of names and numbers.
fn field(list: &str, name: &str) -> Option<u64> {
    let line = list.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests;
