//! The worker's side of `jetmill attend`: one process for one command.

use std::{io, os::fd::OwnedFd, path::Path, process::Stdio, time::Duration};

use common::limits;
use futures::{
    FutureExt as _,
    future::{self, FusedFuture as _},
};
use jetmill_sdk::worker::{AttemptContext, OutputStream};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    attend::{Order, Report, Started},
    capture::Tail,
    redact::Redactor,
};

/// How long the pipes may stay open after everything that was started has ended: somebody else may
/// have been handed one.
const PIPES_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long the attendant may take to be gone after its report.
const GONE_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest report, in bytes.
const REPORT_BYTES_MAX: u64 = 64 * 1024;

/// An attendant and its command. Dropping it closes the socket, and that kills the command.
pub(crate) struct Attendant {
    process: Child,
    lines: BufReader<OwnedReadHalf>,
    orders: OwnedWriteHalf,
}

/// What becomes of the command's output.
pub(crate) struct Streams {
    /// What its standard output is in the attempt's output; `None` leaves it out.
    pub(crate) out: Option<OutputStream>,
    /// The same for its standard error.
    pub(crate) err: Option<OutputStream>,
    /// How much of the end of standard output is kept, in bytes.
    pub(crate) kept: usize,
}

/// What is left of a command.
pub(crate) struct Ended {
    /// `None` when the attendant died before it could say.
    pub(crate) report: Option<Report>,
    pub(crate) out: Tail,
    pub(crate) err: Tail,
}

impl Attendant {
    pub(crate) async fn start(executable: &Path, order: &Order) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let process = Command::new(executable)
            .arg("attend")
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C in the worker's terminal is the worker's to handle.
            .process_group(0)
            .spawn()?;
        let (lines, mut orders) = UnixStream::from_std(ours)?.into_split();
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        orders.write_all(&line).await?;
        Ok(Self { process, lines: BufReader::new(lines), orders })
    }

    /// Carries the output on and waits for the end, which it brings about when the attempt must end.
    pub(crate) async fn attend(
        mut self,
        attempt: &AttemptContext,
        redactor: &Redactor,
        streams: &Streams,
    ) -> Ended {
        let (out, err) = (Tail::new(streams.kept), Tail::new(limits::RESULT_STDERR_BYTES_MAX));
        let mut ended = Ended { report: None, out, err };
        let (out, err) = (self.process.stdout.take(), self.process.stderr.take());
        let mut pipes = Box::pin(
            future::join(
                carry(out, streams.out, attempt, redactor.clone(), &mut ended.out),
                carry(err, streams.err, attempt, redactor.clone(), &mut ended.err),
            )
            .fuse(),
        );
        let along = async {
            (&mut pipes).await;
            future::pending::<()>().await;
        };
        // The one that ends is the report; the stopper and the pipes only go along.
        let report = tokio::select! {
            report = report(&mut self.lines) => report,
            () = stop(&mut self.orders, attempt) => None,
            () = along => None,
        };
        // A pipe that was read to its end is ready at once.
        let drained = async {
            if !pipes.is_terminated() {
                (&mut pipes).await;
            }
        };
        if timeout(PIPES_WAIT_MAX, drained).await.is_err() {
            tracing::warn!("a pipe of a command outlived the command");
        }
        drop(pipes);
        if timeout(GONE_WAIT_MAX, self.process.wait()).await.is_err() {
            tracing::warn!("the attendant of a command is slow to end");
        }
        ended.report = report;
        ended
    }
}

/// Reads until the report. An attendant that vanishes cannot end its command any more: we do.
async fn report(lines: &mut BufReader<OwnedReadHalf>) -> Option<Report> {
    let mut started = None;
    loop {
        let mut line = String::new();
        let read = lines.take(REPORT_BYTES_MAX).read_line(&mut line).await;
        if !matches!(read, Ok(1..)) {
            if let Some(Started { started }) = started {
                let _ = killpg(Pid::from_raw(started), Signal::SIGKILL);
            }
            return None;
        }
        match serde_json::from_str::<Started>(&line) {
            Ok(pid) => started = Some(pid),
            Err(_) => return serde_json::from_str(&line).ok(),
        }
    }
}

/// Ends the command when the attempt must end: first asks, and after the grace kills. It does not
/// return: the report does.
async fn stop(orders: &mut OwnedWriteHalf, attempt: &AttemptContext) {
    attempt.cancellation().cancelled().await;
    // An attendant that is gone needs no orders.
    let _ = orders.write_all(b"term\n").await;
    sleep(limits::CANCEL_GRACE).await;
    let _ = orders.write_all(b"kill\n").await;
    future::pending::<()>().await;
}

/// Carries one stream to the attempt's output and its end to the result, without secrets.
async fn carry(
    pipe: Option<impl AsyncRead + Unpin>,
    stream: Option<OutputStream>,
    attempt: &AttemptContext,
    mut redactor: Redactor,
    tail: &mut Tail,
) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; 16 * 1024];
    let mut show = |shown: &[u8]| {
        if let Some(stream) = stream {
            attempt.log(stream, shown);
        }
        tail.push(shown);
    };
    loop {
        let shown = match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => redactor.push(buffer.get(..count).unwrap_or_default()),
        };
        show(&shown);
    }
    let shown = redactor.finish();
    if !shown.is_empty() {
        show(&shown);
    }
}
