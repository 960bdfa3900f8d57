//! **Pure.** What a container used, as far as the engine tells.
//!
//! The engine reads its counters once a second, and they are gone with the container: what came after
//! its last reading is not in the numbers. A reading that covers less than half of the container's
//! life says too little, and then nothing is said.

use std::time::Duration;

use bollard::models::{ContainerBlkioStatEntry, ContainerMemoryStats, ContainerStatsResponse};
use common::pb;

const MB: f64 = 1024.0 * 1024.0;
const NANOS: f64 = 1e9;

/// What the engine has told so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Readings {
    last: pb::ResourceUsage,
    /// When the last one came, after the container's start.
    at: Option<Duration>,
}

impl Readings {
    /// Takes what the engine tells, so long after the container's start.
    pub(super) fn push(&mut self, stats: &ContainerStatsResponse, at: Duration) {
        // A container that has ended reads as all zeros.
        let cpu = stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref());
        let Some(cpu) = cpu.and_then(|cpu| cpu.total_usage).filter(|nanos| *nanos > 0) else {
            return;
        };
        let memory = stats.memory_stats.as_ref().and_then(memory).map(|bytes| bytes as f64 / MB);
        let peak = [self.last.memory_peak_mb, memory].into_iter().flatten().reduce(f64::max);
        let disk = stats.blkio_stats.as_ref().and_then(|s| s.io_service_bytes_recursive.as_deref());
        let networks = stats.networks.as_ref().filter(|all| !all.is_empty());
        let network = |bytes: fn(&bollard::models::ContainerNetworkStats) -> Option<u64>| {
            networks.map(|all| all.values().filter_map(bytes).sum::<u64>() as f64 / MB)
        };
        self.last = pb::ResourceUsage {
            cpu_seconds: Some(cpu as f64 / NANOS),
            memory_peak_mb: peak,
            disk_read_mb: transferred(disk, "read"),
            disk_write_mb: transferred(disk, "write"),
            network_tx_mb: network(|stats| stats.tx_bytes),
            network_rx_mb: network(|stats| stats.rx_bytes),
            ..pb::ResourceUsage::default()
        };
        self.at = Some(at);
    }

    /// What is known of a container that lasted so long.
    pub(super) fn usage(&self, lasted: Duration) -> Option<pb::ResourceUsage> {
        self.at.filter(|at| *at * 2 >= lasted).map(|_| self.last)
    }
}

/// cgroup v1 keeps the peak itself; of v2 the engine tells only what is used now, and pages of files
/// that may go at any time are no need.
fn memory(stats: &ContainerMemoryStats) -> Option<u64> {
    if let Some(peak) = stats.max_usage.filter(|bytes| *bytes > 0) {
        return Some(peak);
    }
    let counters = stats.stats.as_ref();
    let pages = ["total_inactive_file", "inactive_file"]
        .iter()
        .find_map(|name| counters?.get(*name).copied());
    Some(stats.usage?.saturating_sub(pages.unwrap_or(0)))
}

/// Bytes of one direction; a list without entries is not known, as many kernels count nothing here.
fn transferred(entries: Option<&[ContainerBlkioStatEntry]>, direction: &str) -> Option<f64> {
    let entries = entries.filter(|entries| !entries.is_empty())?;
    let of = |entry: &&ContainerBlkioStatEntry| {
        entry.op.as_deref().is_some_and(|op| op.eq_ignore_ascii_case(direction))
    };
    let bytes = entries.iter().filter(of).filter_map(|entry| entry.value).sum::<u64>();
    Some(bytes as f64 / MB)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(stats: Value) -> ContainerStatsResponse {
        serde_json::from_value(stats).expect("stats")
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn version_1_of_cgroups_knows_the_peak_and_no_disk() {
        // As an engine 20.10 on cgroup v1 told, without what is not read.
        let stats = json!({
            "read": "2026-11-21T16:59:06.292064242Z",
            "blkio_stats": { "io_service_bytes_recursive": [] },
            "cpu_stats": { "cpu_usage": { "total_usage": 229_052_026_u64 } },
            "memory_stats": { "usage": 733_184, "max_usage": 4_194_304, "stats": { "cache": 0 } },
            "networks": { "eth0": { "rx_bytes": 1_048_576, "tx_bytes": 0 } },
        });
        let mut readings = Readings::default();
        readings.push(&read(stats), secs(2));
        let usage = readings.usage(secs(3)).expect("known");
        assert_eq!(usage.cpu_seconds, Some(0.229_052_026));
        assert_eq!(usage.memory_peak_mb, Some(4.0));
        assert_eq!((usage.disk_read_mb, usage.disk_write_mb), (None, None));
        assert_eq!((usage.network_rx_mb, usage.network_tx_mb), (Some(1.0), Some(0.0)));
        // An ended container reads as zeros, which change nothing.
        let ended = json!({
            "read": "0001-01-01T00:00:00Z",
            "blkio_stats": { "io_service_bytes_recursive": null },
            "cpu_stats": { "cpu_usage": { "total_usage": 0 } },
            "memory_stats": {},
        });
        let before = readings.clone();
        readings.push(&read(ended), secs(3));
        assert_eq!(readings, before);
        assert_eq!(readings.usage(secs(5)), None, "two seconds of five say too little");
    }

    #[test]
    fn version_2_of_cgroups_knows_what_is_used_now_and_the_disk() {
        let stats = |usage: u64| {
            read(json!({
                "blkio_stats": { "io_service_bytes_recursive": [
                    { "major": 8, "minor": 0, "op": "read", "value": 1_048_576 },
                    { "major": 8, "minor": 0, "op": "write", "value": 0 },
                    { "major": 8, "minor": 16, "op": "Read", "value": 1_048_576 },
                ] },
                "cpu_stats": { "cpu_usage": { "total_usage": 1_000_000_000 } },
                "memory_stats": { "usage": usage, "stats": { "inactive_file": 1_048_576 } },
            }))
        };
        let mut readings = Readings::default();
        assert_eq!(readings.usage(secs(0)), None);
        readings.push(&stats(9 << 20), secs(1));
        readings.push(&stats(3 << 20), secs(2));
        let usage = readings.usage(secs(2)).expect("known");
        assert_eq!(usage.memory_peak_mb, Some(8.0), "the most that was seen, less pages of files");
        assert_eq!((usage.disk_read_mb, usage.disk_write_mb), (Some(2.0), Some(0.0)));
        assert_eq!((usage.network_rx_mb, usage.network_tx_mb), (None, None));
    }
}
