//! The ledger in PostgreSQL.

use std::time::Duration;

use common::{
    filter::Filter,
    id::{TaskId, Tenant},
};
use futures::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, PgConnection, PgPool, QueryBuilder, migrate::Migrator, postgres::PgPoolOptions,
};

use super::{
    Batch, Later, Ledger, LedgerError, PAGE_MEMORY_BYTES_MAX, Page, Position, SUBSYSTEMS_MAX,
    Stats,
    columns::{CursorColumns, EventColumns, TASKS, TaskColumns},
    failed,
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

fn names() -> String {
    TASKS.map(|(name, _)| format!("t.{name}")).join(", ")
}

impl Ledger for Postgres {
    fn position(&self) -> Later<'_, Option<Position>> {
        Box::pin(async {
            let row = sqlx::query_as::<_, CursorColumns>(
                "SELECT stream, sequence, clock FROM log_cursor",
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
                "SELECT {} FROM UNNEST($1::text[], $2::text[]) AS k (tenant, task_id) JOIN tasks AS t USING (tenant, task_id)",
                names()
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

    fn record<'a>(&'a self, batch: Batch<'a>) -> Later<'a, ()> {
        Box::pin(async move {
            let failed = failed("record a batch");
            // The first statement locks the cursor's row, and what it waited for it reads anew: the
            // cursor cannot move until the end.
            let mut tx = self.pool.begin().await.map_err(&failed)?;
            if !move_cursor(&mut tx, &batch).await.map_err(&failed)? {
                return Err(LedgerError::Superseded);
            }
            write_rows(&mut tx, batch.rows).await.map_err(&failed)?;
            write_entries(&mut tx, batch.entries).await.map_err(&failed)?;
            tx.commit().await.map_err(&failed)
        })
    }

    fn find<'a>(&'a self, tenant: &'a Tenant, id: &'a TaskId) -> Later<'a, Option<Row>> {
        Box::pin(async move {
            let sql = format!(
                "SELECT {} FROM tasks AS t WHERE tenant = $1 AND task_id = $2 ORDER BY place DESC LIMIT 1",
                names()
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
            let mut query = QueryBuilder::new(format!("SELECT {} FROM tasks AS t", names()));
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
            let by_state = sqlx::query_as::<_, (String, i64)>(
                "SELECT state, count(*) FROM tasks GROUP BY state",
            )
            .fetch_all(&self.pool)
            .await
            .map_err(&failed)?;
            let by_subsystem = sqlx::query_as::<_, (String, i64)>(
                "SELECT subsystem, count(*) FROM tasks GROUP BY subsystem ORDER BY 2 DESC, subsystem COLLATE \"C\" LIMIT $1",
            )
            .bind(SUBSYSTEMS_MAX)
            .fetch_all(&self.pool)
            .await
            .map_err(&failed)?;
            Ok(Stats::new(by_state, by_subsystem))
        })
    }
}

async fn move_cursor(tx: &mut PgConnection, batch: &Batch<'_>) -> Result<bool, sqlx::Error> {
    let Position { cursor, clock } = batch.to;
    let done = match batch.from {
        None => {
            sqlx::query("INSERT INTO log_cursor (one, stream, sequence, clock) VALUES (1, $1, $2, $3) ON CONFLICT DO NOTHING")
                .bind(cursor.stream.to_string())
                .bind(cursor.sequence as i64)
                .bind(clock.micros())
                .execute(tx)
                .await?
        }
        Some(from) => {
            sqlx::query("UPDATE log_cursor SET sequence = $1, clock = $2 WHERE stream = $3 AND sequence = $4")
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

async fn write_rows(tx: &mut PgConnection, rows: &[Row]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let columns = TASKS.map(|(name, _)| name);
    let (_, mutable) = columns.split_at(3);
    let set = mutable.iter().map(|c| format!("{c} = excluded.{c}")).collect::<Vec<_>>().join(", ");
    let arrays = (1..).zip(TASKS).map(|(n, (_, kind))| format!("${n}::{kind}[]"));
    let sql = format!(
        "INSERT INTO tasks ({}) SELECT * FROM UNNEST({}) ON CONFLICT (place) DO UPDATE SET {set}",
        columns.join(", "),
        arrays.collect::<Vec<_>>().join(", "),
    );
    let rows: Vec<TaskColumns> = rows.iter().map(TaskColumns::from).collect();
    bind_rows(sqlx::query(AssertSqlSafe(sql)), &rows).execute(tx).await?;
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Binds one array a column, in the order of [`TASKS`].
fn bind_rows<'q>(query: Query<'q>, rows: &'q [TaskColumns]) -> Query<'q> {
    query
        .bind(rows.iter().map(|r| r.place).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.tenant.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.task_id.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.state.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.cause.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.awaits_verdict).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.attempts).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.tries).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.losses).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.stub).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.cancel_requested).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.task_type.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.subsystem.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.title.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.created_by.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.priority).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.queue.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.executor.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.worker.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.parent_id.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.retry_of.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.tags.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.created_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.started_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.finished_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.deadline).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.duration).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.verification.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.spec.as_slice()).collect::<Vec<_>>())
        .bind(rows.iter().map(|r| r.report.as_slice()).collect::<Vec<_>>())
}

async fn write_entries(tx: &mut PgConnection, entries: &[Entry]) -> Result<(), sqlx::Error> {
    let rows: Vec<EventColumns> = entries.iter().map(EventColumns::from).collect();
    sqlx::query(
        "INSERT INTO events (task, place, kind, at, ignored, event) \
         SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::bytea[])",
    )
    .bind(rows.iter().map(|r| r.task).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.place).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.kind.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.at).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.ignored.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.event.as_slice()).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
