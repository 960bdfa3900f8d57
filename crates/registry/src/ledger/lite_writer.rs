//! The connection that writes a SQLite ledger: one statement a row, prepared once.
//!
//! It is not sqlx's, which copies each value three times and hands each statement to another
//! thread: that took more than SQLite itself.

use std::{path::Path, sync::Mutex, time::Duration};

use common::time::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{
    Batch, LedgerError, Position, STATES,
    columns::{CHANGED, StateColumns, TASKS, micros, tags},
    deltas,
};
use crate::row::{Change, Entry, Fixed, Live, Place};

/// Pages that the log of changes may have before they go to their places: 16 MiB.
const CHECKPOINT_PAGES: i64 = 4_096;
/// Memory for pages, in KiB.
const CACHE_KIB: i64 = 16 * 1024;
/// Statements that stay prepared.
const STATEMENTS: usize = 16;

const INSERT_EVENT: &str =
    "INSERT INTO events (task, place, kind, at, ignored, event) VALUES (?, ?, ?, ?, ?, ?)";

/// The writing connection.
pub(super) struct Writer(Mutex<Connection>);

impl Writer {
    pub(super) fn open(path: &Path) -> Result<Self, LedgerError> {
        let open = || {
            let connection = Connection::open(path)?;
            connection.busy_timeout(Duration::from_secs(10))?;
            connection.set_prepared_statement_cache_capacity(STATEMENTS);
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            Ok(connection)
        };
        open().map(|connection| Self(Mutex::new(connection))).map_err(|error: rusqlite::Error| {
            let context = format!("failed to open the ledger's file {}", path.display());
            LedgerError::Broken(anyhow::Error::new(error).context(context))
        })
    }

    /// Writes a batch, unless the cursor is elsewhere.
    pub(super) fn record(&self, batch: &Batch) -> Result<(), LedgerError> {
        let failed = |error: rusqlite::Error| {
            LedgerError::Away(anyhow::Error::new(error).context("failed to record a batch"))
        };
        // A panic in between left a transaction, which was rolled back.
        let mut connection = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // The write lock of the file comes first: the cursor cannot move until the end.
        let tx =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        if !move_cursor(&tx, batch).map_err(failed)? {
            return Err(LedgerError::Superseded);
        }
        write_tasks(&tx, &batch.tasks).map_err(failed)?;
        write_objects(&tx, &batch.tasks).map_err(failed)?;
        write_entries(&tx, &batch.entries).map_err(failed)?;
        write_counts(&tx, batch).map_err(failed)?;
        tx.commit().map_err(failed)
    }
}

fn move_cursor(tx: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<bool> {
    let Position { cursor, clock, floor, cold_until } = batch.to;
    let (stream, sequence) = (cursor.stream.to_string(), cursor.sequence as i64);
    let done = match batch.from {
        None => tx
            .prepare_cached(
                "INSERT INTO log_cursor (one, stream, sequence, clock, floor, cold_until) \
                 VALUES (1, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )?
            .execute(params![stream, sequence, clock.micros(), floor as i64, cold_until as i64])?,
        Some(from) => tx
            .prepare_cached(
                "UPDATE log_cursor SET sequence = ?, clock = ?, floor = ?, cold_until = ? \
                 WHERE one = 1 AND stream = ? AND sequence = ?",
            )?
            .execute(params![
                sequence,
                clock.micros(),
                floor as i64,
                cold_until as i64,
                from.stream.to_string(),
                from.sequence as i64
            ])?,
    };
    Ok(done == 1)
}

fn write_tasks(tx: &Transaction<'_>, tasks: &[Change]) -> rusqlite::Result<()> {
    let columns = TASKS.map(|(name, _)| name).join(", ");
    let values = TASKS.map(|_| "?").join(", ");
    let mut insert =
        tx.prepare_cached(&format!("INSERT INTO tasks ({columns}) VALUES ({values})"))?;
    let set = CHANGED.map(|name| format!("{name} = ?")).join(", ");
    let mut update = tx.prepare_cached(&format!("UPDATE tasks SET {set} WHERE place = ?"))?;
    let mut delete = tx.prepare_cached("DELETE FROM tasks WHERE place = ?")?;
    for Change { live, report, fixed, is_new, .. } in tasks {
        if let Some(fixed) = fixed {
            if !is_new {
                delete.execute([live.place.number()])?;
            }
            write_task(&mut insert, live, report, fixed)?;
            continue;
        }
        let StateColumns { state, cause, awaits_verdict } = live.life.phase.into();
        update.execute(params![
            state,
            cause,
            awaits_verdict,
            live.life.ended,
            live.life.tries,
            live.life.losses,
            live.life.stub,
            live.life.cancel_requested,
            live.priority,
            live.worker,
            live.started_at.map(Timestamp::micros),
            live.finished_at.map(Timestamp::micros),
            live.ended_at.map(|at| at as i64),
            micros(live.duration),
            live.verification.as_str(),
            report,
            live.place.number(),
        ])?;
    }
    Ok(())
}

fn write_task(
    insert: &mut rusqlite::Statement<'_>,
    live: &Live,
    report: &[u8],
    fixed: &Fixed,
) -> rusqlite::Result<()> {
    let StateColumns { state, cause, awaits_verdict } = live.life.phase.into();
    let spec = &fixed.spec;
    insert.execute(params![
        live.place.number(),
        fixed.tenant.as_str(),
        fixed.id.as_str(),
        state,
        cause,
        awaits_verdict,
        live.life.ended,
        live.life.tries,
        live.life.losses,
        live.life.stub,
        live.life.cancel_requested,
        spec.task_type,
        live.subsystem,
        spec.title,
        spec.created_by,
        live.priority,
        fixed.queue,
        &*fixed.executor,
        live.worker,
        spec.parent_id,
        spec.retry_of,
        &*tags(&spec.tags),
        live.created_at.micros(),
        live.started_at.map(Timestamp::micros),
        live.finished_at.map(Timestamp::micros),
        live.ended_at.map(|at| at as i64),
        fixed.deadline.map(Timestamp::micros),
        micros(live.duration),
        live.verification.as_str(),
        live.spec_at.number(),
        report,
    ])?;
    Ok(())
}

/// Says whose the large inputs and results are; most batches have none.
fn write_objects(tx: &Transaction<'_>, tasks: &[Change]) -> rusqlite::Result<()> {
    for change in tasks {
        for name in &change.objects {
            tx.prepare_cached("INSERT OR IGNORE INTO objects (name, task) VALUES (?, ?)")?
                .execute(params![name, change.live.place.number()])?;
        }
    }
    Ok(())
}

fn write_entries(tx: &Transaction<'_>, entries: &[Entry]) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(INSERT_EVENT)?;
    for entry in entries {
        insert.execute(params![
            entry.task.map_or(0, Place::number),
            entry.place.number(),
            &*entry.kind,
            entry.at.micros(),
            &*entry.ignored,
            &*entry.event,
        ])?;
    }
    Ok(())
}

fn write_counts(tx: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let set = STATES.map(|word| format!("{word} = {word} + excluded.{word}")).join(", ");
    let mut upsert = tx.prepare_cached(&format!(
        "INSERT INTO task_counts (subsystem, {}) VALUES (?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (subsystem) DO UPDATE SET {set}",
        STATES.join(", "),
    ))?;
    for (subsystem, states) in &batch.counts {
        let [pending, running, completed, failed, cancelled, skipped] = deltas(states);
        upsert
            .execute(params![subsystem, pending, running, completed, failed, cancelled, skipped])?;
    }
    Ok(())
}
