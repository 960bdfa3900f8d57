//! **Pure.** Files of task types: YAML, and so JSON too; several documents may stand in one.

use std::fmt;

use common::{error::Violation, limits, pb};
use serde::Deserialize as _;
use serde_json::{Map, Value};

use crate::{node::documents, resolve::Compiled};

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
    /// What is wrong there.
    pub violation: Violation,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { field, problem } = &self.violation;
        let space = if field.is_empty() { "" } else { " " };
        write!(f, "{}: {field}{space}{problem}", self.line)
    }
}

/// Reads the task types of a file: all of them, or everything that is wrong.
pub fn read(text: &str) -> Result<Vec<Entry>, Vec<Problem>> {
    let whole = |line, field: &str, problem: String| {
        vec![Problem { line, violation: Violation { field: field.into(), problem } }]
    };
    if text.len() > limits::CATALOG_FILE_BYTES_MAX {
        let max = limits::CATALOG_FILE_BYTES_MAX;
        return Err(whole(1, "", format!("the file must have at most {max} bytes; split it")));
    }
    let documents = documents(text).map_err(|(line, problem)| whole(line, "", problem))?;
    let (mut entries, mut problems) = (Vec::<Entry>::new(), Vec::new());
    for (value, lines) in documents.into_iter().filter(|(value, _)| !value.is_null()) {
        let line = lines.of("");
        match task_type(value) {
            Ok(task_type) => {
                let twin = entries.iter().find(|entry| entry.task_type.name == task_type.name);
                if let Some(twin) = twin {
                    let problem = format!("stands on line {} already", twin.line);
                    problems.extend(whole(lines.of("name"), "name", problem));
                }
                entries.push(Entry { line, task_type });
            }
            Err(violations) => problems.extend(violations.into_iter().map(|violation| {
                let line = lines.of(&violation.field);
                Problem { line, violation }
            })),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    if entries.is_empty() {
        return Err(whole(1, "", "there is no task type in this file".into()));
    }
    Ok(entries)
}

/// Reads one task type.
fn task_type(value: Value) -> Result<pb::TaskType, Vec<Violation>> {
    let Value::Object(object) = value else {
        return Err(vec![Violation {
            field: String::new(),
            problem: "a task type is a map of fields, such as `name: nightly_report`".into(),
        }]);
    };
    let known = pb::fields("TaskType");
    let (fields, unknown): (Map<_, _>, Map<_, _>) =
        object.into_iter().partition(|(key, _)| known.contains(&key.as_str()));
    let mut violations = unknown.keys().map(|key| no_field(key, known)).collect::<Vec<_>>();
    let mut good = Map::new();
    for (key, value) in fields {
        match read_alone(&key, &value) {
            Ok(()) => {
                good.insert(key, value);
            }
            Err(problem) => violations.push(drill(&key, &value, problem)),
        }
    }
    let read = pb::TaskType::deserialize(Value::Object(good));
    let task_type = read.map_err(|error| {
        // Such as a field in both spellings.
        vec![Violation { field: String::new(), problem: format!("cannot be read: {error}") }]
    })?;
    let misread = |v: &Violation| {
        violations.iter().any(|other| other.field.split(['.', '[']).next() == Some(&v.field))
    };
    let more = Compiled::new(&task_type).err().unwrap_or_default();
    let more = more.into_iter().filter(|v| !misread(v)).collect::<Vec<_>>();
    violations.extend(more);
    if violations.is_empty() { Ok(task_type) } else { Err(violations) }
}

fn no_field(key: &str, known: &[&str]) -> Violation {
    let names = known.iter().filter(|name| !name.contains(char::is_uppercase));
    let mut names = names.copied().collect::<Vec<_>>();
    names.sort_unstable();
    names.dedup();
    let problem = format!("is no field of a task type; these are: {}", names.join(", "));
    Violation { field: key.to_owned(), problem }
}

/// Whether one field can be read; else what is wrong with it.
fn read_alone(key: &str, value: &Value) -> Result<(), String> {
    let alone = Value::Object(Map::from_iter([(key.to_owned(), value.clone())]));
    pb::TaskType::deserialize(alone).map(drop).map_err(|error| error.to_string())
}

/// Finds the part of a field that cannot be read: the one without which the field can be.
fn drill(key: &str, value: &Value, problem: String) -> Violation {
    let mut whole = value.clone();
    let (mut path, mut pointer) = (key.to_owned(), String::new());
    let mut problem = problem;
    'deeper: while let Some(here) = whole.pointer(&pointer).cloned() {
        let children: Vec<(String, String)> = match &here {
            Value::Object(fields) => fields
                .keys()
                .map(|k| {
                    let token = k.replace('~', "~0").replace('/', "~1");
                    (format!(".{k}"), format!("/{token}"))
                })
                .collect(),
            Value::Array(items) => {
                (0..items.len()).map(|n| (format!("[{n}]"), format!("/{n}"))).collect()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
        };
        for (name, token) in children.into_iter().take(limits::TAGS_MAX) {
            let mut without = whole.clone();
            remove(&mut without, &pointer, &token);
            if read_alone(key, &without).is_ok() {
                keep_only(&mut whole, &pointer, &token);
                path.push_str(&name);
                let kept = if here.is_array() { "/0".to_owned() } else { token };
                pointer.push_str(&kept);
                if let Err(now) = read_alone(key, &whole) {
                    problem = now;
                }
                continue 'deeper;
            }
        }
        break;
    }
    Violation { field: path, problem }
}

fn remove(value: &mut Value, parent: &str, token: &str) {
    match value.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.remove(&token.trim_start_matches('/').replace("~1", "/").replace("~0", "~"));
        }
        Some(Value::Array(items)) => {
            if let Ok(n) = token.trim_start_matches('/').parse::<usize>()
                && n < items.len()
            {
                items.remove(n);
            }
        }
        _ => {}
    }
}

/// Leaves one child, so that only it can be at fault.
fn keep_only(value: &mut Value, parent: &str, token: &str) {
    match value.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            let key = token.trim_start_matches('/').replace("~1", "/").replace("~0", "~");
            fields.retain(|k, _| *k == key);
        }
        Some(Value::Array(items)) => {
            let n = token.trim_start_matches('/').parse::<usize>().unwrap_or_default();
            *items = items.get(n).cloned().into_iter().collect();
        }
        _ => {}
    }
}
