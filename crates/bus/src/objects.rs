//! Inputs and results that are too large for events, in an object store of JetStream.
//!
//! A value is put in before anything names it, under a name of its own each time: a second try is a
//! second object. Who reads it checks that it is what was named. What nobody names is
//! [swept](sweep); nothing here decides what that is.

pub mod sweep;

use std::{io, time::Duration};

use async_nats::jetstream::object_store::{GetErrorKind, Object, ObjectStore};
use common::{
    error::{ApiError, ErrorCode},
    limits, pb, subject,
    task::{TaskSpec, json_problem},
};
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

use crate::Bus;

/// What NATS keeps of a piece besides it, in bytes; generously.
const PIECE_OVERHEAD_BYTES: u64 = 256;
/// How often an object is looked for that is not there, or not whole, and the pause in between.
const READ_TRIES: u32 = 3;
const READ_PAUSE: Duration = Duration::from_millis(200);
/// Bytes of a piece, as the client cuts them.
const PIECE_BYTES: u64 = 128 * 1024;

/// Why a large value is not in the store, or cannot be had from there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// It is larger than an object may be.
    #[error("it has {0} bytes, and at most {max} are allowed", max = limits::OBJECT_BYTES_MAX)]
    TooLarge(usize),
    /// There is no room.
    #[error("the object store has no room for {0} bytes")]
    Full(usize),
    /// It is not there, or not any more.
    #[error("it is gone: object {0} is not in the object store (any more)")]
    Missing(String),
    /// It is not what was put in.
    #[error("object {0} is damaged: it {1}")]
    Damaged(String, String),
    /// The store does not answer.
    #[error("the object store does not answer: {0}")]
    Unavailable(String),
}

impl From<ObjectError> for ApiError {
    fn from(error: ObjectError) -> Self {
        let (code, hint) = match error {
            ObjectError::TooLarge(_) => {
                (ErrorCode::InvalidArgument, "put it elsewhere and name its place")
            }
            ObjectError::Full(_) => (
                ErrorCode::Exhausted,
                "retry when large inputs and results of older tasks were removed, or give it more \
                 room: `nats stream edit OBJ_OBJECTS --max-bytes=…`; `jetmill doctor` shows it",
            ),
            ObjectError::Missing(_) => (
                ErrorCode::NotFound,
                "large inputs and results are kept until registry.objects_kept after the task's end",
            ),
            ObjectError::Damaged(..) => (
                ErrorCode::Internal,
                "submit the task again; look at the disk of nats-server when that happens again",
            ),
            ObjectError::Unavailable(_) => {
                (ErrorCode::Unavailable, "check nats-server with `jetmill doctor`, then repeat")
            }
        };
        Self::new(code, error.to_string()).hint(hint)
    }
}

/// Puts a value in and returns its place. While the store is away it is tried again, for as long as
/// a publisher tries; each try is an object of its own, and one that was not answered is swept.
pub async fn put(bus: &Bus, text: &str) -> Result<pb::Object, ObjectError> {
    if text.len() > limits::OBJECT_BYTES_MAX {
        return Err(ObjectError::TooLarge(text.len()));
    }
    let give_up = Instant::now() + limits::PUBLISH_RETRY;
    let mut pause = Duration::from_millis(100);
    loop {
        match put_once(bus, text).await {
            Err(ObjectError::Unavailable(_)) if Instant::now() < give_up => {}
            outcome => return outcome,
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

async fn put_once(bus: &Bus, text: &str) -> Result<pb::Object, ObjectError> {
    let store = open(bus).await?;
    // Looked at before: half of an object that found no room would take that of others.
    has_room(bus, text.len()).await?;
    #[expect(clippy::disallowed_methods, reason = "an object's name is drawn once, here")]
    let name = Uuid::now_v7().to_string();
    match store.put(name.as_str(), &mut text.as_bytes()).await {
        Ok(info) => Ok(pb::Object {
            name,
            bytes: u32::try_from(text.len()).unwrap_or(u32::MAX),
            digest: info.digest.unwrap_or_default(),
        }),
        Err(error) => {
            has_room(bus, text.len()).await?;
            Err(ObjectError::Unavailable(error.to_string()))
        }
    }
}

async fn has_room(bus: &Bus, bytes: usize) -> Result<(), ObjectError> {
    let stream = bus.jetstream().get_stream(subject::OBJECTS_STREAM).await.map_err(away)?;
    let info = stream.cached_info();
    let pieces = bytes as u64 / PIECE_BYTES + 2;
    let needed = bytes as u64 + pieces * PIECE_OVERHEAD_BYTES;
    match u64::try_from(info.config.max_bytes) {
        Ok(max) if max > 0 && info.state.bytes + needed > max => Err(ObjectError::Full(bytes)),
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn open(bus: &Bus) -> Result<ObjectStore, ObjectError> {
    bus.jetstream().get_object_store(subject::OBJECTS).await.map_err(away)
}

fn away(error: impl std::fmt::Display) -> ObjectError {
    ObjectError::Unavailable(error.to_string())
}

/// The value at a place, whole and as it was put in.
pub async fn get(bus: &Bus, place: &pb::Object) -> Result<pb::Json, ObjectError> {
    let mut tries = 1;
    loop {
        match get_once(bus, place).await {
            // One copy of the store may lack for a moment what the others have.
            Err(ObjectError::Missing(_) | ObjectError::Damaged(..)) if tries < READ_TRIES => {}
            outcome => return outcome,
        }
        tries += 1;
        sleep(READ_PAUSE).await;
    }
}

async fn get_once(bus: &Bus, place: &pb::Object) -> Result<pb::Json, ObjectError> {
    let damaged = |how: &str| ObjectError::Damaged(place.name.clone(), how.to_owned());
    let store = open(bus).await?;
    let object = match store.get(place.name.as_str()).await {
        Ok(object) => object,
        Err(error) if error.kind() == GetErrorKind::NotFound => {
            return Err(ObjectError::Missing(place.name.clone()));
        }
        Err(error) => return Err(away(error)),
    };
    if object.info.digest.as_ref() != Some(&place.digest) {
        return Err(damaged("has another digest than the task says"));
    }
    let bytes = match read(object, place.bytes as usize).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(damaged("does not have the digest that it says"));
        }
        // Pieces that are missing never come: then the store answers, and else it does not.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            store.info(place.name.as_str()).await.map_err(away)?;
            return Err(damaged("lacks pieces"));
        }
        Err(error) => return Err(away(error)),
    };
    if bytes.len() != place.bytes as usize {
        return Err(damaged("has another length than the task says"));
    }
    let text = String::from_utf8(bytes).map_err(|_| damaged("is no UTF-8 text"))?;
    match json_problem(&text, limits::OBJECT_BYTES_MAX) {
        None => Ok(pb::Json { text }),
        Some(problem) => Err(damaged(&problem)),
    }
}

/// Reads to the end, or a little more than was expected. The client checks the digest on the way.
async fn read(mut object: Object, expected: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(expected + 1);
    while bytes.len() <= expected {
        match timeout(limits::OBJECT_PIECE_WAIT, object.read_buf(&mut bytes)).await {
            Ok(Ok(0)) => break,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    Ok(bytes)
}

/// The submission with its input in the store, when that is too large for the log.
pub async fn keep_input(bus: &Bus, spec: TaskSpec) -> Result<TaskSpec, ApiError> {
    let Some(input) = spec.large_input() else { return Ok(spec) };
    // Boxed: it is rare, and would make every submission's future larger.
    let place = Box::pin(put(bus, &input.text)).await.map_err(|error| {
        let error = ApiError::from(error);
        ApiError { message: format!("the input was not stored: {}", error.message), ..error }
    })?;
    Ok(spec.with_input_in(place))
}
