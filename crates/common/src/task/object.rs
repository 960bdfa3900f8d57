//! **Pure.** What a large value and its place in the object store must be.

use crate::{id::is_token, limits, pb};

/// What is wrong with a place in the object store.
pub fn object_problem(object: &pb::Object) -> Option<String> {
    let max = limits::NAME_BYTES_MAX;
    if object.name.is_empty() || object.name.len() > max || !is_token(&object.name) {
        return Some(format!("needs a name of at most {max} letters, digits, `_` and `-`"));
    }
    let max = limits::OBJECT_BYTES_MAX;
    if object.bytes == 0 || object.bytes as usize > max {
        return Some(format!("must say how many bytes it has, at most {max}"));
    }
    let digest = object.digest.strip_prefix("SHA-256=").unwrap_or_default();
    let is_digest = digest.len() == 44
        && digest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=".contains(&b));
    (!is_digest).then(|| "must say its digest as NATS does: SHA-256=…".to_owned())
}

/// What is wrong with a text that should be a JSON value of at most so many bytes.
pub fn json_problem(text: &str, max: usize) -> Option<String> {
    if text.len() > max {
        return Some(format!("must have at most {max} bytes of JSON; it has {}", text.len()));
    }
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        return Some(format!("is not JSON: {error}"));
    }
    let max = limits::JSON_DEPTH_MAX;
    (nesting(text) > max)
        .then(|| format!("must nest at most {max} arrays and objects in one another"))
}

/// How many arrays and objects of a JSON text stand in one another, at most.
///
/// The check of the syntax does not recurse and so takes any depth; whoever reads the value does.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
