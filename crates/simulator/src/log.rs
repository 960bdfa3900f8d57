//! **Pure.** The stream `TASKS` as nats-server keeps it: sequences without gaps, times that may
//! jump, one message a subject where the publisher says so, and a purge from the front.

use std::collections::HashMap;

use bus::Message;
use bytes::Bytes;
use common::{
    event::Event,
    id::TaskKey,
    subject,
    time::Timestamp,
    wire::{self, Received},
};
use uuid::Uuid;

/// What somebody wants to have in the log.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Its subject.
    pub subject: String,
    /// Its body.
    pub payload: Vec<u8>,
    /// Only if the subject has no message yet.
    pub first_only: bool,
    /// Only right after this message.
    pub after: Option<u64>,
    /// The task of a tick, which must not be new again while this is under way.
    pub run: Option<TaskKey>,
}

impl Publish {
    /// Some events as one message, as the publisher makes it.
    pub fn of(events: &[Event]) -> Self {
        let mut encoded = events.iter().map(wire::encode).collect::<Vec<_>>();
        let (subject, payload) = match (events, encoded.pop()) {
            ([event], Some(one)) => (subject_of(event), one),
            (_, last) => {
                encoded.extend(last);
                (subject::BUNDLE.to_owned(), wire::bundle(encoded))
            }
        };
        Self { subject, payload, first_only: false, after: None, run: None }
    }
}

/// The subject of an event that travels alone.
pub fn subject_of(event: &Event) -> String {
    match event {
        Event::Task(event) => subject::event(event.kind.word()),
        Event::Policy(event) => subject::policy(event.policy.word()),
    }
}

/// The log.
#[derive(Debug)]
pub struct Log {
    /// Its identity.
    pub stream: Uuid,
    /// The first sequence that it still has.
    pub first: u64,
    /// How far the server's clock is from the true time, in microseconds.
    pub skew_us: i64,
    messages: Vec<Message>,
    /// When each was stored, by the true time.
    stored_us: Vec<i64>,
    purged: usize,
    keyed: HashMap<String, u64>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            stream: Uuid::from_u128(0x5151),
            first: 1,
            skew_us: 0,
            messages: Vec::new(),
            stored_us: Vec::new(),
            purged: 0,
            keyed: HashMap::new(),
        }
    }
}

impl Log {
    /// The last sequence; 0 is none.
    pub fn last(&self) -> u64 {
        self.messages.len() as u64
    }

    /// A message, if the log still has it.
    pub fn get(&self, sequence: u64) -> Option<&Message> {
        (sequence >= self.first).then(|| self.messages.get(sequence as usize - 1)).flatten()
    }

    /// The message of a subject that takes one.
    pub fn keyed(&self, subject: &str) -> Option<&Message> {
        self.keyed.get(subject).and_then(|sequence| self.get(*sequence))
    }

    /// The messages after a cursor, at most so many. `None`: the log no longer has what comes next.
    pub fn after(&self, cursor: u64, max: usize) -> Option<&[Message]> {
        if cursor + 1 < self.first {
            return None;
        }
        let rest = self.messages.get(cursor as usize..)?;
        rest.get(..rest.len().min(max))
    }

    /// Stores a message; `None` when it expects the log to be otherwise.
    pub fn append(&mut self, publish: &Publish, true_us: i64) -> Option<u64> {
        let sequence = self.last() + 1;
        if publish.after.is_some_and(|after| after + 1 != sequence) {
            return None;
        }
        if publish.first_only {
            if self.keyed.contains_key(&publish.subject) {
                return None;
            }
            self.keyed.insert(publish.subject.clone(), sequence);
        }
        let items = wire::decode(Received {
            subject: &publish.subject,
            content_type: None,
            traceparent: None,
            payload: &publish.payload,
            stream: self.stream,
            sequence,
        });
        self.stored_us.push(true_us);
        self.messages.push(Message {
            sequence,
            at: Timestamp::from_micros(true_us + self.skew_us),
            subject: publish.subject.clone(),
            payload: Bytes::from(publish.payload.clone()),
            content_type: None,
            items,
        });
        Some(sequence)
    }

    /// The last message below a sequence that is older than a time; 0 is none.
    pub fn old(&self, below: u64, true_us: i64) -> u64 {
        (self.stored_us.partition_point(|at| *at < true_us) as u64).min(below)
    }

    /// Takes away what is below the sequence.
    pub fn purge(&mut self, below: u64) {
        self.first = self.first.max(below.min(self.last() + 1));
        let first = self.first;
        self.keyed.retain(|_, sequence| *sequence >= first);
        for message in self.messages.iter_mut().take(first as usize - 1).skip(self.purged) {
            message.items = Vec::new();
            message.payload = Bytes::new();
        }
        self.purged = first as usize - 1;
    }
}
