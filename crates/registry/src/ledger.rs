//! The ledger: the fold's rows and the history in SQL, with the cursor that they reached.
//!
//! A batch is one transaction that begins by moving the cursor from where the writer believes it to
//! be. A second writer, or one that came back from the dead, finds the cursor elsewhere and writes
//! nothing; so rows may be read before the transaction and folded without a lock.

mod columns;
mod lite_writer;
mod pg_writer;
mod postgres;
mod query;
mod sqlite;

use std::{collections::HashMap, sync::Arc};

use bus::Cursor;
use common::{
    filter::Filter,
    id::{TaskId, Tenant},
    limits::LEDGER_WAIT,
    time::Timestamp,
};
use futures::future::BoxFuture;

use crate::{
    project::{Changes, Counts},
    row::{Change, Entry, Place, Row},
};

/// Subsystems in the statistics: the largest ones.
const SUBSYSTEMS_MAX: i64 = 100;
/// What one page holds in memory, in bytes of blobs; it ends early there.
const PAGE_MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How far the fold has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The last message that was applied, and the log's identity.
    pub cursor: Cursor,
    /// The fold's clock.
    pub clock: Timestamp,
    /// What ended before this message is forgotten: its id is new.
    pub floor: u64,
    /// The cut at which an empty ledger began, until it is folded: up to there, what was carried
    /// comes before what is told of it. 0 once that is done.
    pub cold_until: u64,
}

impl Position {
    /// Where a fold is whose changes reach up to the cursor.
    pub fn new(cursor: Cursor, changes: &Changes) -> Self {
        let Changes { clock, floor, cold_until, .. } = *changes;
        Self { cursor, clock, floor, cold_until }
    }
}

/// What one transaction writes.
#[derive(Debug)]
pub struct Batch {
    /// The cursor that the rows were folded from; `None` for an empty ledger.
    pub from: Option<Cursor>,
    /// Where they are now.
    pub to: Position,
    /// Tasks that are new or changed.
    pub tasks: Vec<Change>,
    /// New lines of the history.
    pub entries: Vec<Entry>,
    /// By how much the numbers of tasks change.
    pub counts: Counts,
}

/// A page of tasks, newest first.
#[derive(Debug)]
pub struct Page {
    /// The tasks.
    pub rows: Vec<Row>,
    /// Whether there are more after them.
    pub more: bool,
}

/// Counts of everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tasks by the word of their state.
    pub by_state: Vec<(String, u64)>,
    /// Tasks by subsystem, the largest ones.
    pub by_subsystem: Vec<(String, u64)>,
}

/// The words of the states, each a column of `task_counts`.
const STATES: [&str; 6] = ["pending", "running", "completed", "failed", "cancelled", "skipped"];

impl Stats {
    fn new(by_state: impl Fn(usize) -> i64, by_subsystem: Vec<(String, i64)>) -> Self {
        let counts = |rows: &mut dyn Iterator<Item = (String, i64)>| {
            rows.filter(|(_, n)| *n > 0).map(|(word, n)| (word, n as u64)).collect()
        };
        let mut by_state = (0..).zip(STATES).map(|(n, word)| (word.to_owned(), by_state(n)));
        Self {
            by_state: counts(&mut by_state),
            by_subsystem: counts(&mut by_subsystem.into_iter()),
        }
    }
}

/// The changes of one row of `task_counts`, in the order of its columns.
fn deltas(states: &HashMap<&'static str, i64>) -> [i64; 6] {
    STATES.map(|word| states.get(word).copied().unwrap_or(0))
}

/// Why the ledger did not do it.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another writer moved the cursor.
    #[error("another registry writes this ledger")]
    Superseded,
    /// The database did not do it; it may later.
    #[error("the ledger does not answer")]
    Away(#[source] anyhow::Error),
    /// It will never: a wrong address, a newer schema, a row that cannot be read.
    #[error("the ledger cannot be used")]
    Broken(#[source] anyhow::Error),
}

/// A method's answer, later.
pub type Later<'a, T> = BoxFuture<'a, Result<T, LedgerError>>;

/// The ledger of one log.
pub trait Ledger: Send + Sync + 'static {
    /// How far the fold has come; `None` for an empty ledger.
    fn position(&self) -> Later<'_, Option<Position>>;
    /// The last id, by its text, of those that may be UUIDs of our time: they begin with 0.
    fn newest_id(&self) -> Later<'_, Option<String>>;
    /// The rows under these ids, of every generation.
    fn load<'a>(&'a self, tasks: &'a [(Tenant, TaskId)]) -> Later<'a, Vec<Row>>;
    /// Writes a batch, unless the cursor is elsewhere.
    fn record(&self, batch: Batch) -> Later<'_, ()>;
    /// The newest task under this id.
    fn find<'a>(&'a self, tenant: &'a Tenant, id: &'a TaskId) -> Later<'a, Option<Row>>;
    /// Tasks that fit, before a place, newest first.
    fn list<'a>(
        &'a self,
        filter: Option<&'a Filter>,
        before: Option<Place>,
        limit: usize,
    ) -> Later<'a, Page>;
    /// How many tasks fit.
    fn count<'a>(&'a self, filter: Option<&'a Filter>) -> Later<'a, u64>;
    /// The newest lines of a task's history, oldest first.
    fn history(&self, task: Place, limit: usize) -> Later<'_, Vec<Entry>>;
    /// Counts of everything.
    fn stats(&self) -> Later<'_, Stats>;
    /// Which of these objects are of a task that is open, or ended at this time or later.
    fn needed<'a>(
        &'a self,
        objects: &'a [String],
        ended_since: Timestamp,
    ) -> Later<'a, Vec<String>>;
}

/// Opens the ledger at a URL, `sqlite:<path>` or `postgres://…`, and brings its schema up to date.
pub async fn open(url: &str) -> Result<Arc<dyn Ledger>, LedgerError> {
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        Ok(Arc::new(sqlite::Sqlite::open(path.as_ref()).await?))
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        Ok(Arc::new(postgres::Postgres::open(url).await?))
    } else {
        Err(LedgerError::Broken(anyhow::anyhow!(
            "the ledger's URL must be sqlite:<path> or postgres://<user>@<host>/<database>"
        )))
    }
}

/// What an error of the driver means for us.
fn failed(verb: &'static str) -> impl Fn(sqlx::Error) -> LedgerError {
    move |error| {
        let broken = if let sqlx::Error::Migrate(error) = &error {
            !matches!(**error, sqlx::migrate::MigrateError::Execute(_))
        } else {
            matches!(
                error,
                sqlx::Error::Configuration(_)
                    | sqlx::Error::ColumnDecode { .. }
                    | sqlx::Error::ColumnNotFound(_)
                    | sqlx::Error::Decode(_)
                    | sqlx::Error::Encode(_)
            )
        };
        let error = anyhow::Error::new(error).context(format!("failed to {verb}"));
        if broken { LedgerError::Broken(error) } else { LedgerError::Away(error) }
    }
}

/// Waits for a ledger's answer, but not for ever.
pub(crate) async fn within<T>(answer: Later<'_, T>) -> Result<T, LedgerError> {
    match tokio::time::timeout(LEDGER_WAIT, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(LedgerError::Away(anyhow::anyhow!("no answer within {LEDGER_WAIT:?}"))),
    }
}

#[cfg(test)]
mod conformance;
