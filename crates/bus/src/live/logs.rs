//! The output of a task's attempts.

use std::{collections::HashMap, time::Duration};

use async_nats::{
    datetime::{self, DateTime},
    jetstream::{
        consumer::{
            DeliverPolicy,
            pull::{Ordered, OrderedConfig},
        },
        stream::LastRawMessageErrorKind,
    },
};
use common::{
    error::{ApiError, ErrorCode},
    id::TaskKey,
    pb, subject,
    time::Timestamp,
    wire,
};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use tokio::time::timeout;

use super::{Subject, unavailable};
use crate::{Bus, streams};

/// How long a follower waits before it asks whether the task has ended: at first, and at most.
const ASK_AFTER: Duration = Duration::from_millis(50);
const ASK_AFTER_MAX: Duration = Duration::from_secs(1);
/// How long the server may take to deliver what it says it has.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// The output of a task's attempts, or of one of them; a follower stays until the task has ended.
pub fn logs(
    bus: &Bus,
    request: pb::LogsRequest,
) -> impl Stream<Item = Result<pb::LogChunk, ApiError>> + Send + use<> {
    let bus = bus.clone();
    stream::once(async move { Logs::open(bus, request).await })
        .map_ok(|logs| {
            stream::try_unfold(logs, async |mut logs| {
                let chunk = logs.next().await?;
                Ok::<_, ApiError>(chunk.map(|chunk| (chunk, logs)))
            })
        })
        .try_flatten()
}

struct Logs {
    bus: Bus,
    task: Subject,
    attempt: Option<u32>,
    messages: Ordered,
    /// The last message of `LOGS` that was read.
    sequence: u64,
    /// Where to stop; `None` while the task may still write.
    end: Option<u64>,
    ask_after: Duration,
    /// When the task was created: older output on its subject is another's.
    since: Option<DateTime>,
    /// The number that each attempt's next chunk has: a chunk may be stored twice.
    next_numbers: HashMap<u32, u64>,
}

impl Logs {
    async fn open(bus: Bus, request: pb::LogsRequest) -> Result<Self, ApiError> {
        let task = Subject::parse(&request.tenant, &request.task_id)?;
        let found = task.look_up(&bus).await?;
        let key = TaskKey::new(&task.tenant, &task.id);
        let stream = streams::get(&bus, subject::LOGS).await.map_err(|e| unavailable(&e))?;
        let since = found.created_at.map(Timestamp::from).and_then(time);
        let config = OrderedConfig {
            filter_subject: subject::log(key),
            deliver_policy: since
                .map_or(DeliverPolicy::All, |start_time| DeliverPolicy::ByStartTime { start_time }),
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|e| unavailable(&e.into()))?;
        let messages = consumer.messages().await.map_err(|e| unavailable(&e.into()))?;
        let mut logs = Self {
            bus,
            task,
            attempt: (request.attempt != 0).then_some(request.attempt),
            messages,
            since,
            sequence: 0,
            end: None,
            ask_after: ASK_AFTER,
            next_numbers: HashMap::new(),
        };
        if !request.follow || is_terminal(&found) {
            logs.end = Some(last_sequence(&logs.bus, &logs.task, logs.since).await?);
        }
        Ok(logs)
    }

    /// The next piece; `None` after the last.
    async fn next(&mut self) -> Result<Option<pb::LogChunk>, ApiError> {
        loop {
            let wait = match self.end {
                Some(end) if self.sequence >= end => return Ok(None),
                Some(_) => DELIVERY_TIMEOUT,
                None => self.ask_after,
            };
            // Cancel-safe: the stream keeps a message until it returns it.
            match timeout(wait, self.messages.next()).await {
                Ok(Some(Ok(message))) => {
                    if let Some(chunk) = self.take(&message)? {
                        return Ok(Some(chunk));
                    }
                }
                Ok(Some(Err(error))) => return Err(unavailable(&error.into())),
                Ok(None) => return Ok(None),
                Err(_) if self.end.is_some() => {
                    let why = anyhow::anyhow!("the stream LOGS does not deliver what it has");
                    return Err(unavailable(&why));
                }
                Err(_) => self.ask().await?,
            }
        }
    }

    /// Has the task ended? Then whatever it wrote is in `LOGS` by now.
    async fn ask(&mut self) -> Result<(), ApiError> {
        self.ask_after = (self.ask_after * 2).min(ASK_AFTER_MAX);
        match self.task.look_up(&self.bus).await {
            Ok(task) if is_terminal(&task) => {
                self.end = Some(last_sequence(&self.bus, &self.task, self.since).await?);
            }
            Ok(_) => {}
            // The output comes without the registry; only its end waits for it.
            Err(error) if error.code == ErrorCode::Unavailable => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn take(
        &mut self,
        message: &async_nats::jetstream::Message,
    ) -> Result<Option<pb::LogChunk>, ApiError> {
        let info = message.info().map_err(|e| unavailable(&anyhow::anyhow!(e)))?;
        self.sequence = info.stream_sequence;
        // What cannot be read is nobody's output; another task's shares the subject.
        let Some(chunk) = decode(message) else { return Ok(None) };
        if !self.is_ours(&chunk) {
            return Ok(None);
        }
        if chunk.last {
            self.ask_after = ASK_AFTER;
            if self.attempt == Some(chunk.attempt) {
                self.end = Some(self.sequence);
            }
        }
        let next = self.next_numbers.entry(chunk.attempt).or_default();
        if chunk.number < *next {
            return Ok(None);
        }
        *next = chunk.number + 1;
        Ok(Some(chunk))
    }

    fn is_ours(&self, chunk: &pb::LogChunk) -> bool {
        let tenant = if chunk.tenant.is_empty() { "default" } else { &chunk.tenant };
        tenant == self.task.tenant.as_str()
            && chunk.task_id == self.task.id.as_str()
            && self.attempt.is_none_or(|attempt| attempt == chunk.attempt)
    }
}

/// The place of the last output on the task's subject; 0 when there is none.
async fn last_sequence(
    bus: &Bus,
    task: &Subject,
    since: Option<DateTime>,
) -> Result<u64, ApiError> {
    let subject = subject::log(TaskKey::new(&task.tenant, &task.id));
    let found = async {
        let stream = bus.jetstream().get_stream_no_info(subject::LOGS).await?;
        match stream.get_last_raw_message_by_subject(&subject).await {
            // The subject is shared, and what is older is not read.
            Ok(message) if since.is_some_and(|since| message.time < since) => Ok(0),
            Ok(message) => Ok(message.sequence),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
            Err(error) => Err(anyhow::Error::new(error)),
        }
    };
    found.await.map_err(|e| unavailable(&e))
}

fn is_terminal(task: &pb::Task) -> bool {
    match task.state() {
        pb::TaskState::Unspecified | pb::TaskState::Pending | pb::TaskState::Running => false,
        pb::TaskState::Completed
        | pb::TaskState::Failed
        | pb::TaskState::Cancelled
        | pb::TaskState::Skipped => true,
    }
}

/// Nothing was written before the task was there.
fn time(at: Timestamp) -> Option<DateTime> {
    datetime::from_nanos(i128::from(at.micros()) * 1_000).ok()
}

fn decode(message: &async_nats::jetstream::Message) -> Option<pb::LogChunk> {
    let content_type = message.headers.as_ref().and_then(|h| h.get("Content-Type"));
    if wire::is_json(content_type.map(async_nats::HeaderValue::as_str), &message.payload) {
        return serde_json::from_slice(&message.payload).ok();
    }
    pb::LogChunk::decode(&*message.payload).ok()
}
