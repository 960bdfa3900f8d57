//! A process of ours that is measured.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, ChildStdout},
    time::timeout,
};

use crate::dev;

const STOP_WITHIN: Duration = Duration::from_secs(10);

/// It ends with this value, with us, or when it is told to.
pub(super) struct Service {
    pub(super) name: String,
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts this program with other words, in the folder, where it leaves what it complains of.
    /// Must be called from the thread of `main`: the kernel ends it with the thread that starts it.
    pub(super) async fn spawn(
        folder: &Path,
        name: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("failed to find this program")?;
        let log = folder.join(format!("{name}.stderr"));
        let mut command = dev::bound_to_us(&program).await;
        command
            .args(args)
            .current_dir(folder)
            // What is measured does not depend on who measures it.
            .env_remove("JETMILL_CONFIG")
            .env_remove("JETMILL_LEDGER_URL")
            .env_remove("JETMILL_REGISTRY__LEDGER_URL")
            .env_remove("JETMILL_NATS_URL")
            .env_remove("JETMILL_NATS__URL")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("failed to start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// What it says, to the first who asks.
    pub(super) fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// What it complained of.
    pub(super) fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().collect::<Vec<_>>();
        lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
    }

    /// An error when it has ended by itself.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                anyhow::bail!("{} ended with {status}: {}", self.name, self.said())
            }
        }
    }

    /// As a crash.
    pub(super) async fn kill9(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("failed to kill {}", self.name))
    }

    /// As an operator would, who knows that it is only measured: what does not end is killed.
    pub(super) async fn end(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP_WITHIN, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
