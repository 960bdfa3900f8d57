//! What is to be done: a submission, validated once at the door and valid ever after.

mod check;
pub mod http;
mod object;

use std::time::Duration;

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    error::Violation,
    id::{QueueName, TaskId, Tenant},
    limits,
    pb::{self, executor},
    time::Timestamp,
};

pub use object::{json_problem, object_problem};

/// Priority of a task that names none.
pub const PRIORITY: u8 = 5;
/// Type and subsystem of a task that names none.
pub const UNKNOWN: &str = "unknown";
/// Title of a task that has none.
pub const UNTITLED: &str = "Untitled Task";
/// Queue of the executors that `worker-pool` brings.
pub const DEFAULT_QUEUE: &str = "default";
/// Queue of handlers that programs register.
pub const HANDLER_QUEUE: &str = "handlers";

/// A valid submission. Its text fields carry the defaults that the registry shows.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSpec(pb::TaskSpec);

/// How a task is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Executor<'a> {
    /// A process on the worker's machine.
    Shell(&'a pb::Shell),
    /// A request to a subject.
    Nats(&'a pb::Nats),
    /// An HTTP request.
    Http(&'a pb::Http),
    /// A script in a sandbox.
    Lua(&'a pb::Lua),
    /// A container.
    Docker(&'a pb::Docker),
    /// A handler in a program.
    Worker(&'a pb::Worker),
    /// Another system runs it and reports.
    External,
}

impl Executor<'_> {
    /// The word that people and the ledger use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Shell(_) => "shell",
            Self::Nats(_) => "nats",
            Self::Http(_) => "http",
            Self::Lua(_) => "lua",
            Self::Docker(_) => "docker",
            Self::Worker(_) => "worker",
            Self::External => "external",
        }
    }
}

/// When to try again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Tries in all, at least 1.
    pub max_attempts: u32,
    /// Wait before the second try.
    pub backoff: Duration,
    /// Each further wait is this many times longer, 1 to 10.
    pub factor: f64,
    /// No wait is longer.
    pub backoff_max: Duration,
    /// Share of the wait that is drawn at random, 0 to 1.
    pub jitter: f64,
    /// Error codes that end the task at once.
    pub non_retryable: Vec<String>,
}

/// How long each part of a task's life may take; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From being ready to its start.
    pub queue: Option<Duration>,
    /// One attempt.
    pub run: Option<Duration>,
    /// Between two signs of life of an attempt.
    pub heartbeat: Option<Duration>,
    /// From creation to the end.
    pub total: Option<Duration>,
    /// For a dependency that nobody has submitted.
    pub dependency: Option<Duration>,
}

/// A task that must end first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The task, of the same tenant.
    pub id: TaskId,
    /// How it must end.
    pub on: On,
}

/// How a dependency must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Well; any other end fails the dependent.
    Success,
    /// Badly; a good end skips the dependent.
    Failure,
    /// Any end will do.
    End,
}

/// Why nobody else says whose tick a task is the run of: the schedule would take it for its own.
pub(crate) const SCHEDULED: &str = "is set by the scheduler: `jetmill schedule` sets schedules";

impl TaskSpec {
    /// Checks a submission, fills in the defaults, and reports everything that is wrong at once.
    pub fn parse(spec: pb::TaskSpec) -> Result<Self, Vec<Violation>> {
        Self::with_input_up_to(limits::INPUT_BYTES_MAX, spec)
    }

    /// The same at a door: what only the scheduler may say is refused, and an input may be as large as
    /// an object. The log takes no such submission: whoever submits puts its input into the object
    /// store first.
    pub fn submitted(spec: pb::TaskSpec) -> Result<Self, Vec<Violation>> {
        if spec.schedule.is_some() {
            return Err(vec![Violation { field: "schedule".into(), problem: SCHEDULED.into() }]);
        }
        Self::with_input_up_to(limits::OBJECT_BYTES_MAX, spec)
    }

    fn with_input_up_to(max: usize, mut spec: pb::TaskSpec) -> Result<Self, Vec<Violation>> {
        let violations = check::violations(&spec, max);
        if !violations.is_empty() {
            return Err(violations);
        }
        for (field, default) in [
            (&mut spec.tenant, "default"),
            (&mut spec.task_type, UNKNOWN),
            (&mut spec.subsystem, UNKNOWN),
            (&mut spec.title, UNTITLED),
            (&mut spec.created_by, "system"),
        ] {
            if field.is_empty() {
                default.clone_into(field);
            }
        }
        if !spec.idempotency_key.is_empty() && spec.task_id.is_empty() {
            let tenant = Tenant::parse_or_default(&spec.tenant).unwrap_or_default();
            let id = TaskId::from_idempotency_key(&tenant, &spec.idempotency_key);
            id.as_str().clone_into(&mut spec.task_id);
        }
        Ok(Self(spec))
    }

    /// The submission as it goes over the wire.
    pub fn as_pb(&self) -> &pb::TaskSpec {
        &self.0
    }

    /// The submission as it goes over the wire.
    pub fn into_pb(self) -> pb::TaskSpec {
        self.0
    }

    /// The same with an id, for a submission that had none.
    #[must_use]
    pub fn with_id(mut self, id: &TaskId) -> Self {
        id.as_str().clone_into(&mut self.0.task_id);
        self
    }

    /// The same with a trace context, unless it has one; what cannot be one is left out.
    #[must_use]
    pub fn with_trace(mut self, traceparent: &str) -> Self {
        let fits = traceparent.len() <= limits::TASK_ID_BYTES_MAX
            && traceparent.bytes().all(|b| b.is_ascii_graphic());
        if fits && self.0.traceparent.is_empty() {
            traceparent.clone_into(&mut self.0.traceparent);
        }
        self
    }

    /// The input, when it is too large for an event.
    pub fn large_input(&self) -> Option<&pb::Json> {
        self.0.input.as_ref().filter(|json| json.text.len() > limits::INPUT_BYTES_MAX)
    }

    /// The same with the place of its input instead of the input.
    #[must_use]
    pub fn with_input_in(mut self, object: pb::Object) -> Self {
        (self.0.input, self.0.input_object) = (None, Some(object));
        self
    }

    /// The same with the input that was fetched from its place.
    #[must_use]
    pub fn with_input(mut self, input: pb::Json) -> Self {
        (self.0.input, self.0.input_object) = (Some(input), None);
        self
    }

    /// The id, when the caller or a door gave one.
    pub fn id(&self) -> Option<TaskId> {
        TaskId::parse(&self.0.task_id).ok()
    }

    /// The tenant.
    pub fn tenant(&self) -> Tenant {
        Tenant::parse_or_default(&self.0.tenant).unwrap_or_default()
    }

    /// 1 to 10, 10 first.
    pub fn priority(&self) -> u8 {
        self.0.priority.and_then(|p| u8::try_from(p).ok()).unwrap_or(PRIORITY)
    }

    /// How it is run.
    pub fn executor(&self) -> Executor<'_> {
        match self.0.executor.as_ref().and_then(|e| e.kind.as_ref()) {
            Some(executor::Kind::Shell(shell)) => Executor::Shell(shell),
            Some(executor::Kind::Nats(nats)) => Executor::Nats(nats),
            Some(executor::Kind::Http(http)) => Executor::Http(http),
            Some(executor::Kind::Lua(lua)) => Executor::Lua(lua),
            Some(executor::Kind::Docker(docker)) => Executor::Docker(docker),
            Some(executor::Kind::Worker(worker)) => Executor::Worker(worker),
            Some(executor::Kind::External(_)) | None => Executor::External,
        }
    }

    /// Whether another system runs it.
    pub fn is_external(&self) -> bool {
        matches!(self.executor(), Executor::External)
    }

    /// The queue whose workers may run it.
    pub fn queue(&self) -> QueueName {
        let default = match self.executor() {
            Executor::Worker(_) => HANDLER_QUEUE,
            Executor::Shell(_)
            | Executor::Nats(_)
            | Executor::Http(_)
            | Executor::Lua(_)
            | Executor::Docker(_)
            | Executor::External => DEFAULT_QUEUE,
        };
        let name = if self.0.queue.is_empty() { default } else { &self.0.queue };
        QueueName::parse(name).expect("invariant: parse checked the queue")
    }

    /// When to try again.
    pub fn retry(&self) -> RetryPolicy {
        let retry = self.0.retry.clone().unwrap_or_default();
        let duration = |d: Option<crate::wire::time::Duration>, default| {
            d.and_then(crate::wire::time::Duration::to_std).unwrap_or(default)
        };
        let backoff = duration(retry.backoff, Duration::from_secs(1));
        RetryPolicy {
            max_attempts: retry.max_attempts.and_then(|n| u32::try_from(n).ok()).unwrap_or(3),
            backoff,
            factor: retry.factor.unwrap_or(2.0),
            // A longer first wait raises the cap, unless the cap was chosen.
            backoff_max: duration(retry.backoff_max, Duration::from_secs(300).max(backoff)),
            jitter: retry.jitter.unwrap_or(0.1),
            non_retryable: retry.non_retryable,
        }
    }

    /// How long each part of its life may take. Zero on the wire is for ever.
    pub fn timeouts(&self) -> Timeouts {
        let run = match self.executor() {
            Executor::Shell(_) => Some(Duration::from_secs(120)),
            Executor::Nats(_) | Executor::Http(_) => Some(Duration::from_secs(30)),
            Executor::Lua(_) => Some(Duration::from_secs(5)),
            Executor::Worker(_) | Executor::Docker(_) => Some(Duration::from_secs(300)),
            Executor::External => None,
        };
        let given = self.0.timeouts.unwrap_or_default();
        let pick = |given: Option<crate::wire::time::Duration>, default| match given {
            Some(d) => d.to_std().filter(|d| !d.is_zero()),
            None => default,
        };
        Timeouts {
            queue: pick(given.queue, None),
            run: pick(given.run, run),
            heartbeat: pick(given.heartbeat, None),
            total: pick(given.total, None),
            dependency: pick(given.dependency, Some(Duration::from_secs(24 * 3600))),
        }
    }

    /// The tasks that must end first.
    pub fn depends_on(&self) -> Vec<Edge> {
        self.0
            .depends_on
            .iter()
            .filter_map(|d| {
                let on = match d.on() {
                    pb::dependency::On::Unspecified | pb::dependency::On::Success => On::Success,
                    pb::dependency::On::Failure => On::Failure,
                    pb::dependency::On::End => On::End,
                };
                Some(Edge { id: TaskId::parse(&d.task_id).ok()?, on })
            })
            .collect()
    }

    /// The earliest start, for a task that the log took at `created`.
    pub fn not_before(&self, created: Timestamp) -> Option<Timestamp> {
        let delay = self.0.delay.and_then(crate::wire::time::Duration::to_std);
        self.0.run_at.map(Timestamp::from).or_else(|| delay.map(|d| created.after(d)))
    }

    /// When it is due, for a task that the log took at `created`.
    pub fn deadline(&self, created: Timestamp) -> Option<Timestamp> {
        let sla = self.0.sla_hours.and_then(|h| Duration::try_from_secs_f64(h * 3600.0).ok());
        self.0.deadline.map(Timestamp::from).or_else(|| sla.map(|d| created.after(d)))
    }

    /// A digest of what was asked for: all but trace, notify, points in time, the key behind the id
    /// and the name of a large input, in which a second try of the same submission may differ.
    ///
    /// Two submissions under one id are the same when their digests are.
    pub fn digest(&self) -> u64 {
        let mut body = self.0.clone();
        body.traceparent.clear();
        body.notify.clear();
        body.idempotency_key.clear();
        body.run_at = None;
        body.deadline = None;
        if let Some(object) = &mut body.input_object {
            // Each try puts it in again. What it says is in its own digest.
            object.name.clear();
        }
        let hash = Sha256::digest(body.encode_to_vec());
        u64::from_be_bytes(*hash.first_chunk().expect("invariant: a digest has 32 bytes"))
    }
}

#[cfg(test)]
mod tests;
