//! What processes use, as the kernel tells it: memory in shares, time on the processors.
//!
//! PSS counts a page that several processes share once in all; sums of it are true, as sums of
//! resident memory are not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::machine::field;

/// Ticks a second in the kernel's interface: 100 on every architecture that we run on.
const TICKS: f64 = 100.0;

/// A process that has a part in what is measured, with the children that are not parts themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) pid: u32,
}

impl Part {
    pub(super) fn new(name: &str, pid: u32) -> Self {
        Self { name: name.to_owned(), pid }
    }
}

/// A figure of each part.
pub(super) type ByPart = BTreeMap<String, f64>;

/// Proportional memory of each part, in MB.
pub(super) fn memory(parts: &[Part]) -> ByPart {
    each(parts, |pid| pss_mb(&read(pid, "smaps_rollup")))
}

/// Seconds of processor time that each part has used.
pub(super) fn cpu(parts: &[Part]) -> ByPart {
    each(parts, |pid| ticks(&read(pid, "stat")))
}

/// Seconds of processor time of a process by the names of its threads, for those that live.
pub(super) fn cpu_by_thread(pid: u32) -> ByPart {
    let mut sums = ByPart::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        *sums.entry(thread_group(&stat)).or_default() += ticks(&stat);
    }
    sums
}

/// Seconds of processor time that the whole machine has worked, and that it could have.
pub(super) fn machine_cpu() -> (f64, f64) {
    busy(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// The first line is the sum of all processors: user, nice, system, idle, iowait, irq, softirq and
/// steal; what follows is part of these.
fn busy(stat: &str) -> (f64, f64) {
    let line = stat.lines().next().unwrap_or_default();
    let times = line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse::<f64>().ok());
    let times = times.collect::<Vec<_>>();
    let all = times.iter().sum::<f64>();
    let idle = times.iter().skip(3).take(2).sum::<f64>();
    ((all - idle) / TICKS, all / TICKS)
}

/// What `after` has more than `before`.
pub(super) fn difference(after: &ByPart, before: &ByPart) -> ByPart {
    let less = |name: &String| before.get(name).copied().unwrap_or_default();
    after.iter().map(|(name, value)| (name.clone(), (value - less(name)).max(0.0))).collect()
}

/// `a 1.5, b 2.0`.
pub(super) fn list(values: &ByPart) -> String {
    let each = values.iter().map(|(name, value)| format!("{name} {value:.1}"));
    each.collect::<Vec<_>>().join(", ")
}

fn each(parts: &[Part], of: impl Fn(u32) -> f64) -> ByPart {
    let heads = parts.iter().map(|part| part.pid).collect::<BTreeSet<_>>();
    let mut sums = ByPart::new();
    for part in parts {
        let sum = tree(part.pid, &heads).into_iter().map(&of).sum::<f64>();
        *sums.entry(part.name.clone()).or_default() += sum;
    }
    sums
}

/// A process and its descendants, without those that are parts themselves and theirs.
fn tree(pid: u32, heads: &BTreeSet<u32>) -> Vec<u32> {
    let (mut found, mut pending) = (vec![pid], children(pid));
    while let Some(pid) = pending.pop() {
        if !heads.contains(&pid) {
            found.push(pid);
            pending.extend(children(pid));
        }
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// A process that is gone has nothing.
fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn pss_mb(smaps_rollup: &str) -> f64 {
    let kilobytes = field(smaps_rollup, "Pss");
    let kilobytes = kilobytes.and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok());
    kilobytes.unwrap_or_default() * 1024.0 / 1e6
}

/// User and system time, fields 14 and 15, counted after the name, which may contain anything.
fn ticks(stat: &str) -> f64 {
    let Some((_, after_name)) = stat.rsplit_once(')') else { return 0.0 };
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// The name of a thread without its number.
fn thread_group(stat: &str) -> String {
    let name = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    let name = name.map_or("", |(name, _)| name);
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert!((ticks(stat) - 2.0).abs() < 1e-9);
        assert!(ticks("").abs() < 1e-9);
        let (worked, could) = busy("cpu  100 0 50 200 50 0 0 100 7 7\ncpu0 1\n");
        assert!((worked - 2.5).abs() < 1e-9 && (could - 5.0).abs() < 1e-9);
        assert_eq!(thread_group("1 (sqlx-sqlite-wor-12) S"), "sqlx-sqlite-wor");
        assert!((pss_mb("Rss: 9 kB\nPss:                1000 kB\n") - 1.024).abs() < 1e-9);
    }

    #[test]
    fn a_process_is_seen_with_its_children_but_for_parts() {
        let own = std::process::id();
        let child = std::process::Command::new("sleep").arg("10").spawn();
        let mut child = child.expect("a child");
        let parts = [Part::new("us", own), Part::new("child", child.id())];
        let seen = tree(own, &BTreeSet::from([own]));
        let heads = BTreeSet::from([own, child.id()]);
        let alone = tree(own, &heads);
        let used = memory(&parts);
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert!(seen.contains(&child.id()) && !alone.contains(&child.id()), "{seen:?} {alone:?}");
        assert!(used["us"] > 0.0 && used["child"] > 0.0, "{used:?}");
    }

    #[test]
    fn differences_are_by_part() {
        let before = ByPart::from([("a".into(), 1.0)]);
        let after = ByPart::from([("a".into(), 3.0), ("b".into(), 1.0)]);
        assert_eq!(list(&difference(&after, &before)), "a 2.0, b 1.0");
    }
}
