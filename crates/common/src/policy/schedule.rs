//! **Pure.** What is wrong with a schedule.

use crate::{error::Violation, pb, task::TaskSpec};

/// Everything that is wrong with it; empty when nothing is.
pub(super) fn violations(schedule: &pb::Schedule) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut wrong = |field: &str, problem: &str| {
        violations.push(Violation { field: field.into(), problem: problem.into() });
    };
    if schedule.cron.is_empty() {
        wrong("schedule.cron", "must not be empty");
    }
    match schedule.task.clone().map(TaskSpec::parse) {
        None => wrong("schedule.task", "must be what each tick creates"),
        Some(Ok(_)) => {}
        Some(Err(inner)) => violations.extend(inner.into_iter().map(|violation| Violation {
            field: format!("schedule.task.{}", violation.field),
            ..violation
        })),
    }
    violations
}
