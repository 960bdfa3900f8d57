//! The stream `DEAD`: what could not be read, and tasks that did not end well. A letter stays there
//! until its age; replaying it is a new task, the same one however often it is replayed.

use anyhow::Context as _;
use async_nats::jetstream::{
    message::PublishMessage,
    stream::{DirectGetErrorKind, Stream},
};
use bus::{Bus, Publisher};
use common::{
    error::{ApiError, ErrorCode},
    event::{Event, Kind},
    id::TaskId,
    limits,
    pb::{self, DeadLetter},
    subject,
    task::TaskSpec,
    wire,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use uuid::Uuid;

use crate::project;

/// Letters that are read or written at once.
const IN_FLIGHT_MAX: usize = 64;

/// Publishes letters and waits until they are stored. No fold stands behind this stream, so the
/// place in the log is the id by which the server drops a repeat.
pub(crate) async fn publish(bus: &Bus, log: Uuid, letters: &[DeadLetter]) -> anyhow::Result<()> {
    let stores: Vec<_> = letters.iter().map(|letter| store(bus.clone(), log, letter)).collect();
    stream::iter(stores).buffered(IN_FLIGHT_MAX).try_collect().await
}

fn store(
    bus: Bus,
    log: Uuid,
    letter: &DeadLetter,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let subject = subject::dead(&letter.kind);
    let message = PublishMessage::build()
        .message_id(format!("{log}:{}:{}", letter.sequence, letter.index))
        .payload(letter.encode_to_vec().into());
    async move {
        let stored =
            async { anyhow::Ok(bus.jetstream().send_publish(subject, message).await?.await?) };
        let stored =
            tokio::time::timeout(limits::LEDGER_WAIT, stored).await.context("no answer").flatten();
        stored.map(drop).context("failed to publish a dead letter")
    }
}

/// The letters of `DEAD`.
pub(crate) struct Dead {
    stream: Stream,
    first: u64,
    last: u64,
    messages: u64,
}

impl Dead {
    pub(crate) async fn open(bus: &Bus) -> Result<Self, ApiError> {
        let stream = bus::streams::get(bus, subject::DEAD).await.map_err(away)?;
        let state = &stream.cached_info().state;
        let (first, last, messages) = (state.first_sequence, state.last_sequence, state.messages);
        Ok(Self { stream, first, last, messages })
    }

    /// One letter; `None` when it is not there (any more).
    pub(crate) async fn get(&self, id: u64) -> Result<Option<DeadLetter>, ApiError> {
        let message = match self.stream.direct_get(id).await {
            Ok(message) => message,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(away(error.into())),
        };
        // Others may write to this stream too; what is no letter of ours is shown as it is.
        let letter =
            DeadLetter::decode(message.payload.clone()).unwrap_or_else(|error| DeadLetter {
                kind: project::UNDECODABLE.into(),
                subject: message.subject.to_string(),
                error: format!("not a dead letter: {error}"),
                original: message.payload.to_vec(),
                ..DeadLetter::default()
            });
        Ok(Some(DeadLetter { id, ..letter }))
    }

    /// A page of letters, newest first, that lie before an id.
    pub(crate) async fn list(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<pb::ListDeadResponse, ApiError> {
        let last = before.map_or(self.last, |b| self.last.min(b.saturating_sub(1)));
        let mut found = stream::iter((self.first.max(1)..=last).rev())
            .map(|id| self.get(id))
            .buffered(IN_FLIGHT_MAX);
        let mut page = pb::ListDeadResponse::default();
        let mut bytes = 0;
        while let Some(letter) = found.try_next().await? {
            let Some(letter) = letter else { continue };
            bytes += letter.encoded_len();
            if page.letters.len() == limit
                || (bytes > limits::ANSWER_BYTES_MAX && !page.letters.is_empty())
            {
                page.next_page_token =
                    page.letters.last().map(|l| l.id.to_string()).unwrap_or_default();
                break;
            }
            page.letters.push(letter);
        }
        Ok(page)
    }

    /// Submits letters again: the named ones, or all of them.
    pub(crate) async fn replay(
        &self,
        bus: &Bus,
        publisher: &Publisher,
        request: &pb::ReplayDeadRequest,
    ) -> Result<pb::ReplayDeadResponse, ApiError> {
        let ids = if request.all {
            (self.first.max(1)..=self.last).collect()
        } else {
            request.ids.clone()
        };
        if request.dry_run && request.all {
            return Ok(pb::ReplayDeadResponse { submissions: Vec::new(), matched: self.messages });
        }
        let log = bus::streams::identity(bus).await.map_err(away)?;
        let mut answer = pb::ReplayDeadResponse::default();
        for ids in ids.chunks(IN_FLIGHT_MAX) {
            let letters = stream::iter(ids.to_vec()).map(|id| self.get(id)).buffered(IN_FLIGHT_MAX);
            let letters: Vec<_> = letters.try_collect().await?;
            let mut specs = Vec::new();
            for (id, letter) in ids.iter().zip(letters) {
                match letter {
                    None if request.all => continue,
                    None => specs.push(Err(no_letter(*id))),
                    Some(letter) => specs.push(revive(log, letter)),
                }
                answer.matched += u64::from(specs.last().is_some_and(Result::is_ok));
            }
            if request.dry_run {
                continue;
            }
            let submissions = submit(bus, publisher, specs).await;
            let room = limits::SUBMIT_TASKS_MAX.saturating_sub(answer.submissions.len());
            answer.submissions.extend(submissions.into_iter().take(room));
        }
        Ok(answer)
    }
}

/// Submits what could be read, and answers in order; a refusal stands in its place.
pub(crate) async fn submit(
    bus: &Bus,
    publisher: &Publisher,
    specs: Vec<Result<TaskSpec, ApiError>>,
) -> Vec<pb::Submission> {
    let refused =
        |error: ApiError| pb::Submission { error: Some(error.into()), ..pb::Submission::default() };
    let good = specs.iter().flatten().cloned().collect();
    let mut submitted = bus::submit(bus, publisher, good).await.into_iter();
    let missing = || Err(ApiError::new(ErrorCode::Internal, "the submission has no answer"));
    specs
        .into_iter()
        .map(|spec| match spec {
            Ok(_) => submitted.next().unwrap_or_else(missing).unwrap_or_else(refused),
            Err(error) => refused(error),
        })
        .collect()
}

/// The submission that a letter comes to.
fn revive(log: Uuid, letter: DeadLetter) -> Result<TaskSpec, ApiError> {
    match letter.spec {
        Some(spec) => {
            let name = format!("replay.{}.{}", letter.sequence, letter.index);
            let id = TaskId::from_uuid(Uuid::new_v5(&log, name.as_bytes()));
            TaskSpec::parse(pb::TaskSpec {
                task_id: id.to_string(),
                idempotency_key: String::new(),
                notify: String::new(),
                retry_of: letter.task_id,
                ..spec
            })
            .map_err(ApiError::invalid)
        }
        None => reread(log, &letter),
    }
}

/// Reads again what could not be read: by a newer version, perhaps.
fn reread(log: Uuid, letter: &DeadLetter) -> Result<TaskSpec, ApiError> {
    let refuse = |reason: &str| {
        let message = format!("letter {} cannot be replayed: {reason}", letter.id);
        Err(ApiError::new(ErrorCode::FailedPrecondition, message)
            .hint("`jetmill dead show` has the message; publish a corrected one"))
    };
    if letter.original.len() >= limits::DEAD_ORIGINAL_BYTES_MAX {
        return refuse("it is too large to be kept whole");
    }
    let bundled = letter.subject == subject::BUNDLE && !wire::is_json(None, &letter.original);
    let payload =
        if bundled { wire::bundle(vec![letter.original.clone()]) } else { letter.original.clone() };
    let items = wire::decode(wire::Received {
        subject: &letter.subject,
        content_type: None,
        traceparent: None,
        payload: &payload,
        stream: log,
        sequence: letter.sequence,
    });
    match items.into_iter().next() {
        Some(Ok(Event::Task(event))) => {
            let word = event.kind.word();
            let Kind::Created(spec) = event.kind else {
                return refuse(&format!(
                    "a report ({word}) is no task; its reporter must send it again"
                ));
            };
            // Without an id of its own it gets the one that it would have had where it lay.
            let is_derived = spec.id() == Some(TaskId::from_place(log, letter.sequence, 0));
            let id = TaskId::from_place(log, letter.sequence, letter.index);
            Ok(if is_derived { spec.with_id(&id) } else { *spec })
        }
        Some(Ok(Event::Policy(_))) => refuse("a policy is no task"),
        Some(Err(error)) => refuse(&error.to_string()),
        None => refuse("it is empty"),
    }
}

pub(crate) fn no_letter(id: u64) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no dead letter {id}"))
        .hint("`jetmill dead ls` shows the letters there are")
}

/// NATS did not answer.
#[expect(clippy::needless_pass_by_value, reason = "it stands in `map_err`")]
pub(crate) fn away(error: anyhow::Error) -> ApiError {
    let error = runtime::chain(&error);
    tracing::warn!(error, "NATS did not answer the registry");
    ApiError::new(ErrorCode::Unavailable, format!("NATS does not answer the registry: {error}"))
        .hint("check nats-server with `jetmill doctor`, then try again")
}
