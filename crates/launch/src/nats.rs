//! A real `nats-server` with JetStream, of its user's own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use crate::eventually::wait_for;
use crate::process;

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A `nats-server` on a random port of the loopback, with JetStream in a temporary folder.
///
/// It ends, and its folder goes, when this is dropped. The program is `JETMILL_NATS_SERVER`, else
/// `.tools/bin/nats-server` of the workspace, else the first on the `PATH`.
#[derive(Debug)]
pub struct NatsServer {
    binary: PathBuf,
    settings: NatsServerBuilder,
    dir: TempDir,
    port: u16,
    child: Child,
}

/// How a [`NatsServer`] is configured beyond its folder and port.
#[derive(Debug, Clone, Default)]
pub struct NatsServerBuilder {
    jetstream: String,
    server: String,
    binary: Option<PathBuf>,
    store: Option<PathBuf>,
}

impl NatsServerBuilder {
    /// Syncs each write to the disk before it is acknowledged (`sync_interval: always`).
    #[must_use]
    pub fn sync_always(mut self) -> Self {
        self.jetstream.push_str("sync_interval: always\n");
        self
    }

    /// Adds lines to the server's configuration file, for instance `max_payload: 64KB`.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Self {
        self.server.push_str(lines);
        self.server.push('\n');
        self
    }

    /// Runs this program instead of the one that is found.
    #[must_use]
    pub fn binary(mut self, file: impl Into<PathBuf>) -> Self {
        self.binary = Some(file.into());
        self
    }

    /// Keeps JetStream's files in this folder, which is left alone at the end.
    #[must_use]
    pub fn store(mut self, folder: impl Into<PathBuf>) -> Self {
        self.store = Some(folder.into());
        self
    }

    /// Adds a line to the part of JetStream, for instance `max_file_store: 8GB`.
    #[must_use]
    pub fn jetstream(mut self, line: &str) -> Self {
        self.jetstream.push_str(line);
        self.jetstream.push('\n');
        self
    }

    /// Starts the server; returns once it accepts connections. Blocks for some 50 ms.
    pub fn start(self) -> anyhow::Result<NatsServer> {
        let binary = match &self.binary {
            Some(named) => named.clone(),
            None => find_binary()?,
        };
        let dir = tempfile::Builder::new()
            .prefix("jetmill-nats-")
            .tempdir()
            .context("failed to create a folder for nats-server")?;
        let (child, port) = launch(&binary, &self, dir.path(), None)?;
        Ok(NatsServer { binary, settings: self, dir, port, child })
    }
}

impl NatsServer {
    /// Starts a server with the defaults of JetStream.
    pub fn start() -> anyhow::Result<Self> {
        Self::builder().start()
    }

    /// A server with other settings.
    #[must_use]
    pub fn builder() -> NatsServerBuilder {
        NatsServerBuilder::default()
    }

    /// Where clients connect: `nats://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port, which a restart keeps.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server started last.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder of JetStream's files.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.settings.store.as_deref().unwrap_or(self.dir.path()).join("jetstream")
    }

    /// Whether the process lives.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it said last.
    #[must_use]
    pub fn log_tail(&self) -> String {
        process::tail(&self.dir.path().join("nats-server.log"))
    }

    /// Ends the server with SIGKILL, as a crash would. Does nothing when it is not running.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("failed to kill nats-server")?;
        self.child.wait().context("failed to wait for nats-server")?;
        Ok(())
    }

    /// Starts the server again on the same port and files, after killing it if it still runs.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let (child, _port) =
            launch(&self.binary, &self.settings, self.dir.path(), Some(self.port))?;
        self.child = child;
        Ok(())
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // There is nobody to tell, and the kernel ends the server with this process at the latest.
        let _ = self.kill();
    }
}

fn find_binary() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("JETMILL_NATS_SERVER") {
        return Ok(named.into());
    }
    let installed = process::tools_dir().join("bin/nats-server");
    if installed.is_file() {
        return Ok(installed);
    }
    process::on_path("nats-server").context("nats-server is missing: run `make tools`")
}

fn launch(
    binary: &Path,
    settings: &NatsServerBuilder,
    dir: &Path,
    port: Option<u16>,
) -> anyhow::Result<(Child, u16)> {
    let log = dir.join("nats-server.log");
    let config = dir.join("nats-server.conf");
    fs::write(&config, config_text(settings, dir, port)).context("failed to write a file")?;
    let log_file = File::options().create(true).append(true).open(&log)?;
    let mut command = process::bound_command(binary);
    command.arg("-c").arg(&config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
    let mut child = process::spawn(command)
        .with_context(|| format!("failed to start {}: run `make tools`", binary.display()))?;
    let started = wait_for("nats-server", START_TIMEOUT, || {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("nats-server ended with {status}");
        }
        Ok(listening_port(dir, child.id()))
    });
    match started {
        Ok(port) => Ok((child, port)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error.context(format!("nats-server did not start:\n{}", process::tail(&log))))
        }
    }
}

fn config_text(settings: &NatsServerBuilder, dir: &Path, port: Option<u16>) -> String {
    let NatsServerBuilder { jetstream, server, store, .. } = settings;
    let store = store.as_deref().unwrap_or(dir).display();
    let dir = dir.display();
    // Port -1 lets the server choose.
    let port = port.map_or(-1, i32::from);
    format!(
        "listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{dir}\"\n\
         jetstream {{\nstore_dir: \"{store}\"\n{jetstream}}}\n{server}"
    )
}

/// The port in the file that the server writes once it listens; its name ends with the process id.
fn listening_port(dir: &Path, pid: u32) -> Option<u16> {
    let suffix = format!("_{pid}.ports");
    let file = fs::read_dir(dir)
        .ok()?
        .flatten()
        .find(|file| file.file_name().to_string_lossy().ends_with(&suffix))?;
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
    let url = ports.get("nats")?.get(0)?.as_str()?;
    url.rsplit_once(':')?.1.parse().ok()
}
