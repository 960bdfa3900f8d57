//! What the command and all its children used, as the operating system counted it.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};

use super::Report;

const MB: f64 = 1024.0 * 1024.0;

/// Bytes that were read from and written to disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    read: u64,
    written: u64,
}

/// What this process and its reaped children have moved so far; unknown where the kernel does not say.
pub(super) fn disk() -> Option<Disk> {
    let text = fs::read_to_string("/proc/self/io").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    Some(Disk { read: field("read_bytes:")?, written: field("write_bytes:")? })
}

/// Writes what was used since `before` into the report. Everything must have been reaped.
pub(super) fn fill(report: &mut Report, before: Option<Disk>) {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) {
        let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
        report.cpu_seconds = Some(seconds(usage.user_time()) + seconds(usage.system_time()));
        report.memory_peak_mb = Some(usage.max_rss() as f64 * 1024.0 / MB);
    }
    if let (Some(before), Some(after)) = (before, disk()) {
        report.disk_read_mb = Some(after.read.saturating_sub(before.read) as f64 / MB);
        report.disk_write_mb = Some(after.written.saturating_sub(before.written) as f64 / MB);
    }
}
