//! Live views: a task's events and output as they come. The gateway and the command line show them.
//!
//! A view is pulled by whoever looks at it and ends when that one leaves. It keeps no state, and a
//! slow viewer slows nobody else down.

mod logs;
mod watch;

use common::{
    error::{ApiError, ErrorCode},
    id::{TaskId, Tenant},
    pb,
};

use crate::{Bus, ReadError, endpoint};

pub use logs::logs;
pub use watch::watch;

/// One task, as the request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Subject {
    tenant: Tenant,
    id: TaskId,
}

impl Subject {
    fn parse(tenant: &str, id: &str) -> Result<Self, ApiError> {
        let tenant = parse_tenant(tenant)?;
        let id =
            TaskId::parse(id).map_err(|e| ApiError::invalid_field("task_id", e.to_string()))?;
        Ok(Self { tenant, id })
    }

    /// What the registry knows of it, once it has read the log up to now.
    async fn look_up(&self, bus: &Bus) -> Result<pb::Task, ApiError> {
        let request = pb::GetRequest {
            tenant: self.tenant.to_string(),
            task_id: self.id.to_string(),
            min_sequence: 0,
        };
        endpoint::request(bus, "registry", "get", &request).await
    }
}

fn parse_tenant(tenant: &str) -> Result<Tenant, ApiError> {
    Tenant::parse_or_default(tenant).map_err(|e| ApiError::invalid_field("tenant", e.to_string()))
}

fn unavailable(error: &anyhow::Error) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, format!("{error:#}"))
        .hint("try again, or see what is wrong with `jetmill doctor`")
}

fn unreadable(error: ReadError) -> ApiError {
    match error {
        ReadError::Nats(error) => unavailable(&error.context("failed to read the log")),
        ReadError::OtherLog { .. } | ReadError::Gap { .. } => {
            ApiError::new(ErrorCode::FailedPrecondition, error.to_string())
                .hint("begin now: leave out the position in the log")
        }
    }
}
