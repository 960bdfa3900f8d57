//! What the worker tells Prometheus.

use std::sync::Arc;

use jetmill_sdk::worker::{Observe, Observed};
use opentelemetry::{KeyValue, global};
use runtime::Health;

/// Counts attempts by how they ended, shows the slots in use, and says when the worker is there.
pub(crate) fn observer(health: Health) -> Observe {
    let meter = global::meter("jetmill");
    let attempts = meter
        .u64_counter("jetmill_worker_attempts")
        .with_description("attempts that ended, by the event that says so")
        .build();
    let slots = meter
        .u64_gauge("jetmill_worker_slots_used")
        .with_description("attempts that run now")
        .build();
    Arc::new(move |observed| match observed {
        Observed::Ended(word) => attempts.add(1, &[KeyValue::new("outcome", word)]),
        Observed::Holds(count) => slots.record(count as u64, &[]),
        Observed::Ready => health.ready(),
        Observed::Draining => health.not_ready("it drains"),
    })
}
