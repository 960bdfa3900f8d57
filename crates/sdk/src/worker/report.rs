//! Makes an ending durable, then tells those who wait for it.

use std::{sync::Arc, time::Duration};

use bus::PublishError;
use common::{event::Kind, lifecycle::Cause, pb};
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout};

use super::{
    attempt, engine::Engine, execution::Execution, executor::AttemptError, executor::Executor,
};

/// How long an ending is offered to a log that is full or away. Meanwhile the message is held.
const REPORT_FOR: Duration = Duration::from_secs(300);
/// Pause between two offers.
const PAUSE: Duration = Duration::from_secs(1);
/// How long telling a waiting client may take.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes how an attempt ended; says whether the log has it.
pub(super) async fn report<E: Executor>(
    engine: &Arc<Engine<E>>,
    execution: &Execution,
    mut kind: Kind,
) -> bool {
    let give_up = Instant::now() + REPORT_FOR;
    loop {
        match engine.publisher.publish(engine.event(execution, kind.clone())).await {
            Ok(_) => break,
            Err(PublishError::TooLarge) if !is_rejection(&kind) => {
                kind = too_large(engine, execution);
            }
            Err(PublishError::Exhausted | PublishError::Unavailable(_))
                if Instant::now() < give_up =>
            {
                sleep(PAUSE).await;
            }
            Err(error) => {
                tracing::error!(
                    task = %execution.id, attempt = execution.attempt, %error,
                    "failed to report {:?}: the attempt will count as lost", kind.word(),
                );
                return false;
            }
        }
    }
    tell(engine, execution, &kind).await;
    true
}

fn is_rejection(kind: &Kind) -> bool {
    matches!(kind, Kind::Failed(body) if body.cause() == pb::Cause::Rejected)
}

fn too_large<E: Executor>(engine: &Engine<E>, execution: &Execution) -> Kind {
    let what =
        "the result is larger than a message may be; store it elsewhere and return its place";
    Kind::Failed(Box::new(pb::Failed {
        attempt: execution.attempt,
        cause: Cause::Rejected.to_pb() as i32,
        error: Some(AttemptError::permanent("result_too_large", what).to_pb()),
        worker: engine.options.name.to_string(),
        ..pb::Failed::default()
    }))
}

/// Sends the outcome to the subject that the submitter named. Nobody may be there any more: the
/// query is the fallback.
async fn tell<E: Executor>(engine: &Engine<E>, execution: &Execution, kind: &Kind) {
    let notify = &execution.spec.as_pb().notify;
    if notify.is_empty() {
        return;
    }
    let Some(outcome) = attempt::outcome(&execution.tenant, &execution.id, kind) else { return };
    let sent = engine.bus.client().publish(notify.clone(), outcome.encode_to_vec().into());
    match timeout(NOTIFY_TIMEOUT, sent).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(task = %execution.id, %error, "failed to tell the submitter");
        }
        Err(_) => tracing::warn!(task = %execution.id, "failed to tell the submitter in time"),
    }
}
