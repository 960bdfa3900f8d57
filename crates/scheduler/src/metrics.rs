//! What the scheduler tells Prometheus.

use opentelemetry::{
    global,
    metrics::{Counter, Gauge},
};

pub(crate) struct Metrics {
    released: Counter<u64>,
    leading: Gauge<u64>,
    intake: Gauge<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = global::meter("jetmill");
        let released = meter
            .u64_counter("jetmill_scheduler_released")
            .with_description("attempts that went out to the workers")
            .build();
        let leading = meter
            .u64_gauge("jetmill_scheduler_leading")
            .with_description("1 while this scheduler decides, 0 while it stands by")
            .build();
        let intake = meter
            .u64_gauge("jetmill_scheduler_intake_open")
            .with_description("1 while the log takes new work, 0 while it does not")
            .build();
        Self { released, leading, intake }
    }

    pub(crate) fn released(&self, attempts: usize) {
        self.released.add(attempts as u64, &[]);
    }

    pub(crate) fn intake(&self, open: bool) {
        self.intake.record(open.into(), &[]);
    }

    pub(crate) fn leads(&self, leading: bool) {
        self.leading.record(leading.into(), &[]);
    }
}
