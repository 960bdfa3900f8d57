//! **Pure.** The key of a limit: a small expression over a submission.
//!
//! It is evaluated in the scheduler's loop, once for each task, so it must stay small: its source, its
//! steps and its value are bounded, and nothing in it can make a value much larger than its input.

use std::{fmt, sync::LazyLock};

use minijinja::{
    Environment, ErrorKind, Expression, UndefinedBehavior, Value, filters, value::ValueKind,
};

use crate::{limits, task::TaskSpec};

/// What an expression can see of a submission.
const NAMES: [&str; 9] = [
    "created_by",
    "executor",
    "input",
    "metadata",
    "priority",
    "subsystem",
    "tags",
    "task_type",
    "tenant",
];
/// Each `~` copies what stands before it, and that may be a whole input.
const JOINS_MAX: usize = 8;
/// Steps of one evaluation.
const FUEL: u64 = 1_000;
/// Expressions in one another.
const DEPTH: usize = 16;

/// No functions, and only filters whose result is no larger than what they are given.
static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH);
    environment.add_filter("default", filters::default);
    environment.add_filter("first", filters::first);
    environment.add_filter("int", filters::int);
    environment.add_filter("last", filters::last);
    environment.add_filter("length", filters::length);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("string", filters::string);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("upper", filters::upper);
    environment
});

/// A checked expression.
pub struct Key {
    source: Box<str>,
    names: Vec<&'static str>,
    expression: Expression<'static, 'static>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.source).finish()
    }
}

impl Key {
    /// Reads an expression; the error says what is wrong with it.
    pub fn parse(source: &str) -> Result<Self, String> {
        if source.len() > limits::KEY_SOURCE_BYTES_MAX {
            return Err(format!("is longer than {} bytes", limits::KEY_SOURCE_BYTES_MAX));
        }
        if source.contains(['*', '+']) {
            return Err("must not multiply or add: a key only names, and `~` joins".into());
        }
        if source.matches('~').count() > JOINS_MAX {
            return Err(format!("must not join more than {JOINS_MAX} times"));
        }
        let compiled = ENVIRONMENT.compile_expression_owned(source.to_owned());
        let expression = compiled.map_err(|error| format!("is no expression: {}", said(&error)))?;
        let mut names = Vec::new();
        for name in expression.undeclared_variables(false) {
            let known = NAMES.iter().find(|known| **known == name);
            names.push(
                *known
                    .ok_or_else(|| format!("knows no `{name}`; there are {}", NAMES.join(", ")))?,
            );
        }
        if names.is_empty() {
            return Err("is the same for every task: leave it out".into());
        }
        names.sort_unstable();
        Ok(Self { source: source.into(), names, expression })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Its value for a submission; the error says why it has none.
    pub fn of(&self, spec: &TaskSpec) -> Result<Box<str>, String> {
        let context = self.names.iter().map(|name| (*name, look_up(name, spec)));
        let context = Value::from_pairs(context);
        let value = self.expression.eval(context).map_err(|error| said(&error))?;
        if value.is_undefined() {
            return Err("has no value".into());
        }
        let text: Box<str> = match (value.as_str(), value.kind()) {
            (Some(text), _) => text.into(),
            (None, ValueKind::Number) => value.to_string().into(),
            (None, ValueKind::Bool) => if value.is_true() { "true" } else { "false" }.into(),
            (None, _) => return Err("is neither a text nor a number nor true or false".into()),
        };
        if text.len() > limits::KEY_BYTES_MAX {
            return Err(format!("is longer than {} bytes", limits::KEY_BYTES_MAX));
        }
        Ok(text)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

fn said(error: &minijinja::Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "takes too many steps".into(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    }
}

fn look_up(name: &str, spec: &TaskSpec) -> Value {
    let task = spec.as_pb();
    let json = |json: Option<&crate::pb::Json>| {
        let parsed = json.and_then(|json| serde_json::from_str::<Value>(&json.text).ok());
        parsed.unwrap_or(Value::UNDEFINED)
    };
    match name {
        "created_by" => Value::from(task.created_by.as_str()),
        "executor" => Value::from(spec.executor().word()),
        "input" => json(task.input.as_ref()),
        "metadata" => json(task.metadata.as_ref()),
        "priority" => Value::from(spec.priority()),
        "subsystem" => Value::from(task.subsystem.as_str()),
        "tags" => task.tags.iter().map(String::as_str).collect(),
        "task_type" => Value::from(task.task_type.as_str()),
        "tenant" => Value::from(task.tenant.as_str()),
        _ => Value::UNDEFINED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    fn spec(input: &str) -> TaskSpec {
        let input = Some(pb::Json { text: input.into() });
        let tags = vec!["red".to_owned(), "blue".to_owned()];
        let task =
            pb::TaskSpec { input, tags, task_type: "mail".into(), ..pb::TaskSpec::default() };
        TaskSpec::parse(task).expect("a valid task")
    }

    fn key(source: &str, input: &str) -> Result<Box<str>, String> {
        Key::parse(source).expect("an expression").of(&spec(input))
    }

    #[test]
    fn a_key_is_read_from_the_submission() {
        let input = r#"{"customer": {"id": 7, "name": "Acme"}, "vip": true, "list": ["x"]}"#;
        for (source, value) in [
            ("input.customer.id", "7"),
            ("input.customer.name|lower", "acme"),
            ("input.vip", "true"),
            ("input.list[0]", "x"),
            ("tenant ~ '/' ~ input.customer.id", "default/7"),
            ("task_type", "mail"),
            ("tags|first", "red"),
            ("created_by", "system"),
            ("executor", "external"),
            ("priority", "5"),
            ("'yes' if 'blue' in tags else 'no'", "yes"),
            ("input.nobody|default('none')", "none"),
        ] {
            assert_eq!(key(source, input).as_deref(), Ok(value), "{source}");
        }
    }

    #[test]
    fn what_has_no_value_says_why() {
        for (source, problem) in [
            ("input.nobody", "no value"),
            ("input.a.b", "undefined"),
            ("input.list", "neither a text"),
            ("input.none", "neither a text"),
            ("input.long", "longer than"),
        ] {
            let long = "x".repeat(limits::KEY_BYTES_MAX + 1);
            let input = format!(r#"{{"list": [1], "none": null, "long": "{long}"}}"#);
            let error = key(source, &input).expect_err(source);
            assert!(error.contains(problem), "{source}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_a_key_is_refused() {
        for (source, problem) in [
            ("input.", "no expression"),
            ("", "no expression"),
            ("input.n * 'a'", "multiply"),
            ("input.n + input.n", "add"),
            ("input.n~1~2~3~4~5~6~7~8~9", "join more than 8"),
            ("customer", "knows no `customer`"),
            ("range(1000000)", "knows no `range`"),
            ("'one'", "the same for every task"),
            ("input|tojson", "unknown filter"),
        ] {
            match Key::parse(source) {
                Err(error) => assert!(error.contains(problem), "{source}: {error}"),
                Ok(key) => {
                    let error = key.of(&spec("{}")).expect_err(source);
                    assert!(error.contains(problem), "{source}: {error}");
                }
            }
        }
        assert!(Key::parse(&format!("input.{}", "a".repeat(600))).is_err());
        assert!(Key::parse(&format!("{}input{}", "(".repeat(200), ")".repeat(200))).is_err());
    }
}
