//! What can run an attempt: handlers of a program, and the executors of worker-pool.

use std::time::Duration;

use common::{limits, pb};

use super::AttemptContext;

/// Runs attempts.
///
/// A run may be dropped when it does not end within the grace after its cancellation, and whatever
/// it started must end with it.
pub trait Executor: Send + Sync + 'static {
    /// Runs one attempt to its end.
    fn run(&self, attempt: AttemptContext) -> impl Future<Output = AttemptResult> + Send;
}

/// How a run ended, and what it left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttemptResult {
    /// What went wrong; `None` is success.
    pub error: Option<AttemptError>,
    /// The result, or what there was of it when the run was stopped.
    pub result: Option<pb::Json>,
    /// What it used.
    pub usage: Option<pb::ResourceUsage>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptError {
    /// A short word that `retry.non_retryable` can name.
    pub code: String,
    /// One sentence that says what to do next.
    pub message: String,
    /// Whether another try may help.
    pub retryable: bool,
    /// How long to wait at least before it, where the other side asked for that; capped.
    pub retry_after: Option<Duration>,
}

impl AttemptResult {
    /// A success.
    pub fn success(result: pb::Json) -> Self {
        Self { result: Some(result), ..Self::default() }
    }

    /// A failure that leaves nothing.
    pub fn failure(error: AttemptError) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    /// The end of an attempt that was told to stop and has no result: who told it says what became of
    /// it. No error would be a success, if it came before they said so.
    pub fn given_up() -> Self {
        Self::failure(AttemptError::retryable("given_up", "the attempt was told to stop"))
    }
}

impl AttemptError {
    /// An error after which another try may help.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: true, retry_after: None }
    }

    /// An error that every further try would meet again.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { retryable: false, ..Self::retryable(code, message) }
    }

    /// As it goes over the wire, cut to what an event may carry.
    pub(super) fn to_pb(&self) -> pb::TaskError {
        pb::TaskError {
            code: cut(&self.code, limits::NAME_BYTES_MAX).to_owned(),
            message: cut(&self.message, limits::TEXT_BYTES_MAX).to_owned(),
        }
    }
}

/// The head of a text, at a border of characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()
}
