//! A small disk of our own, which can be filled: a tmpfs in the mount namespace of a process that
//! does nothing else, reached through `/proc`. It needs no rights, leaves no mount behind, and what
//! lies on it outlives the servers that are killed.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

/// Mounts, says so, and waits for the end of whoever started it.
const HOLD: &str =
    r#"mount -t tmpfs -o "size=$1m,mode=0700" tmpfs "$2" && echo ready && read -r _"#;

/// A disk; it is gone with its drop.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    prefix: Vec<OsString>,
    holder: Child,
}

impl Disk {
    /// Makes a disk of so many MiB, as seen from `folder`, that belongs to whom `prefix` makes it.
    pub fn make(folder: &Path, megabytes: usize, prefix: Vec<OsString>) -> anyhow::Result<Self> {
        let mut words = prefix.clone();
        words.extend(["unshare", "-Urm", "sh", "-c", HOLD, "sh"].map(OsString::from));
        words.push(megabytes.to_string().into());
        words.push(folder.into());
        let mut command = command(words)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut holder = launch::process::spawn(command).context("there is no unshare")?;
        let output = holder.stdout.take().context("invariant: its output is a pipe")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let shown = folder.strip_prefix("/").unwrap_or(folder);
        let root = PathBuf::from(format!("/proc/{}/root", holder.id())).join(shown);
        let disk = Self { root, prefix, holder };
        anyhow::ensure!(line.trim() == "ready", "no tmpfs may be mounted here");
        fs::read_dir(&disk.root).context("the tmpfs cannot be reached through /proc")?;
        Ok(disk)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// What stands before a program so that it sees the disk where its folder is: SQLite resolves
    /// links by itself, and would leave `/proc` again.
    pub fn enter(&self) -> Vec<OsString> {
        let holder = self.holder.id().to_string();
        ["nsenter", "-t", &holder, "-U", "-m", "--preserve-credentials", "--"]
            .map(Into::into)
            .into()
    }

    /// Fills it to the last byte.
    pub fn fill(&self) -> anyhow::Result<()> {
        self.run(r#"cat /dev/zero > "$1/filler" 2>/dev/null"#)?;
        let filler = fs::metadata(self.root.join("filler")).map_or(0, |file| file.len());
        anyhow::ensure!(filler > 0, "the disk could not be filled");
        Ok(())
    }

    /// Gives the room back.
    pub fn free(&self) -> anyhow::Result<()> {
        self.run(r#"rm -f "$1/filler""#)
    }

    fn run(&self, script: &str) -> anyhow::Result<()> {
        let mut words = self.prefix.clone();
        words.extend(["sh", "-c", script, "sh"].map(OsString::from));
        words.push(self.root.clone().into());
        // Filling it ends with an error by design.
        command(words)?.stdin(Stdio::null()).status().context("failed to run sh")?;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may have ended, and there is nobody to tell.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn command(words: Vec<OsString>) -> anyhow::Result<Command> {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().context("invariant: there is a program")?);
    command.args(words).current_dir("/");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_and_a_freed_one_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let Ok(disk) = Disk::make(folder.path(), 2, Vec::new()) else {
            // Not possible on this machine; the report says so there.
            return;
        };
        let file = disk.path().join("file");
        disk.fill().expect("filled");
        assert!(fs::write(&file, [1; 4096]).is_err());
        disk.free().expect("freed");
        fs::write(&file, [1; 4096]).expect("room");
        let root = disk.path().to_owned();
        drop(disk);
        assert!(!root.exists());
    }
}
