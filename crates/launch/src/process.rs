//! Child processes that do not outlive the test process, and finding the programs to start.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{LazyLock, mpsc};

use anyhow::Context;
use rustix::process::{Pid, Signal};

/// Log lines worth showing when a program failed.
const TAIL_LINES: usize = 40;

/// A command for `program` whose process the kernel kills when the process that started it dies.
///
/// It works through `setpriv`, which replaces itself with the program, so the process id is the
/// program's. Elsewhere than on Linux only `Drop` ends the children.
pub fn bound_command(program: impl AsRef<OsStr>) -> Command {
    static CAN_BIND: LazyLock<bool> = LazyLock::new(|| {
        Command::new("setpriv")
            .arg("--help")
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("--pdeathsig"))
    });
    if !*CAN_BIND {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

struct Request {
    command: Command,
    reply: mpsc::SyncSender<io::Result<Child>>,
}

/// Starts `command` from a thread that lives as long as the test process.
///
/// The kernel counts the death of the *thread* that started a child as the parent's death, and the
/// threads of tests and runtimes end early.
pub fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: LazyLock<io::Result<mpsc::SyncSender<Request>>> = LazyLock::new(|| {
        let (requests, inbox) = mpsc::sync_channel::<Request>(1);
        std::thread::Builder::new().name("testkit-spawner".to_owned()).spawn(move || {
            while let Ok(mut request) = inbox.recv() {
                // A caller that is gone has dropped its receiver; nobody then wants the child.
                if let Err(mpsc::SendError(Ok(mut child))) =
                    request.reply.send(request.command.spawn())
                {
                    let _ = child.kill();
                }
            }
        })?;
        Ok(requests)
    });
    let gone = || io::Error::other("the spawning thread is gone");
    let requests = SPAWNER.as_ref().map_err(|error| io::Error::other(error.to_string()))?;
    let (reply, answer) = mpsc::sync_channel(1);
    requests.send(Request { command, reply }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// Sends `signal` to a child that has not been waited for, so that its id is still its own.
pub fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_child(child);
    rustix::process::kill_process(pid, signal)
        .with_context(|| format!("failed to signal process {}", child.id()))
}

/// A process with the time it started at, so that a reused id is not mistaken for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    pid: u32,
    started: String,
}

impl Stray {
    /// All descendants of a process that are alive now; none where there is no `/proc`.
    pub fn descendants_of(pid: u32) -> Vec<Self> {
        let mut found = Vec::new();
        let mut pending = children_of(pid);
        while let Some(pid) = pending.pop() {
            pending.extend(children_of(pid));
            found.extend(start_time(pid).map(|started| Self { pid, started }));
        }
        found
    }

    /// Kills the process if it is still the one that was seen.
    pub fn kill(&self) {
        let same = start_time(self.pid).is_some_and(|started| started == self.started);
        if let (true, Some(pid)) = (same, Pid::from_raw(self.pid as i32)) {
            // It may have ended in between.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|children| {
            children.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Field 22 of `/proc/<pid>/stat`, counted after the name, which may contain anything.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}

/// The file of this name in a folder of the `PATH`.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The folder that `make tools` installs into.
pub fn tools_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools")
}

/// The folder of the build profile, `target/debug`, derived from where the test executable lies.
pub fn profile_dir() -> anyhow::Result<PathBuf> {
    let executable = std::env::current_exe().context("failed to find the test executable")?;
    let deps = executable.parent().and_then(Path::parent);
    Ok(deps.context("the test executable lies outside a target folder")?.to_owned())
}

/// The last lines of a log, for the message of an error.
pub fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
}
