//! **Pure.** Templates over the input, bounded in every direction.
//!
//! A template places values, it does not compute: there are `{{ … }}`, `if` and `for`, a few filters
//! and nothing that makes text grow by itself (`+`, `*`, `~`, `set`, macros). What is missing is an error
//! that names it; an empty text in a command is worse than a task that is refused.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use common::limits;
use minijinja::{
    Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value, filters, tests,
    value::{Serde, ValueKind},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What may not stand for itself in a part of a URL: RFC 3986, 2.3 names the others.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Characters of a template that an error repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// What the templates of one task may still make and look at, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<AtomicUsize>);

impl Budget {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(limits::TEMPLATE_WORK_BYTES_MAX)))
    }

    fn spend(&self, bytes: usize) -> Result<(), Error> {
        let take = |left: usize| left.checked_sub(bytes);
        let spent = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        spent.map(drop).map_err(|_| {
            let max = limits::TEMPLATE_WORK_BYTES_MAX;
            Error::new(ErrorKind::InvalidOperation, format!("makes more than {max} bytes"))
        })
    }
}

/// What is wrong with a template that has not seen an input.
pub(crate) fn check(source: &str) -> Result<(), String> {
    if source.len() > limits::TEMPLATE_BYTES_MAX {
        return Err(format!("must have at most {} bytes", limits::TEMPLATE_BYTES_MAX));
    }
    refuse_growth(source)?;
    let environment = environment(&Budget::new());
    environment.template_from_str(source).map(drop).map_err(|error| explain(&error))
}

/// Fills a template that was checked.
pub(crate) fn render(source: &str, input: &Value, budget: &Budget) -> Result<String, String> {
    let environment = environment(budget);
    let template = environment.template_from_str(source).map_err(|error| explain(&error))?;
    let mut out = Capped { text: Vec::new(), budget };
    let context = minijinja::context! { input => input };
    let filled = template.render_captured_to(context, &mut out);
    filled.map_err(|error| {
        let shown = source.chars().take(SHOWN_CHARS_MAX).collect::<String>();
        format!("{}, in `{shown}`", explain(&error))
    })?;
    String::from_utf8(out.text).map_err(|_| "does not give text".into())
}

/// A line about an object whose fields its template names. What the object lacks is empty.
#[derive(Clone, Debug)]
pub struct Line(String);

impl Line {
    /// Takes a template.
    pub fn parse(source: &str) -> Result<Self, String> {
        check(source).map(|()| Self(source.to_owned()))
    }

    /// The line about this object.
    pub fn of(&self, object: &serde_json::Value) -> Result<String, String> {
        let budget = Budget::new();
        let mut environment = environment(&budget);
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        let template = environment.template_from_str(&self.0).map_err(|error| explain(&error))?;
        let mut out = Capped { text: Vec::new(), budget: &budget };
        template.render_captured_to(input(object), &mut out).map_err(|error| explain(&error))?;
        String::from_utf8(out.text).map_err(|_| "does not give text".into())
    }
}

/// The input as templates see it.
pub(crate) fn input(value: &serde_json::Value) -> Value {
    Value::from(Serde(value))
}

/// Collects what a template makes, while there is room.
struct Capped<'a> {
    text: Vec<u8>,
    budget: &'a Budget,
}

impl Write for Capped<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.budget.spend(bytes.len()).map_err(io::Error::other)?;
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn environment(budget: &Budget) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(limits::TEMPLATE_FUEL));
    environment.set_recursion_limit(16);
    environment.set_formatter(format);
    environment.add_filter("default", filters::default);
    environment.add_filter("length", filters::length);
    let own = budget.clone();
    environment.add_filter("tojson", move |value: &Value| {
        let text = json(value)?;
        own.spend(text.len())?;
        Ok::<_, Error>(text)
    });
    for (name, change) in TEXT_FILTERS {
        let own = budget.clone();
        environment.add_filter(name, move |text: &str| {
            own.spend(text.len())?;
            Ok::<_, Error>(change(text))
        });
    }
    let own = budget.clone();
    environment.add_filter("join", move |list: &Value, between: Option<&str>| {
        join(list, between.unwrap_or_default(), &own)
    });
    environment.add_test("defined", tests::is_defined);
    environment.add_test("none", tests::is_none);
    environment
}

/// A name and what it does.
type TextFilter = (&'static str, fn(&str) -> String);

/// Filters that make a text of a text, of about its length.
const TEXT_FILTERS: [TextFilter; 5] = [
    ("lower", |text| text.to_lowercase()),
    ("upper", |text| text.to_uppercase()),
    ("trim", |text| text.trim().to_owned()),
    // One word of a shell.
    ("quote", |text| format!("'{}'", text.replace('\'', r"'\''"))),
    // One part of a path or a query.
    ("urlencode", |text| utf8_percent_encode(text, RESERVED).to_string()),
];

fn join(list: &Value, between: &str, budget: &Budget) -> Result<String, Error> {
    let mut out = String::new();
    for (n, item) in list.try_iter()?.enumerate() {
        let text = if item.kind() == ValueKind::String { item.to_string() } else { json(&item)? };
        let between = if n == 0 { "" } else { between };
        budget.spend(between.len() + text.len())?;
        out.push_str(between);
        out.push_str(&text);
    }
    Ok(out)
}

fn json(value: &Value) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| {
        Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(error)
    })
}

/// Texts as they are, everything else as JSON; nothing is an error.
fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let kind = value.kind();
    if kind == ValueKind::Undefined {
        return minijinja::escape_formatter(out, state, value);
    }
    if kind == ValueKind::None {
        if state.undefined_behavior() == UndefinedBehavior::Chainable {
            return Ok(());
        }
        let advice = "a value is null: say what stands for it with `| default('…', true)`";
        return Err(Error::new(ErrorKind::UndefinedError, advice));
    }
    match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&json(value)?).map_err(Error::from),
    }
}

/// Refuses what makes text grow faster than the template.
fn refuse_growth(source: &str) -> Result<(), String> {
    const STATEMENTS: [&str; 6] = ["if", "elif", "else", "endif", "for", "endfor"];
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let tail = rest.get(start..).unwrap_or_default();
        let close = match tail.get(..2) {
            Some("{{") => "}}",
            Some("{%") => "%}",
            Some("{#") => {
                return Err("must not have comments: put them into the file around it".into());
            }
            _ => {
                rest = tail.get(1..).unwrap_or_default();
                continue;
            }
        };
        let inside = tail.get(2..).unwrap_or_default();
        let code = Code::until(inside, close)?;
        // The signs at both ends are about white space.
        let code_text = code.text.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']);
        if close == "%}" {
            let word = code_text.split_whitespace().next().unwrap_or_default();
            if !STATEMENTS.contains(&word) {
                return Err(format!("must not have `{word}`: there are only `if` and `for`"));
            }
        }
        if let Some(sign) = ["+", "*", "~"].into_iter().find(|sign| code_text.contains(sign)) {
            return Err(format!(
                "must not have `{sign}`: write the parts side by side, as in {{{{ a }}}}-{{{{ b }}}}"
            ));
        }
        rest = inside.get(code.len..).unwrap_or_default();
    }
    Ok(())
}

/// What stands between two marks, without the texts in it.
struct Code {
    text: String,
    /// How long it is with the closing mark.
    len: usize,
}

impl Code {
    fn until(source: &str, close: &str) -> Result<Self, String> {
        let mut text = String::new();
        let mut chars = source.char_indices();
        while let Some((at, c)) = chars.next() {
            if source.get(at..).unwrap_or_default().starts_with(close) {
                return Ok(Self { text, len: at + close.len() });
            }
            if c != '\'' && c != '"' {
                text.push(c);
                continue;
            }
            let mut escaped = false;
            let ends = chars.any(|(_, other)| {
                let end = other == c && !escaped;
                escaped = other == '\\' && !escaped;
                end
            });
            if !ends {
                return Err("has a text without its closing quote".into());
            }
        }
        Err(format!("has no `{close}` for what it begins"))
    }
}

/// What is wrong, in one line.
fn explain(error: &Error) -> String {
    let mut source = std::error::Error::source(error);
    let mut text = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        text = format!("takes more than {} steps", limits::TEMPLATE_FUEL);
    }
    let line = error.line().filter(|line| *line > 1);
    line.map_or(text.clone(), |line| format!("{text} (line {line} of the template)"))
}
