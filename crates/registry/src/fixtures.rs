//! Messages of the log for tests.

use bus::Message;
use bytes::Bytes;
use common::{
    event::{Event, Kind, TaskEvent},
    id::{TaskId, Tenant},
    pb::{self, executor},
    subject,
    task::TaskSpec,
    time::Timestamp,
    wire,
};
use uuid::Uuid;

use crate::{
    project::{Changes, Fold},
    row::{Change, Entry, Fixed, Live, Row},
};

pub(crate) const LOG: Uuid = Uuid::from_u128(7);

/// A message of one event; the log's clock shows a second for each sequence.
#[expect(clippy::needless_pass_by_value, reason = "tests make the event in the call")]
pub(crate) fn message(sequence: u64, event: TaskEvent) -> Message {
    let payload = wire::encode(&Event::Task(event.clone()));
    read(sequence, &subject::event(event.kind.word()), payload)
}

/// A message as the reader decodes it.
pub(crate) fn read(sequence: u64, subject: &str, payload: Vec<u8>) -> Message {
    let items = wire::decode(wire::Received {
        subject,
        content_type: None,
        traceparent: None,
        payload: &payload,
        stream: LOG,
        sequence,
    });
    let at = Timestamp::from_unix(1_800_000_000 + sequence as i64, 0);
    Message {
        sequence,
        at,
        subject: subject.into(),
        payload: Bytes::from(payload),
        content_type: None,
        items,
    }
}

pub(crate) fn event(id: &str, kind: Kind) -> TaskEvent {
    TaskEvent::new(Tenant::default(), TaskId::parse(id).expect("an id"), "test", kind)
}

pub(crate) fn created(spec: pb::TaskSpec) -> TaskEvent {
    let id = spec.task_id.clone();
    event(&id, Kind::Created(Box::new(TaskSpec::parse(spec).expect("a valid task"))))
}

pub(crate) fn shell(id: &str) -> pb::TaskSpec {
    let shell = pb::Shell { argv: vec!["true".into()], ..pb::Shell::default() };
    pb::TaskSpec {
        task_id: id.into(),
        executor: Some(pb::Executor { kind: Some(executor::Kind::Shell(shell)) }),
        ..pb::TaskSpec::default()
    }
}

pub(crate) fn external(id: &str) -> pb::TaskSpec {
    pb::TaskSpec { task_id: id.into(), ..pb::TaskSpec::default() }
}

#[expect(clippy::unnecessary_wraps, reason = "the fields are optional")]
pub(crate) fn json(text: &str) -> Option<pb::Json> {
    Some(pb::Json { text: text.into() })
}

/// What messages come to.
pub(crate) struct Folded {
    pub(crate) rows: Vec<Row>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) dead: Vec<pb::DeadLetter>,
    pub(crate) clock: Timestamp,
}

/// Folds messages over rows, and returns the rows that changed.
pub(crate) fn project(rows: Vec<Row>, clock: Timestamp, messages: &[Message]) -> Folded {
    let known: Vec<_> = rows.iter().map(|row| (row.live.place, row.fixed.clone())).collect();
    let mut fold = Fold::new(clock, None, false);
    fold.load(rows);
    fold.fold(messages.to_vec());
    let Changes { tasks, entries, dead, clock, .. } = fold.take();
    let fixed = |place| known.iter().find(|(known, _)| *known == place).map(|(_, f)| f.clone());
    let rows = tasks.into_iter().map(|change| {
        let fixed = fixed(change.live.place);
        row_of(change, fixed)
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|row| row.live.place);
    Folded { rows, entries, dead, clock }
}

/// The row after a change.
pub(crate) fn row_of(change: Change, fixed: Option<Fixed>) -> Row {
    let report = match change.report.as_slice() {
        [] => None,
        report => Some(Box::new(prost::Message::decode(report).expect("a report"))),
    };
    let fixed = change.fixed.map(|fixed| *fixed).or(fixed).expect("a description");
    Row { live: Live { report, ..change.live }, fixed }
}

/// What was reported of a task.
pub(crate) fn report(row: &Row) -> pb::Task {
    row.live.report.as_deref().cloned().unwrap_or_default()
}
