//! `jetmill attend`: the small process between a worker and the command of one attempt.
//!
//! It exists for two things that the worker itself could not have without unsafe code. The operating
//! system accounts CPU, memory and disk by parent and child: a parent of one command only knows what
//! exactly that command and its children used. And whatever the command leaves behind comes back to
//! it, as their subreaper, so that nothing outlives the attempt, not even when the worker is killed:
//! the end of the socket is the order to kill.
//!
//! Its standard input is one end of a socket pair. It reads one line, the `Order`, and later the
//! words `term` and `kill`; it writes `{"started":<pid>}` and at the end one `Report`. It knows
//! nothing of tasks, and no tokio: it is there for every single command and must start fast.

mod accounting;
mod reap;

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use reap::Group;

/// Longest order, in bytes: a spec of the largest size, escaped.
pub(crate) const ORDER_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    pub(crate) cwd: String,
    /// The whole environment: nothing is inherited.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) stdin: Option<String>,
}

/// The command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) started: i32,
}

/// What became of it, and what it and all its children used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) exit: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) memory_peak_mb: Option<f64>,
    pub(crate) disk_read_mb: Option<f64>,
    pub(crate) disk_write_mb: Option<f64>,
    pub(crate) error: Option<Fault>,
}

/// Why it could not be run at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// The whole process.
#[must_use]
pub fn main() -> ExitCode {
    match attend() {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to tell: the worker sees that the socket ended without a report.
        Err(_) => ExitCode::FAILURE,
    }
}

fn attend() -> io::Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut lines = BufReader::new(socket.try_clone()?);
    let mut line = String::new();
    lines.by_ref().take(ORDER_BYTES_MAX).read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line)?;
    let report = match start(&order) {
        Ok(child) => {
            say(&mut socket, &Started { started: child.id().cast_signed() })?;
            see_through(child, order.stdin, lines)
        }
        Err(fault) => Report { error: Some(fault), ..Report::default() },
    };
    say(&mut socket, &report)
}

fn say(socket: &mut UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    socket.write_all(&line)
}

fn start(order: &Order) -> Result<Child, Fault> {
    let fault = |code: &str, message: String| Fault { code: code.into(), message };
    let Some((program, arguments)) = order.argv.split_first() else {
        return Err(fault("command_not_found", "the command is empty".into()));
    };
    if !Path::new(&order.cwd).is_dir() {
        let message = format!("the working directory {:?} is not there", order.cwd);
        return Err(fault("cwd_not_found", message));
    }
    reap::adopt_orphans()
        .map_err(|e| fault("cannot_start", format!("cannot become subreaper: {e}")))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&order.cwd)
        .env_clear()
        .envs(&order.env)
        .stdin(if order.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .process_group(0);
    command.spawn().map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            let path = order.env.get("PATH").map_or("", String::as_str);
            let hint = "install it on the worker, or name a queue whose workers have it";
            fault(
                "command_not_found",
                format!("there is no program {program:?} on PATH {path:?}: {hint}"),
            )
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            fault("not_executable", format!("the program {program:?} may not be executed"))
        } else {
            fault("cannot_start", format!("the program {program:?} could not be started: {error}"))
        }
    })
}

/// Feeds the command, lets it be ended from outside, and waits until nothing of it is left.
fn see_through(mut child: Child, stdin: Option<String>, lines: BufReader<UnixStream>) -> Report {
    let before = accounting::disk();
    let group = Arc::new(Mutex::new(Group::of(child.id())));
    let stops = group.clone();
    thread::spawn(move || obey(lines, &stops));
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // A command that does not read its input is no error.
        thread::spawn(move || pipe.write_all(text.as_bytes()));
    }
    let mut report = Report::default();
    match reap::wait(child.id(), &group) {
        Ok(reap::End::Exit(code)) => report.exit = Some(code),
        Ok(reap::End::Signal(signal)) => report.signal = Some(signal),
        Err(error) => {
            let message = format!("the command could not be waited for: {error}");
            report.error = Some(Fault { code: "cannot_wait".into(), message });
        }
    }
    accounting::fill(&mut report, before);
    report
}

/// Ends the command as the worker says; the end of the socket says `kill`.
fn obey(mut lines: BufReader<UnixStream>, group: &Mutex<Group>) {
    let signal = |signal| group.lock().unwrap_or_else(PoisonError::into_inner).signal(signal);
    let mut line = String::new();
    loop {
        line.clear();
        match lines.read_line(&mut line) {
            Ok(read) if read > 0 && line.trim() == "term" => signal(Signal::SIGTERM),
            Ok(read) if read > 0 && line.trim() != "kill" => {}
            Ok(read) => {
                signal(Signal::SIGKILL);
                if read == 0 {
                    return;
                }
            }
            Err(_) => return signal(Signal::SIGKILL),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
