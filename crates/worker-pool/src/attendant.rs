//! The worker's side of `jetmill attend`: one process for one command.

use std::{io, os::fd::OwnedFd, path::Path, process::Stdio, time::Duration};

use common::limits;
use futures::{
    FutureExt as _,
    future::{self, FusedFuture as _},
};
use jetmill_sdk::worker::{AttemptContext, OutputStream};
use nix::{
    sys::signal::{Signal, kill, killpg},
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
    attend::{Order, Report, Said},
    capture::Tail,
    carrier::Carrier,
    redact::Redactor,
};

/// How long the pipes may stay open after everything that was started has ended: somebody else may
/// have been handed one.
const PIPES_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long the attendant may take to be gone after its report. A large folder takes it longer: it
/// goes on alone. Short enough that the end of a killed command is still told in time.
const GONE_WAIT_MAX: Duration = Duration::from_millis(500);
/// Longest report, in bytes.
const REPORT_BYTES_MAX: u64 = 64 * 1024;

/// An attendant and its command. Dropping it closes the socket, and that kills the command.
pub(crate) struct Attendant {
    process: Child,
    lines: BufReader<OwnedReadHalf>,
    orders: OwnedWriteHalf,
    /// The attempt's own folder, which the attendant removes.
    folder: Option<String>,
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
        Ok(Self { process, lines: BufReader::new(lines), orders, folder: order.folder.clone() })
    }

    /// Carries the output on and waits for the end, which it brings about when the attempt must end.
    pub(crate) async fn attend(
        mut self,
        attempt: &AttemptContext,
        redactor: &Redactor,
        streams: &Streams,
    ) -> Ended {
        let carrier = |stream, kept| Carrier::new(attempt, stream, redactor.clone(), kept);
        let mut out = carrier(streams.out, streams.kept);
        let mut err = carrier(streams.err, limits::RESULT_STDERR_BYTES_MAX);
        let pipes = (self.process.stdout.take(), self.process.stderr.take());
        let mut pipes =
            Box::pin(future::join(carry(pipes.0, &mut out), carry(pipes.1, &mut err)).fuse());
        let along = async {
            (&mut pipes).await;
            future::pending::<()>().await;
        };
        // The one that ends is the report; the stopper and the pipes only go along.
        let report = tokio::select! {
            report = report(&mut self.lines, attempt) => report,
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
        match (timeout(GONE_WAIT_MAX, self.process.wait()).await, self.folder) {
            (Err(_), folder) => tracing::warn!(folder, "the attendant of a command is slow to end"),
            (Ok(Ok(status)), Some(folder)) if !status.success() => {
                tracing::warn!(folder, "the folder of an attempt may not be removed: remove it");
            }
            (Ok(_), _) => {}
        }
        Ended { report, out: out.finish(), err: err.finish() }
    }
}

/// Reads until the report, and passes on what was used so far. An attendant that vanishes cannot end
/// its command any more: we do.
async fn report(lines: &mut BufReader<OwnedReadHalf>, attempt: &AttemptContext) -> Option<Report> {
    let mut started = None;
    loop {
        let mut line = String::new();
        let read = lines.take(REPORT_BYTES_MAX).read_line(&mut line).await;
        let said = match read {
            Ok(1..) => serde_json::from_str(&line).ok(),
            Ok(0) | Err(_) => None,
        };
        match said {
            Some(Said::Started(pid)) => started = Some(pid),
            Some(Said::Used(used)) => attempt.used(used.to_pb()),
            Some(Said::Report(report)) => return Some(*report),
            None => {
                if let Some(pid) = started.map(Pid::from_raw) {
                    let _ = killpg(pid, Signal::SIGKILL);
                    // It may have left its group.
                    let _ = kill(pid, Signal::SIGKILL);
                }
                return None;
            }
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

/// Reads one pipe to its end.
async fn carry(pipe: Option<impl AsyncRead + Unpin>, carrier: &mut Carrier<'_>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        carrier.push(buffer.get(..count).unwrap_or_default());
    }
}
