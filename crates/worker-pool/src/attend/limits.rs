//! What a command may use, and `jetmill become`, the step between an attendant and its command.
//!
//! A process takes its own limits along when it becomes another program: so the limits are set
//! without unsafe code, and the attendant has none. What the operating system counts by process
//! (files, the size of one) it also enforces; memory, processor time and processes of the whole
//! tree are watched by the attendant (`watch`), and what is set here for them is the wall behind.

use std::{
    env, io,
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use common::{limits, pb};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use serde::{Deserialize, Serialize};

use super::Fault;

/// The exit code of shells for a program that cannot be executed.
const CANNOT_EXECUTE: u8 = 126;
/// What stands before the name of each variable of the command until its limits are set.
const HELD: &str = "JETMILL_HELD_";
const MIB: rlim_t = 1024 * 1024;

/// What a command and everything that it starts may use; `None` is no limit of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all processes together, in MiB.
    pub memory_mb: Option<u32>,
    /// Processor time of all processes together.
    pub cpu_seconds: Option<u32>,
    /// Files that one process has open at once.
    pub open_files: Option<u32>,
    /// Processes at once.
    pub processes: Option<u32>,
    /// Largest file that is written, in MiB.
    pub file_mb: Option<u32>,
}

impl Limits {
    /// Names and values, in the order of the messages.
    pub(crate) fn fields(self) -> [(&'static str, Option<u32>); 5] {
        [
            ("memory_mb", self.memory_mb),
            ("cpu_seconds", self.cpu_seconds),
            ("open_files", self.open_files),
            ("processes", self.processes),
            ("file_mb", self.file_mb),
        ]
    }

    fn set(&mut self, name: &str, value: u32) -> bool {
        let field = match name {
            "memory_mb" => &mut self.memory_mb,
            "cpu_seconds" => &mut self.cpu_seconds,
            "open_files" => &mut self.open_files,
            "processes" => &mut self.processes,
            "file_mb" => &mut self.file_mb,
            _ => return false,
        };
        *field = Some(value);
        true
    }

    /// Reads `memory_mb=512,processes=64`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let names = Self::default().fields().map(|(name, _)| name).join(", ");
        let expected = || format!("must be limits such as memory_mb=512,processes=64, of {names}");
        let mut limits = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(expected)?;
            let value = value.trim().parse::<u32>().ok().filter(|value| *value > 0);
            if !limits.set(name.trim(), value.ok_or_else(expected)?) {
                return Err(expected());
            }
        }
        Ok(limits)
    }

    /// The limits of a command: what its task asks for, else the defaults, and never more than `most`.
    /// Processes always have one: they are what a whole machine runs out of first.
    pub(crate) fn of_task(self, most: Self, asked: Option<&pb::Limits>) -> Result<Self, String> {
        let asked = asked.map(Self::from).unwrap_or_default();
        let mut given = Self::default();
        let processes = self.processes.unwrap_or(limits::COMMAND_PROCESSES);
        let defaults = Self { processes: Some(processes), ..self };
        let all = asked.fields().into_iter().zip(defaults.fields()).zip(most.fields());
        for (((name, asked), (_, default)), (_, most)) in all {
            if let (Some(asked), Some(most)) = (asked, most)
                && asked > most
            {
                return Err(format!("limits.{name} is {asked}, and this worker allows {most}"));
            }
            let value = asked.or(default).map_or(most, |n| Some(n.min(most.unwrap_or(n))));
            if let Some(value) = value {
                given.set(name, value);
            }
        }
        Ok(given)
    }

    /// As people write them; empty when there are none.
    pub(crate) fn text(self) -> String {
        let said = self.fields().into_iter();
        let said = said.filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        said.collect::<Vec<_>>().join(", ")
    }

    /// Whether there is one that the operating system enforces.
    pub(super) fn are_of_the_system(self) -> bool {
        Self { processes: None, ..self } != Self::default()
    }

    /// Sets what the operating system enforces, for this process and whatever it becomes.
    fn apply(self) -> nix::Result<()> {
        // A core dump would be a file that nobody asked for.
        lower(Resource::RLIMIT_CORE, 0, 0)?;
        if let Some(mb) = self.memory_mb {
            // Above the limit itself, so that the attendant sees the whole tree reach it first.
            let most = rlim_t::from(mb) * MIB * 5 / 4 + 64 * MIB;
            lower(Resource::RLIMIT_DATA, most, most)?;
        }
        if let Some(seconds) = self.cpu_seconds {
            lower(Resource::RLIMIT_CPU, rlim_t::from(seconds) + 1, rlim_t::from(seconds) + 2)?;
        }
        if let Some(files) = self.open_files {
            lower(Resource::RLIMIT_NOFILE, files.into(), files.into())?;
        }
        if let Some(mb) = self.file_mb {
            lower(Resource::RLIMIT_FSIZE, rlim_t::from(mb) * MIB, rlim_t::from(mb) * MIB)?;
        }
        Ok(())
    }
}

impl From<&pb::Limits> for Limits {
    fn from(limits: &pb::Limits) -> Self {
        let &pb::Limits { memory_mb, cpu_seconds, open_files, processes, file_mb } = limits;
        Self { memory_mb, cpu_seconds, open_files, processes, file_mb }
    }
}

impl From<Limits> for pb::Limits {
    fn from(limits: Limits) -> Self {
        let Limits { memory_mb, cpu_seconds, open_files, processes, file_mb } = limits;
        Self { memory_mb, cpu_seconds, open_files, processes, file_mb }
    }
}

/// Nobody may raise what was set before.
fn lower(resource: Resource, soft: rlim_t, hard: rlim_t) -> nix::Result<()> {
    let (_, most) = getrlimit(resource)?;
    setrlimit(resource, soft.min(most), hard.min(most))
}

/// The name of a variable that `jetmill become` hands on and does not obey: under its own name it could
/// run a program of the task's (`LD_PRELOAD`) before there are limits.
pub(super) fn held(name: &str) -> String {
    format!("{HELD}{name}")
}

/// The whole process `jetmill become <limits> <file> <name> <argument>…`: it becomes the command.
#[must_use]
pub fn main() -> ExitCode {
    let error = become_command(env::args().skip(2));
    // Where the command's own complaints go.
    let _ = writeln!(io::stderr(), "jetmill: the command could not be started: {error}");
    ExitCode::from(CANNOT_EXECUTE)
}

/// Comes back only with an error.
pub(crate) fn become_command(mut arguments: impl Iterator<Item = String>) -> io::Error {
    let (Some(limits), Some(file), Some(name)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return io::Error::other("it takes limits, a file and a name");
    };
    let limits = match serde_json::from_str::<Limits>(&limits) {
        Ok(limits) => limits,
        Err(error) => return error.into(),
    };
    let env = env::vars_os()
        .filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(HELD)?.to_owned(), value)));
    match limits.apply() {
        Ok(()) => Command::new(file).arg0(name).args(arguments).env_clear().envs(env).exec(),
        Err(error) => io::Error::other(format!("its limits cannot be set: {error}")),
    }
}

/// What a limit that was reached says about the end of a command.
pub(crate) fn reached(name: &str, most: u32) -> Fault {
    let (code, what) = match name {
        "memory_mb" => ("memory_limit", format!("{most} MiB of memory")),
        "cpu_seconds" => ("cpu_limit", format!("{most} s of processor time")),
        "processes" => ("process_limit", format!("{most} processes at once")),
        "file_mb" => ("file_limit", format!("{most} MiB in one file")),
        other => ("limit", format!("{most} {other}")),
    };
    let message =
        format!("the command and what it started took more than {what}; limits.{name} sets this");
    Fault { code: code.into(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> Limits {
        Limits::parse(text).expect("limits")
    }

    #[test]
    fn limits_are_read_as_they_are_written() {
        let read = limits("memory_mb=512, processes=64");
        assert_eq!((read.memory_mb, read.processes, read.file_mb), (Some(512), Some(64), None));
        assert_eq!(read.text(), "memory_mb 512, processes 64");
        assert_eq!(limits(""), Limits::default());
        for bad in ["memory_mb", "memory_mb=0", "memory_mb=x", "disk=1", "=1"] {
            assert!(Limits::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_task_gets_what_it_asks_for_up_to_what_the_worker_allows() {
        let (default, most) =
            (limits("memory_mb=100,processes=10"), limits("processes=5,file_mb=1"));
        let of = |asked: &str| {
            let asked = pb::Limits::from(limits(asked));
            default.of_task(most, Some(&asked)).map(Limits::text)
        };
        assert_eq!(of("").as_deref(), Ok("memory_mb 100, processes 5, file_mb 1"));
        let asked = "memory_mb=999,processes=2,open_files=7";
        let expected = "memory_mb 999, open_files 7, processes 2, file_mb 1";
        assert_eq!(of(asked).as_deref(), Ok(expected));
        let refused = of("processes=6").expect_err("more than there is");
        assert!(refused.contains("limits.processes is 6") && refused.contains("allows 5"));
        assert_eq!(default.of_task(Limits::default(), None), Ok(default));
        let unsaid = Limits::default().of_task(Limits::default(), None);
        assert_eq!(unsaid.map(Limits::text).as_deref(), Ok("processes 1024"));
        let allowed = Limits::default().of_task(limits("processes=64"), None);
        assert_eq!(allowed.map(Limits::text).as_deref(), Ok("processes 64"));
    }
}
