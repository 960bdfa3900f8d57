//! Pauses of queues: asked for at the door, said in the log.

use common::{
    error::{ApiError, ErrorCode, Violation},
    event::{Event, Pause, Policy, PolicyEvent},
    id::QueueName,
    limits, pb,
    time::Timestamp,
    wire::time as wire,
};

use super::{Command, Door};
use crate::lead::Lead;

impl Door {
    pub(super) async fn pause(
        &self,
        request: pb::PauseRequest,
    ) -> Result<pb::PauseResponse, ApiError> {
        check_reason(&request.reason)?;
        let queue = queue(&request.queue)?;
        let until = end(request.until, request.duration, self.ctx.clock.now())?;
        let pause = Some(Pause { queue: queue.clone(), reason: request.reason, until });
        let actor = request.actor;
        self.catch_up().await?;
        self.ask(|reply| Command::Pause { queue, pause, actor, reply }).await?
    }

    pub(super) async fn resume(
        &self,
        request: pb::ResumeRequest,
    ) -> Result<pb::PauseResponse, ApiError> {
        let (queue, actor) = (queue(&request.queue)?, request.actor);
        self.catch_up().await?;
        self.ask(|reply| Command::Pause { queue, pause: None, actor, reply }).await?
    }
}

impl Lead {
    pub(super) async fn pause(
        &mut self,
        queue: Option<QueueName>,
        pause: Option<Pause>,
        actor: String,
    ) -> Result<pb::PauseResponse, ApiError> {
        let all = self.planner.pause_of_all();
        if queue.is_some() && all.is_some() {
            return Err(ApiError::new(ErrorCode::FailedPrecondition, "everything is paused")
                .hint("`jetmill resume --all` first"));
        }
        let known = queue.as_ref().map_or(all, |queue| self.planner.pause_named(queue));
        // Why it is paused does not make it another pause; for how long does.
        let ends = |pause: &Pause| pause.until;
        if known.map(ends) == pause.as_ref().map(ends) {
            let until = known.and_then(ends).map(Into::into);
            return Ok(pb::PauseResponse { until, ..pb::PauseResponse::default() });
        }
        let until = pause.as_ref().and_then(ends).map(Into::into);
        let policy = pause.map_or(Policy::Resumed { queue }, Policy::Paused);
        let event = Event::Policy(PolicyEvent { actor, policy });
        let sequence = self.publisher.publish(event).await?;
        Ok(pb::PauseResponse { changed: true, sequence, until })
    }
}

/// When a pause ends by itself, if somebody said so.
pub(super) fn end(
    until: Option<wire::Timestamp>,
    duration: Option<wire::Duration>,
    now: Timestamp,
) -> Result<Option<Timestamp>, ApiError> {
    let (field, end) = match (until, duration) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid_field("until", "excludes `duration`: give one"));
        }
        (Some(until), None) => ("until", Some(Timestamp::from(until))),
        (None, Some(duration)) => ("duration", duration.to_std().map(|d| now.after(d))),
    };
    match end.filter(|end| *end > now && *end <= Timestamp::MAX) {
        Some(end) => Ok(Some(end)),
        None => Err(ApiError::invalid_field(field, "must end after now and before the year 10000")),
    }
}

pub(super) fn check_reason(reason: &str) -> Result<(), ApiError> {
    if reason.len() > limits::TEXT_BYTES_MAX {
        return Err(ApiError::invalid_field("reason", "is too long"));
    }
    Ok(())
}

fn queue(text: &str) -> Result<Option<QueueName>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let queue = QueueName::parse(text)
        .map_err(|e| Violation { field: "queue".into(), problem: e.to_string() });
    queue.map(Some).map_err(|violation| ApiError::invalid(vec![violation]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pause_ends_at_a_time_or_after_one_and_not_in_the_past() {
        let now = Timestamp::from_unix(1_000, 0);
        let later = now.after(Duration::from_secs(60));
        let minute = Some(Duration::from_secs(60).into());
        assert_eq!(end(None, None, now), Ok(None));
        assert_eq!(end(Some(later.into()), None, now), Ok(Some(later)));
        assert_eq!(end(None, minute, now), Ok(Some(later)));
        assert!(end(Some(now.into()), None, now).is_err(), "it is over");
        assert!(end(None, Some(Duration::ZERO.into()), now).is_err());
        assert!(end(Some(later.into()), minute, now).is_err(), "one of both");
    }
}
