//! Runs one attempt: watches its limits, carries what it says, and stops it when it must end.

use std::{convert::Infallible, sync::Arc, time::Duration};

use common::{event::Kind, limits, pb, subject, task::Timeouts, time::Timestamp};
use futures::future;
use prost::Message as _;
use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::Instrument as _;

use super::{
    attempt::{self, Facts, How, Limit, STARTED_AFTER, Stop},
    context::{AttemptContext, Signs},
    engine::Engine,
    execution::Execution,
    executor::{AttemptResult, Executor},
    large,
    running::StopFlag,
};

/// Output waits this long for more of it.
const OUTPUT_EVERY: Duration = Duration::from_millis(100);
/// Time between two progress events of an attempt.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// How long the end of an attempt waits for its last output to leave.
const OUTPUT_WAIT_MAX: Duration = Duration::from_secs(2);
/// What an executor has on top of the grace for killing what did not end in it.
pub(super) const KILL_MARGIN: Duration = Duration::from_secs(1);

/// Runs an attempt to its end; returns the fact that ends it, or nothing when nobody wants it. Says
/// in between when the log has it that the attempt began.
pub(super) async fn run<E: Executor>(
    engine: &Arc<Engine<E>>,
    execution: &Arc<Execution>,
    stop: &StopFlag,
    begun_stored: &Notify,
) -> Option<Kind> {
    let (started_at, begun) = (engine.clock.now(), Instant::now());
    let bounds = Bounds::new(execution, started_at, begun);
    let (how, took) = match (stop.why(), bounds.total) {
        (Some(why), _) => (How::Stopped(why, AttemptResult::default()), None),
        (None, Some((end, whole))) if end <= begun => {
            (How::TimedOut(Limit::Total(whole), AttemptResult::default()), None)
        }
        _ => watched(engine, execution, stop, &bounds, begun_stored).await,
    };
    let facts = Facts {
        attempt: execution.attempt,
        tries: execution.tries,
        worker: engine.options.name.to_string(),
        started_at,
        duration: took.unwrap_or_else(|| begun.elapsed()),
    };
    let retry = execution.spec.retry();
    let mut ending = attempt::conclude(&retry, &facts, how, rand::random())?;
    let Err(error) = large::keep_result(&engine.bus, &mut ending).await else {
        return Some(ending);
    };
    let usage = if let Kind::Completed(body) = ending { body.resource_usage } else { None };
    let how = How::Finished(AttemptResult { error: Some(error), result: None, usage });
    attempt::conclude(&retry, &facts, how, rand::random())
}

/// Runs the executor; says how it ended, and how long it took where it ended by itself.
async fn watched<E: Executor>(
    engine: &Arc<Engine<E>>,
    execution: &Arc<Execution>,
    stop: &StopFlag,
    bounds: &Bounds,
    begun_stored: &Notify,
) -> (How, Option<Duration>) {
    let signs = Arc::new(Signs::new());
    // For log lines; the spans of traces are the executors' own (see runtime::telemetry).
    let span = tracing::info_span!(
        target: "jetmill::supervisor", "attempt",
        task = %execution.id,
        tenant = %execution.tenant,
        attempt = execution.attempt,
        queue = %execution.queue,
    );
    // A task of its own, so that a handler that computes without a pause stops no timer here.
    let mut work = JoinSet::new();
    let (own, attempted) = (engine.clone(), execution.clone());
    let (token, told) = (stop.token.clone(), signs.clone());
    let run = async move {
        // Not from before: under load, waiting for a thread is most of a short attempt.
        let begun = Instant::now();
        let result = match large::with_input(&own.bus, attempted, &token).await {
            Ok(execution) => own.executor.run(AttemptContext::new(execution, token, told)).await,
            Err(result) => result,
        };
        (result, begun.elapsed())
    };
    work.spawn(run.instrument(span));
    let carriers = future::join(
        report_life(engine, execution, &signs, begun_stored),
        send_output(engine, execution, &signs),
    );
    let how = tokio::select! {
        how = until_end(&mut work, bounds, stop, &signs) => how,
        // The carriers never end; dropping them loses at most a progress that is out of date.
        (never, _) = carriers => match never {},
    };
    let chunks = signs.take_output(true);
    if !chunks.is_empty() {
        let sent = timeout(OUTPUT_WAIT_MAX, publish_output(engine, execution, chunks)).await;
        if sent.is_err() {
            tracing::warn!(task = %execution.id, "the last output of an attempt could not be sent");
        }
    }
    how
}

/// When an attempt must end.
struct Bounds {
    run: Option<(Instant, Duration)>,
    heartbeat: Option<Duration>,
    total: Option<(Instant, Duration)>,
}

impl Bounds {
    fn new(execution: &Execution, now: Timestamp, begun: Instant) -> Self {
        let Timeouts { run, heartbeat, total, .. } = execution.spec.timeouts();
        let total = total.map(|whole| {
            let end = execution.created_at.unwrap_or(now).after(whole);
            (begun + end.since(now), whole)
        });
        Self { run: run.map(|d| (begun + d, d)), heartbeat, total }
    }

    /// Waits until the attempt has reached a limit.
    async fn reached(&self, signs: &Signs) -> Limit {
        let at = |end: Option<(Instant, Duration)>| async move {
            match end {
                Some((end, length)) => {
                    sleep_until(end).await;
                    length
                }
                None => future::pending().await,
            }
        };
        tokio::select! {
            length = at(self.run) => Limit::Run(length),
            whole = at(self.total) => Limit::Total(whole),
            silence = self.silence(signs) => Limit::Heartbeat(silence),
        }
    }

    async fn silence(&self, signs: &Signs) -> Duration {
        let Some(max) = self.heartbeat else { return future::pending().await };
        loop {
            let end = signs.heard() + max;
            if end <= Instant::now() {
                return max;
            }
            sleep_until(end).await;
        }
    }
}

type Work = JoinSet<(AttemptResult, Duration)>;

/// Waits for the work, or makes it end.
async fn until_end(
    work: &mut Work,
    bounds: &Bounds,
    stop: &StopFlag,
    signs: &Signs,
) -> (How, Option<Duration>) {
    // Every arm is cancel-safe; work that has ended comes first.
    let limit = tokio::select! {
        biased;
        ended = work.join_next() => {
            return match (finished(ended), stop.why()) {
                // It was told to stop and did so at once: that is no error of its own.
                ((How::Finished(result), took), Some(why)) if result.error.is_some() => {
                    (How::Stopped(why, result), took)
                }
                (how, _) => how,
            };
        }
        () = stop.token.cancelled() => None,
        limit = bounds.reached(signs) => Some(limit),
    };
    stop.token.cancel();
    let left = match timeout(limits::CANCEL_GRACE + KILL_MARGIN, work.join_next()).await {
        Ok(Some(Ok((left, _)))) => left,
        // It panicked on its way out, or did not end: what it held ends with the dropped work.
        Ok(_) | Err(_) => AttemptResult::default(),
    };
    work.abort_all();
    let how = match limit {
        Some(limit) => How::TimedOut(limit, left),
        None => How::Stopped(stop.why().unwrap_or(Stop::Stale), left),
    };
    (how, None)
}

fn finished(
    ended: Option<Result<(AttemptResult, Duration), JoinError>>,
) -> (How, Option<Duration>) {
    let how = match ended {
        Some(Ok((result, took))) => return (How::Finished(result), Some(took)),
        Some(Err(error)) if error.is_panic() => {
            let panic = error.into_panic();
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            How::Panicked(text.unwrap_or_else(|| "without a message".into()))
        }
        Some(Err(_)) | None => {
            How::Stopped(Stop::Return("the worker ended".into()), AttemptResult::default())
        }
    };
    (how, None)
}

/// Publishes that the attempt began, once it lasts long enough, and its progress.
async fn report_life<E: Executor>(
    engine: &Arc<Engine<E>>,
    execution: &Execution,
    signs: &Signs,
    begun_stored: &Notify,
) -> Infallible {
    tokio::select! {
        () = sleep(STARTED_AFTER) => {}
        () = signs.progressed.notified() => signs.progressed.notify_one(),
    }
    let worker = engine.options.name.to_string();
    let started = Kind::Started(pb::Started { attempt: execution.attempt, worker });
    if publish(engine, execution, started).await {
        begun_stored.notify_one();
    }
    loop {
        signs.progressed.notified().await;
        if let Some(progress) = signs.take_progress() {
            publish(engine, execution, Kind::Progress(progress)).await;
        }
        sleep(PROGRESS_EVERY).await;
    }
}

/// Says whether the log has it.
async fn publish<E: Executor>(engine: &Arc<Engine<E>>, execution: &Execution, kind: Kind) -> bool {
    let word = kind.word();
    let published = engine.publisher.publish(engine.event(execution, kind)).await;
    if let Err(error) = &published {
        tracing::warn!(task = %execution.id, %error, "failed to publish {word:?}");
    }
    published.is_ok()
}

/// Sends output on as it is written: after a short wait, or at once when much of it is there.
async fn send_output<E: Executor>(
    engine: &Arc<Engine<E>>,
    execution: &Execution,
    signs: &Signs,
) -> Infallible {
    loop {
        signs.wrote.notified().await;
        tokio::select! {
            () = sleep(OUTPUT_EVERY) => {}
            () = signs.full.notified() => {}
        }
        publish_output(engine, execution, signs.take_output(false)).await;
    }
}

async fn publish_output<E: Executor>(
    engine: &Arc<Engine<E>>,
    execution: &Execution,
    chunks: Vec<super::output::Chunk>,
) {
    let subject = subject::log(execution.key());
    for chunk in chunks {
        let message = pb::LogChunk {
            tenant: execution.tenant.to_string(),
            task_id: execution.id.to_string(),
            attempt: execution.attempt,
            stream: chunk.stream.as_str().into(),
            number: chunk.number,
            data: chunk.data,
            at: Some(engine.clock.now().into()),
            last: chunk.last,
        };
        let sent =
            engine.bus.client().publish(subject.clone(), message.encode_to_vec().into()).await;
        if let Err(error) = sent {
            tracing::warn!(task = %execution.id, %error, "failed to send output");
            return;
        }
    }
}
