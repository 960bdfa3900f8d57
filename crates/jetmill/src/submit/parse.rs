//! **Pure.** Values of flags, as people write them.

use std::time::Duration;

use common::{
    error::ApiError,
    pb::{self, dependency::On},
    time::Timestamp,
};

use crate::exit::bad_input;

/// Reads a duration as people write it.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    common::time::parse_duration(text).ok_or("write it as 250ms, 30s, 5m or 1h30m".into())
}

/// Reads the JSON of a flag.
pub(crate) fn parse_json(flag: &str, text: &str) -> Result<pb::Json, ApiError> {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => Ok(pb::Json::from_value(&value)),
        Err(error) => Err(bad_input(format!("{flag} is not JSON: {error}"))
            .hint("in a shell, put it in single quotes: '{\"name\": \"value\"}'")),
    }
}

/// Reads a point in time.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or("write it as 2026-11-21T08:00:00Z".into())
}

/// Reads `NAME=VALUE`.
pub(super) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".into()),
    }
}

/// `ID`, `ID:success`, `ID:failure` or `ID:end`; any other colon belongs to the id.
pub(super) fn parse_dependency(text: &str) -> Result<pb::Dependency, String> {
    let (id, on) = match text.rsplit_once(':') {
        Some((id, "success")) => (id, On::Success),
        Some((id, "failure")) => (id, On::Failure),
        Some((id, "end")) => (id, On::End),
        _ => (text, On::Unspecified),
    };
    if id.is_empty() {
        return Err("write it as ID, ID:failure or ID:end".into());
    }
    Ok(pb::Dependency { task_id: id.to_owned(), on: on.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_may_name_how_it_ends_and_its_id_may_have_colons() {
        let check = |text, id: &str, on: On| {
            let made = parse_dependency(text).expect("a dependency");
            assert_eq!((made.task_id.as_str(), made.on()), (id, on), "{text}");
        };
        check("a", "a", On::Unspecified);
        check("a:failure", "a", On::Failure);
        check("a:end", "a", On::End);
        check("a:b:success", "a:b", On::Success);
        check("urn:a", "urn:a", On::Unspecified);
        assert!(parse_dependency(":end").is_err() && parse_dependency("").is_err());
    }
}
