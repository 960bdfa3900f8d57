//! What is to be done: a submission, validated once at the door and valid ever after.

use std::time::Duration;

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    error::Violation,
    id::{InvalidName, QueueName, TaskId, Tenant, is_token},
    limits,
    pb::{self, executor},
    time::Timestamp,
};

/// Priority of a task that names none.
pub const PRIORITY: u8 = 5;
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

impl TaskSpec {
    /// Checks a submission, fills in the defaults, and reports everything that is wrong at once.
    pub fn parse(mut spec: pb::TaskSpec) -> Result<Self, Vec<Violation>> {
        let mut check = Check::default();
        check.names(&spec);
        check.texts(&spec);
        check.numbers(&spec);
        check.times(&spec);
        check.executor(spec.executor.as_ref());
        check.dependencies(&spec);
        check.sizes(&spec);
        if !check.violations.is_empty() {
            return Err(check.violations);
        }
        for (field, default) in [
            (&mut spec.tenant, "default"),
            (&mut spec.task_type, "unknown"),
            (&mut spec.subsystem, "unknown"),
            (&mut spec.title, "Untitled Task"),
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

    /// The same with a trace context, unless it has one.
    #[must_use]
    pub fn with_trace(mut self, traceparent: &str) -> Self {
        if self.0.traceparent.is_empty() {
            traceparent.clone_into(&mut self.0.traceparent);
        }
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
            Executor::Shell(_) | Executor::Nats(_) | Executor::External => DEFAULT_QUEUE,
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
        RetryPolicy {
            max_attempts: retry.max_attempts.and_then(|n| u32::try_from(n).ok()).unwrap_or(3),
            backoff: duration(retry.backoff, Duration::from_secs(1)),
            factor: retry.factor.unwrap_or(2.0),
            backoff_max: duration(retry.backoff_max, Duration::from_secs(300)),
            jitter: retry.jitter.unwrap_or(0.1),
            non_retryable: retry.non_retryable,
        }
    }

    /// How long each part of its life may take. Zero on the wire is for ever.
    pub fn timeouts(&self) -> Timeouts {
        let run = match self.executor() {
            Executor::Shell(_) => Some(Duration::from_secs(120)),
            Executor::Nats(_) => Some(Duration::from_secs(30)),
            Executor::Worker(_) => Some(Duration::from_secs(300)),
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

    /// A digest of what was asked for: all but trace, notify and the ids' own forms.
    ///
    /// Two submissions under one key are the same when their digests are.
    pub fn digest(&self) -> u64 {
        let mut body = self.0.clone();
        body.traceparent.clear();
        body.notify.clear();
        let hash = Sha256::digest(body.encode_to_vec());
        u64::from_be_bytes(*hash.first_chunk().expect("invariant: a digest has 32 bytes"))
    }
}

/// Collects what is wrong with a submission.
#[derive(Default)]
struct Check {
    violations: Vec<Violation>,
}

impl Check {
    fn wrong(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.violations.push(Violation { field: field.into(), problem: problem.into() });
    }

    fn name<T>(&mut self, field: &str, text: &str, parse: fn(&str) -> Result<T, InvalidName>) {
        if !text.is_empty()
            && let Err(error) = parse(text)
        {
            self.wrong(field, error.to_string());
        }
    }

    fn names(&mut self, spec: &pb::TaskSpec) {
        self.name("task_id", &spec.task_id, TaskId::parse);
        self.name("tenant", &spec.tenant, Tenant::parse);
        self.name("queue", &spec.queue, QueueName::parse);
        self.name("idempotency_key", &spec.idempotency_key, TaskId::parse);
        self.name("retry_of", &spec.retry_of, TaskId::parse);
        self.name("parent_id", &spec.parent_id, TaskId::parse);
        if !spec.idempotency_key.is_empty() && !spec.task_id.is_empty() {
            let tenant = Tenant::parse_or_default(&spec.tenant).unwrap_or_default();
            if TaskId::from_idempotency_key(&tenant, &spec.idempotency_key).as_str() != spec.task_id {
                self.wrong("idempotency_key", "stands for an id; give either it or task_id");
            }
        }
        if !spec.notify.is_empty() {
            self.subject("notify", &spec.notify);
        }
    }

    fn subject(&mut self, field: &str, subject: &str) {
        let fits = subject.len() <= 256
            && !subject.starts_with('$')
            && subject.split('.').all(|token| {
                !token.is_empty() && token.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '*' && c != '>')
            });
        if !fits {
            self.wrong(field, "must be a NATS subject without wildcards, at most 256 bytes, outside of `$`");
        }
    }

    fn texts(&mut self, spec: &pb::TaskSpec) {
        for (field, text, max) in [
            ("title", &spec.title, limits::TITLE_BYTES_MAX),
            ("description", &spec.description, limits::TEXT_BYTES_MAX),
            ("task_type", &spec.task_type, limits::TASK_ID_BYTES_MAX),
            ("subsystem", &spec.subsystem, limits::TASK_ID_BYTES_MAX),
            ("created_by", &spec.created_by, limits::TASK_ID_BYTES_MAX),
            ("traceparent", &spec.traceparent, limits::TASK_ID_BYTES_MAX),
        ] {
            if text.len() > max {
                self.wrong(field, format!("must have at most {max} bytes; it has {}", text.len()));
            }
            if text.contains('\0') {
                self.wrong(field, "must not have NUL characters");
            }
        }
        if spec.tags.len() > limits::TAGS_MAX {
            self.wrong("tags", format!("must be at most {}", limits::TAGS_MAX));
        }
        if spec.tags.iter().any(|t| t.is_empty() || t.len() > limits::NAME_BYTES_MAX || t.contains('\0')) {
            self.wrong("tags", format!("must each have 1 to {} bytes", limits::NAME_BYTES_MAX));
        }
    }

    fn numbers(&mut self, spec: &pb::TaskSpec) {
        if spec.priority.is_some_and(|p| !(1..=10).contains(&p)) {
            self.wrong("priority", "must be 1 to 10, where 10 is the most urgent");
        }
        if spec.sla_hours.is_some_and(|h| !(h.is_finite() && h > 0.0 && h <= 24.0 * 366.0 * 10.0)) {
            self.wrong("sla_hours", "must be more than 0 and at most ten years");
        }
        let Some(retry) = &spec.retry else { return };
        if retry.max_attempts.is_some_and(|n| !(1..=limits::ATTEMPTS_MAX).contains(&n)) {
            self.wrong("retry.max_attempts", format!("must be 1 to {}", limits::ATTEMPTS_MAX));
        }
        if retry.factor.is_some_and(|f| !(1.0..=10.0).contains(&f)) {
            self.wrong("retry.factor", "must be 1 to 10");
        }
        if retry.jitter.is_some_and(|j| !(0.0..=1.0).contains(&j)) {
            self.wrong("retry.jitter", "must be 0 to 1");
        }
        if retry.non_retryable.len() > limits::TAGS_MAX {
            self.wrong("retry.non_retryable", format!("must be at most {}", limits::TAGS_MAX));
        }
    }

    fn times(&mut self, spec: &pb::TaskSpec) {
        let retry = spec.retry.as_ref();
        let timeouts = spec.timeouts.as_ref();
        for (field, duration) in [
            ("delay", spec.delay),
            ("retry.backoff", retry.and_then(|r| r.backoff)),
            ("retry.backoff_max", retry.and_then(|r| r.backoff_max)),
            ("timeouts.queue", timeouts.and_then(|t| t.queue)),
            ("timeouts.run", timeouts.and_then(|t| t.run)),
            ("timeouts.heartbeat", timeouts.and_then(|t| t.heartbeat)),
            ("timeouts.total", timeouts.and_then(|t| t.total)),
            ("timeouts.dependency", timeouts.and_then(|t| t.dependency)),
        ] {
            let fits = |d: crate::wire::time::Duration| d.to_std().is_some_and(|d| d <= limits::DURATION_MAX);
            if duration.is_some_and(|d| !fits(d)) {
                self.wrong(field, "must be 0 to 366 days");
            }
        }
        for (field, time) in [("run_at", spec.run_at), ("deadline", spec.deadline)] {
            let fits = |t: Timestamp| (Timestamp::default()..=Timestamp::MAX).contains(&t);
            if time.is_some_and(|t| !fits(t.into())) {
                self.wrong(field, "must be between the years 1970 and 9999");
            }
        }
        if spec.run_at.is_some() && spec.delay.is_some() {
            self.wrong("delay", "says when to start, and so does run_at; give one");
        }
        if spec.sla_hours.is_some() && spec.deadline.is_some() {
            self.wrong("deadline", "says when it is due, and so does sla_hours; give one");
        }
    }

    fn executor(&mut self, given: Option<&pb::Executor>) {
        match given.map(|e| e.kind.as_ref()) {
            None | Some(Some(executor::Kind::External(_))) => {}
            Some(None) => self.wrong("executor", "must be one of shell, nats, worker, external"),
            Some(Some(executor::Kind::Shell(shell))) => self.shell(shell),
            Some(Some(executor::Kind::Nats(nats))) => self.subject("executor.nats.subject", &nats.subject),
            Some(Some(executor::Kind::Worker(worker))) => {
                if !is_token(&worker.handler.replace('.', "_")) {
                    self.wrong("executor.worker.handler", "must have letters, digits, `.`, `_` and `-`");
                }
            }
        }
    }

    fn shell(&mut self, shell: &pb::Shell) {
        if shell.argv.is_empty() == shell.script.is_empty() {
            self.wrong("executor.shell", "must have either argv or script");
        }
        if shell.argv.first().is_some_and(String::is_empty) {
            self.wrong("executor.shell.argv", "must begin with a program");
        }
        let texts = shell.argv.iter().chain(shell.env.values()).chain([&shell.script, &shell.cwd]);
        if texts.into_iter().any(|t| t.contains('\0')) {
            self.wrong("executor.shell", "must not have NUL characters");
        }
        if shell.env.keys().chain(shell.secrets.keys()).any(|k| k.is_empty() || k.contains(['=', '\0'])) {
            self.wrong("executor.shell.env", "must have names without `=`");
        }
        if shell.secrets.values().any(|v| !v.starts_with("env:") && !v.starts_with("file:")) {
            self.wrong("executor.shell.secrets", "must be references such as \"env:TOKEN\" or \"file:token\"");
        }
    }

    fn dependencies(&mut self, spec: &pb::TaskSpec) {
        if spec.depends_on.len() > limits::DEPENDENCIES_MAX {
            self.wrong("depends_on", format!("must be at most {}", limits::DEPENDENCIES_MAX));
        }
        for (n, dependency) in spec.depends_on.iter().enumerate() {
            if let Err(error) = TaskId::parse(&dependency.task_id) {
                self.wrong(format!("depends_on[{n}].task_id"), error.to_string());
            } else if dependency.task_id == spec.task_id {
                self.wrong(format!("depends_on[{n}]"), "is the task itself");
            }
            if pb::dependency::On::try_from(dependency.on).is_err() {
                self.wrong(format!("depends_on[{n}].on"), "must be success, failure or end");
            }
        }
    }

    fn sizes(&mut self, spec: &pb::TaskSpec) {
        self.json("input", spec.input.as_ref(), limits::INPUT_BYTES_MAX, false);
        self.json("metadata", spec.metadata.as_ref(), limits::METADATA_BYTES_MAX, true);
        let len = spec.encoded_len();
        if len > limits::SPEC_BYTES_MAX {
            self.wrong("task", format!("must have at most {} bytes encoded; it has {len}", limits::SPEC_BYTES_MAX));
        }
    }

    fn json(&mut self, field: &str, json: Option<&pb::Json>, max: usize, object: bool) {
        let Some(pb::Json { text }) = json else { return };
        if text.len() > max {
            self.wrong(field, format!("must have at most {max} bytes of JSON; it has {}", text.len()));
        } else if object && !text.trim_start().starts_with('{') {
            self.wrong(field, "must be a JSON object");
        } else if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
            self.wrong(field, format!("is not JSON: {error}"));
        }
    }
}

#[cfg(test)]
mod tests;
