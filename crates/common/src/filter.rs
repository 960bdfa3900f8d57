//! **Pure.** The query language of lists and of changes over many tasks: a subset of AIP-160.
//!
//! `state = failed AND (subsystem = "healing" OR tag:gpu) AND NOT title:"dry run" AND age < 1d`
//!
//! It refuses to guess, because the same words select what is cancelled: AND beside OR needs
//! parentheses, a word that is compared with nothing is an error, and so is an unknown field.

use std::fmt;

use crate::{
    lifecycle::{Cause, state_word},
    pb::TaskState,
    time::Timestamp,
};

mod parse;

pub use parse::parse;

/// What a task must be like. `a != b` is [`Filter::Not`] of `a = b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All of these; at least two.
    And(Vec<Filter>),
    /// Any of these; at least two.
    Or(Vec<Filter>),
    /// Anything but this.
    Not(Box<Filter>),
    /// This state.
    State(TaskState),
    /// Failed for this cause.
    Cause(Cause),
    /// Has this tag.
    Tag(String),
    /// The field is exactly this text; an unset field is empty.
    Is(TextField, String),
    /// The field has this text somewhere in it; the case of ASCII letters does not matter.
    Has(TextField, String),
    /// The priority compares like this.
    Priority(Order, i64),
    /// The time compares like this; a time that is not yet known never does.
    Time(TimeField, Order, Timestamp),
}

/// How two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Order {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

impl Order {
    /// The operator, which SQL has too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Equal => "=",
            Self::GreaterOrEqual => ">=",
            Self::Greater => ">",
        }
    }

    /// The same for the operands' negatives: an age for a time of birth.
    fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Equal => Self::Equal,
            Self::GreaterOrEqual => Self::LessOrEqual,
            Self::Greater => Self::Less,
        }
    }
}

macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "they are the task's fields of these names")]
        pub enum $name { $($field),* }

        impl $name {
            /// Every field of this kind.
            pub const ALL: &[Self] = &[$(Self::$field),*];

            /// The name, which is the ledger's column too.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$field => $word),* }
            }
        }
    };
}

fields!(
    /// A field that holds text.
    TextField {
        TaskType = "task_type",
        Subsystem = "subsystem",
        Title = "title",
        CreatedBy = "created_by",
        Queue = "queue",
        Executor = "executor",
        Worker = "worker",
        Tenant = "tenant",
        TaskId = "task_id",
        ParentId = "parent_id",
        RetryOf = "retry_of",
    }
);
fields!(
    /// A field that holds a point in time.
    TimeField {
        CreatedAt = "created_at",
        StartedAt = "started_at",
        FinishedAt = "finished_at",
        Deadline = "deadline",
    }
);

/// The states that a filter can name.
pub const STATES: [TaskState; 6] = [
    TaskState::Pending,
    TaskState::Running,
    TaskState::Completed,
    TaskState::Failed,
    TaskState::Cancelled,
    TaskState::Skipped,
];

impl fmt::Display for Filter {
    /// Text that [`parse`] reads as the same filter.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        match self {
            Self::And(terms) => join(f, terms, "AND"),
            Self::Or(terms) => join(f, terms, "OR"),
            Self::Not(term) => {
                f.write_str("NOT ")?;
                nested(f, term)
            }
            Self::State(state) => write!(f, "state = {}", state_word(*state)),
            Self::Cause(cause) => write!(f, "cause = {}", cause.as_str()),
            Self::Tag(tag) => write!(f, "tag = \"{}\"", quoted(tag)),
            Self::Is(field, text) => write!(f, "{} = \"{}\"", field.as_str(), quoted(text)),
            Self::Has(field, text) => write!(f, "{}:\"{}\"", field.as_str(), quoted(text)),
            Self::Priority(order, number) => write!(f, "priority {} {number}", order.as_str()),
            Self::Time(field, order, time) => {
                write!(f, "{} {} \"{time}\"", field.as_str(), order.as_str())
            }
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, terms: &[Filter], word: &str) -> fmt::Result {
    for (n, term) in terms.iter().enumerate() {
        if n > 0 {
            write!(f, " {word} ")?;
        }
        nested(f, term)?;
    }
    Ok(())
}

fn nested(f: &mut fmt::Formatter<'_>, term: &Filter) -> fmt::Result {
    if matches!(term, Filter::And(_) | Filter::Or(_)) {
        write!(f, "({term})")
    } else {
        write!(f, "{term}")
    }
}

#[cfg(test)]
mod tests;
