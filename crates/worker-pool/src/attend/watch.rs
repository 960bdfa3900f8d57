//! Watches what a command and everything that it started use together: says it now and then, and ends
//! all of it when that is too much.
//!
//! The operating system has limits for one process, and one for all processes of a user: neither is
//! the command's. Between two looks a command may use more than it may; the limits of each process
//! (`limits`) are the wall behind.

use std::{
    collections::BTreeSet,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use common::limits::COMMAND_PROCESSES;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Said,
    accounting::{self, Disk, Memory},
    limits::Limits,
    say,
    tree::{self, Tree},
};

/// Time between two looks where there is a limit that is reached fast.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time until the first look where there is none, and the shortest between two: most commands are
/// over by then, and cost nothing.
const LOOK_FIRST: Duration = Duration::from_millis(250);
/// Longest time between two looks: in it a fork bomb starts some thousand processes, and not all that
/// a machine has.
const LOOK_MAX: Duration = Duration::from_millis(500);
/// Time between two looks at the memory of more than one process.
const WEIGH_EVERY: Duration = Duration::from_millis(250);
/// Sweeps over a tree that goes on growing.
const SWEEPS_MAX: usize = 1_000;

/// Where to say what was used so far.
#[derive(Clone, Debug)]
pub(super) struct Tell {
    /// How often; zero for never.
    pub(super) every: Duration,
    pub(super) socket: Arc<Mutex<UnixStream>>,
    /// What this process had moved before the command.
    pub(super) before: Option<Disk>,
}

/// One that looks.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// The limit that was reached.
    pub(super) reached: Option<(&'static str, u32)>,
    pub(super) memory: Memory,
    /// Processor time that the operating system has forgotten.
    pub(super) lost_seconds: f64,
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
        let is_limited = limits.memory_mb.or(limits.cpu_seconds).is_some()
            || limits.processes.is_some_and(|most| most < COMMAND_PROCESSES);
        let mut age = Duration::ZERO;
        if !is_limited {
            age = shorter(LOOK_FIRST, tell.every);
            thread::sleep(age);
        }
        let (mut since_told, mut since_noted) = (age, Duration::ZERO);
        let mut tree = Tree::default();
        while !self.over.load(Ordering::Relaxed) {
            let pause = if is_limited {
                LOOK_EVERY
            } else {
                shorter((age / 4).clamp(LOOK_FIRST, LOOK_MAX), tell.every)
            };
            tree.look();
            let (used, seconds) = (tree.now(), tree.seconds());
            since_noted += pause;
            let is_due = used.processes() < 2 || since_noted >= WEIGH_EVERY;
            let memory_kb = is_due.then(|| used.memory_kb());
            let memory = {
                let mut seen = lock(&self.seen);
                seen.lost_seconds = tree.lost_seconds();
                if let Some(kb) = memory_kb {
                    seen.memory.note(kb, used.largest_kb(), since_noted.as_secs_f64());
                    since_noted = Duration::ZERO;
                }
                seen.reached = judge(limits, used.processes(), memory_kb, seconds);
                if seen.reached.is_some() {
                    drop(seen);
                    return end(tree::descendants);
                }
                seen.memory
            };
            if !tell.every.is_zero() && since_told >= tell.every {
                since_told = Duration::ZERO;
                let so_far = accounting::so_far(seconds, memory, tell.before, &used.pids());
                // A worker that is gone closes the socket, and that ends everything.
                let _ = say(&tell.socket, &Said::Used(so_far));
            }
            thread::sleep(pause);
            age += pause;
            since_told += pause;
        }
    }

    /// Ends the looking.
    pub(super) fn finish(&self) -> Seen {
        self.over.store(true, Ordering::Relaxed);
        *lock(&self.seen)
    }
}

/// A pause that lets nothing be said late.
fn shorter(pause: Duration, every: Duration) -> Duration {
    if every.is_zero() { pause } else { pause.min(every) }
}

fn judge(
    limits: Limits,
    processes: usize,
    memory_kb: Option<u64>,
    seconds: f64,
) -> Option<(&'static str, u32)> {
    let over = |name, limit: Option<u32>, used: f64| {
        limit.filter(|most| used > f64::from(*most)).map(|most| (name, most))
    };
    over("processes", limits.processes, processes as f64)
        .or_else(|| over("memory_mb", limits.memory_mb, memory_kb.unwrap_or(0) as f64 / 1024.0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_for_all_processes_together() {
        let limits = Limits::parse("memory_mb=10,cpu_seconds=2,processes=3").expect("limits");
        let judge = |processes, kb, seconds| judge(limits, processes, Some(kb), seconds);
        assert_eq!(judge(3, 10 * 1024, 1.99), None);
        assert_eq!(judge(4, 0, 0.0), Some(("processes", 3)));
        assert_eq!(judge(1, 10 * 1024 + 1, 0.0), Some(("memory_mb", 10)));
        assert_eq!(judge(1, 0, 2.01), Some(("cpu_seconds", 2)));
        assert_eq!(super::judge(Limits::default(), 9, Some(u64::MAX), 99.0), None);
    }
}
