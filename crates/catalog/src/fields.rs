//! **Pure.** The fields of an object of a file, each read by itself: so that every problem is named, and
//! where it is.

use common::{error::Violation, limits, pb};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What an object of a file is.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Its message in the protocol.
    pub(crate) message: &'static str,
    /// As people call it.
    pub(crate) what: &'static str,
    /// What it may look like.
    pub(crate) example: &'static str,
}

/// Reads an object: what of it can be read, and what is wrong with the rest.
pub(crate) fn read<T: DeserializeOwned>(
    value: Value,
    shape: Shape,
) -> Result<(T, Vec<Violation>), Vec<Violation>> {
    let Shape { message, what, example } = shape;
    let whole = |problem| Violation { field: String::new(), problem };
    let Value::Object(object) = value else {
        return Err(vec![whole(format!("a {what} is a map of fields, such as {example}"))]);
    };
    let known = pb::fields(message);
    let (fields, unknown): (Map<_, _>, Map<_, _>) =
        object.into_iter().partition(|(key, _)| known.contains(&key.as_str()));
    let mut violations = unknown.keys().map(|key| no_field(key, what, known)).collect::<Vec<_>>();
    let mut good = Map::new();
    for (key, value) in fields {
        match read_alone::<T>(&key, &value) {
            Ok(()) => {
                good.insert(key, value);
            }
            Err(problem) => violations.push(drill::<T>(&key, &value, problem)),
        }
    }
    // Such as a field in both spellings.
    let wrong = |error: serde_json::Error| vec![whole(format!("cannot be read: {error}"))];
    Ok((serde_json::from_value(Value::Object(good)).map_err(wrong)?, violations))
}

/// Adds what a check found, but for fields that could not be read: these are not there.
pub(crate) fn and_checked(violations: &mut Vec<Violation>, checked: Vec<Violation>) {
    let misread = |v: &Violation| {
        violations.iter().any(|other| other.field.split(['.', '[']).next() == Some(&v.field))
    };
    let more = checked.into_iter().filter(|v| !misread(v)).collect::<Vec<_>>();
    violations.extend(more);
}

/// The same violations within a field.
pub(crate) fn within(field: &str, violations: Vec<Violation>) -> impl Iterator<Item = Violation> {
    violations.into_iter().map(move |violation| {
        let dot = if violation.field.is_empty() { "" } else { "." };
        Violation { field: format!("{field}{dot}{}", violation.field), ..violation }
    })
}

fn no_field(key: &str, what: &str, known: &[&str]) -> Violation {
    let names = known.iter().filter(|name| !name.contains(char::is_uppercase));
    let mut names = names.copied().collect::<Vec<_>>();
    names.sort_unstable();
    names.dedup();
    let problem = format!("is no field of a {what}; these are: {}", names.join(", "));
    Violation { field: key.to_owned(), problem }
}

/// Whether one field can be read; else what is wrong with it.
fn read_alone<T: DeserializeOwned>(key: &str, value: &Value) -> Result<(), String> {
    let alone = Value::Object(Map::from_iter([(key.to_owned(), value.clone())]));
    serde_json::from_value::<T>(alone).map(drop).map_err(|error| error.to_string())
}

/// Finds the part of a field that cannot be read: the one without which the field can be.
fn drill<T: DeserializeOwned>(key: &str, value: &Value, problem: String) -> Violation {
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
            if read_alone::<T>(key, &without).is_ok() {
                keep_only(&mut whole, &pointer, &token);
                path.push_str(&name);
                let kept = if here.is_array() { "/0".to_owned() } else { token };
                pointer.push_str(&kept);
                if let Err(now) = read_alone::<T>(key, &whole) {
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
