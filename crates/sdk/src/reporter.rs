//! Tells Jetmill about work that another system runs: it is listed, timed and forecast, and never
//! dispatched.

use common::{
    error::{ApiError, ErrorCode},
    event::{Event, Kind, TaskEvent},
    id::{TaskId, Tenant},
    limits, pb,
};
use serde_json::{Value, json};

use crate::{Client, Task};

/// Reports the work of one subsystem and one type of task.
#[derive(Clone, Debug)]
pub struct TaskReporter {
    client: Client,
    subsystem: String,
    task_type: String,
}

impl TaskReporter {
    /// A reporter for this kind of work.
    pub fn new(client: Client, subsystem: impl Into<String>, task_type: impl Into<String>) -> Self {
        Self { client, subsystem: subsystem.into(), task_type: task_type.into() }
    }

    /// Registers a task and says that it has begun. Its id is `<subsystem>_<type>_<8 hex digits>`.
    pub async fn start_task(&self, title: &str, created_by: &str) -> Result<TaskId, ApiError> {
        self.start(Task::external().title(title).created_by(created_by)).await
    }

    /// The same for a task that says more: its own id, a priority, metadata, a deadline.
    pub async fn start(&self, task: Task) -> Result<TaskId, ApiError> {
        let task = task.with(|spec| {
            if spec.task_id.is_empty() && spec.idempotency_key.is_empty() {
                let random = rand::random::<u32>();
                spec.task_id = format!("{}_{}_{random:08x}", self.subsystem, self.task_type);
            }
            // Reports name no tenant, so their tasks have the default one.
            spec.tenant.clear();
            spec.subsystem.clone_from(&self.subsystem);
            spec.task_type.clone_from(&self.task_type);
        });
        let submission = self.client.submit(task.build()?).await?;
        let id = TaskId::parse(&submission.task_id)
            .map_err(|e| ApiError::new(ErrorCode::Internal, format!("the id of the task {e}")))?;
        let started = pb::Started { attempt: 0, worker: self.subsystem.clone() };
        self.report(&id, Kind::Started(started)).await?;
        Ok(id)
    }

    /// Says how far a task is.
    pub async fn progress(
        &self,
        id: &TaskId,
        fraction: f64,
        message: &str,
    ) -> Result<(), ApiError> {
        let body = pb::Progress {
            fraction: Some(fraction),
            message: message.into(),
            ..pb::Progress::default()
        };
        self.report(id, Kind::Progress(body)).await
    }

    /// Says that a task ended well, with what it used where that is known.
    pub async fn complete_task(
        &self,
        id: &TaskId,
        result: Option<&Value>,
        usage: Option<pb::ResourceUsage>,
    ) -> Result<(), ApiError> {
        let mut body = pb::Completed {
            success: Some(true),
            verification_passed: Some(true),
            result: result.map(pb::Json::from_value),
            resource_usage: usage,
            ..pb::Completed::default()
        };
        if let Some(large) = body.result.take_if(|r| r.text.len() > limits::RESULT_BYTES_MAX) {
            body.result_object = Some(bus::objects::put(self.client.bus(), &large.text).await?);
        }
        self.report(id, Kind::Completed(Box::new(body))).await
    }

    /// Says that a task failed, and why.
    pub async fn fail_task(
        &self,
        id: &TaskId,
        message: &str,
        usage: Option<pb::ResourceUsage>,
    ) -> Result<(), ApiError> {
        let body = pb::Failed {
            cause: pb::Cause::Error as i32,
            error: Some(pb::TaskError { code: "reported".into(), message: message.into() }),
            resource_usage: usage,
            result_metadata: Some(pb::Json::from_value(&json!({ "error": message }))),
            ..pb::Failed::default()
        };
        self.report(id, Kind::Failed(Box::new(body))).await
    }

    async fn report(&self, id: &TaskId, kind: Kind) -> Result<(), ApiError> {
        let tenant = Tenant::default();
        let event = TaskEvent::new(tenant, id.clone(), self.subsystem.as_str(), kind);
        self.client.publish(Event::Task(event)).await
    }
}
