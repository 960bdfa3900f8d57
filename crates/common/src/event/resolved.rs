//! **Pure.** A submission that got its executor from its type.

use crate::{error::ApiError, id::TaskId, pb, task::TaskSpec, time::Timestamp};

/// What a submission and its type are together.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The task as it runs.
    pub spec: TaskSpec,
    /// The version of the type.
    pub version: u64,
    /// When the log took the submission.
    pub created_at: Timestamp,
    /// For a type with one task for each key and period: what stands for both, and until when.
    pub unique: Option<(TaskId, Timestamp)>,
}

impl TryFrom<pb::Resolved> for Resolved {
    type Error = ApiError;

    fn try_from(resolved: pb::Resolved) -> Result<Self, ApiError> {
        let spec = resolved.spec.ok_or_else(|| ApiError::invalid_field("spec", "is missing"))?;
        let spec = TaskSpec::parse(spec).map_err(ApiError::invalid)?;
        if spec.id().is_none() || spec.is_external() {
            return Err(ApiError::invalid_field("spec", "must have an id and an executor"));
        }
        let time = |at: Option<crate::wire::time::Timestamp>| at.map(Timestamp::from);
        let unique = TaskId::parse(&resolved.unique_id).ok();
        Ok(Self {
            spec,
            version: resolved.version,
            created_at: time(resolved.created_at).unwrap_or_default(),
            unique: unique.zip(time(resolved.unique_until)),
        })
    }
}

impl From<&Resolved> for pb::Resolved {
    fn from(resolved: &Resolved) -> Self {
        let unique = resolved.unique.as_ref();
        Self {
            spec: Some(resolved.spec.as_pb().clone()),
            version: resolved.version,
            created_at: Some(resolved.created_at.into()),
            unique_id: unique.map(|(id, _)| id.to_string()).unwrap_or_default(),
            unique_until: unique.map(|(_, until)| (*until).into()),
        }
    }
}
