//! What the command and all its children used, as the operating system counted it.

use std::{fs, io};

use common::pb;
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

const MB: f64 = 1024.0 * 1024.0;
const KB: f64 = 1024.0;

/// What was used; unset where nobody can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Used {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) memory_peak_mb: Option<f64>,
    pub(crate) memory_avg_mb: Option<f64>,
    pub(crate) disk_read_mb: Option<f64>,
    pub(crate) disk_write_mb: Option<f64>,
}

impl Used {
    /// The same as the log has it. Traffic is not counted by process.
    pub(crate) fn to_pb(self) -> pb::ResourceUsage {
        pb::ResourceUsage {
            cpu_seconds: self.cpu_seconds,
            memory_peak_mb: self.memory_peak_mb,
            memory_avg_mb: self.memory_avg_mb,
            disk_read_mb: self.disk_read_mb,
            disk_write_mb: self.disk_write_mb,
            ..pb::ResourceUsage::default()
        }
    }
}

/// Bytes that were read from and written to disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    read: u64,
    written: u64,
}

/// The memory of all processes together, as it was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Memory {
    peak_kb: u64,
    kb_seconds: f64,
    seconds: f64,
}

impl Memory {
    /// So much was there for so long, and `peak_kb` at once in one process at some time.
    pub(super) fn note(&mut self, kb: u64, peak_kb: u64, seconds: f64) {
        self.peak_kb = self.peak_kb.max(kb).max(peak_kb);
        self.kb_seconds += kb as f64 * seconds;
        self.seconds += seconds;
    }

    fn average_mb(self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.kb_seconds / self.seconds / KB)
    }

    fn peak_mb(self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.peak_kb as f64 / KB)
    }
}

/// What this process and its reaped children have moved so far; unknown where the kernel does not say.
pub(super) fn disk() -> Option<Disk> {
    disk_of("self").ok()?
}

/// The same of one process; an error when there is none any more.
fn disk_of(pid: &str) -> io::Result<Option<Disk>> {
    let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    let (read, written) = (field("read_bytes:"), field("write_bytes:"));
    Ok(read.zip(written).map(|(read, written)| Disk { read, written }))
}

/// What has been moved since `before`: by what was reaped, and by these processes.
fn moved(before: Option<Disk>, living: &[i32]) -> Option<Disk> {
    // In this order: what ends meanwhile is missing for a moment, and nothing counts twice.
    let (reaped, before) = (disk()?, before?);
    let all = add(reaped, living.iter().map(|pid| disk_of(&pid.to_string())))?;
    Some(Disk {
        read: all.read.saturating_sub(before.read),
        written: all.written.saturating_sub(before.written),
    })
}

/// One that may not be looked at makes all of it unknown; one that has ended was counted elsewhere.
fn add(all: Disk, more: impl Iterator<Item = io::Result<Option<Disk>>>) -> Option<Disk> {
    more.filter(|one| !one.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::PermissionDenied))
        .try_fold(all, |all, one| {
            let one = one.ok()??;
            Some(Disk { read: all.read + one.read, written: all.written + one.written })
        })
}

fn put_disk(used: &mut Used, disk: Option<Disk>) {
    used.disk_read_mb = disk.map(|disk| disk.read as f64 / MB);
    used.disk_write_mb = disk.map(|disk| disk.written as f64 / MB);
}

/// What was used since `before` in all: `lost_seconds` besides what the operating system remembers.
/// Everything must have been reaped.
pub(super) fn all(before: Option<Disk>, memory: Memory, lost_seconds: f64) -> Used {
    let mut used = Used { memory_avg_mb: memory.average_mb(), ..Used::default() };
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) {
        let largest_mb = usage.max_rss() as f64 / KB;
        used.cpu_seconds = Some(seconds(&usage) + lost_seconds);
        // All processes together may have had more than the largest one.
        used.memory_peak_mb = Some(largest_mb.max(memory.peak_mb().unwrap_or(0.0)));
    }
    put_disk(&mut used, moved(before, &[]));
    used
}

/// What was used so far: `cpu_seconds` as the watch has counted them.
pub(super) fn so_far(
    cpu_seconds: f64,
    memory: Memory,
    before: Option<Disk>,
    living: &[i32],
) -> Used {
    let mut used = Used {
        cpu_seconds: Some(cpu_seconds),
        memory_peak_mb: memory.peak_mb(),
        memory_avg_mb: memory.average_mb(),
        ..Used::default()
    };
    put_disk(&mut used, moved(before, living));
    used
}

/// Processor time of what has ended; unknown is none, since a limit goes by it.
pub(super) fn reaped_seconds() -> f64 {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0.0, |usage| seconds(&usage))
}

fn seconds(usage: &nix::sys::resource::Usage) -> f64 {
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_looked_at_is_unknown() {
        let mut memory = Memory::default();
        assert_eq!((memory.average_mb(), memory.peak_mb()), (None, None));
        memory.note(4096, 1024, 1.0);
        memory.note(1024, 8192, 3.0);
        assert_eq!((memory.average_mb(), memory.peak_mb()), (Some(1.75), Some(8.0)));
        assert_eq!(Used::default().to_pb(), pb::ResourceUsage::default());
        assert_eq!(so_far(0.0, Memory::default(), None, &[]).disk_read_mb, None);
    }

    #[test]
    fn one_process_that_may_not_be_looked_at_makes_the_disk_unknown() {
        let own = Disk { read: 1, written: 2 };
        let check = |more: Vec<io::Result<Option<Disk>>>, expected: Option<(u64, u64)>| {
            assert_eq!(add(own, more.into_iter()).map(|d| (d.read, d.written)), expected);
        };
        let error = |kind| Err(io::Error::from(kind));
        check(vec![], Some((1, 2)));
        check(vec![Ok(Some(own)), error(io::ErrorKind::NotFound), Ok(Some(own))], Some((3, 6)));
        check(vec![Ok(Some(own)), error(io::ErrorKind::PermissionDenied)], None);
        check(vec![Ok(None)], None);
        assert!(moved(disk(), &[i32::MAX]).is_some(), "this kernel counts");
    }
}
