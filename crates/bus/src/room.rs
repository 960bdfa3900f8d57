//! Whether queues have room, as far as a door can know: the leading scheduler tells, a submission looks.
//!
//! It is a hint. It may be a moment old, and a door that cannot read it lets everything through: what
//! is beyond the depth of a queue then is for the scheduler to refuse. Who publishes past the doors
//! hears of it there.

use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use async_nats::jetstream::kv;
use common::{
    error::{ApiError, ErrorCode},
    limits, pb,
    task::TaskSpec,
};
use tokio::{
    sync::OnceCell,
    time::{Duration, Instant, timeout},
};

use crate::{Bus, streams};

/// The only key of the bucket.
const KEY: &str = "full";

/// What a process knows of full queues.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    bucket: OnceCell<kv::Store>,
    known: Mutex<Known>,
    /// Held by the one that asks; the others go on with what is known.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    full: Vec<pb::FullQueue>,
    /// Not asked again before.
    until: Option<Instant>,
}

/// Tells every door which queues are full. It is forgotten after [`limits::ROOM_HINT_AGE`].
pub async fn tell(bus: &Bus, full: &pb::FullQueues) -> anyhow::Result<()> {
    let body = serde_json::to_vec(full).context("failed to write the full queues")?;
    let bucket = bus.hints().bucket.get_or_try_init(|| streams::intake(bus)).await?;
    bucket.put(KEY, body.into()).await.context("failed to tell the full queues")?;
    Ok(())
}

/// The queues that are known to be full.
pub(crate) async fn full(bus: &Bus) -> Vec<pb::FullQueue> {
    let hints = bus.hints();
    let known = || hints.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let fresh = |known: &Known| known.until.is_some_and(|until| Instant::now() < until);
    let before = known();
    if fresh(&before) {
        return before.full;
    }
    let Ok(_asking) = hints.asking.try_lock() else { return before.full };
    let (full, good_for) = match timeout(limits::ROOM_HINT_WAIT, read(bus)).await {
        Ok(Ok(full)) => (full, limits::ROOM_HINT_EVERY),
        // No bucket, no permission, no answer: nobody is to wait for that each time.
        Ok(Err(_)) | Err(_) => (Vec::new(), limits::ROOM_HINT_BLIND),
    };
    let now = Known { full: full.clone(), until: Some(Instant::now() + good_for) };
    *hints.known.lock().unwrap_or_else(PoisonError::into_inner) = now;
    full
}

async fn read(bus: &Bus) -> anyhow::Result<Vec<pb::FullQueue>> {
    let bucket = bus.hints().bucket.get_or_try_init(|| streams::intake(bus)).await?;
    let Some(body) = bucket.get(KEY).await? else { return Ok(Vec::new()) };
    Ok(serde_json::from_slice::<pb::FullQueues>(&body)?.queues)
}

/// Why the queue of a submission takes no more, as far as is known. What names no executor may get
/// its queue from its type, which the scheduler knows.
pub(crate) fn refusal(full: &[pb::FullQueue], spec: &TaskSpec) -> Option<ApiError> {
    if full.is_empty() || spec.is_external() {
        return None;
    }
    let queue = spec.queue();
    let pb::FullQueue { limit, depth, retry_after, .. } =
        full.iter().find(|full| full.queue == queue.as_str())?;
    let message = format!("queue {queue} is at its depth cap of {depth} (limit {limit})");
    let after = retry_after.and_then(common::wire::time::Duration::to_std);
    let after = after.map_or_else(|| "later".to_owned(), |d: Duration| format!("after {d:?}"));
    let hint = format!("retry {after}; `jetmill queue ls` shows what waits");
    Some(ApiError::new(ErrorCode::Exhausted, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(queue: &str, executor: bool) -> TaskSpec {
        let shell = pb::Shell { argv: vec!["true".into()], ..pb::Shell::default() };
        let kind = Some(pb::executor::Kind::Shell(shell));
        let executor = executor.then_some(pb::Executor { kind });
        let spec = pb::TaskSpec { queue: queue.into(), executor, ..pb::TaskSpec::default() };
        TaskSpec::parse(spec).expect("a task")
    }

    #[test]
    fn only_the_full_queue_refuses_and_says_when_to_come_back() {
        let retry_after = Some(Duration::from_secs(3).into());
        let full =
            [pb::FullQueue { queue: "mail".into(), limit: "cap".into(), depth: 9, retry_after }];
        let error = refusal(&full, &spec("mail", true)).expect("a refusal");
        assert_eq!(error.code, ErrorCode::Exhausted);
        assert_eq!(error.message, "queue mail is at its depth cap of 9 (limit cap)");
        assert!(error.hint.starts_with("retry after 3s;"), "{}", error.hint);
        assert_eq!(refusal(&full, &spec("other", true)), None);
        assert_eq!(refusal(&full, &spec("mail", false)), None, "its type may say another queue");
        assert_eq!(refusal(&[], &spec("mail", true)), None);
    }
}
