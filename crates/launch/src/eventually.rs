//! Waiting for what other processes do, in bounded time. The tests sleep nowhere else.

use std::time::Duration;

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Asks `probe` again and again until it answers `Some`, for at most `timeout`.
///
/// The error names `what` was awaited. This is for what happens outside the test's own process:
/// under tokio's paused time the timeout would pass at once.
///
/// # Example
///
/// ```no_run
/// # async fn example(jobs: std::sync::Arc<std::sync::Mutex<Vec<u32>>>) -> anyhow::Result<()> {
/// # use std::time::Duration;
/// let job = launch::eventually("a job", Duration::from_secs(5), async || {
///     jobs.lock().ok()?.pop()
/// })
/// .await?;
/// # let _ = job;
/// # Ok(())
/// # }
/// ```
pub async fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let polling = async {
        let mut pause = PAUSE_MIN;
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    };
    match tokio::time::timeout(timeout, polling).await {
        Ok(found) => Ok(found),
        Err(_elapsed) => anyhow::bail!("waited {timeout:?} in vain for {what}"),
    }
}

/// The same for the start of a server, which blocks; an error of `probe` ends the waiting.
pub fn wait_for<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let rounds = timeout.as_millis() / PAUSE_MIN.as_millis();
    for _round in 0..rounds {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        std::thread::sleep(PAUSE_MIN);
    }
    anyhow::bail!("waited {timeout:?} in vain for {what}")
}
