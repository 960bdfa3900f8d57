//! Collects the evidence when all is at rest: the log from its start by a reader of its own, the
//! ledger page by page, the dead letters, the work queue.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use async_nats::jetstream::stream::DirectGetErrorKind;
use bus::{Bus, Cursor, Reader, streams};
use common::{
    event::{Event, Kind, TaskEvent},
    lifecycle, pb, subject,
};
use jetmill_sdk::Client;

use crate::{
    judge::{Entry, Life},
    load::{QUEUE, SUBSYSTEM, place},
};

const PAGE: i32 = 500;

/// The tasks of a run, as the log tells their lives from a place on, and the log's last sequence.
pub async fn log(
    bus: &Bus,
    from: Cursor,
    run: &str,
) -> anyhow::Result<(BTreeMap<String, Life>, u64)> {
    let last = streams::last_sequence(bus).await?;
    let mut reader = Reader::open(bus, Some(from)).await?;
    let mut lives = BTreeMap::new();
    while reader.cursor().sequence < last {
        for message in reader.next(1_000).await? {
            for (index, item) in (0..).zip(&message.items) {
                if let Ok(Event::Task(event)) = item {
                    note(&mut lives, run, (message.sequence, index), message.at, event);
                }
            }
        }
    }
    Ok((lives, last))
}

fn note(
    lives: &mut BTreeMap<String, Life>,
    run: &str,
    place_in_log: (u64, u32),
    at: common::time::Timestamp,
    event: &TaskEvent,
) {
    let id = event.id.as_str();
    if let Kind::Created(spec) = &event.kind
        && spec.as_pb().title.starts_with(run)
        && spec.as_pb().subsystem == SUBSYSTEM
        && !lives.contains_key(id)
    {
        let spec = spec.as_pb().clone();
        let item = place(run, &spec.title);
        lives.insert(id.to_owned(), Life { spec, item, ..Life::default() });
    }
    let Some(life) = lives.get_mut(id) else { return };
    let folded = lifecycle::apply(life.state, &event.kind);
    let (attempt, why) = attempt(&event.kind);
    life.entries.push(Entry {
        place: place_in_log,
        at,
        kind: event.kind.word(),
        attempt,
        ignored: folded.err().map_or("", lifecycle::Ignored::as_str),
        note: [event.actor.as_str(), why].join(" ").trim().to_owned(),
    });
    life.state = folded.ok().or(life.state);
}

/// The attempt that an event is about, and the reason it gives.
fn attempt(kind: &Kind) -> (u32, &str) {
    let none = "";
    match kind {
        Kind::Started(b) => (b.attempt, none),
        Kind::Progress(b) => (b.attempt, none),
        Kind::Snapshot(b) => (b.attempt, none),
        Kind::Completed(b) => (b.attempt, none),
        Kind::Failed(b) => (b.attempt, b.error.as_ref().map_or(none, |e| e.code.as_str())),
        Kind::Retrying(b) => (b.attempt, none),
        Kind::Lost(b) => (b.attempt, &b.reason),
        Kind::Returned(b) => (b.attempt, &b.reason),
        Kind::Cancelled(b) => (b.attempt, &b.reason),
        Kind::Skipped(b) => (0, &b.reason),
        Kind::Created(_)
        | Kind::Updated(_)
        | Kind::CancelRequested(_)
        | Kind::Reprioritised(_)
        | Kind::Expedited(_)
        | Kind::Carried(_)
        | Kind::Resolved(_) => (0, none),
    }
}

/// Why attempts ended without counting, by task and attempt.
pub fn losses(lives: &BTreeMap<String, Life>) -> HashMap<(String, u32), String> {
    let entries = lives.iter().flat_map(|(id, life)| life.entries.iter().map(move |e| (id, e)));
    entries
        .filter(|(_, e)| e.ignored.is_empty() && matches!(e.kind, "lost" | "returned"))
        .map(|(id, e)| {
            // Without the name of who says so, which comes first.
            let why = e.note.split_once(' ').map_or(e.note.as_str(), |(_, why)| why);
            ((id.clone(), e.attempt), format!("{}: {why}", e.kind))
        })
        .collect()
}

/// The run's tasks in the ledger, once that has read the log up to `sequence`.
pub async fn ledger(
    client: &Client,
    run: &str,
    sequence: u64,
) -> anyhow::Result<HashMap<String, pb::Task>> {
    let mut rows = HashMap::new();
    let mut request = pb::ListRequest {
        filter: format!("subsystem = {SUBSYSTEM}"),
        page_size: PAGE,
        min_sequence: sequence,
        ..pb::ListRequest::default()
    };
    loop {
        let page = client.list(&request).await.context("failed to list the ledger")?;
        for task in page.tasks.into_iter().filter(|task| place(run, &task.title).is_some()) {
            let id = task.task_id.clone();
            anyhow::ensure!(rows.insert(id, task).is_none(), "the ledger lists a task twice");
        }
        if page.next_page_token.is_empty() {
            return Ok(rows);
        }
        request.page_token = page.next_page_token;
    }
}

/// Dead letters about tasks of the run, by id.
pub async fn dead(client: &Client, run: &str) -> anyhow::Result<HashMap<String, u32>> {
    let mut letters = HashMap::new();
    let mut request = pb::ListDeadRequest { page_size: PAGE, ..pb::ListDeadRequest::default() };
    loop {
        let page = client.list_dead(&request).await.context("failed to list the dead letters")?;
        for letter in page.letters {
            let title = letter.spec.as_ref().map_or("", |spec| spec.title.as_str());
            if place(run, title).is_some() {
                *letters.entry(letter.task_id).or_insert(0) += 1;
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(letters);
        }
        request.page_token = page.next_page_token;
    }
}

/// The subjects of the work that lies in the work queue; with `all` of every queue.
pub async fn work_queue(bus: &Bus, all: bool) -> anyhow::Result<Vec<String>> {
    let stream = streams::get(bus, subject::EXECUTIONS).await?;
    let own = format!(".{QUEUE}.");
    let (mut found, mut next) = (Vec::new(), stream.cached_info().state.first_sequence);
    loop {
        match stream.direct_get_next_for_subject(subject::EXECUTIONS_ALL, Some(next)).await {
            Ok(message) => {
                next = message.sequence + 1;
                let subject = message.subject.to_string();
                if all || subject.contains(&own) {
                    found.push(subject);
                }
            }
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error).context("failed to read the work queue"),
        }
    }
}
