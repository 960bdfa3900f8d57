//! What a door knows of new work: the leading scheduler tells, a submission looks.
//!
//! It is a hint. It may be a moment old, and a door that cannot read it lets everything through: what
//! is beyond the depth of a queue, or does not fit its type, then is for the scheduler to refuse. Who
//! publishes past the doors hears of it there.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use anyhow::Context as _;
use async_nats::jetstream::kv;
use common::{
    error::{ApiError, ErrorCode},
    limits, pb,
    task::{TaskSpec, UNKNOWN},
};
use prost::Message as _;
use tokio::{
    sync::OnceCell,
    time::{Duration, Instant, timeout},
};

use crate::{Bus, endpoint, streams};

/// The only key of the bucket.
const KEY: &str = "intake";

/// Bytes of submissions that are asked about at once: half of what one message may have.
const CHECK_BYTES_MAX: usize = 512 * 1024;

/// What a process knows of it.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    bucket: OnceCell<kv::Store>,
    known: Mutex<Known>,
    /// Held by the one that asks; the others go on with what is known.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    intake: pb::Intake,
    /// Not asked again before.
    until: Option<Instant>,
}

/// Tells every door. It is forgotten after [`limits::INTAKE_HINT_AGE`].
pub async fn tell(bus: &Bus, intake: &pb::Intake) -> anyhow::Result<()> {
    let body = serde_json::to_vec(intake).context("failed to write what the doors are told")?;
    let bucket = bus.hints().bucket.get_or_try_init(|| streams::intake(bus)).await?;
    bucket.put(KEY, body.into()).await.context("failed to tell the doors")?;
    Ok(())
}

/// What is known.
pub(crate) async fn hint(bus: &Bus) -> pb::Intake {
    let hints = bus.hints();
    let known = || hints.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let fresh = |known: &Known| known.until.is_some_and(|until| Instant::now() < until);
    let before = known();
    if fresh(&before) {
        return before.intake;
    }
    let Ok(_asking) = hints.asking.try_lock() else { return before.intake };
    let (intake, good_for) = match timeout(limits::INTAKE_HINT_WAIT, read(bus)).await {
        Ok(Ok(intake)) => (intake, limits::INTAKE_HINT_EVERY),
        // No bucket, no permission, no answer: nobody is to wait for that each time.
        Ok(Err(_)) | Err(_) => (pb::Intake::default(), limits::INTAKE_HINT_BLIND),
    };
    let now = Known { intake: intake.clone(), until: Some(Instant::now() + good_for) };
    *hints.known.lock().unwrap_or_else(PoisonError::into_inner) = now;
    intake
}

async fn read(bus: &Bus) -> anyhow::Result<pb::Intake> {
    let bucket = bus.hints().bucket.get_or_try_init(|| streams::intake(bus)).await?;
    let Some(body) = bucket.get(KEY).await? else { return Ok(pb::Intake::default()) };
    Ok(serde_json::from_slice(&body)?)
}

/// Asks the leading scheduler of which submissions it can be said that they do not fit their types:
/// their places, and everything that is wrong. Without an answer in time none is refused here.
pub(crate) async fn misfits(
    bus: &Bus,
    intake: &pb::Intake,
    specs: &[TaskSpec],
) -> HashMap<usize, ApiError> {
    let typed = |spec: &TaskSpec| {
        let spec = spec.as_pb();
        // A large input goes into the object store, where no type looks into it.
        let small = spec.input.as_ref().is_none_or(|i| i.text.len() <= limits::INPUT_BYTES_MAX);
        intake.types && spec.executor.is_none() && spec.task_type != UNKNOWN && small
    };
    let mut open = Vec::new();
    for (place, spec) in specs.iter().enumerate() {
        if typed(spec) {
            open.push((place, spec.as_pb().clone()));
        }
    }
    let mut found = HashMap::new();
    for (places, tasks) in in_parts(open) {
        let request = pb::SubmitRequest { tasks };
        let asked = endpoint::request::<_, pb::CheckResponse>(bus, "scheduler", "check", &request);
        let Ok(Ok(answer)) = timeout(limits::INTAKE_CHECK_WAIT, asked).await else { break };
        for (place, check) in places.into_iter().zip(answer.checks) {
            if let Some(error) = check.error {
                found.insert(place, error.into());
            }
        }
    }
    found
}

/// Submissions in parts that a message can hold.
fn in_parts(open: Vec<(usize, pb::TaskSpec)>) -> Vec<(Vec<usize>, Vec<pb::TaskSpec>)> {
    let mut parts: Vec<(Vec<usize>, Vec<pb::TaskSpec>)> = Vec::new();
    let mut bytes = 0;
    for (place, task) in open {
        bytes += task.encoded_len();
        match parts.last_mut() {
            Some((places, tasks))
                if bytes <= CHECK_BYTES_MAX && tasks.len() < limits::SUBMIT_TASKS_MAX =>
            {
                places.push(place);
                tasks.push(task);
            }
            _ => {
                bytes = task.encoded_len();
                parts.push((vec![place], vec![task]));
            }
        }
    }
    parts
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
    fn what_is_asked_about_fits_a_message() {
        let large = pb::TaskSpec { title: "x".repeat(CHECK_BYTES_MAX / 2), ..Default::default() };
        let open = (0..5).map(|place| (place, large.clone())).collect();
        let places = in_parts(open).into_iter().map(|(places, _)| places).collect::<Vec<_>>();
        assert_eq!(places, [[0], [1], [2], [3], [4]]);
        let small = (0..=limits::SUBMIT_TASKS_MAX).map(|place| (place, pb::TaskSpec::default()));
        let sizes = in_parts(small.collect()).iter().map(|(p, _)| p.len()).collect::<Vec<_>>();
        assert_eq!(sizes, [limits::SUBMIT_TASKS_MAX, 1]);
        assert!(in_parts(Vec::new()).is_empty());
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
