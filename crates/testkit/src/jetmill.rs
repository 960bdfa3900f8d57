//! The `jetmill` program as its users run it: as processes, killed and restarted.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use tempfile::TempDir;

use launch::eventually;
use launch::process::{self, Stray};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const CLI_TIMEOUT: Duration = Duration::from_mins(1);

/// One running `jetmill` process, with its output in files.
///
/// The program is `JETMILL_BIN`, else the one that was built beside the tests. When this is
/// dropped the process and all its descendants are killed; if a test is failing by then, the end
/// of the program's standard error is shown.
#[derive(Debug)]
pub struct Jetmill {
    child: Child,
    logs: TempDir,
    strays: Vec<Stray>,
}

/// What a command that ran to its end left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Jetmill {
    /// Configures `jetmill dev`: the whole platform in one process.
    #[must_use]
    pub fn dev() -> DevBuilder {
        DevBuilder::default()
    }

    /// Starts `jetmill` with these arguments and variables, and does not wait for anything.
    pub fn spawn<A: AsRef<OsStr>>(args: &[A], env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let logs = tempfile::Builder::new()
            .prefix("jetmill-logs-")
            .tempdir()
            .context("failed to create a folder for logs")?;
        let mut command = process::bound_command(binary()?);
        command.args(args).envs(env.iter().copied()).stdin(Stdio::null());
        command.stdout(File::create(logs.path().join("stdout"))?);
        command.stderr(File::create(logs.path().join("stderr"))?);
        let child = process::spawn(command).context("failed to start jetmill")?;
        Ok(Self { child, logs, strays: Vec::new() })
    }

    /// Runs one command against a NATS server to its end, for at most a minute.
    pub async fn cli<A: AsRef<OsStr>>(nats_url: &str, args: &[A]) -> anyhow::Result<Output> {
        let mut command = tokio::process::Command::new(binary()?);
        command.args(args).env("JETMILL_NATS_URL", nats_url);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(CLI_TIMEOUT, command.output())
            .await
            .with_context(|| format!("a jetmill command took longer than {CLI_TIMEOUT:?}"))?
            .context("failed to run jetmill")?;
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The program, so that tasks of a test can find it beside them.
    pub fn program() -> anyhow::Result<PathBuf> {
        binary()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process has written to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.log("stdout")
    }

    /// What the process has written to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.log("stderr")
    }

    /// Ends the process with SIGKILL, as a crash would, and waits for its end.
    ///
    /// Its children are left to what the kernel does with them, which is what the test wants to
    /// see; they are killed when this is dropped.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.remember_strays();
        self.child.kill().context("failed to kill jetmill")?;
        self.child.wait().context("failed to wait for jetmill")?;
        Ok(())
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&mut self) -> anyhow::Result<()> {
        self.remember_strays();
        process::signal(&self.child, Signal::INT)
    }

    /// Sends SIGTERM, as a cluster does.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.remember_strays();
        process::signal(&self.child, Signal::TERM)
    }

    /// Waits until the process has ended.
    pub async fn wait_exit(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        let child = &mut self.child;
        eventually("the end of jetmill", timeout, async || child.try_wait().transpose())
            .await
            .with_context(|| process::tail(&self.logs.path().join("stderr")))?
            .context("failed to wait for jetmill")
    }

    fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.logs.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn remember_strays(&mut self) {
        for stray in Stray::descendants_of(self.child.id()) {
            if !self.strays.contains(&stray) {
                self.strays.push(stray);
            }
        }
    }
}

impl Drop for Jetmill {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let tail = process::tail(&self.logs.path().join("stderr"));
            let _ = writeln!(std::io::stderr(), "--- the end of jetmill's standard error\n{tail}");
        }
        // A process that was waited for may have given its id to another by now.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.kill9();
        }
        self.strays.iter().for_each(Stray::kill);
    }
}

/// Where the parts of `jetmill dev` answer, as it says in its first line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The NATS server.
    pub nats: String,
    /// The gRPC API.
    pub grpc: String,
    /// The HTTP API and the pages.
    pub http: String,
    /// The folder that holds all state.
    pub data_dir: PathBuf,
}

impl Addresses {
    fn parse(line: &str) -> anyhow::Result<Self> {
        let ready: serde_json::Value = serde_json::from_str(line)
            .with_context(|| format!("the first line of output is not JSON: {line}"))?;
        let field = |name: &str| {
            let value = ready.get(name).and_then(serde_json::Value::as_str);
            value.map(str::to_owned).with_context(|| format!("`{name}` is missing in {line}"))
        };
        Ok(Self {
            nats: field("nats")?,
            grpc: field("grpc")?,
            http: field("http")?,
            data_dir: field("data_dir")?.into(),
        })
    }
}

/// How `jetmill dev` is started.
#[derive(Debug, Clone, Default)]
pub struct DevBuilder {
    data_dir: Option<PathBuf>,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
}

impl DevBuilder {
    /// Keeps the state in this folder instead of a temporary one.
    #[must_use]
    pub fn data_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(folder.into());
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets a variable of the process's environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts the platform on random ports; returns once it says that it is ready.
    pub async fn start(self) -> anyhow::Result<Dev> {
        let temporary = tempfile::Builder::new()
            .prefix("jetmill-data-")
            .tempdir()
            .context("failed to create a data folder")?;
        let data_dir = self.data_dir.clone().unwrap_or_else(|| temporary.path().join("data"));
        let (process, addresses) = self.launch(&data_dir).await?;
        Ok(Dev { process, addresses, settings: self, data_dir, _temporary: temporary })
    }

    async fn launch(&self, data_dir: &Path) -> anyhow::Result<(Jetmill, Addresses)> {
        let mut args: Vec<OsString> = vec!["dev".into(), "--data-dir".into(), data_dir.into()];
        let fixed = ["--nats-port", "0", "--grpc-port", "0", "--http-port", "0", "--json"];
        args.extend(fixed.map(OsString::from));
        args.extend(self.args.iter().cloned());
        let env: Vec<(&str, &str)> =
            self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut process = Jetmill::spawn(&args, &env)?;
        let line = eventually("jetmill dev to be ready", START_TIMEOUT, async || {
            if let Some((line, _rest)) = process.stdout().split_once('\n') {
                return Some(Ok(line.to_owned()));
            }
            match process.child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(Err(anyhow::anyhow!("jetmill dev ended with {status}"))),
                Err(error) => Some(Err(error.into())),
            }
        })
        .await
        .and_then(|line| line)
        .with_context(|| process::tail(&process.logs.path().join("stderr")))?;
        Ok((process, Addresses::parse(&line)?))
    }
}

/// A running `jetmill dev`.
#[derive(Debug)]
pub struct Dev {
    // Dropped before the folder that it writes to.
    process: Jetmill,
    addresses: Addresses,
    settings: DevBuilder,
    data_dir: PathBuf,
    _temporary: TempDir,
}

impl Dev {
    /// Where its parts answer; a restart changes the ports.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The process, to look at its output.
    #[must_use]
    pub fn process(&self) -> &Jetmill {
        &self.process
    }

    /// Runs one command against this platform to its end, for at most a minute.
    pub async fn cli<A: AsRef<OsStr>>(&self, args: &[A]) -> anyhow::Result<Output> {
        Jetmill::cli(&self.addresses.nats, args).await
    }

    /// Ends the process with SIGKILL; see [`Jetmill::kill9`].
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.process.kill9()
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&mut self) -> anyhow::Result<()> {
        self.process.interrupt()
    }

    /// Sends SIGTERM, as a cluster does.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.process.terminate()
    }

    /// Waits until the process has ended.
    pub async fn wait_exit(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        self.process.wait_exit(timeout).await
    }

    /// Starts the platform again on the same data, after killing it if it still runs.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        if matches!(self.process.child.try_wait(), Ok(None)) {
            self.process.kill9()?;
        }
        let (process, addresses) = self.settings.launch(&self.data_dir).await?;
        self.process = process;
        self.addresses = addresses;
        Ok(())
    }
}

fn binary() -> anyhow::Result<PathBuf> {
    let file = match std::env::var_os("JETMILL_BIN") {
        Some(named) => PathBuf::from(named),
        None => process::profile_dir()?.join("jetmill"),
    };
    anyhow::ensure!(file.is_file(), "{} is missing: run `cargo build`", file.display());
    Ok(file)
}
