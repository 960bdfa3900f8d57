//! Events in JSON: the fields of the envelope and of the kind lie side by side, and the subject
//! names the kind.
//!
//! A submission with a field that there is not is refused, since it asks for something that would
//! not happen. A report with one is kept whole: what Jetmill does not know becomes metadata.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct as _};
use serde_json::{Map, Value, json};

use super::{NotAnEvent, Received, undecodable};
use crate::{
    error::{ApiError, Violation},
    event::Event,
    pb::{self, event::Kind as Body},
    subject::LogSubject,
    task::SCHEDULED,
};

type Object = Map<String, Value>;

pub(super) fn decode(
    subject: LogSubject<'_>,
    message: Received<'_>,
    index: u32,
) -> Result<Event, NotAnEvent> {
    let value = serde_json::from_slice(message.payload).map_err(|e| undecodable("not JSON", &e))?;
    let Value::Object(object) = value else {
        return Err(NotAnEvent::Undecodable("not a JSON object".into()));
    };
    let event = match subject {
        LogSubject::Bundle => {
            Err(NotAnEvent::Undecodable("a bundle is protobuf, never JSON".into()))
        }
        LogSubject::Mission(word) => mission(word, object),
        LogSubject::Event("created") => submission(object),
        LogSubject::Event(word) | LogSubject::Policy(word) => report(word, object),
    }?;
    super::from_pb(event, message, index)
}

/// Reads a submission: every unknown field is named.
pub(super) fn spec(value: Value) -> Result<pb::TaskSpec, ApiError> {
    let Value::Object(object) = value else {
        return Err(ApiError::invalid_field("task", "must be a JSON object"));
    };
    let known = pb::fields("TaskSpec");
    let unknown = object
        .keys()
        .filter(|key| !known.contains(&key.as_str()))
        .map(|key| Violation { field: key.clone(), problem: "is no field of a submission".into() })
        .collect::<Vec<_>>();
    if object.contains_key("schedule") {
        return Err(ApiError::invalid_field("schedule", SCHEDULED));
    }
    if !unknown.is_empty() {
        let names = known.iter().filter(|n| !n.chars().any(char::is_uppercase));
        let names = names.copied().collect::<std::collections::BTreeSet<_>>();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        return Err(ApiError::invalid(unknown)
            .hint(format!("the fields are {names}; anything else goes into metadata")));
    }
    let value = Value::Object(object);
    pb::TaskSpec::deserialize(&value).map_err(|e| wrong_types(&value, &e))
}

/// Names the fields that cannot be read by reading each alone.
fn wrong_types(value: &Value, error: &serde_json::Error) -> ApiError {
    let fields = value.as_object().into_iter().flatten();
    let wrong = fields.filter_map(|(key, value)| {
        let alone = Value::Object(Object::from_iter([(key.clone(), value.clone())]));
        let error = pb::TaskSpec::deserialize(&alone).err()?;
        Some(Violation { field: key.clone(), problem: format!("has the wrong type: {error}") })
    });
    let wrong = wrong.collect::<Vec<_>>();
    if wrong.is_empty() {
        // Such as a field in both spellings.
        return ApiError::invalid_field("task", format!("cannot be read: {error}"));
    }
    ApiError::invalid(wrong)
}

/// A request to submit, read as strictly and with the same complaints as a single submission.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubmitJson {
    #[serde(default)]
    tasks: Vec<Value>,
}

impl<'de> Deserialize<'de> for pb::SubmitRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let SubmitJson { tasks } = SubmitJson::deserialize(deserializer)?;
        let read = (0..).zip(tasks).map(|(n, task)| {
            spec(task).map_err(|error| de::Error::custom(format_args!("tasks[{n}]: {error}")))
        });
        Ok(Self { tasks: read.collect::<Result<_, _>>()? })
    }
}

impl Serialize for pb::SubmitRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("SubmitRequest", 1)?;
        object.serialize_field("tasks", &self.tasks)?;
        object.end()
    }
}

fn submission(object: Object) -> Result<pb::Event, NotAnEvent> {
    let spec = spec(Value::Object(object)).map_err(|e| NotAnEvent::Undecodable(e.to_string()))?;
    Ok(pb::Event {
        fold: crate::lifecycle::FOLD_VERSION,
        kind: Some(Body::Created(Box::new(spec))),
        ..pb::Event::default()
    })
}

/// Takes the known fields of a message out of an object.
fn take(object: &mut Object, message: &str) -> Object {
    let mut known = Object::new();
    for field in pb::fields(message) {
        if let Some((key, value)) = object.remove_entry(*field) {
            known.insert(key, value);
        }
    }
    known
}

fn read<T: serde::de::DeserializeOwned>(object: Object) -> Result<T, NotAnEvent> {
    serde_json::from_value(Value::Object(object))
        .map_err(|e| undecodable("a field of the wrong type", &e))
}

fn report(word: &str, mut object: Object) -> Result<pb::Event, NotAnEvent> {
    fn body<T: serde::de::DeserializeOwned>(
        object: &mut Object,
        message: &str,
    ) -> Result<T, NotAnEvent> {
        let mut known = take(object, message);
        for field in ["resource_usage", "resourceUsage"] {
            // Numbers that a newer reporter measures and this version does not know.
            if let Some(Value::Object(usage)) = known.get_mut(field) {
                let inner = take(usage, "ResourceUsage");
                let rest = std::mem::replace(usage, inner);
                if !rest.is_empty() {
                    object.insert(field.to_owned(), Value::Object(rest));
                }
            }
        }
        if let Some(Value::String(_)) = known.get("error") {
            let message = known.remove("error").unwrap_or_default();
            known.insert("error".into(), json!({ "message": message }));
        }
        read(known)
    }
    // Only the envelope's own: to JSON, the names of the kinds and `metadata` are the reporter's.
    let mut envelope = Object::new();
    for field in ["tenant", "task_id", "taskId", "at", "actor", "traceparent"] {
        envelope.extend(object.remove_entry(field));
    }
    let metadata = object.remove("metadata");
    let o = &mut object;
    let body = match word {
        "started" => Body::Started(body(o, "Started")?),
        "progress" => Body::Progress(body(o, "Progress")?),
        "updated" => Body::Updated(body(o, "Updated")?),
        "snapshot" => Body::Snapshot(body(o, "Snapshot")?),
        "completed" => Body::Completed(body(o, "Completed")?),
        "failed" => Body::Failed(body(o, "Failed")?),
        "retrying" => Body::Retrying(body(o, "Retrying")?),
        "lost" => Body::Lost(body(o, "Lost")?),
        "returned" => Body::Returned(body(o, "Returned")?),
        "skipped" => Body::Skipped(body(o, "Skipped")?),
        "cancelled" => Body::Cancelled(body(o, "Cancelled")?),
        "cancel_requested" => Body::CancelRequested(body(o, "CancelRequested")?),
        "reprioritised" => Body::Reprioritised(body(o, "Reprioritised")?),
        "expedited" => Body::Expedited(body(o, "Expedited")?),
        "carried" => Body::Carried(Box::new(body(o, "Carried")?)),
        "resolved" => Body::Resolved(Box::new(body(o, "Resolved")?)),
        "paused" => Body::Paused(body(o, "Paused")?),
        "resumed" => Body::Resumed(body(o, "Resumed")?),
        "trimmed" => Body::Trimmed(body(o, "Trimmed")?),
        "document" => Body::Document(Box::new(body(o, "Document")?)),
        "schedule_advanced" => Body::ScheduleAdvanced(body(o, "ScheduleAdvanced")?),
        _ => return Err(NotAnEvent::UnknownInformational),
    };
    if let Some(metadata) = metadata {
        object.insert("metadata".into(), metadata);
    }
    let mut event: pb::Event = read(envelope)?;
    event.fold = crate::lifecycle::FOLD_VERSION;
    event.metadata = (!object.is_empty()).then(|| pb::Json::from_value(&Value::Object(object)));
    event.kind = Some(body);
    Ok(event)
}

/// A report of a mission: `mission_id` for `task_id`, and its own words for what happened.
fn mission(word: &str, mut object: Object) -> Result<pb::Event, NotAnEvent> {
    if let Some(id) = object.remove("mission_id") {
        object.entry("task_id").or_insert(id);
    }
    let said = object.get("event_type").and_then(Value::as_str).unwrap_or(word).to_owned();
    let word = said.rsplit('.').next().unwrap_or(word);
    match word {
        "created" => {
            object.remove("event_type");
            object.entry("task_type").or_insert_with(|| "mission".into());
            let mut spec = take(&mut object, "TaskSpec");
            if !object.is_empty() {
                let metadata = spec.entry("metadata").or_insert_with(|| json!({}));
                if let Value::Object(known) = metadata {
                    object.into_iter().for_each(|(key, value)| {
                        known.entry(key).or_insert(value);
                    });
                } else {
                    *metadata = json!({ "metadata": metadata.take(), "fields": object });
                }
            }
            submission(spec)
        }
        "started" | "in_progress" => report("started", object),
        "completed" | "resolved" => report("completed", object),
        "failed" | "escalated" => report("failed", object),
        other => {
            object.entry("status").or_insert_with(|| other.into());
            report("updated", object)
        }
    }
}
