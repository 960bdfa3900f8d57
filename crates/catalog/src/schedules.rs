//! **Pure.** Files of schedules: YAML, and so JSON too; several documents may stand in one.

use common::{
    error::Violation,
    pb,
    policy::{Document, Kind},
};
use serde_json::Value;

use crate::{
    fields::{self, Shape, within},
    read::{Problem, read_all},
};

const DOCUMENT: Shape = Shape {
    message: "Document",
    what: "schedule's document",
    example: "`name: nightly` and `schedule: {cron: \"0 2 * * *\", task: {…}}`",
};
const SCHEDULE: Shape =
    Shape { message: "Schedule", what: "schedule", example: "`cron: \"0 2 * * *\"`" };
const TASK: Shape =
    Shape { message: "TaskSpec", what: "task", example: "`task_type: nightly_report`" };

/// Reads the schedules of a file, as documents: all of them, or everything that is wrong.
pub fn schedules(text: &str) -> Result<Vec<pb::Document>, Vec<Problem>> {
    let read = read_all(text, SCHEDULE.what, document, |document| &document.name)?;
    Ok(read.into_iter().map(|(_, document)| document).collect())
}

/// Reads one. What stands in a field of its own is read by itself, so that each names its problems.
fn document(mut value: Value) -> Result<pb::Document, Vec<Violation>> {
    let mut schedule = value.as_object_mut().and_then(|fields| fields.remove("schedule"));
    let given = schedule.as_mut().and_then(Value::as_object_mut);
    let task = given.and_then(|fields| fields.remove("task"));
    let (mut document, mut violations) = fields::read::<pb::Document>(value, DOCUMENT)?;
    if let Some(schedule) = schedule {
        match fields::read::<pb::Schedule>(schedule, SCHEDULE) {
            Ok((mut schedule, mut wrong)) => {
                if let Some(task) = task {
                    let (task, more) = match fields::read::<pb::TaskSpec>(task, TASK) {
                        Ok((task, wrong)) => (task, wrong),
                        Err(wrong) => (pb::TaskSpec::default(), wrong),
                    };
                    schedule.task = Some(task);
                    wrong.extend(within("task", more));
                }
                document.body = Some(pb::document::Body::Schedule(schedule));
                violations.extend(within("schedule", wrong));
            }
            Err(wrong) => violations.extend(within("schedule", wrong)),
        }
    }
    let is_schedule =
        |document: &Document| document.body.kind() == Kind::Schedule && !document.is_removed();
    let missing = || Violation {
        field: "schedule".into(),
        problem: format!("is missing: write {}", DOCUMENT.example),
    };
    let checked = match Document::try_from(document.clone()) {
        Ok(read) if is_schedule(&read) => Vec::new(),
        Ok(_) => vec![missing()],
        Err(_) if document.body.is_none() => vec![missing()],
        Err(wrong) => wrong,
    };
    for violation in checked {
        // A field that could not be read is not there: that is no second problem.
        let known = |other: &Violation| {
            other.field.starts_with(&violation.field)
                || violation.field == "schedule.cron"
                    && ["schedule.every", "schedule.at"].iter().any(|w| other.field.starts_with(w))
        };
        if !violations.iter().any(known) {
            violations.push(violation);
        }
    }
    if violations.is_empty() { Ok(document) } else { Err(violations) }
}
