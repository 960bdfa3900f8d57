//! Which executors, commands, folders, hosts and times the role of a task may use: the worker's
//! configuration, as data.
//!
//! What a role does not mention, it does not restrict. A role bounds what a task asks the worker to
//! do, by the exact name of a file, a folder or a host; it does not look into a command that it
//! allows: who may run `sh`, `make` or `git` may run what these can run.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use common::task::TaskSpec;
use jetmill_sdk::worker::AttemptError;

use crate::{docker::access::Network, http::access::Host, program};

/// The role of tasks that name none, where it is configured.
pub const DEFAULT: &str = "default";

/// What the tasks of a role may use. Empty and `None` restrict nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Words of executors.
    pub executors: Vec<String>,
    /// Programs, by name or path, and the arguments that must follow: `cargo test`.
    pub commands: Vec<String>,
    /// Variables that a task may set for one of `commands`; where there are commands and no
    /// variables, none: too many of them make a program run another one, each its own.
    pub env: Vec<String>,
    /// Folders in which, and in whose folders, commands may start and containers have mounts.
    pub paths: Vec<PathBuf>,
    /// Secrets, as tasks refer to them: `env:NAME`, `file:NAME`. `None` is every one, and an empty
    /// list none.
    pub secrets: Option<Vec<String>>,
    /// Hosts that may be asked.
    pub hosts: Vec<Host>,
    /// Images of containers, as tasks name them.
    pub images: Vec<String>,
    /// The most that its containers may have of a network.
    pub network: Option<Network>,
    /// Longest time of one attempt.
    pub max_timeout: Option<Duration>,
}

/// A command that is to be judged.
#[derive(Clone, Copy)]
pub(crate) struct Command<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) cwd: &'a Path,
    /// The names of the variables that the task gives it.
    pub(crate) env: &'a [&'a String],
}

/// The roles that a worker knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(pub Vec<Role>);

impl Roles {
    /// The role of a task; `None` where nothing is restricted.
    pub(crate) fn of(&self, spec: &TaskSpec) -> Result<Option<&Role>, AttemptError> {
        let named = spec.as_pb().role.as_str();
        let name = if named.is_empty() { DEFAULT } else { named };
        let role = self.0.iter().find(|role| role.name == name);
        if role.is_none() && !named.is_empty() {
            let known = list(self.0.iter().map(|role| &role.name));
            let message = format!("this worker knows no role {named:?}; it knows {known}");
            return Err(AttemptError::permanent("unknown_role", message));
        }
        Ok(role)
    }
}

fn list(items: impl Iterator<Item = impl Display>) -> String {
    let items = items.map(|item| item.to_string()).collect::<Vec<_>>();
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

impl Role {
    fn refuse(
        &self,
        code: &str,
        what: &str,
        allowed: impl Iterator<Item = impl Display>,
    ) -> AttemptError {
        let (name, allowed) = (&self.name, list(allowed));
        let message = format!("the role {name:?} does not allow {what}; it allows {allowed}");
        AttemptError::permanent(code, message)
    }

    /// Judges what every task says: its executor, and how long it may take.
    pub(crate) fn check(&self, spec: &TaskSpec) -> Result<(), AttemptError> {
        let word = spec.executor().word();
        if !self.executors.is_empty() && !self.executors.iter().any(|allowed| allowed == word) {
            let what = format!("the executor {word}");
            return Err(self.refuse("forbidden_executor", &what, self.executors.iter()));
        }
        let run = spec.timeouts().run;
        match self.max_timeout {
            Some(most) if run.is_none_or(|run| run > most) => {
                let asked = run.map_or("an attempt without a timeout".into(), |run| {
                    format!("an attempt of {run:?}")
                });
                let allowed = [format!("at most {most:?}, as timeouts.run")].into_iter();
                Err(self.refuse("timeout_exceeded", &asked, allowed))
            }
            _ => Ok(()),
        }
    }

    /// Judges a command; returns the file that is to be executed for it.
    ///
    /// That is the role's own file, not the one that the task names: what a task may write to is
    /// never executed, whatever it is linked to in between.
    pub(crate) fn check_command(
        &self,
        command: Command<'_>,
        worker_path: Option<&str>,
    ) -> Result<Option<PathBuf>, AttemptError> {
        if self.commands.is_empty() {
            return Ok(None);
        }
        let Command { argv, cwd, env } = command;
        if let Some(variable) = env.iter().find(|name| !self.env.contains(name)) {
            let what = format!("the variable {variable}, which may change what a command runs");
            return Err(self.refuse("forbidden_command", &what, self.env.iter()));
        }
        let what = format!("the command {:?}", argv.join(" "));
        let refused = || self.refuse("forbidden_command", &what, self.commands.iter());
        let (name, arguments) = argv.split_first().ok_or_else(refused)?;
        let Ok(file) = program::find(name, worker_path, cwd) else {
            let message = format!("there is no program {name:?} on this worker");
            return Err(AttemptError::permanent("command_not_found", message));
        };
        let rules = self.commands.iter().filter_map(|rule| {
            let mut words = rule.split_whitespace();
            let own = program::find(words.next()?, worker_path, Path::new("/")).ok()?;
            let words = words.collect::<Vec<_>>();
            let follow =
                words.len() <= arguments.len() && words.iter().zip(arguments).all(|(a, b)| a == b);
            (follow && is_same(&own, &file)).then_some(own)
        });
        rules.into_iter().next().map(Some).ok_or_else(refused)
    }

    /// Judges a reference to a secret.
    pub(crate) fn check_secret(&self, reference: &str) -> Result<(), AttemptError> {
        match &self.secrets {
            Some(allowed) if !allowed.iter().any(|one| one == reference) => {
                let what = format!("the secret {reference:?}");
                Err(self.refuse("forbidden_secret", &what, allowed.iter()))
            }
            _ => Ok(()),
        }
    }

    /// Judges a working directory; returns it without links and `..`.
    pub(crate) fn check_folder(&self, cwd: &str) -> Result<Option<PathBuf>, AttemptError> {
        if self.paths.is_empty() {
            return Ok(None);
        }
        let Ok(real) = fs::canonicalize(cwd) else {
            let message = format!("the working directory {cwd:?} is not there");
            return Err(AttemptError::permanent("cwd_not_found", message));
        };
        let what = format!("the working directory {cwd:?}");
        self.check_path(&what, &real).map(|()| Some(real))
    }

    /// Judges the source of a mount, which has no links and no `..` any more.
    pub(crate) fn check_mount(&self, source: &Path) -> Result<(), AttemptError> {
        self.check_path(&format!("the mount of {}", source.display()), source)
    }

    fn check_path(&self, what: &str, real: &Path) -> Result<(), AttemptError> {
        if self.paths.is_empty() || self.paths.iter().any(|folder| is_within(real, folder)) {
            return Ok(());
        }
        Err(self.refuse("forbidden_path", what, self.paths.iter().map(|path| path.display())))
    }

    /// Judges the image of a container.
    pub(crate) fn check_image(&self, image: &str) -> Result<(), AttemptError> {
        if self.images.is_empty() || self.images.iter().any(|allowed| allowed == image) {
            return Ok(());
        }
        Err(self.refuse("forbidden_image", &format!("the image {image}"), self.images.iter()))
    }

    /// Judges the network of a container.
    pub(crate) fn check_network(&self, asked: Network) -> Result<(), AttemptError> {
        match self.network {
            Some(most) if asked > most => {
                let what = format!("the network {asked}");
                Err(self.refuse("forbidden_network", &what, [most].iter()))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a path without links is a folder or in it, wherever the folder's own links lead.
pub(crate) fn is_within(real: &Path, folder: &Path) -> bool {
    fs::canonicalize(folder).is_ok_and(|folder| real.starts_with(folder))
}

/// The same file under the same name: one file may be many programs, by what it is called.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    one.file_name() == other.file_name() && real(one).is_some_and(|one| real(other) == Some(one))
}

#[cfg(test)]
mod tests;
