//! Waits for a command, and for everything that it leaves behind.

use std::sync::{Mutex, PoisonError};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};

use super::{tree, watch};

/// The command's process group, while its number is certainly still the command's.
#[derive(Debug)]
pub(super) struct Group(Option<Pid>);

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Exit(i32),
    Signal(i32),
}

impl Group {
    pub(super) fn of(pid: u32) -> Self {
        Self(Some(Pid::from_raw(pid.cast_signed())))
    }

    /// Sends a signal to every process of the group, if there is one yet.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // A group that has just ended is what was wanted.
            let _ = killpg(pid, signal);
        }
    }
}

/// Makes this process the parent of whatever its descendants leave behind.
pub(super) fn adopt_orphans() -> rustix::io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
}

/// Waits for the command, then kills and reaps all that is left of it.
pub(super) fn wait(pid: u32, group: &Mutex<Group>) -> nix::Result<End> {
    let command = Pid::from_raw(pid.cast_signed());
    loop {
        // Looks without reaping: as long as the command is a zombie, its number is not given away,
        // and signals to its group reach nobody else.
        let seen = retry(|| waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT))?;
        match seen.pid() {
            Some(seen) if seen == command => break,
            Some(orphan) => drop(waitpid(orphan, Some(WaitPidFlag::WNOHANG))),
            None => {}
        }
    }
    let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
    group.signal(Signal::SIGKILL);
    group.0 = None;
    drop(group);
    let status = retry(|| waitpid(command, None))?;
    let end = if let WaitStatus::Signaled(_, signal, _) = status {
        End::Signal(signal as i32)
    } else if let WaitStatus::Exited(_, code) = status {
        End::Exit(code)
    } else {
        return Err(Errno::ECHILD);
    };
    clear();
    Ok(end)
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Kills and reaps descendants until there is none.
fn clear() {
    loop {
        match retry(|| waitpid(None, Some(WaitPidFlag::WNOHANG))) {
            Err(_) => return,
            Ok(WaitStatus::StillAlive) => {
                watch::end(tree::descendants);
                if retry(|| waitpid(None, None)).is_err() {
                    return;
                }
            }
            Ok(_) => {}
        }
    }
}
