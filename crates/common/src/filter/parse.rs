//! **Pure.** Reads the text of a filter.

use super::{Filter, Order, STATES, TextField, TimeField};
use crate::{
    error::ApiError,
    lifecycle::{Cause, state_word},
    limits::{DURATION_MAX, FILTER_BYTES_MAX, FILTER_DEPTH_MAX},
    time::{Timestamp, parse_duration},
};

/// A field as the text names it.
#[derive(Clone, Copy)]
enum Field {
    State,
    Cause,
    Tag,
    Priority,
    Age,
    Text(TextField),
    Time(TimeField),
}

impl Field {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "state" => Some(Self::State),
            "cause" => Some(Self::Cause),
            "tag" | "tags" => Some(Self::Tag),
            "priority" => Some(Self::Priority),
            "age" => Some(Self::Age),
            "type" => Some(Self::Text(TextField::TaskType)),
            "id" => Some(Self::Text(TextField::TaskId)),
            _ => {
                let text = TextField::ALL.iter().find(|f| f.as_str() == name);
                let time = TimeField::ALL.iter().find(|f| f.as_str() == name);
                text.map(|f| Self::Text(*f)).or_else(|| time.map(|f| Self::Time(*f)))
            }
        }
    }

    fn names() -> String {
        let texts = TextField::ALL.iter().map(|f| f.as_str());
        let times = TimeField::ALL.iter().map(|f| f.as_str());
        let all =
            ["state", "cause", "tag", "priority", "age"].into_iter().chain(texts).chain(times);
        all.collect::<Vec<_>>().join(", ")
    }
}

/// An operator as the text has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    Order(Order),
    NotEqual,
    Has,
}

/// Reads a filter; `None` when the text is empty, which fits every task. `now` is what `age` is
/// measured from.
pub fn parse(text: &str, now: Timestamp) -> Result<Option<Filter>, ApiError> {
    let refuse = |problem: String| Err(ApiError::invalid_field("filter", problem));
    if text.len() > FILTER_BYTES_MAX {
        return refuse(format!(
            "must have at most {FILTER_BYTES_MAX} bytes; it has {}",
            text.len()
        ));
    }
    if text.contains('\0') {
        return refuse("must not have NUL characters".into());
    }
    let mut parser = Parser { text, at: 0, now };
    parser.spaces();
    if parser.rest().is_empty() {
        return Ok(None);
    }
    let result = parser.any(0).and_then(|filter| match parser.rest() {
        "" => Ok(filter),
        rest if rest.starts_with(')') => Err(parser.problem("a `)` that nothing opened")),
        _ => Err(parser.problem("expected AND, OR or the end; text with spaces needs quotes")),
    });
    match result {
        Ok(filter) => Ok(Some(filter)),
        Err(Problem { at, what }) => refuse(format!("has a mistake at character {at}: {what}")),
    }
}

/// What is wrong, and where.
struct Problem {
    at: usize,
    what: String,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    now: Timestamp,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn problem(&self, what: impl Into<String>) -> Problem {
        self.problem_at(self.at, what)
    }

    fn problem_at(&self, at: usize, what: impl Into<String>) -> Problem {
        let before = self.text.get(..at).unwrap_or_default();
        Problem { at: before.chars().count() + 1, what: what.into() }
    }

    fn spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes these characters, and the spaces after them.
    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
            self.spaces();
        }
        found
    }

    /// Takes what fits, and the spaces after it.
    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let (word, _) = rest.split_at(rest.find(|c| !fits(c)).unwrap_or(rest.len()));
        self.at += word.len();
        self.spaces();
        word
    }

    fn peek_name(&self) -> &'a str {
        let rest = self.rest();
        rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len())).0
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let found = self.peek_name().eq_ignore_ascii_case(keyword);
        if found {
            self.at += keyword.len();
            self.spaces();
        }
        found
    }

    /// Terms joined by AND, or terms joined by OR.
    fn any(&mut self, depth: usize) -> Result<Filter, Problem> {
        let first = self.one(depth)?;
        let joined_by = if self.keyword("AND") {
            "AND"
        } else if self.keyword("OR") {
            "OR"
        } else {
            return Ok(first);
        };
        let mut terms = vec![first, self.one(depth)?];
        while self.keyword(joined_by) {
            terms.push(self.one(depth)?);
        }
        if ["AND", "OR"].iter().any(|k| self.peek_name().eq_ignore_ascii_case(k)) {
            return Err(self.problem("AND beside OR is ambiguous; add parentheses"));
        }
        Ok(if joined_by == "AND" { Filter::And(terms) } else { Filter::Or(terms) })
    }

    fn one(&mut self, depth: usize) -> Result<Filter, Problem> {
        if depth > FILTER_DEPTH_MAX {
            return Err(self.problem(format!("nested more than {FILTER_DEPTH_MAX} deep")));
        }
        if self.keyword("NOT") {
            return self.one(depth + 1).map(|filter| Filter::Not(Box::new(filter)));
        }
        if self.take("(") {
            let inner = self.any(depth + 1)?;
            return if self.take(")") { Ok(inner) } else { Err(self.problem("expected `)`")) };
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Filter, Problem> {
        let start = self.at;
        let name = self.take_while(is_name);
        if name.is_empty() {
            return Err(self.problem("expected a field, such as `state = failed`"));
        }
        let Some(operator) = self.operator() else {
            return Err(self.problem_at(
                start,
                format!("{name:?} is compared with nothing; perhaps you mean title:{name}"),
            ));
        };
        let Some(field) = Field::parse(name) else {
            let names = Field::names();
            return Err(self.problem_at(start, format!("no field {name:?}; there are {names}")));
        };
        let at = self.at;
        let value = self.value()?;
        let operator_for =
            |op| self.test(field, op, value).map_err(|what| self.problem_at(at, what));
        match operator {
            Operator::NotEqual => {
                operator_for(Operator::Order(Order::Equal)).map(|test| Filter::Not(Box::new(test)))
            }
            Operator::Order(_) | Operator::Has => operator_for(operator),
        }
    }

    fn operator(&mut self) -> Option<Operator> {
        [
            ("!=", Operator::NotEqual),
            ("<=", Operator::Order(Order::LessOrEqual)),
            (">=", Operator::Order(Order::GreaterOrEqual)),
            ("<", Operator::Order(Order::Less)),
            (">", Operator::Order(Order::Greater)),
            ("=", Operator::Order(Order::Equal)),
            (":", Operator::Has),
        ]
        .into_iter()
        .find_map(|(token, operator)| self.take(token).then_some(operator))
    }

    fn value(&mut self) -> Result<String, Problem> {
        let start = self.at;
        let Some(quote) = self.rest().chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            let word = self.take_while(|c| !c.is_whitespace() && !"()\"'=<>!".contains(c));
            return match word {
                "" => Err(self.problem("expected a value")),
                word => Ok(word.to_owned()),
            };
        };
        let mut value = String::new();
        let mut escaped = false;
        for (offset, c) in self.rest().char_indices().skip(1) {
            match c {
                _ if escaped => {
                    value.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                c if c == quote => {
                    self.at += offset + c.len_utf8();
                    self.spaces();
                    return Ok(value);
                }
                c => value.push(c),
            }
        }
        Err(self.problem_at(start, "a quote that nothing closes"))
    }

    fn test(&self, field: Field, operator: Operator, value: String) -> Result<Filter, String> {
        let has = operator == Operator::Has;
        let order = match operator {
            Operator::Order(order) => order,
            Operator::NotEqual | Operator::Has => Order::Equal,
        };
        let ordered = matches!(field, Field::Priority | Field::Age | Field::Time(_));
        if !ordered && order != Order::Equal {
            return Err("this field has no order; use =, != or `:`".into());
        }
        if has && matches!(field, Field::Age | Field::Time(_)) {
            return Err("use <, <=, > or >= with a time".into());
        }
        match field {
            Field::State => one_of(&value, &STATES, |s| state_word(*s)).map(Filter::State),
            Field::Cause => one_of(&value, &Cause::ALL, |c| c.as_str()).map(Filter::Cause),
            Field::Tag => Ok(Filter::Tag(value)),
            Field::Priority => match value.parse() {
                Ok(number) => Ok(Filter::Priority(order, number)),
                Err(_) => Err(format!("{value:?} is no whole number")),
            },
            Field::Age => match parse_duration(&value).filter(|d| *d <= DURATION_MAX * 100) {
                Some(age) => {
                    let born = self.now.micros().saturating_sub(age.as_micros() as i64);
                    let born = Timestamp::from_micros(born);
                    Ok(Filter::Time(TimeField::CreatedAt, order.mirrored(), born))
                }
                None => Err(format!("{value:?} is no duration such as 90s, 5m, 1h30m or 2d")),
            },
            Field::Text(field) if has => Ok(Filter::Has(field, value)),
            Field::Text(field) => Ok(Filter::Is(field, value)),
            Field::Time(field) => Timestamp::parse(&value)
                .or_else(|| Timestamp::parse(&format!("{value}T00:00:00Z")))
                .map(|time| Filter::Time(field, order, time))
                .ok_or_else(|| format!("{value:?} is no time such as 2026-01-31T08:00:00Z")),
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn one_of<T: Copy>(value: &str, all: &[T], word: fn(&T) -> &'static str) -> Result<T, String> {
    all.iter().find(|t| word(t).eq_ignore_ascii_case(value)).copied().ok_or_else(|| {
        let words = all.iter().map(word).collect::<Vec<_>>().join(", ");
        format!("{value:?} is none of {words}")
    })
}
