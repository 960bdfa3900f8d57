//! **Pure.** The bytes of a bundle's events as they lie in the message, so that the history takes
//! them as they came.

use bus::Message;
use bytes::{Buf as _, Bytes};
use common::{
    event::Event,
    subject,
    wire::{NotAnEvent, is_json},
};
use prost::encoding::decode_varint;

/// Field 1, with a length: `jetmill.v1.Bundle.events`.
const EVENTS: u64 = 1 << 3 | 2;

/// The bytes of one item; `None` where it must be encoded.
pub(crate) struct Item(Option<Bytes>);

impl Item {
    /// The bytes, or the event's own encoding.
    pub(crate) fn or_encode(self, encode: impl FnOnce() -> Vec<u8>) -> Bytes {
        self.0.unwrap_or_else(|| encode().into())
    }
}

/// The items of a message, in order.
pub(crate) struct Items(Bytes);

/// The items of a message; none but those of a bundle are found.
pub(crate) fn items(message: &Message) -> Items {
    let is_bundle = message.subject == subject::BUNDLE
        && !is_json(message.content_type.as_deref(), &message.payload);
    Items(if is_bundle { message.payload.clone() } else { Bytes::new() })
}

impl Items {
    /// The bytes of the next item.
    pub(crate) fn next(&mut self, item: &Result<Event, NotAnEvent>) -> Item {
        let bytes = self.cut();
        if bytes.is_none() {
            // Something that no bundle of ours has: the rest is encoded.
            self.0.clear();
        }
        Item(bytes.filter(|bytes| is_whole(bytes, item)))
    }

    fn cut(&mut self) -> Option<Bytes> {
        if decode_varint(&mut self.0).ok()? != EVENTS {
            return None;
        }
        let len = usize::try_from(decode_varint(&mut self.0).ok()?).ok()?;
        (len <= self.0.remaining()).then(|| self.0.split_to(len))
    }
}

/// Whether the bytes say all of it: the trace may have come in the message's header.
fn is_whole(bytes: &[u8], item: &Result<Event, NotAnEvent>) -> bool {
    match item {
        Ok(Event::Task(event)) => {
            let trace = event.traceparent.as_bytes();
            trace.is_empty() || bytes.windows(trace.len()).any(|part| part == trace)
        }
        Ok(Event::Policy(_)) | Err(_) => true,
    }
}
