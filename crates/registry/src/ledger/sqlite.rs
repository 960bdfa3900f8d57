//! The ledger in a SQLite file: others read beside the connection that writes.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use common::{
    filter::Filter,
    id::{TaskId, Tenant},
    time::Timestamp,
};
use futures::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, QueryBuilder, Row as _, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    Batch, Later, Ledger, LedgerError, PAGE_MEMORY_BYTES_MAX, Page, Position, STATES,
    SUBSYSTEMS_MAX, Stats,
    columns::{CursorColumns, EventColumns, TaskColumns, selected},
    failed,
    lite_writer::Writer,
    query::{Dialect, push_where},
};
use crate::row::{Entry, Place, Row};

/// The schema.
pub(super) static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/sqlite");

const DIALECT: Dialect = Dialect {
    has: ["instr(lower(", "), ", ") > 0"],
    tag: ["EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ", ")"],
};
const READERS: u32 = 4;

/// The ledger in a file.
pub(super) struct Sqlite {
    writer: Arc<Writer>,
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
        let migrator = pool.connect_with(options.clone()).await.map_err(open)?;
        MIGRATOR
            .run(&migrator)
            .await
            .map_err(|e| failed("bring the ledger's schema up to date")(e.into()))?;
        let writer = Arc::new(Writer::open(path)?);
        migrator.close().await;
        let pool = SqlitePoolOptions::new().max_connections(READERS);
        let readers = pool.connect_lazy_with(options.read_only(true).create_if_missing(false));
        Ok(Self { writer, readers })
    }
}

impl Ledger for Sqlite {
    fn position(&self) -> Later<'_, Option<Position>> {
        Box::pin(async {
            let row = sqlx::query_as::<_, CursorColumns>(
                "SELECT stream, sequence, clock, floor, cold_until FROM log_cursor",
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
                "{}, json_each(?) AS k WHERE t.tenant = json_extract(k.value, '$[0]') \
                 AND t.task_id = json_extract(k.value, '$[1]')",
                selected()
            );
            let rows = sqlx::query_as::<_, TaskColumns>(AssertSqlSafe(sql))
                .bind(keys)
                .fetch_all(&self.readers)
                .await
                .map_err(failed("load tasks"))?;
            rows.into_iter().map(TaskColumns::parse).collect()
        })
    }

    fn newest_id(&self) -> Later<'_, Option<String>> {
        Box::pin(async {
            sqlx::query_scalar("SELECT max(task_id) FROM tasks WHERE task_id < '1'")
                .fetch_one(&self.readers)
                .await
                .map_err(failed("read the newest id"))
        })
    }

    fn record(&self, batch: Batch) -> Later<'_, ()> {
        Box::pin(async move {
            let writer = self.writer.clone();
            // Once begun it goes on to its end, also when nobody waits for it any more: then the
            // cursor tells.
            let done = tokio::task::spawn_blocking(move || writer.record(&batch)).await;
            done.context("failed to record a batch").map_err(LedgerError::Away)?
        })
    }

    fn find<'a>(&'a self, tenant: &'a Tenant, id: &'a TaskId) -> Later<'a, Option<Row>> {
        Box::pin(async move {
            let sql = format!(
                "{} WHERE tenant = ? AND task_id = ? ORDER BY place DESC LIMIT 1",
                selected()
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
            let mut query = QueryBuilder::new(selected());
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
            let sums = STATES.map(|word| format!("COALESCE(SUM({word}), 0)")).join(", ");
            let by_state = sqlx::query(AssertSqlSafe(format!("SELECT {sums} FROM task_counts")))
                .fetch_one(&self.readers)
                .await
                .map_err(&failed)?;
            let sum = STATES.join(" + ");
            let sql =
                format!("SELECT subsystem, {sum} FROM task_counts ORDER BY 2 DESC, 1 LIMIT ?");
            let by_subsystem = sqlx::query_as::<_, (String, i64)>(AssertSqlSafe(sql))
                .bind(SUBSYSTEMS_MAX)
                .fetch_all(&self.readers)
                .await
                .map_err(&failed)?;
            Ok(Stats::new(|n| by_state.try_get(n).unwrap_or(0), by_subsystem))
        })
    }

    fn needed<'a>(
        &'a self,
        objects: &'a [String],
        ended_since: Timestamp,
    ) -> Later<'a, Vec<String>> {
        Box::pin(async move {
            let names = serde_json::Value::from(objects).to_string();
            let sql = "SELECT DISTINCT o.name FROM json_each(?) AS k, objects AS o, tasks AS t \
                 WHERE o.name = k.value AND t.place = o.task \
                 AND (t.finished_at IS NULL OR t.finished_at >= ?)";
            sqlx::query_scalar(sql)
                .bind(names)
                .bind(ended_since.micros())
                .fetch_all(&self.readers)
                .await
                .map_err(failed("look for objects"))
        })
    }
}
