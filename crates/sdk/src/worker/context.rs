//! What a running attempt sees of its worker: its order, its cancellation, and where to report.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::pb;
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
    progress: Mutex<Option<pb::Progress>>,
    pub(super) progressed: Notify,
    output: Mutex<Output>,
    pub(super) wrote: Notify,
    pub(super) full: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Signs {
    pub(super) fn new() -> Self {
        Self {
            heard: Mutex::new(Instant::now()),
            progress: Mutex::default(),
            progressed: Notify::new(),
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

    /// The newest progress that was not taken yet.
    pub(super) fn take_progress(&self) -> Option<pb::Progress> {
        lock(&self.progress).take()
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
        Self::new(Arc::new(execution), cancelled, Arc::new(Signs::new()))
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

    /// Says how far the attempt is; a sign of life. Only the newest is published, twice a second.
    pub fn progress(&self, fraction: Option<f64>, message: &str) {
        self.signs.alive();
        *lock(&self.signs.progress) = Some(pb::Progress {
            attempt: self.execution.attempt,
            fraction: fraction.filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0)),
            message: message.chars().take(512).collect(),
            counters: None,
        });
        self.signs.progressed.notify_one();
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
