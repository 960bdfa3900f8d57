//! The ledger in PostgreSQL.

use std::time::Duration;

use common::{
    filter::Filter,
    id::{TaskId, Tenant},
    time::Timestamp,
};
use futures::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, PgPool, QueryBuilder, Row as _, migrate::Migrator, postgres::PgPoolOptions,
};

use super::{
    Batch, Later, Ledger, LedgerError, PAGE_MEMORY_BYTES_MAX, Page, Position, STATES,
    SUBSYSTEMS_MAX, Stats,
    columns::{CursorColumns, EventColumns, TaskColumns, selected},
    failed, pg_writer,
    query::{Dialect, push_where},
};
use crate::row::{Entry, Place, Row};

/// The schema. The migrator takes an advisory lock: several processes may start at once.
pub(super) static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/postgres");

const DIALECT: Dialect = Dialect {
    has: ["strpos(lower(", " COLLATE \"C\"), ", ") > 0"],
    tag: ["jsonb_exists(tags::jsonb, ", ")"],
};
const CONNECTIONS: u32 = 8;
/// Rows are changed by their keys, whatever the statistics of a table that grows say of it; and
/// compiling a statement takes longer than running it.
const BEGIN: &str = "BEGIN; SET LOCAL jit = off; SET LOCAL enable_hashjoin = off; \
     SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off";

/// The ledger in a PostgreSQL database.
pub(super) struct Postgres {
    pool: PgPool,
}

impl Postgres {
    pub(super) async fn open(url: &str) -> Result<Self, LedgerError> {
        let options = url.parse().map_err(failed("read the ledger's URL"))?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(5))
            .connect_with(options)
            .await
            .map_err(failed("connect to the ledger"))?;
        MIGRATOR
            .run(&pool)
            .await
            .map_err(|e| failed("bring the ledger's schema up to date")(e.into()))?;
        Ok(Self { pool })
    }
}

impl Ledger for Postgres {
    fn position(&self) -> Later<'_, Option<Position>> {
        Box::pin(async {
            let row = sqlx::query_as::<_, CursorColumns>(
                "SELECT stream, sequence, clock, floor, cold_until FROM log_cursor",
            )
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("read the cursor"))?;
            row.map(CursorColumns::parse).transpose()
        })
    }

    fn load<'a>(&'a self, tasks: &'a [(Tenant, TaskId)]) -> Later<'a, Vec<Row>> {
        Box::pin(async move {
            let sql = format!(
                "{}, UNNEST($1::text[], $2::text[]) AS k (tenant, task_id) \
                 WHERE t.tenant = k.tenant AND t.task_id = k.task_id",
                selected()
            );
            let rows = sqlx::query_as::<_, TaskColumns>(AssertSqlSafe(sql))
                .bind(tasks.iter().map(|(tenant, _)| tenant.as_str()).collect::<Vec<_>>())
                .bind(tasks.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>())
                .fetch_all(&self.pool)
                .await
                .map_err(failed("load tasks"))?;
            rows.into_iter().map(TaskColumns::parse).collect()
        })
    }

    fn newest_id(&self) -> Later<'_, Option<String>> {
        Box::pin(async {
            sqlx::query_scalar("SELECT max(task_id) FROM tasks WHERE task_id < '1'")
                .fetch_one(&self.pool)
                .await
                .map_err(failed("read the newest id"))
        })
    }

    fn record(&self, batch: Batch) -> Later<'_, ()> {
        Box::pin(async move {
            let failed = failed("record a batch");
            // The first statement locks the cursor's row, and what it waited for it reads anew: the
            // cursor cannot move until the end.
            let mut tx = self.pool.begin_with(BEGIN).await.map_err(&failed)?;
            if !pg_writer::move_cursor(&mut tx, &batch).await.map_err(&failed)? {
                return Err(LedgerError::Superseded);
            }
            pg_writer::write_tasks(&mut tx, &batch.tasks).await.map_err(&failed)?;
            pg_writer::write_objects(&mut tx, &batch.tasks).await.map_err(&failed)?;
            pg_writer::write_entries(&mut tx, &batch.entries).await.map_err(&failed)?;
            pg_writer::write_counts(&mut tx, &batch.counts).await.map_err(&failed)?;
            tx.commit().await.map_err(&failed)
        })
    }

    fn find<'a>(&'a self, tenant: &'a Tenant, id: &'a TaskId) -> Later<'a, Option<Row>> {
        Box::pin(async move {
            let sql = format!(
                "{} WHERE tenant = $1 AND task_id = $2 ORDER BY place DESC LIMIT 1",
                selected()
            );
            let row = sqlx::query_as::<_, TaskColumns>(AssertSqlSafe(sql))
                .bind(tenant.as_str())
                .bind(id.as_str())
                .fetch_optional(&self.pool)
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
            let mut found = query.build_query_as::<TaskColumns>().fetch(&self.pool);
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
                .fetch_one(&self.pool)
                .await
                .map_err(failed("count tasks"))?;
            Ok(count as u64)
        })
    }

    fn history(&self, task: Place, limit: usize) -> Later<'_, Vec<Entry>> {
        Box::pin(async move {
            let mut rows = sqlx::query_as::<_, EventColumns>(
                "SELECT task, place, kind, at, ignored, event FROM events \
                 WHERE task = $1 ORDER BY place DESC LIMIT $2",
            )
            .bind(task.number())
            .bind(limit as i64)
            .fetch_all(&self.pool)
            .await
            .map_err(failed("read a history"))?;
            rows.reverse();
            Ok(rows.into_iter().map(Entry::from).collect())
        })
    }

    fn stats(&self) -> Later<'_, Stats> {
        Box::pin(async {
            let failed = failed("count tasks");
            let sums = STATES.map(|word| format!("COALESCE(SUM({word}), 0)::bigint")).join(", ");
            let by_state = sqlx::query(AssertSqlSafe(format!("SELECT {sums} FROM task_counts")))
                .fetch_one(&self.pool)
                .await
                .map_err(&failed)?;
            let sum = STATES.join(" + ");
            let sql = format!(
                "SELECT subsystem, {sum} FROM task_counts \
                 ORDER BY 2 DESC, subsystem COLLATE \"C\" LIMIT $1"
            );
            let by_subsystem = sqlx::query_as::<_, (String, i64)>(AssertSqlSafe(sql))
                .bind(SUBSYSTEMS_MAX)
                .fetch_all(&self.pool)
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
            let sql = "SELECT DISTINCT o.name FROM objects AS o JOIN tasks AS t ON t.place = o.task \
                 WHERE o.name = ANY($1) AND (t.finished_at IS NULL OR t.finished_at >= $2)";
            sqlx::query_scalar(sql)
                .bind(objects)
                .bind(ended_since.micros())
                .fetch_all(&self.pool)
                .await
                .map_err(failed("look for objects"))
        })
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Row as _;

    use super::*;

    /// A plan that was made while the table was empty stays with the connection: one that looks
    /// through the whole table for each row made a batch a hundred times as expensive.
    #[tokio::test]
    async fn rows_are_changed_by_their_keys_in_a_table_without_statistics() {
        let url = testkit::Postgres::shared().expect("PostgreSQL").create_database().await;
        let ledger = Postgres::open(&url.expect("a database")).await.expect("a ledger");
        let mut tx = ledger.pool.begin_with(BEGIN).await.expect("a transaction");
        let explain = AssertSqlSafe(format!("EXPLAIN {}", pg_writer::update()));
        let explained =
            pg_writer::bind_changed(sqlx::query(explain), &[]).fetch_all(&mut *tx).await;
        let lines = explained.expect("a plan").into_iter().map(|row| row.get::<String, _>(0));
        let plan = lines.collect::<Vec<_>>().join("\n");
        assert!(plan.contains("tasks_pkey") && !plan.contains("Seq Scan"), "{plan}");
    }
}
