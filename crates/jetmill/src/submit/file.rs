//! **Pure.** A file of tasks: one JSON object a line.

use common::{
    error::{ApiError, ErrorCode},
    task::TaskSpec,
    wire,
};

/// One line that is not empty.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: usize,
    /// The task, or what is wrong with it.
    pub(super) task: Result<TaskSpec, ApiError>,
}

/// What a file's tasks get when they do not say it themselves.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) tenant: String,
    pub(super) created_by: String,
    /// Who hears the outcomes; empty when nobody waits.
    pub(super) notify: String,
}

/// Reads every line. There are no comments in JSON: a line that begins with `#` is an error.
pub(super) fn parse(text: &[u8], defaults: &Defaults) -> Vec<Line> {
    let lines = (1..).zip(text.split(|byte| *byte == b'\n'));
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(number, line)| Line { number, task: task(line, defaults) })
        .collect()
}

fn task(line: &[u8], defaults: &Defaults) -> Result<TaskSpec, ApiError> {
    let value = serde_json::from_slice(line).map_err(|e| {
        ApiError::new(ErrorCode::InvalidArgument, format!("it is not JSON: {e}"))
            .hint("write one task a line, such as {\"executor\": {\"shell\": {\"argv\": [\"echo\", \"hi\"]}}}")
    })?;
    let mut spec = wire::spec_from_json(value)?;
    for (field, default) in [
        (&mut spec.tenant, &defaults.tenant),
        (&mut spec.created_by, &defaults.created_by),
        (&mut spec.notify, &defaults.notify),
    ] {
        if field.is_empty() {
            field.clone_from(default);
        }
    }
    TaskSpec::submitted(spec).map_err(ApiError::invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        let defaults =
            Defaults { tenant: "a".into(), created_by: "b".into(), notify: String::new() };
        parse(text.as_bytes(), &defaults)
    }

    #[test]
    fn empty_lines_are_nothing_and_bad_ones_keep_their_number() {
        let lines =
            lines("{\"title\": \"x\"}\n\n  \r\n{bad\n{\"tilte\": 1}\n# no\n{\"tenant\": \"c\"}");
        let numbers = lines.iter().map(|line| (line.number, line.task.is_ok())).collect::<Vec<_>>();
        assert_eq!(numbers, [(1, true), (4, false), (5, false), (6, false), (7, true)]);
        let tenants =
            lines.iter().filter_map(|l| l.task.as_ref().ok()).map(|t| t.tenant().to_string());
        assert_eq!(tenants.collect::<Vec<_>>(), ["a", "c"]);
        let error = lines.get(2).and_then(|line| line.task.as_ref().err()).expect("an error");
        assert!(error.to_string().contains("tilte"), "{error}");
    }

    #[test]
    fn bytes_that_are_no_text_are_one_bad_line() {
        let defaults =
            Defaults { tenant: String::new(), created_by: String::new(), notify: String::new() };
        let lines = parse(b"\xff\xfe\n{}", &defaults);
        assert_eq!(lines.iter().map(|line| line.task.is_ok()).collect::<Vec<_>>(), [false, true]);
    }
}
