//! What one batch writes to PostgreSQL: a statement a table, with an array a column.

use common::time::Timestamp;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    Batch, Position, STATES,
    columns::{CHANGED, StateColumns, TASKS, micros, tags},
    deltas,
};
use crate::{
    project::Counts,
    row::{Change, Entry, Fixed, Place},
};

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

pub(super) async fn move_cursor(tx: &mut PgConnection, batch: &Batch) -> Result<bool, sqlx::Error> {
    let Position { cursor, clock, floor, cold_until } = batch.to;
    let done = match batch.from {
        None => {
            sqlx::query("INSERT INTO log_cursor (one, stream, sequence, clock, floor, cold_until) VALUES (1, $1, $2, $3, $4, $5) ON CONFLICT DO NOTHING")
                .bind(cursor.stream.to_string())
                .bind(cursor.sequence as i64)
                .bind(clock.micros())
                .bind(floor as i64)
                .bind(cold_until as i64)
                .execute(tx)
                .await?
        }
        Some(from) => {
            sqlx::query("UPDATE log_cursor SET sequence = $1, clock = $2, floor = $3, cold_until = $4 WHERE one = 1 AND stream = $5 AND sequence = $6")
                .bind(cursor.sequence as i64)
                .bind(clock.micros())
                .bind(floor as i64)
                .bind(cold_until as i64)
                .bind(from.stream.to_string())
                .bind(from.sequence as i64)
                .execute(tx)
                .await?
        }
    };
    Ok(done.rows_affected() == 1)
}

pub(super) async fn write_tasks(
    tx: &mut PgConnection,
    tasks: &[Change],
) -> Result<(), sqlx::Error> {
    let described = tasks.iter().filter(|c| c.fixed.is_some() && !c.is_new);
    let described: Vec<_> = described.map(|c| c.live.place.number()).collect();
    if !described.is_empty() {
        let sql = "DELETE FROM tasks WHERE place = ANY($1)";
        sqlx::query(sql).bind(described).execute(&mut *tx).await?;
    }
    let new: Vec<(&Change, &Fixed)> =
        tasks.iter().filter_map(|c| Some((c, c.fixed.as_deref()?))).collect();
    if !new.is_empty() {
        let names = TASKS.map(|(name, _)| name).join(", ");
        let sql = format!("INSERT INTO tasks ({names}) SELECT * FROM {}", unnest(&TASKS));
        bind_new(sqlx::query(AssertSqlSafe(sql)), &new).execute(&mut *tx).await?;
    }
    let changed: Vec<&Change> = tasks.iter().filter(|c| c.fixed.is_none()).collect();
    if !changed.is_empty() {
        bind_changed(sqlx::query(AssertSqlSafe(update())), &changed).execute(tx).await?;
    }
    Ok(())
}

/// Changes the rows whose places come first.
pub(super) fn update() -> String {
    let is_given = |name: &str| name == "place" || CHANGED.contains(&name);
    let given = TASKS.iter().copied().filter(|(name, _)| is_given(name)).collect::<Vec<_>>();
    let set = CHANGED.map(|name| format!("{name} = u.{name}")).join(", ");
    let names = given.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let rows = unnest(&given);
    format!("UPDATE tasks AS t SET {set} FROM {rows} AS u ({names}) WHERE t.place = u.place")
}

/// The rows that one array a column makes.
fn unnest(columns: &[(&str, &str)]) -> String {
    let arrays = (1..).zip(columns).map(|(n, (_, kind))| format!("${n}::{kind}[]"));
    format!("UNNEST({})", arrays.collect::<Vec<_>>().join(", "))
}

fn state(change: &Change) -> StateColumns {
    change.live.life.phase.into()
}

fn ended_at(change: &Change) -> Option<i64> {
    change.live.ended_at.map(|at| at as i64)
}

/// Binds one array a column, in the order of [`TASKS`].
fn bind_new<'q>(query: Query<'q>, rows: &'q [(&Change, &Fixed)]) -> Query<'q> {
    query
        .bind(rows.iter().map(|(c, _)| c.live.place.number()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, f)| f.tenant.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, f)| f.id.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| state(c).state).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| state(c).cause).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| state(c).awaits_verdict).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| i64::from(c.live.life.ended)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| i64::from(c.live.life.tries)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| i64::from(c.live.life.losses)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| c.live.life.stub).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| c.live.life.cancel_requested).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, f)| f.spec.task_type.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| &*c.live.subsystem).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, f)| f.spec.title.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, f)| f.spec.created_by.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| i64::from(c.live.priority)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, f)| f.queue.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, f)| &*f.executor).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| &*c.live.worker).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, f)| f.spec.parent_id.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, f)| f.spec.retry_of.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, f)| tags(&f.spec.tags)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| c.live.created_at.micros()).collect::<Vec<_>>())
        .bind(
            rows.iter().map(|(c, _)| c.live.started_at.map(Timestamp::micros)).collect::<Vec<_>>(),
        )
        .bind(
            rows.iter().map(|(c, _)| c.live.finished_at.map(Timestamp::micros)).collect::<Vec<_>>(),
        )
        .bind(rows.iter().map(|(c, _)| ended_at(c)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, f)| f.deadline.map(Timestamp::micros)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| micros(c.live.duration)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| c.live.verification.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| c.live.spec_at.number()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(c, _)| c.report.as_slice()).collect::<Vec<_>>())
}

/// Binds one array a column, in the order of [`update`].
pub(super) fn bind_changed<'q>(query: Query<'q>, rows: &'q [&Change]) -> Query<'q> {
    query
        .bind(rows.iter().map(|c| c.live.place.number()).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| state(c).state).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| state(c).cause).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| state(c).awaits_verdict).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| i64::from(c.live.life.ended)).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| i64::from(c.live.life.tries)).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| i64::from(c.live.life.losses)).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| c.live.life.stub).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| c.live.life.cancel_requested).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| i64::from(c.live.priority)).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| &*c.live.worker).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| c.live.started_at.map(Timestamp::micros)).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| c.live.finished_at.map(Timestamp::micros)).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| ended_at(c)).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| micros(c.live.duration)).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| c.live.verification.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|c| c.report.as_slice()).collect::<Vec<_>>())
}

/// Says whose the large inputs and results are; most batches have none.
pub(super) async fn write_objects(
    tx: &mut PgConnection,
    tasks: &[Change],
) -> Result<(), sqlx::Error> {
    let pairs = tasks.iter().flat_map(|change| change.objects.iter().map(move |o| (o, change)));
    let (names, places): (Vec<_>, Vec<_>) =
        pairs.map(|(name, change)| (name.as_str(), change.live.place.number())).unzip();
    if names.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO objects (name, task) SELECT * FROM UNNEST($1::text[], $2::bigint[]) \
         ON CONFLICT DO NOTHING";
    sqlx::query(sql).bind(names).bind(places).execute(tx).await?;
    Ok(())
}

pub(super) async fn write_entries(
    tx: &mut PgConnection,
    entries: &[Entry],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO events (task, place, kind, at, ignored, event) \
         SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::bytea[])",
    )
    .bind(entries.iter().map(|e| e.task.map_or(0, Place::number)).collect::<Vec<_>>())
    .bind(entries.iter().map(|e| e.place.number()).collect::<Vec<_>>())
    .bind(entries.iter().map(|e| &*e.kind).collect::<Vec<_>>())
    .bind(entries.iter().map(|e| e.at.micros()).collect::<Vec<_>>())
    .bind(entries.iter().map(|e| &*e.ignored).collect::<Vec<_>>())
    .bind(entries.iter().map(|e| &*e.event).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn write_counts(
    tx: &mut PgConnection,
    counts: &Counts,
) -> Result<(), sqlx::Error> {
    if counts.is_empty() {
        return Ok(());
    }
    let set = STATES.map(|word| format!("{word} = task_counts.{word} + excluded.{word}"));
    let sql = format!(
        "INSERT INTO task_counts (subsystem, {}) SELECT * FROM \
         UNNEST($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) \
         ON CONFLICT (subsystem) DO UPDATE SET {}",
        STATES.join(", "),
        set.join(", "),
    );
    let rows: Vec<_> = counts.values().map(deltas).collect();
    let column =
        |n: usize| rows.iter().map(|row| row.get(n).copied().unwrap_or(0)).collect::<Vec<i64>>();
    let mut query =
        sqlx::query(AssertSqlSafe(sql)).bind(counts.keys().map(|key| &**key).collect::<Vec<_>>());
    for n in 0..STATES.len() {
        query = query.bind(column(n));
    }
    query.execute(tx).await?;
    Ok(())
}
