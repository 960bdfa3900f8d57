//! **Pure.** What is wrong with a limit.

use crate::{error::Violation, id::QueueName, pb};

/// Everything that is wrong with it; empty when nothing is.
pub(super) fn violations(limit: &pb::Limit) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut wrong = |field: &str, problem: String| {
        violations.push(Violation { field: field.into(), problem });
    };
    if let Err(error) = QueueName::parse(&limit.queue) {
        wrong("limit.queue", error.to_string());
    }
    if limit.concurrency == Some(0) {
        wrong("limit.concurrency", "must be at least 1; pause the queue to hold all".into());
    }
    violations
}
