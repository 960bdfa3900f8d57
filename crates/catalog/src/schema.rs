//! **Pure.** The schema of an input, bounded: it refers to itself only, never back to where it is, and
//! expands to so many parts and no more. So neither its references nor its patterns can blow up, and
//! nothing is fetched.

use common::{error::Violation, limits};
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// Longest account of one problem, in characters.
const PROBLEM_CHARS_MAX: usize = 240;
/// Names of references that lead elsewhere, or where only the input decides to.
const FOREIGN: [&str; 6] =
    ["$id", "id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef"];
/// Keywords below which a reference would be data.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];
/// Keywords whose children have names that are no keywords.
const NAMES: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];

/// Makes the schema ready to check inputs.
pub(crate) fn compile(text: &str) -> Result<Validator, String> {
    let schema: Value =
        serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    let mut walk = Walk { root: &schema, parts: 0, trail: Vec::new() };
    walk.schema(&schema)?;
    jsonschema::options()
        .offline()
        .with_pattern_options(PatternOptions::regex().size_limit(1 << 20).dfa_size_limit(1 << 20))
        .build(&schema)
        .map_err(|error| {
            let at = error.instance_path().to_string();
            let at = if at.is_empty() { String::new() } else { format!(" at {at}") };
            format!("is no JSON Schema{at}: {}", cut(&error.to_string()))
        })
}

/// Counts what a schema expands to.
struct Walk<'a> {
    root: &'a Value,
    parts: usize,
    /// The references that led here.
    trail: Vec<&'a str>,
}

impl<'a> Walk<'a> {
    fn schema(&mut self, value: &'a Value) -> Result<(), String> {
        self.count()?;
        match value {
            Value::Object(fields) => {
                for (key, child) in fields.iter().filter(|(key, _)| !DATA.contains(&key.as_str())) {
                    match (key.as_str(), child) {
                        ("$ref", Value::String(to)) => self.reference(to)?,
                        ("$schema", _) => {}
                        (name, Value::String(_)) if FOREIGN.contains(&name) => {
                            return Err(format!(
                                "must not have `{name}`: references are `$ref: \"#/$defs/…\"`"
                            ));
                        }
                        (name, Value::Object(named)) if NAMES.contains(&name) => {
                            // What nothing refers to is compiled too.
                            for child in named.values() {
                                self.schema(child)?;
                            }
                        }
                        (_, child) => self.schema(child)?,
                    }
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.schema(item)?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        Ok(())
    }

    fn reference(&mut self, to: &'a str) -> Result<(), String> {
        let Some(pointer) = to.strip_prefix('#') else {
            return Err(format!(
                "refers to {:?}: nothing is fetched, so put it below `$defs` and refer to `#/$defs/…`",
                cut(to)
            ));
        };
        // The validator decodes what stands for other characters; what is walked here must be what
        // it follows.
        if pointer.contains('%') {
            return Err(format!("refers to {:?}: write it without `%`", cut(to)));
        }
        if self.trail.contains(&to) || pointer.is_empty() {
            return Err(format!("refers back to itself by {:?}, which may never end", cut(to)));
        }
        let Some(target) = self.root.pointer(pointer) else {
            return Err(format!("refers to {:?}, which is not there", cut(to)));
        };
        self.trail.push(to);
        self.schema(target)?;
        self.trail.pop();
        Ok(())
    }

    fn count(&mut self) -> Result<(), String> {
        self.parts += 1;
        if self.parts > limits::SCHEMA_PARTS_MAX {
            let max = limits::SCHEMA_PARTS_MAX;
            return Err(format!("must not expand to more than {max} parts"));
        }
        Ok(())
    }
}

/// Everything that is wrong with an input, by JSON pointer.
pub(crate) fn problems(schema: &Validator, input: &Value) -> Vec<Violation> {
    let mut found = Vec::new();
    for error in schema.iter_errors(input) {
        if found.len() == limits::INPUT_PROBLEMS_MAX {
            let problem = "has more problems than are named here".into();
            found.push(Violation { field: "input".into(), problem });
            break;
        }
        let field = format!("input{}", error.instance_path());
        found.push(Violation { field, problem: cut(&error.to_string()) });
    }
    found
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(PROBLEM_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
