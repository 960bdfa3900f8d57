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
pub mod limits;
mod reap;
mod watch;

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

use common::{limits::OBJECT_BYTES_MAX, pb};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::program::{self, Missing};
use limits::Limits;
use reap::Group;
use watch::Watch;

/// Longest order, in bytes: the largest input as a text in a text, escaped twice, and the rest of a spec.
pub(crate) const ORDER_BYTES_MAX: u64 = 5 * OBJECT_BYTES_MAX as u64;

/// What is to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    pub(crate) cwd: String,
    /// The whole environment: nothing is inherited.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) stdin: Option<String>,
    /// The file to execute, where it is not to be looked for by the program's name.
    pub(crate) program: Option<String>,
    pub(crate) limits: Limits,
    /// The program `jetmill`, which sets the limits.
    pub(crate) executable: String,
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
    /// The limit that ended it.
    pub(crate) exceeded: Option<Fault>,
}

impl Report {
    /// The same as the log has it; `None` where nothing is known.
    pub(crate) fn usage(&self) -> Option<pb::ResourceUsage> {
        let usage = pb::ResourceUsage {
            cpu_seconds: self.cpu_seconds,
            memory_peak_mb: self.memory_peak_mb,
            disk_read_mb: self.disk_read_mb,
            disk_write_mb: self.disk_write_mb,
            ..pb::ResourceUsage::default()
        };
        (usage != pb::ResourceUsage::default()).then_some(usage)
    }
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
            see_through(child, order, lines)
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
    let Some(name) = order.argv.first() else {
        return Err(fault("command_not_found", "the command is empty".into()));
    };
    if !Path::new(&order.cwd).is_dir() {
        let message = format!("the working directory {:?} is not there", order.cwd);
        return Err(fault("cwd_not_found", message));
    }
    let path = order.env.get("PATH").map(String::as_str);
    let file = match &order.program {
        Some(file) => Ok(file.into()),
        None => program::find(name, path, Path::new(&order.cwd)),
    };
    let file = file.map_err(|missing| match missing {
        Missing::NotFound => {
            let path = path.unwrap_or_default();
            let hint = "install it on the worker, or name a queue whose workers have it";
            let message = format!("there is no program {name:?} on PATH {path:?}: {hint}");
            fault("command_not_found", message)
        }
        Missing::NotExecutable => {
            fault("not_executable", format!("the program {name:?} may not be executed"))
        }
    })?;
    reap::adopt_orphans()
        .map_err(|e| fault("cannot_start", format!("cannot become subreaper: {e}")))?;
    command(order, name, &file).spawn().map_err(|e| {
        fault("cannot_start", format!("the program {name:?} could not be started: {e}"))
    })
}

/// The command itself, or the step that sets its limits and then becomes it.
fn command(order: &Order, name: &str, file: &Path) -> Command {
    let arguments = order.argv.iter().skip(1);
    let mut command = if order.limits == Limits::default() {
        let mut command = Command::new(file);
        command.arg0(name);
        command
    } else {
        let limits = serde_json::to_string(&order.limits).unwrap_or_default();
        let mut command = Command::new(&order.executable);
        command.args(["become", &limits]).arg(file).arg(name);
        command
    };
    command
        .args(arguments)
        .current_dir(&order.cwd)
        .env_clear()
        .envs(&order.env)
        .stdin(if order.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .process_group(0);
    command
}

/// Feeds the command, lets it be ended from outside, and waits until nothing of it is left.
fn see_through(mut child: Child, order: Order, lines: BufReader<UnixStream>) -> Report {
    let watch = Watch::start(order.limits);
    let before = accounting::disk();
    let group = Arc::new(Mutex::new(Group::of(child.id())));
    let stops = group.clone();
    thread::spawn(move || obey(lines, &stops));
    if let (Some(text), Some(mut pipe)) = (order.stdin, child.stdin.take()) {
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
    let (reached, peak_kb) = watch.finish();
    // All processes together may have had more than the largest one.
    report.memory_peak_mb = report.memory_peak_mb.map(|mb| mb.max(peak_kb as f64 / 1024.0));
    let enforced = match report.signal {
        Some(signal) if signal == Signal::SIGXCPU as i32 => {
            order.limits.cpu_seconds.map(|most| ("cpu_seconds", most))
        }
        Some(signal) if signal == Signal::SIGXFSZ as i32 => {
            order.limits.file_mb.map(|most| ("file_mb", most))
        }
        _ => None,
    };
    report.exceeded = reached.or(enforced).map(|(name, most)| limits::reached(name, most));
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
