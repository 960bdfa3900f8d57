//! Watches what a command and everything that it started use together, and ends all of it when that
//! is too much.
//!
//! The operating system has limits for one process, and one for all processes of a user: neither is
//! the command's. Between two looks a command may use more than it may; the limits of each process
//! (`limits`) are the wall behind.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use super::{limits::Limits, reap};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Sweeps over a tree that goes on growing.
const SWEEPS_MAX: usize = 1_000;
/// Ticks a second in `/proc`: part of Linux's interface on every machine that Rust is built for.
const TICKS: f64 = 100.0;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    reached: Arc<Mutex<Option<(&'static str, u32)>>>,
    memory_peak_kb: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

/// What a tree of processes uses now.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    processes: usize,
    memory_kb: u64,
    ticks: u64,
}

impl Watch {
    /// Begins to look, where there is something to look for.
    pub(super) fn start(limits: Limits) -> Self {
        let watch = Self::default();
        let Limits { memory_mb, cpu_seconds, processes, .. } = limits;
        if memory_mb.or(cpu_seconds).or(processes).is_some() {
            let seen = watch.clone();
            thread::spawn(move || seen.look(limits));
        }
        watch
    }

    fn look(&self, limits: Limits) {
        while !self.over.load(Ordering::Relaxed) {
            let tree = descendants();
            let used =
                tree.iter().filter_map(|pid| used(*pid)).fold(Use::default(), |all, one| Use {
                    processes: all.processes + 1,
                    memory_kb: all.memory_kb + one.memory_kb,
                    ticks: all.ticks + one.ticks,
                });
            self.memory_peak_kb.fetch_max(used.memory_kb, Ordering::Relaxed);
            if let Some(reached) = judge(limits, used, reaped_seconds()) {
                *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(reached);
                end(descendants);
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends the looking. The limit that was reached, and the most memory that was seen, in KiB.
    pub(super) fn finish(&self) -> (Option<(&'static str, u32)>, u64) {
        self.over.store(true, Ordering::Relaxed);
        let reached = *self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        (reached, self.memory_peak_kb.load(Ordering::Relaxed))
    }
}

fn judge(limits: Limits, used: Use, reaped: f64) -> Option<(&'static str, u32)> {
    let over = |name, limit: Option<u32>, used: f64| {
        limit.filter(|most| used > f64::from(*most)).map(|most| (name, most))
    };
    over("processes", limits.processes, used.processes as f64)
        .or_else(|| over("memory_mb", limits.memory_mb, used.memory_kb as f64 / 1024.0))
        .or_else(|| over("cpu_seconds", limits.cpu_seconds, reaped + used.ticks as f64 / TICKS))
}

/// Kills a tree that may be growing: what is stopped starts nothing more, so stop until nothing new
/// is found, and only then kill.
pub(super) fn end(tree: impl Fn() -> Vec<i32>) {
    let mut stopped = BTreeSet::new();
    for _ in 0..SWEEPS_MAX {
        let found = tree().into_iter().filter(|pid| !stopped.contains(pid)).collect::<Vec<_>>();
        if found.is_empty() {
            break;
        }
        for pid in found {
            // What has ended meanwhile is what was wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
            stopped.insert(pid);
        }
    }
    for pid in stopped {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Processor time of what has ended.
fn reaped_seconds() -> f64 {
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    usage.map_or(0.0, |usage| seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Every living process below this one.
pub(super) fn descendants() -> Vec<i32> {
    let own = Pid::this().as_raw();
    let mut found = Vec::new();
    let mut open = vec![own];
    while let Some(pid) = open.pop() {
        for child in children(pid) {
            open.push(child);
            found.push(child);
        }
    }
    found
}

/// The processes that one has started and that live; each of its threads has a list, where the
/// kernel was built to keep one.
fn children(pid: i32) -> Vec<i32> {
    if fs::metadata(format!("/proc/{pid}/task/{pid}/children")).is_err() {
        return reap::children(pid);
    }
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// What one process uses; `None` when it has ended.
fn used(pid: i32) -> Option<Use> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything.
    let fields = stat.rsplit_once(')')?.1.split_whitespace().collect::<Vec<_>>();
    if matches!(fields.first(), None | Some(&"Z" | &"X")) {
        return None;
    }
    // From the field `state` on: utime and stime, and those of the children that were waited for.
    let ticks = fields.get(11..15)?.iter().filter_map(|n| n.parse::<u64>().ok()).sum();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kb = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    // Pages of files can be taken back at any time: they are nobody's.
    let memory_kb = kb("RssAnon:").unwrap_or(0) + kb("RssShmem:").unwrap_or(0);
    Some(Use { processes: 1, memory_kb, ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_for_all_processes_together() {
        let limits = Limits::parse("memory_mb=10,cpu_seconds=2,processes=3").expect("limits");
        let used = |processes, memory_kb, ticks| Use { processes, memory_kb, ticks };
        assert_eq!(judge(limits, used(3, 10 * 1024, 199), 0.0), None);
        assert_eq!(judge(limits, used(4, 0, 0), 0.0), Some(("processes", 3)));
        assert_eq!(judge(limits, used(1, 10 * 1024 + 1, 0), 0.0), Some(("memory_mb", 10)));
        assert_eq!(judge(limits, used(1, 0, 101), 1.0), Some(("cpu_seconds", 2)));
        assert_eq!(judge(Limits::default(), used(9, u64::MAX, 999), 99.0), None);
    }

    #[test]
    fn a_process_and_its_memory_are_seen() {
        let own = used(Pid::this().as_raw()).expect("this process");
        assert!(own.memory_kb > 0, "{own:?}");
        assert!(used(i32::MAX).is_none());
    }
}
