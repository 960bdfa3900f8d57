//! The ledger in a SQLite file: one connection writes, others read beside it.

use std::path::Path;

use anyhow::Context as _;
use common::{
    filter::Filter,
    id::{TaskId, Tenant},
};
use futures::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, Connection as _, QueryBuilder, SqliteConnection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    Batch, Later, Ledger, LedgerError, PAGE_MEMORY_BYTES_MAX, Page, Position, SUBSYSTEMS_MAX,
    Stats,
    columns::{CursorColumns, EventColumns, TASKS, TaskColumns},
    failed,
    query::{Dialect, push_where},
};
use crate::row::{Entry, Place, Row};

/// The schema.
pub(super) static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/sqlite");

const DIALECT: Dialect = Dialect {
    has: ["instr(lower(", "), ", ") > 0"],
    tag: ["EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ", ")"],
};
/// Rows of one statement. Few sizes, so that few statements are prepared.
const CHUNKS: [usize; 3] = [64, 8, 1];
const READERS: u32 = 4;

/// The ledger in a file.
pub(super) struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Sqlite {
    pub(super) async fn open(path: &Path) -> Result<Self, LedgerError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("failed to create folder {}", folder.display()))
                .map_err(LedgerError::Broken)?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(std::time::Duration::from_secs(10));
        let open = |error| match failed("open the ledger's file")(error) {
            // A file that cannot be opened now cannot be opened later either.
            LedgerError::Away(error) | LedgerError::Broken(error) => {
                LedgerError::Broken(error.context(path.display().to_string()))
            }
            LedgerError::Superseded => LedgerError::Superseded,
        };
        let pool = SqlitePoolOptions::new().max_connections(1);
        let writer = pool.connect_with(options.clone()).await.map_err(open)?;
        MIGRATOR
            .run(&writer)
            .await
            .map_err(|e| failed("bring the ledger's schema up to date")(e.into()))?;
        let pool = SqlitePoolOptions::new().max_connections(READERS);
        let readers = pool.connect_lazy_with(options.read_only(true).create_if_missing(false));
        Ok(Self { writer, readers })
    }
}

fn names() -> String {
    TASKS.map(|(name, _)| format!("t.{name}")).join(", ")
}

impl Ledger for Sqlite {
    fn position(&self) -> Later<'_, Option<Position>> {
        Box::pin(async {
            let row = sqlx::query_as::<_, CursorColumns>(
                "SELECT stream, sequence, clock FROM log_cursor",
            )
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("read the cursor"))?;
            row.map(CursorColumns::parse).transpose()
        })
    }

    fn load<'a>(&'a self, tasks: &'a [(Tenant, TaskId)]) -> Later<'a, Vec<Row>> {
        Box::pin(async move {
            let keys = tasks.iter().map(|(tenant, id)| [tenant.as_str(), id.as_str()]);
            let keys = serde_json::to_string(&keys.collect::<Vec<_>>())
                .context("failed to write keys")
                .map_err(LedgerError::Broken)?;
            // The keys come first, each finds its rows by index.
            let sql = format!(
                "SELECT {} FROM json_each(?) AS k CROSS JOIN tasks AS t \
                 ON t.tenant = json_extract(k.value, '$[0]') AND t.task_id = json_extract(k.value, '$[1]')",
                names()
            );
            let rows = sqlx::query_as::<_, TaskColumns>(AssertSqlSafe(sql))
                .bind(keys)
                .fetch_all(&self.readers)
                .await
                .map_err(failed("load tasks"))?;
            rows.into_iter().map(TaskColumns::parse).collect()
        })
    }

    fn record<'a>(&'a self, batch: Batch<'a>) -> Later<'a, ()> {
        Box::pin(async move {
            let failed = failed("record a batch");
            // There is one writing connection, and between processes the first statement takes the
            // file's write lock: the cursor cannot move until the end.
            let mut connection = self.writer.acquire().await.map_err(&failed)?;
            let recorded = write(&mut connection, &batch).await;
            if recorded.is_err() {
                // A full disk leaves a transaction behind that neither ends nor lets another begin.
                connection.close_on_drop();
            }
            if recorded.map_err(&failed)? { Ok(()) } else { Err(LedgerError::Superseded) }
        })
    }

    fn find<'a>(&'a self, tenant: &'a Tenant, id: &'a TaskId) -> Later<'a, Option<Row>> {
        Box::pin(async move {
            let sql = format!(
                "SELECT {} FROM tasks AS t WHERE tenant = ? AND task_id = ? ORDER BY place DESC LIMIT 1",
                names()
            );
            let row = sqlx::query_as::<_, TaskColumns>(AssertSqlSafe(sql))
                .bind(tenant.as_str())
                .bind(id.as_str())
                .fetch_optional(&self.readers)
                .await
                .map_err(failed("find a task"))?;
            row.map(TaskColumns::parse).transpose()
        })
    }

    fn list<'a>(
        &'a self,
        filter: Option<&'a Filter>,
        before: Option<Place>,
        limit: usize,
    ) -> Later<'a, Page> {
        Box::pin(async move {
            let mut query = QueryBuilder::new(format!("SELECT {} FROM tasks AS t", names()));
            push_where(&mut query, DIALECT, filter, before);
            query.push(" ORDER BY place DESC LIMIT ").push_bind(limit as i64 + 1);
            let mut found = query.build_query_as::<TaskColumns>().fetch(&self.readers);
            let mut page = Page { rows: Vec::new(), more: false };
            let mut bytes = 0;
            while let Some(row) = found.try_next().await.map_err(failed("list tasks"))? {
                if page.rows.len() == limit || bytes > PAGE_MEMORY_BYTES_MAX {
                    page.more = true;
                    break;
                }
                bytes += row.bytes();
                page.rows.push(row.parse()?);
            }
            Ok(page)
        })
    }

    fn count<'a>(&'a self, filter: Option<&'a Filter>) -> Later<'a, u64> {
        Box::pin(async move {
            let mut query = QueryBuilder::new("SELECT count(*) FROM tasks");
            push_where(&mut query, DIALECT, filter, None);
            let count: i64 = query
                .build_query_scalar()
                .fetch_one(&self.readers)
                .await
                .map_err(failed("count tasks"))?;
            Ok(count as u64)
        })
    }

    fn history(&self, task: Place, limit: usize) -> Later<'_, Vec<Entry>> {
        Box::pin(async move {
            let mut rows = sqlx::query_as::<_, EventColumns>(
                "SELECT task, place, kind, at, ignored, event FROM events \
                 WHERE task = ? ORDER BY place DESC LIMIT ?",
            )
            .bind(task.number())
            .bind(limit as i64)
            .fetch_all(&self.readers)
            .await
            .map_err(failed("read a history"))?;
            rows.reverse();
            Ok(rows.into_iter().map(Entry::from).collect())
        })
    }

    fn stats(&self) -> Later<'_, Stats> {
        Box::pin(async {
            let failed = failed("count tasks");
            let by_state = sqlx::query_as::<_, (String, i64)>(
                "SELECT state, count(*) FROM tasks GROUP BY state",
            )
            .fetch_all(&self.readers)
            .await
            .map_err(&failed)?;
            let by_subsystem = sqlx::query_as::<_, (String, i64)>(
                "SELECT subsystem, count(*) FROM tasks GROUP BY subsystem ORDER BY 2 DESC, 1 LIMIT ?",
            )
            .bind(SUBSYSTEMS_MAX)
            .fetch_all(&self.readers)
            .await
            .map_err(&failed)?;
            Ok(Stats::new(by_state, by_subsystem))
        })
    }
}

/// Writes a batch; says whether the cursor was where it should be.
async fn write(connection: &mut SqliteConnection, batch: &Batch<'_>) -> Result<bool, sqlx::Error> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    if !move_cursor(&mut tx, batch).await? {
        return Ok(false);
    }
    write_rows(&mut tx, batch.rows).await?;
    write_entries(&mut tx, batch.entries).await?;
    tx.commit().await?;
    Ok(true)
}

async fn move_cursor(tx: &mut SqliteConnection, batch: &Batch<'_>) -> Result<bool, sqlx::Error> {
    let Position { cursor, clock } = batch.to;
    let done = match batch.from {
        None => {
            sqlx::query("INSERT INTO log_cursor (one, stream, sequence, clock) VALUES (1, ?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(cursor.stream.to_string())
                .bind(cursor.sequence as i64)
                .bind(clock.micros())
                .execute(tx)
                .await?
        }
        Some(from) => {
            sqlx::query("UPDATE log_cursor SET sequence = ?, clock = ? WHERE stream = ? AND sequence = ?")
                .bind(cursor.sequence as i64)
                .bind(clock.micros())
                .bind(from.stream.to_string())
                .bind(from.sequence as i64)
                .execute(tx)
                .await?
        }
    };
    Ok(done.rows_affected() == 1)
}

async fn write_rows(tx: &mut SqliteConnection, rows: &[Row]) -> Result<(), sqlx::Error> {
    let columns = TASKS.map(|(name, _)| name);
    let (_, mutable) = columns.split_at(3);
    let set = mutable.iter().map(|c| format!("{c} = excluded.{c}")).collect::<Vec<_>>().join(", ");
    for chunk in chunks(rows) {
        let mut query = QueryBuilder::new(format!("INSERT INTO tasks ({}) ", columns.join(", ")));
        query.push_values(chunk.iter().map(TaskColumns::from), |mut values, row| {
            values.push_bind(row.place).push_bind(row.tenant).push_bind(row.task_id);
            values.push_bind(row.state).push_bind(row.cause).push_bind(row.awaits_verdict);
            values.push_bind(row.attempts).push_bind(row.tries).push_bind(row.losses);
            values.push_bind(row.stub).push_bind(row.cancel_requested);
            values.push_bind(row.task_type).push_bind(row.subsystem).push_bind(row.title);
            values.push_bind(row.created_by).push_bind(row.priority).push_bind(row.queue);
            values.push_bind(row.executor).push_bind(row.worker).push_bind(row.parent_id);
            values.push_bind(row.retry_of).push_bind(row.tags).push_bind(row.created_at);
            values.push_bind(row.started_at).push_bind(row.finished_at).push_bind(row.deadline);
            values.push_bind(row.duration).push_bind(row.verification);
            values.push_bind(row.spec).push_bind(row.report);
        });
        query.push(format!(" ON CONFLICT (place) DO UPDATE SET {set}"));
        query.build().execute(&mut *tx).await?;
    }
    Ok(())
}

async fn write_entries(tx: &mut SqliteConnection, entries: &[Entry]) -> Result<(), sqlx::Error> {
    for chunk in chunks(entries) {
        let mut query =
            QueryBuilder::new("INSERT INTO events (task, place, kind, at, ignored, event) ");
        query.push_values(chunk.iter().map(EventColumns::from), |mut values, row| {
            values.push_bind(row.task).push_bind(row.place).push_bind(row.kind);
            values.push_bind(row.at).push_bind(row.ignored).push_bind(row.event);
        });
        query.build().execute(&mut *tx).await?;
    }
    Ok(())
}

/// Cuts what is to be written into pieces of a few sizes.
fn chunks<T>(mut rest: &[T]) -> Vec<&[T]> {
    let mut chunks = Vec::new();
    for size in CHUNKS {
        while let Some((chunk, tail)) = rest.split_at_checked(size) {
            chunks.push(chunk);
            rest = tail;
        }
    }
    chunks
}
