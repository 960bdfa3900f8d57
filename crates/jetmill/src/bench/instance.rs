//! The `jetmill dev` that is measured.

use std::{fs::File, path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
    time::timeout,
};

use super::{Args, machine::field};
use crate::dev::{self, Addresses};

const START_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A process of its own in a folder of its own.
pub(super) struct Instance {
    pub(super) addresses: Addresses,
    child: Child,
    _folder: TempDir,
}

/// Resident memory after the load, in MB.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Memory {
    pub(super) jetmill_mb: f64,
    pub(super) nats_server_mb: f64,
}

impl Instance {
    /// Starts it; returns when it is ready.
    pub(super) async fn start(args: &Args) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("jetmill-bench-").tempdir();
        let folder = folder.context("failed to make a temporary folder")?;
        let program = std::env::current_exe().context("failed to find this program")?;
        let nats_server = std::env::var_os("JETMILL_NATS_SERVER").map(PathBuf::from);
        let nats_server = dev::find_nats_server(nats_server.as_deref(), folder.path()).await?;
        let errors = File::create(folder.path().join("stderr"))?;
        let mut command = dev::bound_to_us(&program).await;
        command
            .args([
                "dev",
                "--json",
                "--nats-port",
                "0",
                "--grpc-port",
                "0",
                "--http-port",
                "0",
                "--data-dir",
            ])
            .arg(folder.path().join("data"))
            .current_dir(folder.path())
            .env("JETMILL_NATS_SERVER", nats_server)
            .env("JETMILL_NATS__SYNC_INTERVAL", if args.sync_always { "always" } else { "2m" })
            .env_remove("JETMILL_CONFIG")
            .env_remove("JETMILL_REGISTRY__LEDGER_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true);
        match args.ledger.as_str() {
            "sqlite" => command.env_remove("JETMILL_LEDGER_URL"),
            url => command.env("JETMILL_LEDGER_URL", url),
        };
        let mut child = command.spawn().context("failed to start jetmill dev")?;
        let output = child.stdout.take().context("jetmill dev has no output")?;
        let mut line = String::new();
        let mut output = BufReader::new(output);
        let read = timeout(START_WITHIN, output.read_line(&mut line)).await;
        let said = || std::fs::read_to_string(folder.path().join("stderr")).unwrap_or_default();
        read.with_context(|| format!("jetmill dev did not start: {}", said()))??;
        let addresses = serde_json::from_str(&line)
            .with_context(|| format!("jetmill dev did not start: {}", said()))?;
        Ok(Self { addresses, child, _folder: folder })
    }

    /// What it and its nats-server hold now.
    pub(super) fn memory(&self) -> Memory {
        let resident = |pid: u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let kilobytes = field(&status, "VmRSS")?.trim_end_matches(" kB").parse::<f64>().ok()?;
            Some((kilobytes / 100.0).round() / 10.0)
        };
        let pid_file = format!("{}/nats/nats-server.pid", self.addresses.data_dir);
        let nats = std::fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse().ok());
        Memory {
            jetmill_mb: self.child.id().and_then(resident).unwrap_or_default(),
            nats_server_mb: nats.and_then(resident).unwrap_or_default(),
        }
    }

    /// Ends it as Ctrl-C would.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::INT);
        }
        timeout(STOP_WITHIN, self.child.wait()).await.context("it did not end")??;
        Ok(())
    }
}
