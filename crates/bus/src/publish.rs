//! Facts go to the log through here: alone when there is one, in bundles when there are more.
//!
//! There is no timer: an idle publisher sends at once, and while a message is under way what
//! arrives meanwhile becomes the next bundle. A publish whose outcome is unknown is sent again, for
//! an event that the log has twice changes nothing the second time.

use std::time::Duration;

use async_nats::jetstream::context::{PublishError as NatsError, PublishErrorKind};
use bytes::Bytes;
use common::{
    error::{ApiError, ErrorCode},
    event::Event,
    limits, subject, wire,
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use crate::{Bus, streams};

/// Why facts are not in the log, or not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The log is full, or nearly so and taking no new work.
    #[error("the log is full")]
    Exhausted,
    /// One event is larger than a message may be.
    #[error("an event is larger than a message may be")]
    TooLarge,
    /// The log did not answer in time; the facts may yet turn up in it.
    #[error("the log does not answer: {0}")]
    Unavailable(String),
}

impl PublishError {
    /// Whether sending the same again may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        let (code, hint) = match error {
            PublishError::Exhausted => {
                (ErrorCode::Exhausted, "retry after work in progress has ended")
            }
            PublishError::TooLarge => {
                (ErrorCode::InvalidArgument, "put large data elsewhere and name its place")
            }
            PublishError::Unavailable(_) => (
                ErrorCode::Unavailable,
                "check nats-server with `jetmill doctor`, then repeat: the same id is the same task",
            ),
        };
        Self::new(code, error.to_string()).hint(hint)
    }
}

/// Some encoded events, all submissions or none of them, and who waits for them to be stored.
struct Order {
    /// The subject for the case that this order travels alone and has one event.
    subject: String,
    events: Vec<Vec<u8>>,
    done: oneshot::Sender<Result<u64, PublishError>>,
}

/// Sends facts to the log. Cheap to clone; all clones share one pump.
#[derive(Clone, Debug)]
pub struct Publisher {
    orders: mpsc::Sender<Order>,
}

impl Publisher {
    /// A publisher and its pump, which runs until the last publisher is dropped and all is sent.
    pub fn new(bus: &Bus) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (orders, inbox) = mpsc::channel(limits::PUBLISH_QUEUE_EVENTS_MAX);
        (Self { orders }, pump(bus.clone(), inbox))
    }

    /// Puts one fact into the log; returns its sequence once it is there.
    pub async fn publish(&self, event: Event) -> Result<u64, PublishError> {
        let subject = subject_of(&event);
        self.send(subject, vec![wire::encode(&event)]).await?.await
    }

    /// Puts facts into the log; returns the highest of their sequences once all are there.
    pub async fn publish_all(&self, events: Vec<Event>) -> Result<u64, PublishError> {
        let mut waits = Vec::new();
        let mut chunk = Vec::new();
        let mut bytes = 0;
        let mut subject = String::new();
        for event in events {
            let encoded = wire::encode(&event);
            let full = chunk.len() >= limits::BUNDLE_EVENTS_MAX
                || bytes + encoded.len() > limits::BUNDLE_BYTES_MAX;
            let other = (subject == subject::CREATED) != (subject_of(&event) == subject::CREATED);
            if full || (other && !chunk.is_empty()) {
                waits.push(
                    self.send(std::mem::take(&mut subject), std::mem::take(&mut chunk)).await?,
                );
                bytes = 0;
            }
            bytes += encoded.len();
            subject = subject_of(&event);
            chunk.push(encoded);
        }
        if !chunk.is_empty() {
            waits.push(self.send(subject, chunk).await?);
        }
        let mut highest = 0;
        for wait in waits {
            highest = highest.max(wait.await?);
        }
        Ok(highest)
    }

    async fn send(
        &self,
        subject: String,
        events: Vec<Vec<u8>>,
    ) -> Result<impl Future<Output = Result<u64, PublishError>> + use<>, PublishError> {
        let (done, wait) = oneshot::channel();
        let ended = || PublishError::Unavailable("the publisher has ended".into());
        self.orders.send(Order { subject, events, done }).await.map_err(|_| ended())?;
        Ok(async move { wait.await.unwrap_or_else(|_| Err(ended())) })
    }
}

fn subject_of(event: &Event) -> String {
    match event {
        Event::Task(event) => subject::event(event.kind.word()),
        Event::Policy(event) => subject::policy(event.policy.word()),
    }
}

async fn pump(bus: Bus, mut inbox: mpsc::Receiver<Order>) {
    let mut in_flight = FuturesUnordered::new();
    let mut waiting = Vec::new();
    let mut open = true;
    while open || !waiting.is_empty() || !in_flight.is_empty() {
        while in_flight.len() < limits::PUBLISH_IN_FLIGHT_MAX
            && let Some((message, callers)) = take_message(&mut waiting)
        {
            let bus = bus.clone();
            in_flight.push(async move {
                let outcome = send(&bus, message).await;
                for caller in callers {
                    // A caller that went away does not want to know.
                    let _ = caller.send(outcome.clone());
                }
            });
        }
        // Both arms are cancel-safe: a receive that is dropped takes nothing.
        tokio::select! {
            biased;
            Some(()) = in_flight.next() => {}
            count = inbox.recv_many(&mut waiting, limits::BUNDLE_EVENTS_MAX), if open && waiting.is_empty() => {
                open = count > 0;
            }
        }
    }
}

struct Message {
    subject: String,
    payload: Bytes,
}

type Callers = Vec<oneshot::Sender<Result<u64, PublishError>>>;

/// Takes as many orders as one message holds, first come first. Submissions travel apart, since
/// the log may be closed to them alone.
fn take_message(waiting: &mut Vec<Order>) -> Option<(Message, Callers)> {
    let (mut events, mut bytes, mut count) = (0, 0, 0);
    let is_created = |order: &Order| order.subject == subject::CREATED;
    let created = waiting.first().is_some_and(is_created);
    for order in waiting.iter() {
        let size = order.events.iter().map(Vec::len).sum::<usize>();
        let full = events + order.events.len() > limits::BUNDLE_EVENTS_MAX
            || bytes + size > limits::BUNDLE_BYTES_MAX;
        if count > 0 && (full || is_created(order) != created) {
            break;
        }
        events += order.events.len();
        bytes += size;
        count += 1;
    }
    let mut taken = waiting.drain(..count);
    let first = taken.next()?;
    let mut callers = vec![first.done];
    let mut encoded = first.events;
    for order in taken {
        encoded.extend(order.events);
        callers.push(order.done);
    }
    let message = match encoded.pop() {
        Some(event) if encoded.is_empty() => {
            Message { subject: first.subject, payload: event.into() }
        }
        last => {
            encoded.extend(last);
            let subject = if created { subject::BUNDLE_CREATED } else { subject::BUNDLE };
            Message { subject: subject.into(), payload: wire::bundle(encoded).into() }
        }
    };
    Some((message, callers))
}

async fn send(bus: &Bus, message: Message) -> Result<u64, PublishError> {
    let give_up = Instant::now() + limits::PUBLISH_RETRY;
    let mut pause = Duration::from_millis(50);
    loop {
        let error = match publish_once(bus, &message).await {
            Ok(sequence) => return Ok(sequence),
            Err(error) => explain(bus, &message.subject, &error).await,
        };
        if !error.is_transient() || Instant::now() >= give_up {
            return Err(error);
        }
        tracing::debug!(%error, subject = message.subject, "publishing again");
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

async fn publish_once(bus: &Bus, message: &Message) -> Result<u64, NatsError> {
    let ack = bus.jetstream().publish(message.subject.clone(), message.payload.clone()).await?;
    Ok(ack.await?.sequence)
}

/// What a failed publish means to the caller. A subject that nobody listens to is that of new work
/// while intake is closed, or the log is not there.
pub(crate) async fn explain(bus: &Bus, subject: &str, error: &NatsError) -> PublishError {
    let silent = error.kind() == PublishErrorKind::StreamNotFound;
    if silent && subject::is_intake(subject) {
        let open = timeout(limits::REQUEST_TIMEOUT, streams::takes_new_work(bus)).await;
        if let Ok(Ok(false)) = open {
            return PublishError::Exhausted;
        }
    }
    classify(error)
}

fn classify(error: &NatsError) -> PublishError {
    // async-nats prints the cause itself.
    let text = error.to_string();
    let says = |what: &str| text.contains(what);
    if error.kind() == PublishErrorKind::MaxPayloadExceeded || says("message size exceeds") {
        PublishError::TooLarge
    } else if says("maximum bytes exceeded") || says("insufficient") {
        PublishError::Exhausted
    } else {
        PublishError::Unavailable(text)
    }
}
