//! **Pure.** What follows the end of an attempt: the retry policy, the same for every executor.

use std::time::Duration;

use super::Cause;
use crate::{limits, task::RetryPolicy};

/// How an attempt ended, in its worker's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd<'a> {
    /// It did what it was to do.
    Success,
    /// It ended in an error with this code; `retryable` is the executor's opinion.
    Error {
        /// The code that `retry.non_retryable` may name.
        code: &'a str,
        /// Whether the executor thinks that another try may help.
        retryable: bool,
        /// How long the other side asked to be left alone, as with Retry-After.
        retry_after: Option<Duration>,
    },
    /// It took too long.
    Timeout,
    /// It was told to stop.
    Cancelled,
}

/// What follows the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The task is completed.
    Complete,
    /// The task is tried again after the delay.
    Retry(Duration),
    /// The task failed.
    Fail(Cause),
    /// The task is cancelled.
    Cancel,
}

/// What follows the end of an attempt: the one retry policy of every executor.
///
/// `tries` counts the errors and timeouts before this one; `random` is in `0..1`.
pub fn after(retry: &RetryPolicy, tries: u32, end: AttemptEnd<'_>, random: f64) -> After {
    let (cause, asked) = match end {
        AttemptEnd::Success => return After::Complete,
        AttemptEnd::Cancelled => return After::Cancel,
        AttemptEnd::Error { code, retryable, retry_after } => {
            if !retryable || retry.non_retryable.iter().any(|c| c == code) {
                return After::Fail(Cause::Rejected);
            }
            (Cause::Error, retry_after.unwrap_or_default())
        }
        AttemptEnd::Timeout => (Cause::Timeout, Duration::ZERO),
    };
    if tries + 1 >= retry.max_attempts {
        After::Fail(cause)
    } else {
        // Longer than was asked is polite; for ever is not what anybody may ask.
        After::Retry(backoff(retry, tries, random).max(asked.min(limits::RETRY_AFTER_MAX)))
    }
}

/// What the scheduler decides about a task whose attempt was lost.
pub fn after_loss(retry: &RetryPolicy, losses: u16, random: f64) -> After {
    if losses > limits::LOSSES_MAX {
        After::Fail(Cause::Lost)
    } else {
        After::Retry(backoff(retry, u32::from(losses.saturating_sub(1)), random))
    }
}

/// Exponential back-off with a cap and jitter: `backoff · factor^tries`, capped, of which the share
/// `jitter` is drawn at random.
fn backoff(retry: &RetryPolicy, tries: u32, random: f64) -> Duration {
    let exponent = i32::try_from(tries).unwrap_or(i32::MAX);
    let wait = retry.backoff.as_secs_f64() * retry.factor.powi(exponent).min(f64::MAX);
    let capped = wait.min(retry.backoff_max.as_secs_f64());
    let jittered = capped * (1.0 - retry.jitter + retry.jitter * random);
    Duration::try_from_secs_f64(jittered).unwrap_or(retry.backoff_max)
}
