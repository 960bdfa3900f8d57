//! A PostgreSQL of the machine's own programs for as long as somebody needs it: one in a temporary
//! folder, for a test or for the benchmark.
//!
//! The two want different things of it (a test wants it quickly, the benchmark wants it durable), so
//! they give the settings; finding it, starting it and not leaving it behind is the same.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::process;

const START_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// PostgreSQL refuses to run as root; this is the unprivileged user `nobody`.
const UNPRIVILEGED: u32 = 65534;

/// Stands between us and the server: when the pipe on its standard input closes, because our process
/// ended in whatever way, it ends the server and removes the folder. A server that has only just been
/// started ignores the signal, hence the loop.
const GUARD: &str = r#"
template=$1 dir=$2
shift 2
trap : TERM INT HUP
[ -z "$template" ] || cp -a "$template" "$dir/data"
"$@" &
read -r _ || true
while kill -QUIT $! 2>/dev/null; do sleep 0.1; done
rm -rf "$dir"
"#;

/// The folder that has `initdb` and `postgres`.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// The first of: the `PATH`, the system's folders from the newest version on, the given ones.
    pub fn find(more: &[PathBuf]) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut of_system: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let version = entry.file_name().to_str()?.parse().ok()?;
                Some((version, entry.path().join("bin")))
            })
            .collect();
        of_system.sort();
        std::env::split_paths(&path)
            .chain(of_system.into_iter().rev().map(|(_version, folder)| folder))
            .chain(more.iter().cloned())
            .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
            .map(Self)
    }

    /// The same, and where `make test-tools` puts them; an error says how to get them.
    pub fn find_or_tell() -> anyhow::Result<Self> {
        Self::find(&[process::tools_dir().join("pg/bin")])
            .context("PostgreSQL (initdb, postgres) is missing: run `make test-tools`")
    }

    /// The server.
    pub fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }

    /// What `postgres --version` says.
    pub fn version(&self) -> anyhow::Result<String> {
        let text = output_of(Command::new(self.0.join("postgres")).arg("--version"))?;
        Ok(text.trim().to_owned())
    }

    /// Makes a data folder whose superuser is `jetmill`; its parent must be a [`temporary_folder`].
    pub fn initdb(&self, data: &Path, more: &[&str]) -> anyhow::Result<()> {
        let mut command = unprivileged(self.0.join("initdb"));
        command.arg("-D").arg(data).current_dir("/").args([
            "--username=jetmill",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        output_of(command.args(more)).map(drop)
    }
}

/// A running server on a Unix socket in its folder. It ends, and the folder goes, with this value or
/// with the process that holds it.
#[derive(Debug)]
pub struct Postgres {
    dir: PathBuf,
    /// Its standard input is the pipe that keeps the server alive.
    guard: Child,
}

impl Postgres {
    /// Starts one on an empty data folder, or on a copy of a template. Blocks until it answers.
    pub fn start(
        programs: &Programs,
        template: Option<&Path>,
        settings: &[&str],
    ) -> anyhow::Result<Self> {
        let dir = temporary_folder()?;
        if template.is_none() {
            programs.initdb(&dir.path().join("data"), &[])?;
        }
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.current_dir("/").args(["-c", GUARD, "sh"]);
        command.arg(template.unwrap_or(Path::new(""))).arg(dir.path());
        let server = unprivileged(programs.0.join("postgres"));
        command.arg(server.get_program()).args(server.get_args());
        command.arg("-D").arg(dir.path().join("data")).arg("-k").arg(dir.path());
        for setting in ["listen_addresses="].iter().chain(settings) {
            command.args(["-c", setting]);
        }
        // Ctrl-C is for us: it must stop last.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        let guard = command.stderr(File::create(&log)?).spawn().context("failed to start sh")?;
        // From here on the guard removes the folder.
        let server = Self { dir: dir.keep(), guard };
        let mut waited = Duration::ZERO;
        while !server.is_ready() {
            if waited >= START_WITHIN {
                let said = fs::read_to_string(&log).unwrap_or_default();
                anyhow::bail!("PostgreSQL did not start within {START_WITHIN:?}:\n{said}");
            }
            sleep(LOOK_EVERY);
            waited += LOOK_EVERY;
        }
        Ok(server)
    }

    /// The address of one of its databases; `postgres` is there from the start.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://jetmill@localhost/{database}?host={}", self.dir.display())
    }

    /// The folder of its data.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The process that is the parent of all others of the server.
    pub fn pid(&self) -> Option<u32> {
        self.lock_file()?.lines().next()?.trim().parse().ok()
    }

    fn is_ready(&self) -> bool {
        is_ready(&self.data_dir())
    }

    fn lock_file(&self) -> Option<String> {
        fs::read_to_string(self.dir.join("data/postmaster.pid")).ok()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The guard hears of it by the end of the pipe and needs nobody to wait for it; waiting makes
        // sure that the folder is gone when we are.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// The lock file of the server with this data says `ready` in its last line once it takes
/// connections.
pub fn is_ready(data: &Path) -> bool {
    fs::read_to_string(data.join("postmaster.pid"))
        .is_ok_and(|text| text.lines().nth(7).is_some_and(|status| status.trim() == "ready"))
}

/// A temporary folder that belongs to the user whom the server runs as.
pub fn temporary_folder() -> anyhow::Result<TempDir> {
    let dir = tempfile::Builder::new()
        .prefix("jetmill-pg-")
        .tempdir()
        .context("failed to create a folder for PostgreSQL")?;
    if rustix::process::geteuid().is_root() {
        chown(dir.path(), Some(UNPRIVILEGED), Some(UNPRIVILEGED))
            .context("failed to give a folder to the unprivileged user")?;
    }
    Ok(dir)
}

/// What stands before a command so that it does not run as root.
pub fn unprivileged_prefix() -> Vec<OsString> {
    if !rustix::process::geteuid().is_root() {
        return Vec::new();
    }
    let user = format!("--reuid={UNPRIVILEGED}");
    let group = format!("--regid={UNPRIVILEGED}");
    ["setpriv", &user, &group, "--clear-groups", "--"].map(Into::into).into()
}

/// A command that does not run as root.
fn unprivileged(program: PathBuf) -> Command {
    let mut words = unprivileged_prefix().into_iter().chain([program.into_os_string()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// What a command prints; that it failed is an error with what it complained of.
pub fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("failed to run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
