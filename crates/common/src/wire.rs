//! The bytes of events: protobuf between services, JSON from anyone.
//!
//! Decoding is total: a message of the log gives a list of items, each an event or the reason why
//! it is none, so that one bad item spoils no other and no message stops a reader.

mod json;
mod policy;
pub mod time;
mod value;
mod word;

use prost::Message;
use uuid::Uuid;

use crate::{
    event::{Carried, Event, Kind, Policy, PolicyEvent, Resolved, TaskEvent},
    id::{TaskId, Tenant},
    lifecycle::FOLD_VERSION,
    pb::{self, event::Kind as Body},
    subject::{self, LogSubject},
    task::TaskSpec,
    time::Timestamp,
};

/// A message of the log as a reader receives it.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Its subject.
    pub subject: &'a str,
    /// Its header `Content-Type`.
    pub content_type: Option<&'a str>,
    /// Its header `traceparent`.
    pub traceparent: Option<&'a str>,
    /// Its body.
    pub payload: &'a [u8],
    /// The log's identity.
    pub stream: Uuid,
    /// Its place in the log.
    pub sequence: u64,
}

/// Why an item is no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEvent {
    /// It cannot be read; it goes to `DEAD`.
    #[error("{0}")]
    Undecodable(String),
    /// It is of a kind that this version does not know and may skip.
    #[error("an informational event of a newer version")]
    UnknownInformational,
    /// It changes states in a way that this version does not know: the reader must stop.
    #[error("needs version {0} of the fold; this service knows {FOLD_VERSION}: upgrade it")]
    NewerFold(u32),
}

/// Reads a message of the log: its items in order.
pub fn decode(message: Received<'_>) -> Vec<Result<Event, NotAnEvent>> {
    let Some(subject) = subject::parse_log(message.subject) else {
        return vec![Err(NotAnEvent::Undecodable(format!("no such subject: {}", message.subject)))];
    };
    if is_json(message.content_type, message.payload) {
        return vec![json::decode(subject, message, 0)];
    }
    if subject != LogSubject::Bundle {
        return vec![decode_event(message.payload, subject, message, 0)];
    }
    match pb::Bundle::decode(message.payload) {
        Err(error) => vec![Err(undecodable("not a bundle", &error))],
        Ok(bundle) => (0..)
            .zip(bundle.events)
            .map(|(index, item)| decode_event(&item, subject, message, index))
            .collect(),
    }
}

/// The bytes of one item of a message; `None` when the message has no such item.
pub fn item(message: Received<'_>, index: u32) -> Option<Vec<u8>> {
    let whole = subject::parse_log(message.subject) != Some(LogSubject::Bundle);
    if whole || is_json(message.content_type, message.payload) {
        return (index == 0).then(|| message.payload.to_vec());
    }
    pb::Bundle::decode(message.payload).ok()?.events.into_iter().nth(index as usize)
}

/// Whether the body is JSON: the header says so, or it begins like an object.
pub fn is_json(content_type: Option<&str>, payload: &[u8]) -> bool {
    match content_type {
        Some(kind) => kind.starts_with("application/json"),
        None => payload.first() == Some(&b'{'),
    }
}

fn undecodable(what: &str, error: &dyn std::error::Error) -> NotAnEvent {
    NotAnEvent::Undecodable(format!("{what}: {error}"))
}

fn decode_event(
    bytes: &[u8],
    subject: LogSubject<'_>,
    message: Received<'_>,
    index: u32,
) -> Result<Event, NotAnEvent> {
    let event = pb::Event::decode(bytes)
        .map_err(|e| undecodable("not an event (JSON begins with `{`)", &e))?;
    let word = event.kind.as_ref().map(body_word);
    match (subject, word) {
        (LogSubject::Event(expected) | LogSubject::Policy(expected), Some(word))
            if expected != word =>
        {
            let problem = format!("an event {word:?} on the subject of {expected:?}");
            return Err(NotAnEvent::Undecodable(problem));
        }
        // An event that says nothing is no newer version's: that would say at least something.
        (_, None) if bytes.is_empty() => {
            return Err(NotAnEvent::Undecodable("empty: a message without a body".into()));
        }
        // The kinds of these subjects are known, so theirs is missing.
        (LogSubject::Event(expected), None) if event.fold <= FOLD_VERSION => {
            let problem = format!("an event without its kind on the subject of {expected:?}");
            return Err(NotAnEvent::Undecodable(problem));
        }
        _ => {}
    }
    from_pb(event, message, index)
}

/// The word of an event's subject.
pub fn body_word(body: &Body) -> &'static str {
    match body {
        Body::Created(_) => "created",
        Body::Started(_) => "started",
        Body::Progress(_) => "progress",
        Body::Updated(_) => "updated",
        Body::Snapshot(_) => "snapshot",
        Body::Completed(_) => "completed",
        Body::Failed(_) => "failed",
        Body::Retrying(_) => "retrying",
        Body::Lost(_) => "lost",
        Body::Returned(_) => "returned",
        Body::Skipped(_) => "skipped",
        Body::Cancelled(_) => "cancelled",
        Body::CancelRequested(_) => "cancel_requested",
        Body::Reprioritised(_) => "reprioritised",
        Body::Expedited(_) => "expedited",
        Body::Carried(_) => "carried",
        Body::Resolved(_) => "resolved",
        Body::Paused(_) => "paused",
        Body::Resumed(_) => "resumed",
        Body::Trimmed(_) => "trimmed",
        Body::Document(_) => "document",
        Body::ScheduleAdvanced(_) => "schedule_advanced",
    }
}

fn from_pb(event: pb::Event, message: Received<'_>, index: u32) -> Result<Event, NotAnEvent> {
    if event.fold > FOLD_VERSION {
        return Err(NotAnEvent::NewerFold(event.fold));
    }
    let Some(body) = event.kind else {
        return Err(match event.fold {
            0 => NotAnEvent::UnknownInformational,
            _ => NotAnEvent::Undecodable("an event without a kind".into()),
        });
    };
    let traceparent = match event.traceparent {
        text if text.is_empty() => message.traceparent.unwrap_or_default().to_owned(),
        text => text,
    };
    let about = About {
        tenant: event.tenant,
        id: event.task_id,
        at: event.at.map(Timestamp::from),
        actor: event.actor,
        traceparent,
        metadata: event.metadata.map(|m| m.text).unwrap_or_default(),
    };
    let kind = match body {
        Body::Created(spec) => return created(*spec, about, message, index),
        Body::Started(b) => Kind::Started(b),
        Body::Progress(b) => Kind::Progress(b),
        Body::Updated(b) => Kind::Updated(b),
        Body::Snapshot(b) => Kind::Snapshot(b),
        Body::Completed(b) if b.success == Some(false) => Kind::Failed(Box::new(unsuccessful(b))),
        Body::Completed(b) => Kind::Completed(Box::new(b)),
        Body::Failed(b) => Kind::Failed(Box::new(b)),
        Body::Retrying(b) => Kind::Retrying(Box::new(b)),
        Body::Lost(b) => Kind::Lost(b),
        Body::Returned(b) => Kind::Returned(b),
        Body::Skipped(b) => Kind::Skipped(b),
        Body::Cancelled(b) => Kind::Cancelled(Box::new(b)),
        Body::CancelRequested(b) => Kind::CancelRequested(b),
        Body::Reprioritised(b) if !(1..=10).contains(&b.priority) => {
            return Err(NotAnEvent::Undecodable("priority must be 1 to 10".into()));
        }
        Body::Reprioritised(b) => Kind::Reprioritised(b),
        Body::Expedited(b) => Kind::Expedited(b),
        Body::Carried(b) => {
            let carried = Carried::try_from(*b).map_err(|e| undecodable("carried", &e))?;
            Kind::Carried(Box::new(carried))
        }
        Body::Resolved(b) => {
            let resolved = Resolved::try_from(*b).map_err(|e| undecodable("resolved", &e))?;
            let (tenant, id) = (resolved.spec.tenant(), resolved.spec.id());
            let same = Tenant::parse_or_default(&about.tenant).is_ok_and(|named| named == tenant);
            if !same || id.is_none_or(|id| id.as_str() != about.id) {
                let problem = "resolved: the task's own names are others".into();
                return Err(NotAnEvent::Undecodable(problem));
            }
            Kind::Resolved(Box::new(resolved))
        }
        Body::Paused(b) => return Ok(about.policy(policy::paused(&b)?)),
        Body::Resumed(b) => return Ok(about.policy(policy::resumed(&b)?)),
        Body::Trimmed(b) => return Ok(about.policy(policy::trimmed(&b)?)),
        Body::Document(b) => return Ok(about.policy(policy::document(*b)?)),
        Body::ScheduleAdvanced(b) => return Ok(about.policy(policy::advanced(b)?)),
    };
    about.event(kind)
}

/// The envelope of a task event, not yet checked.
struct About {
    tenant: String,
    id: String,
    at: Option<Timestamp>,
    actor: String,
    traceparent: String,
    metadata: String,
}

impl About {
    fn policy(self, policy: Policy) -> Event {
        Event::Policy(PolicyEvent { actor: self.actor, policy })
    }

    fn event(self, kind: Kind) -> Result<Event, NotAnEvent> {
        Ok(Event::Task(TaskEvent {
            tenant: Tenant::parse_or_default(&self.tenant)
                .map_err(|e| undecodable("tenant", &e))?,
            id: TaskId::parse(&self.id).map_err(|e| undecodable("task_id", &e))?,
            at: self.at,
            actor: self.actor,
            traceparent: self.traceparent,
            metadata: self.metadata,
            kind,
        }))
    }
}

fn created(
    mut spec: pb::TaskSpec,
    mut about: About,
    message: Received<'_>,
    index: u32,
) -> Result<Event, NotAnEvent> {
    if spec.task_id.is_empty() {
        spec.task_id = std::mem::take(&mut about.id);
    }
    if spec.tenant.is_empty() {
        spec.tenant = std::mem::take(&mut about.tenant);
    }
    let spec = TaskSpec::parse(spec).map_err(|violations| {
        NotAnEvent::Undecodable(crate::error::ApiError::invalid(violations).to_string())
    })?;
    let id =
        spec.id().unwrap_or_else(|| TaskId::from_place(message.stream, message.sequence, index));
    let spec = spec.with_id(&id).with_trace(&about.traceparent);
    id.as_str().clone_into(&mut about.id);
    spec.tenant().as_str().clone_into(&mut about.tenant);
    spec.as_pb().traceparent.clone_into(&mut about.traceparent);
    if about.actor.is_empty() {
        spec.as_pb().created_by.clone_into(&mut about.actor);
    }
    about.event(Kind::Created(Box::new(spec)))
}

/// A completion that says it was none; older reporters put the error into its metadata.
fn unsuccessful(body: pb::Completed) -> pb::Failed {
    let metadata = body.result_metadata.as_ref().map(pb::Json::to_value).unwrap_or_default();
    let error_message =
        metadata.get("error").and_then(serde_json::Value::as_str).unwrap_or_default();
    pb::Failed {
        attempt: body.attempt,
        cause: pb::Cause::Error as i32,
        error: None,
        error_message: error_message.to_owned(),
        result: body.result,
        resource_usage: body.resource_usage,
        result_metadata: body.result_metadata,
        duration: body.duration,
        started_at: body.started_at,
        worker: body.worker,
        result_object: body.result_object,
    }
}

/// The bytes of one event.
pub fn encode(event: &Event) -> Vec<u8> {
    to_pb(event).encode_to_vec()
}

/// Several encoded events as one message for [`subject::BUNDLE`] or [`subject::BUNDLE_CREATED`].
pub fn bundle(events: Vec<Vec<u8>>) -> Vec<u8> {
    pb::Bundle { events }.encode_to_vec()
}

/// The event as its message, for doors that show events.
pub fn to_pb(event: &Event) -> pb::Event {
    match event {
        Event::Task(event) => task_to_pb(event),
        Event::Policy(PolicyEvent { actor, policy }) => pb::Event {
            actor: actor.clone(),
            fold: FOLD_VERSION,
            kind: Some(policy::to_pb(policy)),
            ..pb::Event::default()
        },
    }
}

fn task_to_pb(event: &TaskEvent) -> pb::Event {
    let body = match &event.kind {
        Kind::Created(spec) => Body::Created(Box::new(spec.as_pb().clone())),
        Kind::Started(b) => Body::Started(b.clone()),
        Kind::Progress(b) => Body::Progress(b.clone()),
        Kind::Updated(b) => Body::Updated(b.clone()),
        Kind::Snapshot(b) => Body::Snapshot(*b),
        Kind::Completed(b) => Body::Completed((**b).clone()),
        Kind::Failed(b) => Body::Failed((**b).clone()),
        Kind::Retrying(b) => Body::Retrying((**b).clone()),
        Kind::Lost(b) => Body::Lost(b.clone()),
        Kind::Returned(b) => Body::Returned(b.clone()),
        Kind::Skipped(b) => Body::Skipped(b.clone()),
        Kind::Cancelled(b) => Body::Cancelled((**b).clone()),
        Kind::CancelRequested(b) => Body::CancelRequested(b.clone()),
        Kind::Reprioritised(b) => Body::Reprioritised(*b),
        Kind::Expedited(b) => Body::Expedited(*b),
        Kind::Carried(b) => Body::Carried(Box::new(pb::Carried::from(&**b))),
        Kind::Resolved(b) => Body::Resolved(Box::new(pb::Resolved::from(&**b))),
    };
    let created = matches!(body, Body::Created(_));
    let json = |text: &str| (!text.is_empty()).then(|| pb::Json { text: text.to_owned() });
    pb::Event {
        // A submission says these itself; the default tenant goes without saying.
        tenant: match event.tenant.as_str() {
            _ if created => String::new(),
            "default" => String::new(),
            tenant => tenant.to_owned(),
        },
        task_id: if created { String::new() } else { event.id.as_str().to_owned() },
        at: event.at.map(Into::into),
        actor: event.actor.clone(),
        traceparent: if created { String::new() } else { event.traceparent.clone() },
        fold: if event.kind.is_informational() { 0 } else { FOLD_VERSION },
        metadata: json(&event.metadata),
        kind: Some(body),
    }
}

/// Reads a submission from JSON, naming every field that there is not.
pub fn spec_from_json(value: serde_json::Value) -> Result<pb::TaskSpec, crate::error::ApiError> {
    json::spec(value)
}

#[cfg(test)]
mod tests;
