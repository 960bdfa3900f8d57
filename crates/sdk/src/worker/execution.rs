//! **Pure.** The messages of the work queue, parsed once: inside, everything is valid.

use common::{
    id::{QueueName, TaskId, TaskKey, Tenant},
    pb,
    task::TaskSpec,
    time::Timestamp,
    wire,
};
use prost::Message as _;

/// One attempt of one task.
#[derive(Clone, Debug)]
pub struct Execution {
    /// Whose task it is.
    pub tenant: Tenant,
    /// Which task it is.
    pub id: TaskId,
    /// The fencing token, at least 1.
    pub attempt: u32,
    /// Errors and timeouts so far.
    pub tries: u32,
    /// The queue it was taken from.
    pub queue: QueueName,
    /// What is to be done.
    pub spec: TaskSpec,
    /// W3C trace context, or empty.
    pub traceparent: String,
    /// When the log took the task.
    pub created_at: Option<Timestamp>,
}

/// Why a message of the work queue cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an execution request: {0}")]
pub struct Unreadable(String);

impl Execution {
    /// The short identity of the task.
    pub fn key(&self) -> TaskKey {
        TaskKey::new(&self.tenant, &self.id)
    }
}

/// Reads a message of the work queue: an `ExecutionRequest` in protobuf or JSON.
pub fn decode(payload: &[u8]) -> Result<Vec<Execution>, Unreadable> {
    let request: pb::ExecutionRequest = if wire::is_json(None, payload) {
        serde_json::from_slice(payload).map_err(|e| Unreadable(e.to_string()))?
    } else {
        pb::ExecutionRequest::decode(payload).map_err(|e| Unreadable(e.to_string()))?
    };
    if request.items.is_empty() {
        return Err(Unreadable("it has no items".into()));
    }
    request.items.into_iter().map(parse).collect()
}

fn parse(item: pb::Execution) -> Result<Execution, Unreadable> {
    let wrong = |what: &str, why: &dyn std::fmt::Display| Unreadable(format!("{what} {why}"));
    let spec = item.spec.ok_or_else(|| Unreadable("an item has no spec".into()))?;
    let spec = TaskSpec::parse(spec)
        .map_err(|v| wrong("the spec:", &common::error::ApiError::invalid(v)))?;
    if item.attempt == 0 {
        return Err(Unreadable("an item has no attempt".into()));
    }
    let traceparent = match item.traceparent {
        text if text.is_empty() => spec.as_pb().traceparent.clone(),
        text => text,
    };
    Ok(Execution {
        tenant: Tenant::parse_or_default(&item.tenant).map_err(|e| wrong("tenant", &e))?,
        id: TaskId::parse(&item.task_id).map_err(|e| wrong("task_id", &e))?,
        attempt: item.attempt,
        tries: item.tries,
        queue: match item.queue.as_str() {
            "" => spec.queue(),
            name => QueueName::parse(name).map_err(|e| wrong("queue", &e))?,
        },
        spec,
        traceparent,
        created_at: item.created_at.map(Timestamp::from),
    })
}
