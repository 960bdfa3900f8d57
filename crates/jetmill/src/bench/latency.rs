//! **Pure.** How long something took, of many times that it was done.

use std::time::Duration;

use serde::Serialize;

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) samples: usize,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Latency {
    /// Nearest rank.
    pub(super) fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let at = |share: f64| {
            let rank = (samples.len() as f64 * share).ceil().max(1.0) as usize - 1;
            samples.get(rank).map_or(0.0, |d| (d.as_secs_f64() * 1e5).round() / 1e2)
        };
        Self {
            samples: samples.len(),
            p50_ms: at(0.5),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    }
}

impl Latency {
    /// All of it in one line.
    pub(super) fn how(&self) -> String {
        let Self { samples, p50_ms, p95_ms, p99_ms, max_ms } = self;
        format!("p50 {p50_ms}, p95 {p95_ms}, p99 {p99_ms}, max {max_ms} ms of {samples}")
    }
}

/// Collects what took how long, to the microsecond: an hour of it fits in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<u32>);

impl Samples {
    pub(super) fn add(&mut self, took: Duration) {
        self.0.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Of all that was added.
    pub(super) fn latency(&self) -> Latency {
        Latency::of(self.0.iter().map(|micros| Duration::from_micros((*micros).into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let latency = Latency::of((1..=100).map(Duration::from_millis).collect());
        assert_eq!(
            (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms),
            (50.0, 95.0, 99.0, 100.0)
        );
        assert_eq!(Latency::of(Vec::new()).samples, 0);
    }
}
