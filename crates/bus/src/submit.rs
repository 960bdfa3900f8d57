//! The one way to submit: valid specs in, places in the log out.
//!
//! A task with an id of the caller's goes to a subject of its own that takes one message; so the
//! log itself says "already there", for as long as it keeps the first. The others get a fresh id
//! and travel in bundles.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    context::PublishErrorKind, message::PublishMessage, stream::LastRawMessageErrorKind,
};
use common::{
    error::{ApiError, ErrorCode},
    event::{Event, Kind, TaskEvent},
    id::{TaskId, Tenant},
    limits, pb, subject,
    task::TaskSpec,
    wire,
};
use futures::{StreamExt as _, future::join_all, stream};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{Bus, Publisher, intake, objects, publish};

/// Keyed submissions of one call that are under way at once.
const KEYED_IN_FLIGHT_MAX: usize = 64;

/// Submits tasks; answers in their order. One refused task does not touch the others.
pub async fn submit(
    bus: &Bus,
    publisher: &Publisher,
    specs: Vec<TaskSpec>,
) -> Vec<Result<pb::Submission, ApiError>> {
    let intake = intake::hint(bus).await;
    let misfits = intake::misfits(bus, &intake, &specs).await;
    put(bus, publisher, specs, (intake, misfits)).await
}

/// The same for what the scheduler itself submits, which answers no question meanwhile: whether it
/// fits its type is seen when it comes.
pub async fn create(
    bus: &Bus,
    publisher: &Publisher,
    specs: Vec<TaskSpec>,
) -> Vec<Result<pb::Submission, ApiError>> {
    let intake = intake::hint(bus).await;
    put(bus, publisher, specs, (intake, HashMap::new())).await
}

async fn put(
    bus: &Bus,
    publisher: &Publisher,
    specs: Vec<TaskSpec>,
    (intake, mut misfits): (pb::Intake, HashMap<usize, ApiError>),
) -> Vec<Result<pb::Submission, ApiError>> {
    let mut answers = Vec::with_capacity(specs.len());
    let (mut keyed, mut fresh) = (Vec::new(), Vec::new());
    for (place, spec) in specs.into_iter().enumerate() {
        let refusal = misfits.remove(&place).or_else(|| intake::refusal(&intake.full, &spec));
        if let (None, Some(refusal)) = (spec.id(), &refusal) {
            answers.push(Some(Err(refusal.clone())));
            continue;
        }
        // Before the log: an event never names what is not there.
        let spec = match objects::keep_input(bus, spec).await {
            Ok(spec) => spec,
            Err(error) => {
                answers.push(Some(Err(error)));
                continue;
            }
        };
        answers.push(None);
        match spec.id() {
            Some(id) => keyed.push((place, (id, spec), refusal)),
            None => fresh.push((place, spec)),
        }
    }
    let (keyed, fresh) = futures::join!(
        stream::iter(keyed)
            .map(|(place, keyed, refusal)| async move {
                (place, submit_keyed(bus, keyed, refusal).await)
            })
            .buffer_unordered(KEYED_IN_FLIGHT_MAX)
            .collect::<Vec<_>>(),
        submit_fresh(publisher, fresh),
    );
    for (place, answer) in keyed.into_iter().chain(fresh) {
        if let Some(slot) = answers.get_mut(place) {
            *slot = Some(answer);
        }
    }
    answers
        .into_iter()
        .map(|answer| {
            answer.unwrap_or_else(|| Err(ApiError::new(ErrorCode::Internal, "no answer")))
        })
        .collect()
}

fn accepted(tenant: &Tenant, id: &TaskId, sequence: u64, existing: bool) -> pb::Submission {
    pb::Submission {
        tenant: tenant.to_string(),
        task_id: id.to_string(),
        sequence,
        existing,
        error: None,
    }
}

fn created(spec: TaskSpec, id: &TaskId) -> TaskEvent {
    TaskEvent::new(spec.tenant(), id.clone(), "", Kind::Created(Box::new(spec.with_id(id))))
}

type Placed = (usize, Result<pb::Submission, ApiError>);

async fn submit_fresh(publisher: &Publisher, specs: Vec<(usize, TaskSpec)>) -> Vec<Placed> {
    let mut events = Vec::with_capacity(specs.len());
    let mut names = Vec::with_capacity(specs.len());
    for (place, spec) in specs {
        #[expect(
            clippy::disallowed_methods,
            reason = "a task without an id of the caller's gets one here"
        )]
        let id = TaskId::from_uuid(Uuid::now_v7());
        names.push((place, spec.tenant(), id.clone()));
        events.push(Event::Task(created(spec, &id)));
    }
    // Each hears of its own: a bundle that is refused does not speak for those that were taken.
    let outcomes = join_all(events.into_iter().map(|event| publisher.publish(event))).await;
    names
        .into_iter()
        .zip(outcomes)
        .map(|((place, tenant, id), outcome)| {
            let answer = outcome.map(|sequence| accepted(&tenant, &id, sequence, false));
            (place, answer.map_err(ApiError::from))
        })
        .collect()
}

async fn submit_keyed(
    bus: &Bus,
    (id, spec): (TaskId, TaskSpec),
    refusal: Option<ApiError>,
) -> Result<pb::Submission, ApiError> {
    let tenant = spec.tenant();
    let subject = subject::created(&tenant, &id);
    let digest = spec.clone().with_id(&id).digest();
    if let Some(refusal) = refusal {
        // One that is there already needs no room, and was judged when it came.
        return match existing(bus, &subject, &tenant, &id, digest).await {
            Err(error) if error.code != ErrorCode::Conflict => Err(refusal),
            answer => answer,
        };
    }
    let payload = wire::encode(&Event::Task(created(spec, &id)));
    let give_up = Instant::now() + limits::PUBLISH_RETRY;
    let mut pause = Duration::from_millis(50);
    loop {
        let message = PublishMessage::build()
            .payload(payload.clone().into())
            .expected_last_subject_sequence(0);
        let outcome = match bus.jetstream().send_publish(subject.clone(), message).await {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        let error = match outcome {
            Ok(ack) => return Ok(accepted(&tenant, &id, ack.sequence, false)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                return existing(bus, &subject, &tenant, &id, digest).await;
            }
            Err(error) => publish::explain(bus, &subject, &error).await,
        };
        if !error.is_transient() || Instant::now() >= give_up {
            return Err(error.into());
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// The task that is there already, if it is the same one.
async fn existing(
    bus: &Bus,
    subject: &str,
    tenant: &Tenant,
    id: &TaskId,
    digest: u64,
) -> Result<pb::Submission, ApiError> {
    let unavailable =
        |why: String| ApiError::new(ErrorCode::Unavailable, why).hint("repeat the submission");
    let stream = bus
        .jetstream()
        .get_stream_no_info(subject::TASKS)
        .await
        .map_err(|e| unavailable(format!("cannot read the log: {e}")))?;
    let first = match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => message,
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
            return Err(unavailable("the task was just trimmed from the log".into()));
        }
        Err(error) => return Err(unavailable(format!("cannot read the log: {error}"))),
    };
    let received = wire::Received {
        subject,
        content_type: first.headers.get("Content-Type").map(async_nats::HeaderValue::as_str),
        traceparent: None,
        payload: &first.payload,
        stream: Uuid::nil(),
        sequence: first.sequence,
    };
    match wire::decode(received).pop() {
        Some(Ok(Event::Task(TaskEvent { kind: Kind::Created(spec), .. })))
            if spec.digest() == digest =>
        {
            Ok(accepted(tenant, id, first.sequence, true))
        }
        _ => Err(ApiError::new(
            ErrorCode::Conflict,
            format!("there is another task {id:?}", id = id.as_str()),
        )
        .hint(format!("see `jetmill get {id}`; a new task needs another id or key"))),
    }
}
