//! **Pure.** What is a kind of work, and what does a submission of it become? Task types as data.
//!
//! * [`read`]: a file of task types, in YAML or JSON; every problem with its line and column.
//! * [`schedules`]: the same of schedules.
//! * [`Compiled`]: a type that was checked as a whole, with its schema and its templates.
//! * [`Compiled::resolve`]: a submission and its type together: the task that runs.
//! * [`Line`]: the same templates for the lines of a list.
//!
//! What a type says is bounded before it is used: sizes, steps of a template, what a schema expands
//! to. It reads no clock, draws no id and fetches nothing: a schema refers to itself only. Where
//! types are kept and who resolves when is the scheduler's.

mod fields;
mod node;
mod read;
mod resolve;
mod schedules;
mod schema;
mod template;

pub use self::{
    read::{Entry, Problem, read},
    resolve::{Compiled, Resolved},
    schedules::schedules,
    template::Line,
};

#[cfg(test)]
mod tests;
