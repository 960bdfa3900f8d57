//! Rows as the tables have them, parsed on the way in.

use std::{borrow::Cow, time::Duration};

use anyhow::Context as _;
use bus::Cursor;
use common::{
    id::{TaskId, Tenant},
    lifecycle::{Cause, Phase, State, state_word},
    pb,
    task::TaskSpec,
    time::Timestamp,
};
use prost::Message as _;

use super::{LedgerError, Position};
use crate::row::{Entry, Fixed, Live, Place, Row, Verification};

/// The columns of `tasks`, with their types in PostgreSQL.
pub(super) const TASKS: [(&str, &str); 31] = [
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
    ("ended_at", "bigint"),
    ("deadline", "bigint"),
    ("duration", "bigint"),
    ("verification", "text"),
    ("spec_at", "bigint"),
    ("report", "bytea"),
];

/// The columns that change in a task that the ledger has.
pub(super) const CHANGED: [&str; 16] = [
    "state",
    "cause",
    "awaits_verdict",
    "attempts",
    "tries",
    "losses",
    "stub",
    "cancel_requested",
    "priority",
    "worker",
    "started_at",
    "finished_at",
    "ended_at",
    "duration",
    "verification",
    "report",
];

/// What questions about tasks read: the columns, and the event that has the submission.
pub(super) fn selected() -> String {
    // The others are in the submission, and for filters only.
    let columns = TaskColumns::NAMES.map(|name| format!("t.{name}")).join(", ");
    format!(
        "SELECT {columns}, (SELECT e.event FROM events AS e \
         WHERE e.task = t.place AND e.place = t.spec_at) AS event FROM tasks AS t"
    )
}

/// A row of `tasks`, with the event that has the submission.
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
    pub(super) subsystem: String,
    pub(super) priority: i64,
    pub(super) queue: String,
    pub(super) executor: String,
    pub(super) worker: String,
    pub(super) created_at: i64,
    pub(super) started_at: Option<i64>,
    pub(super) finished_at: Option<i64>,
    pub(super) ended_at: Option<i64>,
    pub(super) deadline: Option<i64>,
    pub(super) duration: Option<i64>,
    pub(super) verification: String,
    pub(super) spec_at: i64,
    pub(super) report: Vec<u8>,
    pub(super) event: Option<Vec<u8>>,
}

impl TaskColumns {
    const NAMES: [&str; 25] = [
        "place",
        "tenant",
        "task_id",
        "state",
        "cause",
        "awaits_verdict",
        "attempts",
        "tries",
        "losses",
        "stub",
        "cancel_requested",
        "subsystem",
        "priority",
        "queue",
        "executor",
        "worker",
        "created_at",
        "started_at",
        "finished_at",
        "ended_at",
        "deadline",
        "duration",
        "verification",
        "spec_at",
        "report",
    ];

    pub(super) fn bytes(&self) -> usize {
        self.event.as_ref().map_or(0, Vec::len) + self.report.len()
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
        let state = State {
            phase,
            ended: u32::try_from(self.attempts).context("column attempts")?,
            tries: u16::try_from(self.tries).context("column tries")?,
            losses: u16::try_from(self.losses).context("column losses")?,
            external: self.executor == "external",
            stub: self.stub,
            cancel_requested: self.cancel_requested,
        };
        let tenant = Tenant::parse(&self.tenant).context("column tenant")?;
        let id = TaskId::parse(&self.task_id).context("column task_id")?;
        let event = self.event.context("column spec_at: the history has no such event")?;
        let spec = submission(&event, &tenant, &id).context("column event of table events")?;
        let report = match self.report.as_slice() {
            [] => None,
            report => Some(Box::new(pb::Task::decode(report).context("column report")?)),
        };
        let live = Live {
            place: Place::from_number(self.place),
            spec_at: Place::from_number(self.spec_at),
            life: state,
            priority: u8::try_from(self.priority).context("column priority")?,
            subsystem: self.subsystem.into(),
            worker: self.worker.into(),
            created_at: Timestamp::from_micros(self.created_at),
            started_at: self.started_at.map(Timestamp::from_micros),
            finished_at: self.finished_at.map(Timestamp::from_micros),
            ended_at: self.ended_at.and_then(|at| u64::try_from(at).ok()),
            duration: self.duration.and_then(|d| u64::try_from(d).ok()).map(Duration::from_micros),
            verification: Verification::parse(&self.verification).context("column verification")?,
            report,
        };
        let deadline = self.deadline.map(Timestamp::from_micros);
        let executor = self.executor.into();
        Ok(Row { live, fixed: Fixed { tenant, id, queue: self.queue, executor, deadline, spec } })
    }
}

/// What was submitted, from the event that says so; of a stub nothing but its names.
fn submission(event: &[u8], tenant: &Tenant, id: &TaskId) -> anyhow::Result<pb::TaskSpec> {
    let event = pb::Event::decode(event)?;
    let spec = match event.kind {
        Some(pb::event::Kind::Created(spec)) => *spec,
        Some(pb::event::Kind::Carried(carried)) => carried.spec.unwrap_or_default(),
        Some(pb::event::Kind::Resolved(resolved)) => resolved.spec.unwrap_or_default(),
        _ => pb::TaskSpec::default(),
    };
    let spec = pb::TaskSpec { tenant: tenant.to_string(), task_id: id.to_string(), ..spec };
    Ok(match TaskSpec::parse(spec.clone()) {
        Ok(spec) => spec.with_trace(&event.traceparent).into_pb(),
        // It was good when it came; the rules may have changed since.
        Err(_) => spec,
    })
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

impl From<EventColumns> for Entry {
    fn from(row: EventColumns) -> Self {
        Self {
            task: (row.task != 0).then(|| Place::from_number(row.task)),
            place: Place::from_number(row.place),
            at: Timestamp::from_micros(row.at),
            kind: row.kind.into(),
            ignored: row.ignored.into(),
            event: row.event.into(),
        }
    }
}

/// The row of `log_cursor`.
#[derive(sqlx::FromRow)]
pub(super) struct CursorColumns {
    stream: String,
    sequence: i64,
    clock: i64,
    floor: i64,
    cold_until: i64,
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
            floor: self.floor as u64,
            cold_until: self.cold_until as u64,
        })
    }
}

/// A state as the columns have it.
pub(super) struct StateColumns {
    pub(super) state: &'static str,
    pub(super) cause: &'static str,
    pub(super) awaits_verdict: bool,
}

impl From<Phase> for StateColumns {
    fn from(phase: Phase) -> Self {
        let cause = phase.cause().map_or("", Cause::as_str);
        Self { state: state_word(phase.state()), cause, awaits_verdict: phase == Phase::Verdict }
    }
}

/// A duration as the columns have it.
pub(super) fn micros(duration: Option<Duration>) -> Option<i64> {
    duration.map(|d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// Tags as the columns have them.
pub(super) fn tags(tags: &[String]) -> Cow<'static, str> {
    if tags.is_empty() {
        return "[]".into();
    }
    serde_json::Value::from(tags).to_string().into()
}
