//! How the process ends: asked by a signal, in time, or at once.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal, as shells give it for Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Runs the process's work to its end.
///
/// The first SIGINT or SIGTERM cancels `soft`, which asks the work to end; the second ends the
/// process at once. Work that has not ended within `grace` after `soft` was cancelled, by a signal or
/// by anybody else, is dropped and reported as an error.
pub async fn run(
    soft: CancellationToken,
    grace: Duration,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut work = std::pin::pin!(work);
    // All arms are cancel-safe: `work` is polled on by reference, and signals coalesce.
    tokio::select! {
        ended = &mut work => return ended,
        name = signals.next() => {
            tracing::info!(signal = name, "stopping; a second signal stops at once");
            soft.cancel();
        }
        () = soft.cancelled() => {}
    }
    let late = tokio::time::sleep(grace);
    tokio::select! {
        ended = work => ended,
        _ = signals.next() => exit_now(),
        () = late => bail!("services did not end within {grace:?}; what they held is taken up by the next start"),
    }
}

#[expect(clippy::disallowed_methods, reason = "somebody asked twice: no destructor may delay it")]
fn exit_now() -> anyhow::Result<()> {
    std::process::exit(INTERRUPTED)
}

/// The signals that ask a process to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("failed to listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        // Both arms are cancel-safe.
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_ends_by_itself_ends_the_process() {
        let soft = CancellationToken::new();
        run(soft, Duration::from_secs(1), async { Ok(()) }).await.expect("a clean end");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_does_not_end_is_dropped_after_the_grace() {
        let soft = CancellationToken::new();
        soft.cancel();
        let ended = run(soft, Duration::from_secs(5), std::future::pending()).await;
        assert!(ended.expect_err("an error").to_string().contains("within 5s"));
    }
}
