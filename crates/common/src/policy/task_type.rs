//! **Pure.** What is wrong with a task type.

use crate::{error::Violation, pb, task::TaskSpec};

/// Everything that is wrong with it; empty when nothing is.
pub(super) fn violations(task_type: &pb::TaskType) -> Vec<Violation> {
    let spec = task_type.task.clone().unwrap_or_default();
    let inner = TaskSpec::parse(spec).err().unwrap_or_default();
    let field = |violation: Violation| Violation {
        field: format!("task_type.task.{}", violation.field),
        ..violation
    };
    inner.into_iter().map(field).collect()
}
