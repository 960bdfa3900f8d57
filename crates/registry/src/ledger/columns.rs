//! Rows as the tables have them, parsed on the way in.

use std::time::Duration;

use anyhow::Context as _;
use bus::Cursor;
use common::{
    id::{TaskId, Tenant},
    lifecycle::{Cause, Phase, State, state_word},
    pb,
    time::Timestamp,
};
use prost::Message as _;

use super::{LedgerError, Position};
use crate::row::{Entry, Place, Row, Verification};

/// The columns of `tasks`, with their types in PostgreSQL.
pub(super) const TASKS: [(&str, &str); 30] = [
    ("place", "bigint"),
    ("tenant", "text"),
    ("task_id", "text"),
    ("state", "text"),
    ("cause", "text"),
    ("awaits_verdict", "boolean"),
    ("attempts", "bigint"),
    ("tries", "bigint"),
    ("losses", "bigint"),
    ("stub", "boolean"),
    ("cancel_requested", "boolean"),
    ("task_type", "text"),
    ("subsystem", "text"),
    ("title", "text"),
    ("created_by", "text"),
    ("priority", "bigint"),
    ("queue", "text"),
    ("executor", "text"),
    ("worker", "text"),
    ("parent_id", "text"),
    ("retry_of", "text"),
    ("tags", "text"),
    ("created_at", "bigint"),
    ("started_at", "bigint"),
    ("finished_at", "bigint"),
    ("deadline", "bigint"),
    ("duration", "bigint"),
    ("verification", "text"),
    ("spec", "bytea"),
    ("report", "bytea"),
];

/// A row of `tasks`.
#[derive(sqlx::FromRow)]
pub(super) struct TaskColumns {
    pub(super) place: i64,
    pub(super) tenant: String,
    pub(super) task_id: String,
    pub(super) state: String,
    pub(super) cause: String,
    pub(super) awaits_verdict: bool,
    pub(super) attempts: i64,
    pub(super) tries: i64,
    pub(super) losses: i64,
    pub(super) stub: bool,
    pub(super) cancel_requested: bool,
    pub(super) task_type: String,
    pub(super) subsystem: String,
    pub(super) title: String,
    pub(super) created_by: String,
    pub(super) priority: i64,
    pub(super) queue: String,
    pub(super) executor: String,
    pub(super) worker: String,
    pub(super) parent_id: String,
    pub(super) retry_of: String,
    pub(super) tags: String,
    pub(super) created_at: i64,
    pub(super) started_at: Option<i64>,
    pub(super) finished_at: Option<i64>,
    pub(super) deadline: Option<i64>,
    pub(super) duration: Option<i64>,
    pub(super) verification: String,
    pub(super) spec: Vec<u8>,
    pub(super) report: Vec<u8>,
}

impl From<&Row> for TaskColumns {
    fn from(row: &Row) -> Self {
        let Row { life, spec, .. } = row;
        let cause = match life.phase {
            Phase::Failed(cause) => cause.as_str(),
            Phase::Pending
            | Phase::Verdict
            | Phase::Running
            | Phase::Completed
            | Phase::Cancelled
            | Phase::Skipped => "",
        };
        Self {
            place: row.place.number(),
            tenant: row.tenant.to_string(),
            task_id: row.id.to_string(),
            state: state_word(life.phase.state()).into(),
            cause: cause.into(),
            awaits_verdict: life.phase == Phase::Verdict,
            attempts: life.ended.into(),
            tries: life.tries.into(),
            losses: life.losses.into(),
            stub: life.stub,
            cancel_requested: life.cancel_requested,
            task_type: spec.task_type.clone(),
            subsystem: spec.subsystem.clone(),
            title: spec.title.clone(),
            created_by: spec.created_by.clone(),
            priority: row.priority.into(),
            queue: row.queue.clone(),
            executor: row.executor.clone(),
            worker: row.worker.clone(),
            parent_id: spec.parent_id.clone(),
            retry_of: spec.retry_of.clone(),
            tags: serde_json::Value::from(spec.tags.as_slice()).to_string(),
            created_at: row.created_at.micros(),
            started_at: row.started_at.map(Timestamp::micros),
            finished_at: row.finished_at.map(Timestamp::micros),
            deadline: row.deadline.map(Timestamp::micros),
            duration: row.duration.map(|d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)),
            verification: row.verification.as_str().into(),
            spec: spec.encode_to_vec(),
            report: row.report.encode_to_vec(),
        }
    }
}

impl TaskColumns {
    pub(super) fn bytes(&self) -> usize {
        self.spec.len() + self.report.len()
    }

    pub(super) fn parse(self) -> Result<Row, LedgerError> {
        let place = self.place;
        self.row()
            .with_context(|| format!("failed to read row {place} of table tasks"))
            .map_err(LedgerError::Broken)
    }

    fn row(self) -> anyhow::Result<Row> {
        let cause = || Cause::ALL.into_iter().find(|c| c.as_str() == self.cause);
        let phase = match self.state.as_str() {
            "pending" if self.awaits_verdict => Phase::Verdict,
            "pending" => Phase::Pending,
            "running" => Phase::Running,
            "completed" => Phase::Completed,
            "failed" => Phase::Failed(cause().context("column cause")?),
            "cancelled" => Phase::Cancelled,
            "skipped" => Phase::Skipped,
            other => anyhow::bail!("column state: {other:?}"),
        };
        let life = State {
            phase,
            ended: u32::try_from(self.attempts).context("column attempts")?,
            tries: u16::try_from(self.tries).context("column tries")?,
            losses: u16::try_from(self.losses).context("column losses")?,
            external: self.executor == "external",
            stub: self.stub,
            cancel_requested: self.cancel_requested,
        };
        Ok(Row {
            place: Place::from_number(self.place),
            tenant: Tenant::parse(&self.tenant).context("column tenant")?,
            id: TaskId::parse(&self.task_id).context("column task_id")?,
            life,
            priority: u8::try_from(self.priority).context("column priority")?,
            queue: self.queue,
            executor: self.executor,
            worker: self.worker,
            created_at: Timestamp::from_micros(self.created_at),
            started_at: self.started_at.map(Timestamp::from_micros),
            finished_at: self.finished_at.map(Timestamp::from_micros),
            deadline: self.deadline.map(Timestamp::from_micros),
            duration: self.duration.and_then(|d| u64::try_from(d).ok()).map(Duration::from_micros),
            verification: Verification::parse(&self.verification).context("column verification")?,
            spec: pb::TaskSpec::decode(self.spec.as_slice()).context("column spec")?,
            report: pb::Task::decode(self.report.as_slice()).context("column report")?,
        })
    }
}

/// A row of `events`.
#[derive(sqlx::FromRow)]
pub(super) struct EventColumns {
    pub(super) task: i64,
    pub(super) place: i64,
    pub(super) kind: String,
    pub(super) at: i64,
    pub(super) ignored: String,
    pub(super) event: Vec<u8>,
}

impl From<&Entry> for EventColumns {
    fn from(entry: &Entry) -> Self {
        Self {
            task: entry.task.map_or(0, Place::number),
            place: entry.place.number(),
            kind: entry.kind.clone(),
            at: entry.at.micros(),
            ignored: entry.ignored.clone(),
            event: entry.event.clone(),
        }
    }
}

impl From<EventColumns> for Entry {
    fn from(row: EventColumns) -> Self {
        Self {
            task: (row.task != 0).then(|| Place::from_number(row.task)),
            place: Place::from_number(row.place),
            at: Timestamp::from_micros(row.at),
            kind: row.kind,
            ignored: row.ignored,
            event: row.event,
        }
    }
}

/// The row of `log_cursor`.
#[derive(sqlx::FromRow)]
pub(super) struct CursorColumns {
    stream: String,
    sequence: i64,
    clock: i64,
}

impl CursorColumns {
    pub(super) fn parse(self) -> Result<Position, LedgerError> {
        let stream = self
            .stream
            .parse()
            .context("failed to read column stream of table log_cursor")
            .map_err(LedgerError::Broken)?;
        Ok(Position {
            cursor: Cursor { stream, sequence: self.sequence as u64 },
            clock: Timestamp::from_micros(self.clock),
        })
    }
}
