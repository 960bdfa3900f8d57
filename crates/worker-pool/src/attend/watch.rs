//! Watches what a command and everything that it started use together: says it now and then, and ends
//! all of it when that is too much.
//!
//! The operating system has limits for one process, and one for all processes of a user: neither is
//! the command's. Between two looks a command may use more than it may; the limits of each process
//! (`limits`) are the wall behind.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Said,
    accounting::{self, Disk, Memory},
    limits::Limits,
    reap, say,
};

/// Time between two looks where there is a limit to keep.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time until the first look where there is none, and the shortest between two: most commands are
/// over by then, and cost nothing.
const LOOK_FIRST: Duration = Duration::from_millis(250);
/// Longest time between two looks.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// Sweeps over a tree that goes on growing.
const SWEEPS_MAX: usize = 1_000;
/// Ticks a second in `/proc`: part of Linux's interface on every machine that Rust is built for.
const TICKS: f64 = 100.0;

/// Where to say what was used so far.
#[derive(Clone, Debug)]
pub(super) struct Tell {
    /// How often; zero for never.
    pub(super) every: Duration,
    pub(super) socket: Arc<Mutex<UnixStream>>,
    /// What this process had moved before the command.
    pub(super) before: Option<Disk>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    reached: Arc<Mutex<Option<(&'static str, u32)>>>,
    memory: Arc<Mutex<Memory>>,
    over: Arc<AtomicBool>,
}

/// What a tree of processes uses now.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    processes: usize,
    memory_kb: u64,
    /// The most that one process has had, with pages of files.
    largest_kb: u64,
    ticks: u64,
}

impl Use {
    fn and(self, one: Self) -> Self {
        Self {
            processes: self.processes + 1,
            memory_kb: self.memory_kb + one.memory_kb,
            largest_kb: self.largest_kb.max(one.largest_kb),
            ticks: self.ticks + one.ticks,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Begins to look.
    pub(super) fn start(limits: Limits, tell: Tell) -> Self {
        let watch = Self::default();
        let seen = watch.clone();
        thread::spawn(move || seen.look(limits, &tell));
        watch
    }

    /// Counts time by its own pauses: a look takes little of it.
    fn look(&self, limits: Limits, tell: &Tell) {
        let is_limited = limits.memory_mb.or(limits.cpu_seconds).or(limits.processes).is_some();
        let mut age = Duration::ZERO;
        if !is_limited {
            age = shorter(LOOK_FIRST, tell.every);
            thread::sleep(age);
        }
        let mut since_told = age;
        while !self.over.load(Ordering::Relaxed) {
            let pause = if is_limited {
                LOOK_EVERY
            } else {
                shorter((age / 4).clamp(LOOK_FIRST, LOOK_MAX), tell.every)
            };
            // Before the living: what is reaped meanwhile does not count twice.
            let reaped = accounting::reaped_seconds();
            let tree = descendants();
            let used = tree.iter().filter_map(|pid| used(*pid)).fold(Use::default(), Use::and);
            let seconds = reaped + used.ticks as f64 / TICKS;
            let memory = {
                let mut memory = lock(&self.memory);
                memory.note(used.memory_kb, used.largest_kb, pause.as_secs_f64());
                *memory
            };
            if let Some(reached) = judge(limits, used, seconds) {
                *lock(&self.reached) = Some(reached);
                end(descendants);
                return;
            }
            if !tell.every.is_zero() && since_told >= tell.every {
                since_told = Duration::ZERO;
                let so_far = accounting::so_far(seconds, memory, tell.before, &tree);
                // A worker that is gone closes the socket, and that ends everything.
                let _ = say(&tell.socket, &Said::Used(so_far));
            }
            thread::sleep(pause);
            age += pause;
            since_told += pause;
        }
    }

    /// Ends the looking. The limit that was reached, and what was seen of its memory.
    pub(super) fn finish(&self) -> (Option<(&'static str, u32)>, Memory) {
        self.over.store(true, Ordering::Relaxed);
        (*lock(&self.reached), *lock(&self.memory))
    }
}

/// A pause that lets nothing be said late.
fn shorter(pause: Duration, every: Duration) -> Duration {
    if every.is_zero() { pause } else { pause.min(every) }
}

fn judge(limits: Limits, used: Use, seconds: f64) -> Option<(&'static str, u32)> {
    let over = |name, limit: Option<u32>, used: f64| {
        limit.filter(|most| used > f64::from(*most)).map(|most| (name, most))
    };
    over("processes", limits.processes, used.processes as f64)
        .or_else(|| over("memory_mb", limits.memory_mb, used.memory_kb as f64 / 1024.0))
        .or_else(|| over("cpu_seconds", limits.cpu_seconds, seconds))
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
    let largest_kb = kb("VmHWM:").unwrap_or(0);
    Some(Use { processes: 1, memory_kb, largest_kb, ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_for_all_processes_together() {
        let limits = Limits::parse("memory_mb=10,cpu_seconds=2,processes=3").expect("limits");
        let used = |processes, memory_kb| Use { processes, memory_kb, ..Use::default() };
        assert_eq!(judge(limits, used(3, 10 * 1024), 1.99), None);
        assert_eq!(judge(limits, used(4, 0), 0.0), Some(("processes", 3)));
        assert_eq!(judge(limits, used(1, 10 * 1024 + 1), 0.0), Some(("memory_mb", 10)));
        assert_eq!(judge(limits, used(1, 0), 2.01), Some(("cpu_seconds", 2)));
        assert_eq!(judge(Limits::default(), used(9, u64::MAX), 99.0), None);
    }

    #[test]
    fn a_process_and_its_memory_are_seen() {
        let own = used(Pid::this().as_raw()).expect("this process");
        assert!(own.memory_kb > 0 && own.largest_kb > own.memory_kb, "{own:?}");
        assert!(used(i32::MAX).is_none());
    }
}
