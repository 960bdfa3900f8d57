//! **Pure.** Policy events as messages, and back.

use super::{Body, NotAnEvent, undecodable};
use crate::{
    error::ApiError,
    event::{Pause, Policy, Trimmed, UsedRate},
    id::{DocumentName, QueueName},
    pb,
    policy::{Document, schedule::Advanced},
    time::Timestamp,
};

pub(super) fn paused(body: &pb::Paused) -> Result<Policy, NotAnEvent> {
    from_pb(body).map(Policy::Paused)
}

fn from_pb(body: &pb::Paused) -> Result<Pause, NotAnEvent> {
    let until = body.until.map(|until| Timestamp::from(until).min(Timestamp::MAX));
    Ok(Pause { queue: optional_queue(&body.queue)?, reason: body.reason.clone(), until })
}

pub(super) fn resumed(body: &pb::Resumed) -> Result<Policy, NotAnEvent> {
    Ok(Policy::Resumed { queue: optional_queue(&body.queue)? })
}

pub(super) fn document(body: pb::Document) -> Result<Policy, NotAnEvent> {
    let problem = |violations| NotAnEvent::Undecodable(ApiError::invalid(violations).to_string());
    Document::try_from(body).map(Box::new).map(Policy::Document).map_err(problem)
}

pub(super) fn advanced(body: pb::ScheduleAdvanced) -> Result<Policy, NotAnEvent> {
    DocumentName::parse(&body.name).map_err(|e| undecodable("name", &e))?;
    Ok(Policy::ScheduleAdvanced(Advanced {
        name: body.name,
        through: body.through.map(Timestamp::from).unwrap_or_default(),
        last: body.last.map(Timestamp::from),
        why: body.why,
    }))
}

pub(super) fn trimmed(body: &pb::Trimmed) -> Result<Policy, NotAnEvent> {
    Ok(Policy::Trimmed(Trimmed {
        floor: body.floor,
        as_of: body.as_of,
        clock: body.clock.map(Timestamp::from).unwrap_or_default(),
        pauses: body.pauses.iter().map(from_pb).collect::<Result<_, _>>()?,
        rates: body.rates.iter().map(rate_from_pb).collect::<Result<_, _>>()?,
    }))
}

fn rate_from_pb(rate: &pb::UsedRate) -> Result<UsedRate, NotAnEvent> {
    Ok(UsedRate {
        queue: QueueName::parse(&rate.queue).map_err(|e| undecodable("queue", &e))?,
        limit: rate.limit.clone(),
        key: rate.key.clone(),
        next: rate.next.map(Timestamp::from).unwrap_or_default(),
    })
}

fn optional_queue(name: &str) -> Result<Option<QueueName>, NotAnEvent> {
    if name.is_empty() {
        return Ok(None);
    }
    QueueName::parse(name).map(Some).map_err(|e| undecodable("queue", &e))
}

/// The message of a policy event.
pub(super) fn to_pb(policy: &Policy) -> Body {
    match policy {
        Policy::Paused(pause) => Body::Paused(pause_to_pb(pause)),
        Policy::Resumed { queue } => {
            Body::Resumed(pb::Resumed { queue: queue_name(queue.as_ref()) })
        }
        Policy::Trimmed(trimmed) => Body::Trimmed(pb::Trimmed {
            floor: trimmed.floor,
            as_of: trimmed.as_of,
            clock: Some(trimmed.clock.into()),
            pauses: trimmed.pauses.iter().map(pause_to_pb).collect(),
            rates: trimmed.rates.iter().map(rate_to_pb).collect(),
        }),
        Policy::ScheduleAdvanced(advanced) => Body::ScheduleAdvanced(pb::ScheduleAdvanced {
            name: advanced.name.clone(),
            through: Some(advanced.through.into()),
            last: advanced.last.map(Into::into),
            why: advanced.why.clone(),
        }),
        Policy::Document(document) => Body::Document(Box::new(pb::Document::from(&**document))),
    }
}

fn pause_to_pb(pause: &Pause) -> pb::Paused {
    pb::Paused {
        queue: queue_name(pause.queue.as_ref()),
        reason: pause.reason.clone(),
        until: pause.until.map(Into::into),
    }
}

fn rate_to_pb(rate: &UsedRate) -> pb::UsedRate {
    pb::UsedRate {
        queue: rate.queue.to_string(),
        limit: rate.limit.clone(),
        key: rate.key.clone(),
        next: Some(rate.next.into()),
    }
}

fn queue_name(queue: Option<&QueueName>) -> String {
    queue.map(ToString::to_string).unwrap_or_default()
}
