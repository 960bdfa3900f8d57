//! Filters as SQL, the same for both databases but for two functions.

use common::{
    filter::{Filter, TextField},
    lifecycle::state_word,
};
use sqlx::{Database, Encode, QueryBuilder, Type};

use crate::row::Place;

/// Where the two databases have different words.
#[derive(Clone, Copy)]
pub(super) struct Dialect {
    /// Around a column's name and a value: whether the column, in lower case (of ASCII letters
    /// only, so that both agree), has the value in it.
    pub(super) has: [&'static str; 3],
    /// Around a value: whether it is one of the tags.
    pub(super) tag: [&'static str; 2],
}

/// Adds `WHERE …` for the tasks that fit and lie before a place.
pub(super) fn push_where<DB>(
    query: &mut QueryBuilder<DB>,
    dialect: Dialect,
    filter: Option<&Filter>,
    before: Option<Place>,
) where
    DB: Database,
    String: for<'q> Encode<'q, DB> + Type<DB>,
    i64: for<'q> Encode<'q, DB> + Type<DB>,
{
    query.push(" WHERE TRUE");
    if let Some(filter) = filter {
        query.push(" AND ");
        push(query, dialect, filter);
    }
    if let Some(before) = before {
        query.push(" AND place < ").push_bind(before.number());
    }
}

/// Adds `AND task_type IN (…) GROUP BY …`, for the tasks of these types by type and state.
pub(super) fn push_types<DB>(query: &mut QueryBuilder<DB>, types: &[String])
where
    DB: Database,
    String: for<'q> Encode<'q, DB> + Type<DB>,
{
    query.push(" AND task_type IN (");
    let mut list = query.separated(", ");
    for name in types {
        list.push_bind(name.clone());
    }
    query.push(") GROUP BY task_type, state");
}

fn push<DB>(query: &mut QueryBuilder<DB>, dialect: Dialect, filter: &Filter)
where
    DB: Database,
    String: for<'q> Encode<'q, DB> + Type<DB>,
    i64: for<'q> Encode<'q, DB> + Type<DB>,
{
    match filter {
        Filter::And(terms) => push_all(query, dialect, terms, " AND "),
        Filter::Or(terms) => push_all(query, dialect, terms, " OR "),
        Filter::Not(term) => {
            query.push("NOT (");
            push(query, dialect, term);
            query.push(")");
        }
        Filter::State(state) => {
            // Said as the index says it, and not bound: else it could not be used.
            let word = state_word(*state);
            query.push(match word {
                "completed" => "state = 'completed'".to_owned(),
                _ => format!("(state <> 'completed' AND state = '{word}')"),
            });
        }
        Filter::Cause(cause) => {
            query.push("cause = ").push_bind(cause.as_str().to_owned());
        }
        Filter::Tag(tag) => {
            let [before, after] = dialect.tag;
            query.push(before).push_bind(tag.clone()).push(after);
        }
        Filter::Is(field, text) => {
            query.push(field.as_str()).push(" = ").push_bind(text.clone());
        }
        Filter::Has(field, text) => has(query, dialect, *field, text),
        Filter::Priority(order, number) => {
            query.push("priority ").push(order.as_str()).push(" ").push_bind(*number);
        }
        // What has no time yet does not fit, and so fits NOT.
        Filter::Time(field, order, time) => {
            query.push("COALESCE(").push(field.as_str()).push(" ").push(order.as_str()).push(" ");
            query.push_bind(time.micros()).push(", FALSE)");
        }
    }
}

fn push_all<DB>(query: &mut QueryBuilder<DB>, dialect: Dialect, terms: &[Filter], word: &str)
where
    DB: Database,
    String: for<'q> Encode<'q, DB> + Type<DB>,
    i64: for<'q> Encode<'q, DB> + Type<DB>,
{
    query.push("(");
    for (n, term) in terms.iter().enumerate() {
        if n > 0 {
            query.push(word);
        }
        push(query, dialect, term);
    }
    query.push(")");
}

fn has<DB>(query: &mut QueryBuilder<DB>, dialect: Dialect, field: TextField, text: &str)
where
    DB: Database,
    String: for<'q> Encode<'q, DB> + Type<DB>,
{
    let [before, between, after] = dialect.has;
    query.push(before).push(field.as_str()).push(between);
    query.push_bind(text.to_ascii_lowercase()).push(after);
}
