//! A container that runs: its output, its input, what it uses, and its end, which comes by itself or
//! is brought about.

use std::{pin::Pin, time::Duration};

use bollard::container::{AttachContainerResults, LogOutput};
use common::{limits, pb};
use futures::{FutureExt as _, StreamExt as _, future, future::FusedFuture as _};
use jetmill_sdk::worker::{AttemptContext, AttemptError, AttemptResult, OutputStream};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep, timeout},
};

use super::{
    engine::{Client, End, Trouble},
    judge,
    usage::Readings,
};
use crate::{capture, capture::Tail, redact::Redactor};

/// How long the last output of a container may take to arrive after its end.
const OUTPUT_WAIT_MAX: Duration = Duration::from_secs(1);
/// Time between two tries to hear of a container again.
const AGAIN: Duration = Duration::from_millis(250);

/// A container that was started.
pub(super) struct Running {
    pub(super) client: Client,
    pub(super) id: String,
    streams: AttachContainerResults,
    stdin: Option<String>,
    started: Instant,
}

/// The streams of a container, and how much of the end of each its result has.
const STDOUT: (OutputStream, usize) = (OutputStream::Stdout, limits::PROCESS_RESULT_BYTES_MAX);
const STDERR: (OutputStream, usize) = (OutputStream::Stderr, limits::RESULT_STDERR_BYTES_MAX);

/// One stream of output on its way to the attempt.
struct Channel<'a> {
    attempt: &'a AttemptContext,
    stream: OutputStream,
    redactor: Redactor,
    tail: Tail,
}

impl<'a> Channel<'a> {
    fn new(
        attempt: &'a AttemptContext,
        (stream, kept): (OutputStream, usize),
        redactor: &Redactor,
    ) -> Self {
        Self { attempt, stream, redactor: redactor.clone(), tail: Tail::new(kept) }
    }

    fn push(&mut self, bytes: &[u8]) {
        let shown = self.redactor.push(bytes);
        self.show(&shown);
    }

    fn finish(&mut self) {
        let shown = self.redactor.finish();
        self.show(&shown);
    }

    fn show(&mut self, shown: &[u8]) {
        if !shown.is_empty() {
            self.attempt.log(self.stream, shown);
            self.tail.push(shown);
        }
    }
}

impl Running {
    pub(super) fn new(
        client: Client,
        id: String,
        streams: AttachContainerResults,
        stdin: Option<String>,
    ) -> Self {
        Self { client, id, streams, stdin, started: Instant::now() }
    }

    /// Waits for the end, which it brings about when the attempt must end.
    pub(super) async fn see_through(
        self,
        attempt: &AttemptContext,
        docker: &pb::Docker,
        (redactor, patience): (&Redactor, Duration),
    ) -> AttemptResult {
        let Self { client, id, streams, stdin, started } = self;
        let AttachContainerResults { output, input } = streams;
        let mut out = Channel::new(attempt, STDOUT, redactor);
        let mut err = Channel::new(attempt, STDERR, redactor);
        let mut readings = Readings::default();
        let end = {
            let mut output = Box::pin(carry(output, &mut out, &mut err).fuse());
            let along = async {
                let beside = future::join(
                    feed(input, stdin),
                    read_usage(&client, &id, started, &mut readings),
                );
                future::join(&mut output, beside).await;
                future::pending::<()>().await;
            };
            // The one that ends is the wait; the others only go along.
            let end = tokio::select! {
                end = until_over(&client, &id, patience) => end,
                () = stop(&client, &id, attempt) => Ok(End::default()),
                () = along => Ok(End::default()),
            };
            // A stream that was read to its end is ready at once.
            if end.is_ok() && !output.is_terminated() {
                let drained = timeout(OUTPUT_WAIT_MAX, output).await;
                if drained.is_err() {
                    tracing::warn!("the output of a container outlived it");
                }
            }
            end
        };
        out.finish();
        err.finish();
        let lasted = started.elapsed();
        left(end, docker, (&mut out.tail, &mut err.tail), readings.usage(lasted), redactor)
    }
}

/// What is left of a container.
fn left(
    end: Result<End, AttemptError>,
    docker: &pb::Docker,
    (out, err): (&mut Tail, &mut Tail),
    usage: Option<pb::ResourceUsage>,
    redactor: &Redactor,
) -> AttemptResult {
    let (exit, error) = match end {
        Ok(end) => {
            (i32::try_from(end.exit).ok(), judge::ended(&end, &docker.ok_codes, docker.memory_mb))
        }
        Err(error) => (None, Some(error)),
    };
    let error = error.map(|e| AttemptError { message: redactor.text(&e.message), ..e });
    AttemptResult { error, result: Some(capture::result(exit, None, out, err)), usage }
}

/// Waits for the end of a container, also of one whose engine is away for a while.
async fn until_over(client: &Client, id: &str, patience: Duration) -> Result<End, AttemptError> {
    let mut away = None;
    loop {
        match client.wait(id).await {
            Ok(Some(end)) => return Ok(end),
            Ok(None) => away = None,
            Err(trouble @ Trouble::Missing(_)) => return Err(judge::lost(&trouble)),
            Err(trouble) => {
                let since = *away.get_or_insert_with(Instant::now);
                if since.elapsed() > patience {
                    return Err(judge::lost(&trouble));
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// Ends the container when the attempt must end: first asks, and after the grace kills. It does not
/// return: the wait does.
async fn stop(client: &Client, id: &str, attempt: &AttemptContext) {
    attempt.cancellation().cancelled().await;
    for signal in ["SIGTERM", "SIGKILL"] {
        // One that has ended needs no signal.
        if let Err(trouble) = client.kill(id, signal).await {
            tracing::debug!(%trouble, signal, "a container took no signal");
        }
        sleep(limits::CANCEL_GRACE).await;
    }
    future::pending::<()>().await;
}

type Output =
    Pin<Box<dyn futures::Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

/// Carries the output to the attempt as it comes.
async fn carry(mut output: Output, out: &mut Channel<'_>, err: &mut Channel<'_>) {
    loop {
        match output.next().await {
            Some(Ok(LogOutput::StdErr { message })) => err.push(&message),
            Some(Ok(
                LogOutput::StdOut { message }
                | LogOutput::StdIn { message }
                | LogOutput::Console { message },
            )) => out.push(&message),
            Some(Err(error)) => {
                let told = format!("[jetmill: output is missing from here: {error}]\n");
                err.attempt.log(OutputStream::Log, told.as_bytes());
                return;
            }
            None => return,
        }
    }
}

/// Writes the standard input and closes it. A container that does not read it is none of ours to judge.
async fn feed(mut input: Pin<Box<dyn AsyncWrite + Send>>, text: Option<String>) {
    if let Some(text) = text {
        let written = input.write_all(text.as_bytes()).await;
        let closed = input.shutdown().await;
        if let Err(error) = written.and(closed) {
            tracing::debug!(%error, "a container did not read its standard input");
        }
    }
}

/// Reads what the container uses for as long as the engine tells.
async fn read_usage(client: &Client, id: &str, started: Instant, readings: &mut Readings) {
    let mut stats = Box::pin(client.stats(id));
    while let Some(reading) = stats.next().await {
        match reading {
            Ok(reading) => readings.push(&reading, started.elapsed()),
            Err(error) => {
                tracing::debug!(%error, "the engine tells no more of what a container uses");
                return;
            }
        }
    }
}
