//! Every subject, stream, bucket and durable name: built and parsed here only.

use crate::{
    id::{QueueName, TaskId, TaskKey, Tenant},
    limits,
};

/// The log.
pub const TASKS: &str = "TASKS";
/// The work queue.
pub const EXECUTIONS: &str = "EXECUTIONS";
/// Output of attempts.
pub const LOGS: &str = "LOGS";
/// What could not be read or would not end well.
pub const DEAD: &str = "DEAD";
/// KV bucket of heartbeats, by worker.
pub const WORKERS: &str = "WORKERS";
/// KV bucket of leases, by service.
pub const LEASES: &str = "LEASES";
/// KV bucket of how far the readers of the log have come durably, by reader.
pub const CURSORS: &str = "CURSORS";
/// KV bucket of what doors are told about new work: the queues that are full.
pub const INTAKE: &str = "INTAKE";
/// Object store of snapshots, by service.
pub const SNAPSHOTS: &str = "SNAPSHOTS";
/// Object store of inputs and results that are too large for events.
pub const OBJECTS: &str = "OBJECTS";
/// The stream that [`OBJECTS`] is.
pub const OBJECTS_STREAM: &str = "OBJ_OBJECTS";
/// What is said of every object: a message each.
pub const OBJECTS_INFO: &str = "$O.OBJECTS.M.>";
/// The pieces of every object.
pub const OBJECTS_PIECES: &str = "$O.OBJECTS.C.>";

/// Kinds of event, as the last token of their subjects. The order is that of a task's life.
pub const EVENTS: [&str; 17] = [
    "created",
    "resolved",
    "started",
    "progress",
    "updated",
    "snapshot",
    "completed",
    "failed",
    "retrying",
    "lost",
    "returned",
    "skipped",
    "cancelled",
    "cancel_requested",
    "reprioritised",
    "expedited",
    "carried",
];

/// Several events of several tasks in one message.
pub const BUNDLE: &str = "task.bundle";
/// Several submissions in one message: apart from other events, so that intake can be closed.
pub const BUNDLE_CREATED: &str = "task.created.bundle";
/// A submission without an id of the caller's.
pub const CREATED: &str = "task.created";
/// Says from where on the log counts: never in a bundle, so that the last one is found at once.
pub const TRIMMED: &str = "policy.trimmed";
/// Marks the work queue as a new leader's: releases of an older one fail from here on.
pub const FENCE: &str = "execution.fence";
/// Tells workers to end attempts.
pub const STOP: &str = "worker.stop";
/// Tells a worker to hand back what it holds and leave.
pub const DRAIN: &str = "worker.drain";

/// The subjects of new work.
const NEW_WORK: [&str; 3] = [CREATED, BUNDLE_CREATED, "task.created.*.*"];

/// The subjects of the stream [`TASKS`]; without those of new work while intake is closed.
pub fn log_subjects(intake_open: bool) -> Vec<String> {
    let events = EVENTS.iter().map(|kind| event(kind)).filter(|subject| subject != CREATED);
    let others = [BUNDLE, "policy.>", "mission.>"].map(str::to_owned);
    let intake = NEW_WORK.iter().filter(|_| intake_open).map(|subject| (*subject).to_owned());
    intake.chain(events).chain(others).collect()
}

/// Whether new work travels on the subject.
pub fn is_intake(subject: &str) -> bool {
    subject == CREATED || subject.starts_with("task.created.")
}

/// Whether a stream with these subjects takes new work.
pub fn takes_new_work(subjects: &[String]) -> bool {
    subjects.iter().any(|subject| subject == CREATED)
}

/// The subject of one kind of event.
pub fn event(kind: &str) -> String {
    format!("task.{kind}")
}

/// The subject of one kind of policy event.
pub fn policy(kind: &str) -> String {
    format!("policy.{kind}")
}

/// The subject of a submission with an id of the caller's: the log takes one message there.
pub fn created(tenant: &Tenant, id: &TaskId) -> String {
    format!("{CREATED}.{tenant}.{}", id.token())
}

/// What a subject of the log says about its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSubject<'a> {
    /// One event of this kind.
    Event(&'a str),
    /// A bundle of events.
    Bundle,
    /// One policy event of this kind.
    Policy(&'a str),
    /// A report of an older producer, with its word for what happened.
    Mission(&'a str),
}

/// Parses a subject of the log; `None` for a subject that is not in it.
pub fn parse_log(subject: &str) -> Option<LogSubject<'_>> {
    if [BUNDLE, BUNDLE_CREATED].contains(&subject) {
        return Some(LogSubject::Bundle);
    }
    let (head, rest) = subject.split_once('.')?;
    match head {
        "task" => Some(LogSubject::Event(rest.split('.').next()?)),
        "policy" => Some(LogSubject::Policy(rest)),
        "mission" => Some(LogSubject::Mission(rest)),
        _ => None,
    }
}

/// The subjects of the stream [`EXECUTIONS`]. Six tokens, so that requests to
/// `execution.request` and `execution.request.task` reach a service and not the stream.
pub const EXECUTION_SUBJECTS: [&str; 2] = ["execution.request.*.*.*.*", FENCE];

/// The subject of one attempt; the work queue takes one message there.
pub fn execution(queue: &QueueName, tenant: &Tenant, id: &TaskId, attempt: u32) -> String {
    format!("execution.request.{queue}.{tenant}.{}.{attempt}", id.token())
}

/// The subject of a group of attempts. No tenant begins with an underscore.
pub fn execution_group(queue: &QueueName, name: &str) -> String {
    format!("execution.request.{queue}._group.{name}.0")
}

/// All attempts of every queue, without the fence.
pub const EXECUTIONS_ALL: &str = "execution.request.>";
/// The subjects of the stream [`LOGS`].
pub const LOGS_ALL: &str = "log.*";
/// The subjects of the stream [`DEAD`].
pub const DEAD_ALL: &str = "dead.>";

/// All attempts of one queue.
pub fn executions_of(queue: &QueueName) -> String {
    format!("execution.request.{queue}.*.*.*")
}

/// The durable consumer that the workers of a queue share.
pub fn executions_consumer(queue: &QueueName) -> String {
    format!("queue-{queue}")
}

/// The subject that carries the output of a task's attempts.
pub fn log(key: TaskKey) -> String {
    format!("log.{}", key.0 % u128::from(limits::LOG_BUCKETS))
}

/// The subject of an object's pieces, by the number that NATS gave it.
pub fn object_pieces(nuid: &str) -> String {
    format!("$O.{OBJECTS}.C.{nuid}")
}

/// The subject of a dead letter.
pub fn dead(kind: &str) -> String {
    format!("dead.{kind}")
}

/// Whether a subject is Jetmill's own, so that user work must not publish there: a worker would do
/// it with its own rights. Requests for an answer are for everyone.
pub fn is_reserved(subject: &str) -> bool {
    const OURS: [&str; 9] =
        ["task", "policy", "mission", "execution", "worker", "log", "dead", "learning", "admin"];
    let public = ["execution.request", "execution.request.task"].contains(&subject);
    let head = subject.split('.').next().unwrap_or_default();
    !public && (head.starts_with('$') || OURS.contains(&head))
}

/// The subject on which a service answers one method of its admin API.
pub fn admin(service: &str, method: &str) -> String {
    format!("admin.{service}.{method}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_of_the_log_are_parsed_as_they_are_built() {
        let id = TaskId::parse("a b").expect("text");
        assert_eq!(parse_log(&event("started")), Some(LogSubject::Event("started")));
        assert_eq!(
            parse_log(&created(&Tenant::default(), &id)),
            Some(LogSubject::Event("created"))
        );
        assert_eq!(parse_log(&policy("paused")), Some(LogSubject::Policy("paused")));
        assert_eq!(parse_log("mission.resolved"), Some(LogSubject::Mission("resolved")));
        assert_eq!(parse_log(BUNDLE), Some(LogSubject::Bundle));
        assert_eq!(parse_log(BUNDLE_CREATED), Some(LogSubject::Bundle));
        assert_eq!(parse_log("other.thing"), None);
    }
}
