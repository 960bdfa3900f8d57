//! When the machine's memory ends: the kernel takes a command before the worker and the services
//! beside it, and what is known of that is said.

use std::fs;

use nix::sys::signal::Signal;

use super::{Fault, Report};

/// What a command has on its score when the kernel looks for a process to kill: as if it had half of
/// the machine's memory more. Less than the most there is, for those that are meant to go first.
const SCORE: i32 = 500;
const SCORE_FILE: &str = "/proc/self/oom_score_adj";
/// The code of a command that the kernel has killed for want of memory.
pub(crate) const OUT_OF_MEMORY: &str = "out_of_memory";

/// Starts something that the kernel takes first. A child begins with its parent's score, and everybody
/// may raise his own and take that back; where it is forbidden, all is as it was.
pub(super) fn first<T>(start: impl FnOnce() -> T) -> T {
    let own = score().filter(|own| *own < SCORE && set(SCORE));
    let started = start();
    own.map(set);
    started
}

fn score() -> Option<i32> {
    fs::read_to_string(SCORE_FILE).ok()?.trim().parse().ok()
}

fn set(score: i32) -> bool {
    fs::write(SCORE_FILE, score.to_string()).is_ok()
}

/// How many processes of this machine the kernel has killed for want of memory.
pub(super) fn kills() -> Option<u64> {
    kills_in(&fs::read_to_string("/proc/vmstat").ok()?)
}

fn kills_in(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// Why a command was killed, when the kernel has killed meanwhile: which processes those were, it tells
/// only to its own log. SIGKILL of the command itself counts, and of what a shell ran as its last.
pub(super) fn fault(report: &Report, before: Option<u64>, now: Option<u64>) -> Option<Fault> {
    const KILL: i32 = Signal::SIGKILL as i32;
    let was_killed = report.signal == Some(KILL) || report.exit == Some(128 + KILL);
    let message = "the command was killed, and the kernel has killed meanwhile since there was no \
        memory left: give it limits.memory_mb, or the worker fewer slots or more memory";
    (was_killed && before.zip(now).is_some_and(|(before, now)| now > before))
        .then(|| Fault { code: OUT_OF_MEMORY.into(), message: message.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_killed_while_the_kernel_killed_was_out_of_memory() {
        let ended = |exit, signal| Report { exit, signal, ..Report::default() };
        let (killed, last) = (ended(None, Some(9)), ended(Some(137), None));
        let is_out = |report: &Report, before, now| fault(report, before, now).is_some();
        assert!(is_out(&killed, Some(4), Some(5)) && is_out(&last, Some(4), Some(6)));
        assert!(!is_out(&killed, Some(5), Some(5)), "somebody else killed it");
        assert!(!is_out(&killed, None, Some(5)) && !is_out(&killed, Some(5), None));
        for other in [ended(None, Some(15)), ended(Some(9), None), ended(Some(0), None)] {
            assert!(!is_out(&other, Some(4), Some(5)), "{other:?}");
        }
    }

    #[test]
    fn the_kernel_says_how_often_it_killed() {
        assert_eq!(kills_in("pgfault 7\noom_kill_other 3\noom_kill 12\nx 1"), Some(12));
        assert_eq!(kills_in("pgfault 7\n"), None);
    }
}
