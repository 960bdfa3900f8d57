//! The floor of the log: where it says that it counts from, and what was carried over it.

use anyhow::Context as _;
use async_nats::jetstream::{
    context::PublishErrorKind, message::PublishMessage, stream::LastRawMessageErrorKind,
};
use common::{
    event::{Event, Policy, PolicyEvent, Trimmed},
    subject, wire,
};
use uuid::Uuid;

use crate::{Bus, Cursor, ReadError, Reader, streams};

/// Messages that are looked at together.
const SCAN_MAX: usize = 500;

/// The newest cut of the log.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Where the log says it.
    pub sequence: u64,
    /// What it says.
    pub trimmed: Trimmed,
}

/// Where the log was last cut; `None` for one that has everything.
pub async fn last(bus: &Bus) -> anyhow::Result<Option<Cut>> {
    let stream = bus.jetstream().get_stream_no_info(subject::TASKS).await?;
    let message = match stream.get_last_raw_message_by_subject(subject::TRIMMED).await {
        Ok(message) => message,
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
        Err(error) => return Err(error).context("failed to look for the floor of the log"),
    };
    let received = wire::Received {
        subject: subject::TRIMMED,
        content_type: None,
        traceparent: None,
        payload: &message.payload,
        stream: Uuid::nil(),
        sequence: message.sequence,
    };
    match wire::decode(received).pop() {
        Some(Ok(Event::Policy(PolicyEvent { policy: Policy::Trimmed(trimmed), .. }))) => {
            Ok(Some(Cut { sequence: message.sequence, trimmed }))
        }
        _ => anyhow::bail!("message {} of the log is no policy.trimmed", message.sequence),
    }
}

/// Says that the log counts from a floor on; what lies below it can be purged once this is there.
///
/// It is stored only right after the message `as_of`, or else not at all (`None`): in between, what
/// is about to be forgotten could be spoken of, and who begins at the floor would take it for new.
pub async fn say(bus: &Bus, actor: &str, trimmed: Trimmed) -> anyhow::Result<Option<u64>> {
    let as_of = trimmed.as_of;
    let policy = Policy::Trimmed(trimmed);
    let event = Event::Policy(PolicyEvent { actor: actor.into(), policy });
    // Alone on its subject: who begins at the floor looks for the last message there.
    let message = PublishMessage::build().payload(wire::encode(&event).into());
    let message = message.expected_last_sequence(as_of);
    let ack = bus.jetstream().send_publish(subject::TRIMMED, message).await;
    let ack = ack.context("failed to publish policy.trimmed")?;
    match ack.await {
        Ok(ack) => Ok(Some(ack.sequence)),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
        Err(error) => Err(error).context("failed to store policy.trimmed"),
    }
}

/// Takes away what lies below the floor.
pub async fn purge_below(bus: &Bus, floor: u64) -> anyhow::Result<u64> {
    let stream = streams::get(bus, subject::TASKS).await?;
    if stream.cached_info().state.first_sequence >= floor {
        return Ok(0);
    }
    let done = stream.purge().sequence(floor).await.context("failed to purge the log")?;
    Ok(done.purged)
}

/// Reads the log from a floor to where it was cut there, in order: message, item and event. What was
/// carried is among it. Returns where the log is to be read on from.
pub async fn carried(
    bus: &Bus,
    cut: &Cut,
    mut each: impl FnMut((u64, u32), &Event),
) -> Result<Cursor, ReadError> {
    let stream = streams::identity(bus).await.map_err(ReadError::Nats)?;
    let start = Cursor { stream, sequence: cut.trimmed.floor.saturating_sub(1) };
    let mut reader = Reader::open(bus, Some(start)).await?;
    while reader.cursor().sequence < cut.sequence {
        for message in reader.next(SCAN_MAX).await? {
            for (index, item) in (0..).zip(&message.items) {
                if let Ok(event) = item {
                    each((message.sequence, index), event);
                }
            }
        }
    }
    Ok(start)
}
