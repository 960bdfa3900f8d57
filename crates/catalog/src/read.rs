//! **Pure.** Files of task types: YAML, and so JSON too; several documents may stand in one.

use std::fmt;

use common::{error::Violation, limits, pb};
use serde_json::Value;

use crate::{
    fields::{self, Shape},
    node::{Lines, documents},
    resolve::Compiled,
};

const TASK_TYPE: Shape =
    Shape { message: "TaskType", what: "task type", example: "`name: nightly_report`" };

/// A task type of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The line where it begins.
    pub line: u64,
    /// The type, checked as a whole.
    pub task_type: pb::TaskType,
}

/// One thing that is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: u64,
    /// The column, counted from 1.
    pub column: u64,
    /// What is wrong there.
    pub violation: Violation,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { field, problem } = &self.violation;
        let space = if field.is_empty() { "" } else { " " };
        write!(f, "{}:{}: {field}{space}{problem}", self.line, self.column)
    }
}

/// Reads the task types of a file: all of them, or everything that is wrong.
pub fn read(text: &str) -> Result<Vec<Entry>, Vec<Problem>> {
    let read = read_all(text, TASK_TYPE.what, task_type, |task_type| &task_type.name)?;
    Ok(read.into_iter().map(|(line, task_type)| Entry { line, task_type }).collect())
}

/// Reads what is in a file, with the line of each: all, or everything that is wrong.
pub(crate) fn read_all<T>(
    text: &str,
    what: &str,
    one: impl Fn(Value) -> Result<T, Vec<Violation>>,
    name: impl Fn(&T) -> &str,
) -> Result<Vec<(u64, T)>, Vec<Problem>> {
    let whole = |at: (u64, u64), field: &str, problem: String| {
        let violation = Violation { field: field.into(), problem };
        vec![Problem { line: at.0, column: at.1, violation }]
    };
    if text.len() > limits::CATALOG_FILE_BYTES_MAX {
        let max = limits::CATALOG_FILE_BYTES_MAX;
        return Err(whole((1, 1), "", format!("the file must have at most {max} bytes; split it")));
    }
    let documents = documents(text).map_err(|(at, problem)| whole(at, "", problem))?;
    let (mut entries, mut problems) = (Vec::<(u64, T)>::new(), Vec::new());
    for (value, lines) in documents.into_iter().filter(|(value, _)| !value.is_null()) {
        let (line, _) = lines.of("");
        match one(value) {
            Ok(read) => {
                if let Some((of, _)) = entries.iter().find(|(_, other)| name(other) == name(&read))
                {
                    let problem = format!("stands on line {of} already");
                    problems.extend(whole(lines.of("name"), "name", problem));
                }
                entries.push((line, read));
            }
            Err(violations) => problems.extend(located(violations, &lines)),
        }
    }
    if !problems.is_empty() {
        problems.sort_by_key(|problem| (problem.line, problem.column));
        return Err(problems);
    }
    if entries.is_empty() {
        return Err(whole((1, 1), "", format!("there is no {what} in this file")));
    }
    Ok(entries)
}

fn located(violations: Vec<Violation>, lines: &Lines) -> impl Iterator<Item = Problem> {
    violations.into_iter().map(|violation| {
        let (line, column) = lines.of(&violation.field);
        Problem { line, column, violation }
    })
}

/// Reads one task type.
fn task_type(value: Value) -> Result<pb::TaskType, Vec<Violation>> {
    let (task_type, mut violations) = fields::read::<pb::TaskType>(value, TASK_TYPE)?;
    fields::and_checked(&mut violations, Compiled::new(&task_type).err().unwrap_or_default());
    if violations.is_empty() { Ok(task_type) } else { Err(violations) }
}
