//! `jetmill attend`: the small process between a worker and the command of one attempt.
//!
//! It exists for two things that the worker itself could not have without unsafe code. The operating
//! system accounts CPU, memory and disk by parent and child: a parent of one command only knows what
//! exactly that command and its children used. And whatever the command leaves behind comes back to
//! it, as their subreaper, so that nothing outlives the attempt, not even when the worker is killed:
//! the end of the socket is the order to kill. The attempt's own folder is removed here too.
//!
//! Its standard input is one end of a socket pair. It reads one line, the `Order`, and later the
//! words `term` and `kill`; it writes what it has to say (`Said`), a line each: that the command runs,
//! now and then what it has used so far, and at the end one report. It knows nothing of tasks, and no
//! tokio: it is there for every single command and must start fast.

mod accounting;
mod folder;
pub mod limits;
pub(crate) mod oom;
mod reap;
mod tree;
mod watch;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use common::limits::OBJECT_BYTES_MAX;
use nix::{
    sys::signal::Signal,
    unistd::{dup2_stderr, dup2_stdout},
};
use serde::{Deserialize, Serialize};

use crate::program::{self, Missing};
pub(crate) use accounting::Used;
use limits::Limits;
use reap::Group;
use watch::{Tell, Watch};

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
    /// How often it is to be said what was used so far; zero for never.
    pub(crate) measure_every: Duration,
    /// A folder of this attempt alone, which goes with it.
    pub(crate) folder: Option<String>,
}

/// What the attendant has to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// The command runs, as this process.
    Started(i32),
    /// What it and all its children have used so far.
    Used(Used),
    /// What became of it.
    Report(Box<Report>),
}

/// What became of it, and what it and all its children used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) exit: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) used: Used,
    pub(crate) error: Option<Fault>,
    /// The limit that ended it.
    pub(crate) exceeded: Option<Fault>,
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
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut lines = BufReader::new(socket.try_clone()?);
    let mut line = String::new();
    lines.by_ref().take(ORDER_BYTES_MAX).read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line)?;
    let socket = Arc::new(Mutex::new(socket));
    let own = order.folder.clone();
    let report = match start(&order) {
        Ok(child) => {
            // A worker that is gone has closed the socket, and that ends the command.
            let _ = say(&socket, &Said::Started(child.id().cast_signed()));
            see_through(child, order, lines, &socket)
        }
        Err(fault) => Report { error: Some(fault), ..Report::default() },
    };
    let said = say(&socket, &Said::Report(Box::new(report)));
    // Nobody waits for this, and a worker that is gone has not done it.
    own.map_or(Ok(()), |own| folder::remove(Path::new(&own))).and(said)
}

fn say(socket: &Mutex<UnixStream>, what: &Said) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    socket.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
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
    let child = oom::first(|| command(order, name, &file).spawn()).map_err(|e| {
        fault("cannot_start", format!("the program {name:?} could not be started: {e}"))
    })?;
    // Where it cannot, the output ends with this process.
    let _ = let_go_of_output();
    Ok(child)
}

/// Leaves the output to the command alone: it ends with the last of its processes.
fn let_go_of_output() -> io::Result<()> {
    let nowhere = File::options().write(true).open("/dev/null")?;
    dup2_stdout(&nowhere)?;
    Ok(dup2_stderr(&nowhere)?)
}

/// The command itself, or the step that sets its limits and then becomes it.
fn command(order: &Order, name: &str, file: &Path) -> Command {
    let arguments = order.argv.iter().skip(1);
    let mut command = if order.limits.are_of_the_system() {
        let limits = serde_json::to_string(&order.limits).unwrap_or_default();
        let mut command = Command::new(&order.executable);
        command.args(["become", &limits]).arg(file).arg(name);
        command.env_clear().envs(order.env.iter().map(|(name, value)| (limits::held(name), value)));
        command
    } else {
        let mut command = Command::new(file);
        command.arg0(name).env_clear().envs(&order.env);
        command
    };
    command
        .args(arguments)
        .current_dir(&order.cwd)
        .stdin(if order.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .process_group(0)
        // Makes it a fork: a child that shares this process's memory until it executes would be
        // counted as having had all of that.
        .gid(rustix::process::getgid().as_raw());
    command
}

/// Feeds the command, lets it be ended from outside, and waits until nothing of it is left.
fn see_through(
    mut child: Child,
    order: Order,
    lines: BufReader<UnixStream>,
    socket: &Arc<Mutex<UnixStream>>,
) -> Report {
    let before = accounting::disk();
    let kills = oom::kills();
    let tell = Tell { every: order.measure_every, socket: socket.clone(), before };
    let watch = Watch::start(order.limits, tell);
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
    let seen = watch.finish();
    report.used = accounting::all(before, seen.memory, seen.lost_seconds);
    let enforced = match report.signal {
        Some(signal) if signal == Signal::SIGXCPU as i32 => {
            order.limits.cpu_seconds.map(|most| ("cpu_seconds", most))
        }
        Some(signal) if signal == Signal::SIGXFSZ as i32 => {
            order.limits.file_mb.map(|most| ("file_mb", most))
        }
        _ => None,
    };
    report.exceeded = seen.reached.or(enforced).map(|(name, most)| limits::reached(name, most));
    if report.exceeded.is_none() {
        report.exceeded = oom::fault(&report, kills, oom::kills());
    }
    report
}

/// Ends the command as the worker says; the end of the socket says `kill`. What has left the
/// command's group is asked by nobody, and is killed with the rest: it is still below this process.
fn obey(mut lines: BufReader<UnixStream>, group: &Mutex<Group>) {
    let signal = |signal| group.lock().unwrap_or_else(PoisonError::into_inner).signal(signal);
    let kill = || {
        signal(Signal::SIGKILL);
        watch::end(tree::descendants);
    };
    let mut line = String::new();
    loop {
        line.clear();
        match lines.read_line(&mut line) {
            Ok(read) if read > 0 && line.trim() == "term" => signal(Signal::SIGTERM),
            Ok(read) if read > 0 && line.trim() != "kill" => {}
            Ok(read) => {
                kill();
                if read == 0 {
                    return;
                }
            }
            Err(_) => return kill(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
