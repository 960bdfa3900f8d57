//! **Pure.** The figures, for people and as one line of JSON.

use comfy_table::Cell;
use serde::Serialize;

use super::{instance::Memory, latency::Latency, machine::Machine, measure::Run, raw::Raw};
use crate::table;

/// Every figure of one run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) jetmill: &'static str,
    pub(super) build: &'static str,
    pub(super) nats_server: String,
    pub(super) rustc: &'static str,
    pub(super) sync: &'static str,
    pub(super) ledger: &'static str,
    pub(super) seed: u64,
    pub(super) slots: u32,
    pub(super) callers: u32,
    pub(super) payload_bytes: usize,
    pub(super) bulk: Run,
    pub(super) idle: Latency,
    pub(super) single: Run,
    pub(super) chain_step_ms: f64,
    pub(super) raw: Raw,
    pub(super) memory: Memory,
}

impl Report {
    /// As a table with what it was measured on.
    pub(super) fn text(&self) -> String {
        let Machine { cpu, cores, memory_gb, kernel } = &self.machine;
        let head = format!(
            "{cpu}, {cores} cores, {memory_gb} GB, Linux {kernel}\n\
             jetmill {} ({}), nats-server {}, rustc {}\n\
             fsync {}, ledger {}, seed {}, {} slots, {} bytes a task\n",
            self.jetmill,
            self.build,
            self.nats_server,
            self.rustc,
            self.sync,
            self.ledger,
            self.seed,
            self.slots,
            self.payload_bytes,
        );
        let mut rows = table::table(["WHAT", "FIGURE", "HOW"]);
        let mut row = |what: &str, figure: String, how: String| {
            rows.add_row(vec![Cell::new(what), Cell::new(figure), Cell::new(how)]);
        };
        let rate = |run: &Run| format!("{:.0} tasks/s", run.tasks_per_second);
        let how = |run: &Run| {
            format!("{} rows in {:.2} s, ran {} times", run.rows, run.seconds, run.executions)
        };
        row("bulk, end to end", rate(&self.bulk), how(&self.bulk));
        row(
            "bulk, accepted",
            format!("{:.0} tasks/s", self.bulk.accepted_per_second),
            String::new(),
        );
        row(
            &format!("{} callers, end to end", self.callers),
            rate(&self.single),
            how(&self.single),
        );
        let accepted = format!("{:.0} tasks/s", self.single.accepted_per_second);
        row(
            &format!("{} callers, accepted", self.callers),
            accepted,
            latency(self.single.accept.as_ref()),
        );
        row(
            "idle, submit to outcome",
            format!("{} ms", self.idle.p50_ms),
            latency(Some(&self.idle)),
        );
        row(
            "chain, a step",
            format!("{} ms", self.chain_step_ms),
            "40 tasks, each waits for the last".into(),
        );
        let raw = format!(
            "{} tasks in {:.2} s, window {}",
            self.raw.tasks, self.raw.seconds, self.raw.window
        );
        row("bare JetStream", format!("{:.0} tasks/s", self.raw.tasks_per_second), raw);
        row(
            "bulk / bare",
            format!("{:.2}", self.bulk.tasks_per_second / self.raw.tasks_per_second),
            String::new(),
        );
        let memory = format!("{} + {} MB", self.memory.jetmill_mb, self.memory.nats_server_mb);
        row("memory after the load", memory, "jetmill + nats-server, resident".into());
        format!("{head}\n{}\n", rows.trim_fmt())
    }
}

fn latency(latency: Option<&Latency>) -> String {
    let Some(Latency { samples, p50_ms, p95_ms, p99_ms, max_ms }) = latency else {
        return String::new();
    };
    format!("p50 {p50_ms}, p95 {p95_ms}, p99 {p99_ms}, max {max_ms} ms of {samples}")
}
