//! Looks at the processes and at the ledger while a load runs.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    load::Load,
    process::{self, ByPart, Part},
};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Seen {
    looks: usize,
    /// Most proportional memory of each part, in MB.
    pub(super) peak_mb: ByPart,
    /// Most of all parts together at one time.
    pub(super) peak_sum_mb: f64,
    /// Most messages that the log had and the ledger had not.
    pub(super) lag_max: u64,
    /// Seconds of processor time.
    pub(super) cpu: ByPart,
    /// The same of the services' own process, by the names of its threads.
    pub(super) cpu_by_thread: ByPart,
    /// Seconds of processor time that others took, and that there were.
    pub(super) others: f64,
    pub(super) all: f64,
    pub(super) seconds: f64,
}

/// A look that goes on until it is ended.
pub(super) struct Watch {
    parts: Vec<Part>,
    begun: Instant,
    cpu: ByPart,
    machine: (f64, f64),
    threads: BTreeMap<u32, ByPart>,
    end: CancellationToken,
    task: JoinSet<Seen>,
}

impl Watch {
    /// Begins. Our own process is told apart, so that it is seen what the client costs.
    pub(super) fn start(load: &Load, mut parts: Vec<Part>) -> Self {
        let (end, mut task) = (CancellationToken::new(), JoinSet::new());
        task.spawn(look(load.clone(), parts.clone(), end.clone()));
        let services = parts.iter().filter(|part| part.name == "jetmill").map(|part| part.pid);
        let threads = services.map(|pid| (pid, process::cpu_by_thread(pid))).collect();
        parts.push(Part::new("client", std::process::id()));
        let (cpu, machine) = (process::cpu(&parts), process::machine_cpu());
        Self { parts, begun: Instant::now(), cpu, machine, threads, end, task }
    }

    /// Ends it.
    pub(super) async fn end(mut self) -> anyhow::Result<Seen> {
        let cpu = process::difference(&process::cpu(&self.parts), &self.cpu);
        let mut cpu_by_thread = ByPart::new();
        for (pid, before) in &self.threads {
            cpu_by_thread.extend(process::difference(&process::cpu_by_thread(*pid), before));
        }
        let (worked, could) = process::machine_cpu();
        let ours = cpu.values().sum::<f64>();
        let others = (worked - self.machine.0 - ours).max(0.0);
        let all = could - self.machine.1;
        let seconds = self.begun.elapsed().as_secs_f64();
        self.end.cancel();
        let seen = self.task.join_next().await.context("nobody looked")??;
        Ok(Seen { cpu, cpu_by_thread, others, all, seconds, ..seen })
    }
}

async fn look(load: Load, parts: Vec<Part>, end: CancellationToken) -> Seen {
    let mut seen = Seen::default();
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            () = end.cancelled() => return seen,
            _ = tick.tick() => {}
        }
        let now = process::memory(&parts);
        seen.looks += 1;
        seen.peak_sum_mb = seen.peak_sum_mb.max(now.values().sum());
        for (name, value) in now {
            let peak = seen.peak_mb.entry(name).or_default();
            *peak = peak.max(value);
        }
        // The log's end first: what comes in between must not count as lag.
        if let (Ok(log), Ok(ledger)) = (load.log_end().await, load.committed(0).await) {
            seen.lag_max = seen.lag_max.max(log.last.saturating_sub(ledger));
        }
    }
}
