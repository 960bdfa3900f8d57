//! What a running attempt sees of its worker: its order, its cancellation, and where to report.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use common::{limits, pb, progress, usage};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    execution::Execution,
    output::{Output, OutputStream},
};

/// An attempt's view of its worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AttemptContext {
    execution: Arc<Execution>,
    cancelled: CancellationToken,
    signs: Arc<Signs>,
}

/// What an attempt says while it runs, on its way to the engine.
#[derive(Debug)]
pub(super) struct Signs {
    heard: Mutex<Instant>,
    /// All that was said so far; there is always a number of the attempt.
    progress: Mutex<pb::Progress>,
    pub(super) progressed: Notify,
    used: Mutex<pb::ResourceUsage>,
    pub(super) measured: Notify,
    measure_every: Duration,
    output: Mutex<Output>,
    pub(super) wrote: Notify,
    pub(super) full: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Signs {
    pub(super) fn new(attempt: u32, measure_every: Duration) -> Self {
        Self {
            heard: Mutex::new(Instant::now()),
            progress: Mutex::new(pb::Progress { attempt, ..pb::Progress::default() }),
            progressed: Notify::new(),
            used: Mutex::default(),
            measured: Notify::new(),
            measure_every,
            output: Mutex::default(),
            wrote: Notify::new(),
            full: Notify::new(),
        }
    }

    fn alive(&self) {
        *lock(&self.heard) = Instant::now();
    }

    /// When the attempt last gave a sign of life.
    pub(super) fn heard(&self) -> Instant {
        *lock(&self.heard)
    }

    /// How far the attempt is.
    pub(super) fn progress(&self) -> pb::Progress {
        lock(&self.progress).clone()
    }

    pub(super) fn measure_every(&self) -> Duration {
        self.measure_every
    }

    /// What the attempt has used so far, as far as somebody measured it.
    pub(super) fn used(&self) -> Option<pb::ResourceUsage> {
        usage::known(*lock(&self.used))
    }

    pub(super) fn take_output(&self, end: bool) -> Vec<super::output::Chunk> {
        lock(&self.output).take(end)
    }
}

impl AttemptContext {
    pub(super) fn new(
        execution: Arc<Execution>,
        cancelled: CancellationToken,
        signs: Arc<Signs>,
    ) -> Self {
        Self { execution, cancelled, signs }
    }

    /// A context without an engine, for tests of executors: what it is told is kept and goes nowhere.
    pub fn detached(execution: Execution, cancelled: CancellationToken) -> Self {
        let signs = Signs::new(execution.attempt, limits::SNAPSHOT_EVERY);
        Self::new(Arc::new(execution), cancelled, Arc::new(signs))
    }

    /// What is to be run.
    pub fn execution(&self) -> &Execution {
        &self.execution
    }

    /// Fires when the attempt must end: its task was cancelled, it took too long, or its worker
    /// leaves. What has not ended `CANCEL_GRACE` later is dropped.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Says how far the attempt is; a sign of life. What is not named stays as it was, and a few
    /// times a second at most the newest of everything is published.
    pub fn progress(&self, newer: &pb::Progress) {
        self.signs.alive();
        progress::add(&mut lock(&self.signs.progress), newer);
        self.signs.progressed.notify_one();
    }

    /// Says what the attempt has used so far; what is unset is unknown. An executor that can tell
    /// says it every [`Self::measure_every`] or more often: some of it is published while the attempt
    /// runs, and the last of it when it ends and the end does not say more.
    pub fn used(&self, so_far: pb::ResourceUsage) {
        let mut used = lock(&self.signs.used);
        *used = usage::raise(*used, so_far);
        drop(used);
        self.signs.measured.notify_one();
    }

    /// What was said to have been used so far, for tests of executors.
    pub fn used_so_far(&self) -> Option<pb::ResourceUsage> {
        self.signs.used()
    }

    /// How often an executor should say what its attempt has used so far.
    pub fn measure_every(&self) -> Duration {
        self.signs.measure_every
    }

    /// Says that the attempt lives, and nothing else.
    pub fn alive(&self) {
        self.signs.alive();
    }

    /// Adds to the attempt's output; a sign of life.
    pub fn log(&self, stream: OutputStream, bytes: &[u8]) {
        self.signs.alive();
        let full = lock(&self.signs.output).write(stream, bytes);
        self.signs.wrote.notify_one();
        if full {
            self.signs.full.notify_one();
        }
    }
}
