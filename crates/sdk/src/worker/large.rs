//! Large inputs come from the object store before an attempt runs, and large results go there before
//! the log hears of them.

use std::{sync::Arc, time::Duration};

use bus::{
    Bus,
    objects::{self, ObjectError},
};
use common::{event::Kind, limits, pb};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    execution::Execution,
    executor::{AttemptError, AttemptResult},
};

/// Pause before the store is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// The attempt with its input. While the store is away it waits, within the attempt's own limits.
pub(super) async fn with_input(
    bus: &Bus,
    execution: Arc<Execution>,
    cancelled: &CancellationToken,
) -> Result<Arc<Execution>, AttemptResult> {
    let Some(place) = &execution.spec.as_pb().input_object else { return Ok(execution) };
    let fetched = async {
        loop {
            match Box::pin(objects::get(bus, place)).await {
                Err(ObjectError::Unavailable(why)) => {
                    tracing::warn!(task = %execution.id, why, "waiting for the input");
                    sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    };
    let fetched = tokio::select! {
        fetched = fetched => fetched,
        // What becomes of an attempt that must end is the engine's to say. It is no success.
        () = cancelled.cancelled() => {
            let error = AttemptError::retryable("stopped", "stopped before its input was there");
            return Err(AttemptResult::failure(error));
        }
    };
    match fetched {
        Ok(input) => {
            let whole = Execution::clone(&execution);
            let spec = whole.spec.with_input(input);
            Ok(Arc::new(Execution { spec, ..whole }))
        }
        // A copy of the store that lags may lack what another one has.
        Err(error @ ObjectError::Missing(_)) => {
            let error = AttemptError::retryable("input_missing", format!("the input: {error}"));
            Err(AttemptResult::failure(error))
        }
        Err(error) => {
            let error = AttemptError::permanent("input_damaged", format!("the input: {error}"));
            Err(AttemptResult::failure(error))
        }
    }
}

/// Puts a large result into the store. The error is what becomes of an attempt whose result cannot
/// be kept: to complete without it would be to lose it, for those who waited for it.
pub(super) async fn keep_result(bus: &Bus, kind: &mut Kind) -> Result<(), AttemptError> {
    let is_success = matches!(kind, Kind::Completed(_));
    let Some((result, object)) = result(kind) else { return Ok(()) };
    let Some(text) = result.take_if(|json| json.text.len() > limits::RESULT_BYTES_MAX) else {
        return Ok(());
    };
    match Box::pin(objects::put(bus, &text.text)).await {
        Ok(place) => *object = Some(place),
        Err(error) if is_success => {
            let message = format!("the result was not stored: {error}");
            return Err(AttemptError::retryable("result_not_stored", message));
        }
        // It has failed or was cancelled, and that counts; what it left is lost.
        Err(error) => tracing::warn!(%error, "what an attempt left was not stored"),
    }
    Ok(())
}

/// The result that an ending carries, and where its place is said.
fn result(kind: &mut Kind) -> Option<(&mut Option<pb::Json>, &mut Option<pb::Object>)> {
    if let Kind::Completed(body) = kind {
        Some((&mut body.result, &mut body.result_object))
    } else if let Kind::Failed(body) = kind {
        Some((&mut body.result, &mut body.result_object))
    } else if let Kind::Cancelled(body) = kind {
        Some((&mut body.result, &mut body.result_object))
    } else {
        None
    }
}
