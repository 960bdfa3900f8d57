//! The log from a cursor, in order. A reader of the log acknowledges nothing: it stores its cursor
//! with the state that it has made of the log, and reads on from there.
//!
//! nats-server accepts any start and jumps over a purge in silence. So the reader itself checks
//! that the log is the one of its cursor and that no sequence is missing; if not, it stops.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::{
    self,
    consumer::{
        DeliverPolicy,
        pull::{Ordered, OrderedConfig},
    },
    message::StreamMessage,
};
use bytes::Bytes;
use common::{
    event::Event,
    limits, subject,
    time::Timestamp,
    wire::{self, NotAnEvent},
};
use futures::{FutureExt as _, StreamExt as _};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use crate::{Bus, streams, trim};

/// Messages that a reader asks for ahead: with bundles, 256 KiB each at most.
const PREFETCH_MESSAGES_MAX: i64 = 256;

/// How far a reader has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The identity of the log.
    pub stream: Uuid,
    /// The last message that was applied; 0 is none.
    pub sequence: u64,
}

/// Why the log cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log at this address is another one than the cursor's.
    #[error(
        "the log is not the one that this state was made of (state: {expected}, log: {found}); \
         restore the log, or move the state away to build it anew"
    )]
    OtherLog {
        /// The identity in the cursor.
        expected: Uuid,
        /// The identity of the log.
        found: Uuid,
    },
    /// The log no longer has what comes next.
    #[error(
        "the log has no message {expected} (it goes on at {found}); \
         restore a newer copy of this state, or move it away: it is then built from the floor of the \
         log on"
    )]
    Gap {
        /// The sequence that comes next.
        expected: u64,
        /// The sequence that came.
        found: u64,
    },
    /// NATS is in trouble; opening the reader again helps once it is not.
    #[error("failed to read the log")]
    Nats(#[source] anyhow::Error),
}

impl ReadError {
    /// Whether opening the reader again may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Nats(_))
    }
}

/// A message of the log.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its place in the log.
    pub sequence: u64,
    /// When the log took it.
    pub at: Timestamp,
    /// Its subject.
    pub subject: String,
    /// Its body.
    pub payload: Bytes,
    /// Its header `Content-Type`.
    pub content_type: Option<String>,
    /// Its items: events, or why they are none.
    pub items: Vec<Result<Event, NotAnEvent>>,
}

impl Message {
    fn new(stream: Uuid, sequence: u64, at: Timestamp, message: async_nats::Message) -> Self {
        let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.to_string());
        let content_type = header("Content-Type");
        let items = wire::decode(wire::Received {
            subject: message.subject.as_str(),
            content_type: content_type.as_deref(),
            traceparent: header("traceparent").as_deref(),
            payload: &message.payload,
            stream,
            sequence,
        });
        let subject = message.subject.to_string();
        Self { sequence, at, subject, payload: message.payload, content_type, items }
    }

    /// The bytes of one item.
    pub fn item(&self, index: u32) -> Option<Vec<u8>> {
        let received = wire::Received {
            subject: &self.subject,
            content_type: self.content_type.as_deref(),
            traceparent: None,
            payload: &self.payload,
            stream: Uuid::nil(),
            sequence: self.sequence,
        };
        wire::item(received, index)
    }
}

/// Reads the log in order, from a cursor on.
pub struct Reader {
    bus: Bus,
    messages: Ordered,
    cursor: Cursor,
    checked: Instant,
    reconnects: watch::Receiver<u64>,
}

impl Reader {
    /// Begins after the cursor, or where the log begins to count when there is none.
    pub async fn open(bus: &Bus, from: Option<Cursor>) -> Result<Self, ReadError> {
        let reconnects = bus.reconnects();
        let stream = streams::get(bus, subject::TASKS).await.map_err(ReadError::Nats)?;
        let info = stream.cached_info();
        let found = streams::identity_of(&info.config.metadata).map_err(ReadError::Nats)?;
        let cursor = match from {
            None => {
                let cut = trim::last(bus).await.map_err(ReadError::Nats)?;
                let floor = cut.map_or(info.state.first_sequence, |cut| cut.trimmed.floor);
                Cursor { stream: found, sequence: floor.saturating_sub(1) }
            }
            Some(cursor) => cursor,
        };
        if cursor.stream != found {
            return Err(ReadError::OtherLog { expected: cursor.stream, found });
        }
        if cursor.sequence > info.state.last_sequence {
            // The log forgot what the state knows: a restored or truncated log.
            return Err(ReadError::Gap {
                expected: cursor.sequence + 1,
                found: info.state.last_sequence,
            });
        }
        if cursor.sequence + 1 < info.state.first_sequence {
            return Err(ReadError::Gap {
                expected: cursor.sequence + 1,
                found: info.state.first_sequence,
            });
        }
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: cursor.sequence + 1 },
            max_batch: PREFETCH_MESSAGES_MAX,
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(nats)?;
        let messages = consumer.messages().await.map_err(nats)?;
        Ok(Self { bus: bus.clone(), messages, cursor, checked: Instant::now(), reconnects })
    }

    /// The identity of the log.
    pub fn stream(&self) -> Uuid {
        self.cursor.stream
    }

    /// How far it has come: the last message that was returned.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The next messages: waits for one, and takes along what has arrived, at most `max`.
    ///
    /// Cancel-safe: a message is taken only by the call that returns it.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Message>, ReadError> {
        let first = loop {
            let check = self.checked + limits::IDENTITY_CHECK_EVERY;
            // Cancel-safe: what is not returned stays in the stream of messages.
            tokio::select! {
                biased;
                message = self.messages.next() => break message,
                // A server that was restarted has no consumer of ours, and it takes the client
                // many seconds of silence to notice.
                Ok(()) = self.reconnects.changed() => {
                    return Err(ReadError::Nats(anyhow::anyhow!("the connection was made anew")));
                }
                () = sleep_until(check) => self.check_identity().await?,
            }
        };
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(message) = next {
            let message = message.context("the log's consumer ended").map_err(ReadError::Nats)?;
            match message.map_err(nats) {
                Ok(message) => batch.push(self.receive(message)?),
                // What came before it is good; the next call meets the error again or not at all.
                Err(error) if batch.is_empty() => return Err(error),
                Err(_) => break,
            }
            bytes += batch.last().map_or(0, |message| message.payload.len());
            let full = batch.len() >= max || bytes >= limits::READ_BYTES_MAX;
            next = if full { None } else { self.messages.next().now_or_never() };
        }
        Ok(batch)
    }

    fn receive(&mut self, message: jetstream::Message) -> Result<Message, ReadError> {
        let info = message.info().map_err(|e| ReadError::Nats(anyhow::anyhow!(e)))?;
        let (sequence, nanos) = (info.stream_sequence, info.published.unix_timestamp_nanos());
        let expected = self.cursor.sequence + 1;
        if sequence != expected {
            return Err(ReadError::Gap { expected, found: sequence });
        }
        self.cursor.sequence = sequence;
        let at = Timestamp::from_micros(i64::try_from(nanos / 1_000).unwrap_or(0));
        Ok(Message::new(self.cursor.stream, sequence, at, message.message))
    }

    /// A log made anew behind our back must not be taken for the old one.
    async fn check_identity(&mut self) -> Result<(), ReadError> {
        self.checked = Instant::now();
        let check = tokio::time::timeout(Duration::from_secs(5), streams::identity(&self.bus));
        match check.await {
            Ok(Ok(found)) if found != self.cursor.stream => {
                Err(ReadError::OtherLog { expected: self.cursor.stream, found })
            }
            // NATS does not answer: the consumer says so if it stays that way.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

fn nats(error: impl std::error::Error + Send + Sync + 'static) -> ReadError {
    ReadError::Nats(error.into())
}

/// One message of the log; `None` when it is not there (any more).
pub async fn fetch(bus: &Bus, stream: Uuid, sequence: u64) -> anyhow::Result<Option<Message>> {
    let handle = bus.jetstream().get_stream_no_info(subject::TASKS).await?;
    match handle.direct_get(sequence).await {
        Ok(message) => Ok(Some(direct(stream, message))),
        Err(error) if error.kind() == jetstream::stream::DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("failed to fetch a message of the log"),
    }
}

fn direct(stream: Uuid, message: StreamMessage) -> Message {
    let at = Timestamp::from_micros(
        i64::try_from(message.time.unix_timestamp_nanos() / 1_000).unwrap_or(0),
    );
    let sequence = message.sequence;
    let message = async_nats::Message {
        subject: message.subject,
        reply: None,
        length: message.payload.len(),
        payload: message.payload,
        headers: Some(message.headers),
        status: None,
        description: None,
    };
    Message::new(stream, sequence, at, message)
}
