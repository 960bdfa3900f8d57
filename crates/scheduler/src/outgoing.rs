//! **Pure.** The messages of the work queue, as the leader writes and reads them.

use common::{
    id::{QueueName, TaskId, TaskKey, Tenant},
    pb, subject,
    task::TaskSpec,
    time::Timestamp,
};
use prost::Message as _;
use uuid::Uuid;

use crate::{office::Out, plan::Entry};

/// One message for the work queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its subject: that of its attempt, or of its group.
    pub subject: String,
    /// Its body: an `ExecutionRequest`.
    pub body: Vec<u8>,
    /// W3C trace context, or empty.
    pub traceparent: String,
}

impl Outgoing {
    /// The message of some attempts of one queue; `None` when there are none.
    pub fn new(queue: &QueueName, items: Vec<pb::Execution>, json: bool) -> Option<Self> {
        let first = items.first()?;
        let tenant = Tenant::parse_or_default(&first.tenant).ok()?;
        let id = TaskId::parse(&first.task_id).ok()?;
        let subject = match items.len() {
            1 => subject::execution(queue, &tenant, &id, first.attempt),
            _ => subject::execution_group(queue, &group_name(&items)),
        };
        let traceparent = first.traceparent.clone();
        let request = pb::ExecutionRequest { items };
        let body = if json { serde_json::to_vec(&request).ok()? } else { request.encode_to_vec() };
        Some(Self { subject, body, traceparent })
    }
}

/// The next attempt of a task.
pub fn item(
    entry: &Entry,
    queue: &QueueName,
    spec: &TaskSpec,
    traceparent: String,
    created_at: Timestamp,
) -> pb::Execution {
    let spec = spec.as_pb();
    pb::Execution {
        tenant: spec.tenant.clone(),
        task_id: spec.task_id.clone(),
        attempt: entry.state.attempt(),
        tries: entry.state.tries.into(),
        queue: queue.to_string(),
        spec: Some(spec.clone()),
        traceparent,
        created_at: Some(created_at.into()),
    }
}

/// The same attempts have the same name, so that a group that is out already is refused; others
/// have another one.
fn group_name(items: &[pb::Execution]) -> String {
    let members = items.iter().map(|i| format!("{}\0{}\0{}\n", i.tenant, i.task_id, i.attempt));
    Uuid::new_v5(&Uuid::NAMESPACE_OID, members.collect::<String>().as_bytes()).simple().to_string()
}

/// The attempts that a message of the work queue is for.
pub fn attempts(body: &[u8]) -> Vec<Out> {
    let request = if common::wire::is_json(None, body) {
        serde_json::from_slice(body).ok()
    } else {
        pb::ExecutionRequest::decode(body).ok()
    };
    let items = request.map(|r: pb::ExecutionRequest| r.items).unwrap_or_default();
    let key = |item: &pb::Execution| {
        let tenant = Tenant::parse_or_default(&item.tenant).ok()?;
        Some((TaskKey::new(&tenant, &TaskId::parse(&item.task_id).ok()?), item.attempt))
    };
    items.iter().filter_map(key).collect()
}
