//! The programs of PostgreSQL: where they are, and how they run for somebody who is root.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::process;

/// PostgreSQL refuses to run as root; this is the unprivileged user `nobody`.
const UNPRIVILEGED: u32 = 65534;

/// The folder of the first `initdb` that has a `postgres` beside it.
pub fn programs() -> anyhow::Result<PathBuf> {
    let on_path = process::on_path("initdb").and_then(|file| file.parent().map(Path::to_owned));
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
    on_path
        .into_iter()
        .chain(of_system.into_iter().rev().map(|(_version, folder)| folder))
        .chain([process::tools_dir().join("pg/bin")])
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .context("PostgreSQL (initdb, postgres) is missing: run `make test-tools`")
}

/// Makes an empty data folder, of the user whom the server runs as.
pub fn initdb(programs: &Path, data: &Path) -> anyhow::Result<()> {
    let mut arguments = unprivileged_prefix();
    arguments.push(programs.join("initdb").into_os_string());
    let (program, rest) = arguments.split_first().context("invariant: a program was pushed")?;
    // Small segments of the log keep the folder small, and so its copies quick.
    let mut command = Command::new(program);
    command.args(rest).arg("-D").arg(data).current_dir("/").args([
        "--username=jetmill",
        "--auth=trust",
        "--no-sync",
        "--encoding=UTF8",
        "--locale=C",
        "--wal-segsize=1",
    ]);
    output_of(&mut command).map(drop)
}

/// The server's lock file says `ready` in its last line once connections are accepted.
pub fn is_ready(data: &Path) -> bool {
    fs::read_to_string(data.join("postmaster.pid"))
        .is_ok_and(|text| text.lines().nth(7).is_some_and(|status| status.trim() == "ready"))
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

/// A temporary folder that belongs to the user whom the server runs as.
pub fn temporary_folder() -> anyhow::Result<tempfile::TempDir> {
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

/// Runs a command that must succeed; returns what it prints.
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
