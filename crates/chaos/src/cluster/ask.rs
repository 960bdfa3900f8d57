//! What can be learnt of the processes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use launch::eventually;

use super::Cluster;

impl Cluster {
    /// Waits until a process has ended by itself.
    pub async fn wait_end(
        &mut self,
        name: &str,
        within: Duration,
    ) -> anyhow::Result<std::process::ExitStatus> {
        let member = self.members.get_mut(name).with_context(|| format!("there is no {name}"))?;
        let child = member.child.as_mut().with_context(|| format!("{name} does not run"))?;
        eventually(&format!("the end of {name}"), within, async || child.try_wait().ok().flatten())
            .await
    }

    /// What a process said.
    pub fn said(&self, name: &str) -> String {
        let log = self.members.get(name).map(|member| member.log.clone()).unwrap_or_default();
        String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
    }

    /// Where a service answers probes, as it said when it began to serve.
    pub fn probes(&self, name: &str) -> Option<String> {
        let said = self.said(name);
        let (_, address) = said.rsplit_once("http=Some(")?;
        Some(address.split(')').next()?.to_owned())
    }

    /// The folder of the run, with the logs of all processes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder, for whoever looks for the reason of a failure.
    pub fn keep_folder(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }
}
