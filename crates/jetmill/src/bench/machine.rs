//! The machine that was measured.

use std::fs;

use serde::Serialize;

/// What decides how fast anything is here.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) memory_gb: f64,
    pub(super) kernel: String,
}

/// Reads what the kernel says about it; unknown where it says nothing.
pub(super) fn look() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into());
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kilobytes = memory.and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok());
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    Machine {
        cpu,
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_gb: (kilobytes.unwrap_or_default() / 1e4).round() / 1e2,
        kernel: if kernel.is_empty() { "unknown".into() } else { kernel },
    }
}

/// The value of the first line `name: value`.
pub(super) fn field(text: &str, name: &str) -> Option<String> {
    let line =
        text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_kernel_are_read() {
        assert_eq!(field("a: 1\nMemTotal:   24 kB\n", "MemTotal").as_deref(), Some("24 kB"));
        assert_eq!(field("model name\t: X  Y\n", "model name").as_deref(), Some("X  Y"));
        assert_eq!(field("", "x"), None);
    }
}
