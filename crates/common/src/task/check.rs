//! **Pure.** What is wrong with a submission: everything at once, each with its field.

mod docker;
mod executor;

use prost::Message as _;

use super::{json_problem, object_problem};
use crate::{
    error::Violation,
    id::{InvalidName, QueueName, TaskId, Tenant, is_token},
    limits, pb,
    subject::is_reserved,
    time::Timestamp,
    wire::time::Duration,
};

/// Everything that is wrong with a submission; empty when nothing is.
pub(super) fn violations(spec: &pb::TaskSpec, input_max: usize) -> Vec<Violation> {
    let mut check = Check::default();
    check.names(spec);
    check.texts(spec);
    check.numbers(spec);
    check.times(spec);
    check.executor(spec);
    check.dependencies(spec);
    check.sizes(spec, input_max);
    check.violations
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
            if TaskId::from_idempotency_key(&tenant, &spec.idempotency_key).as_str() != spec.task_id
            {
                self.wrong("idempotency_key", "stands for an id; give either it or task_id");
            }
        }
        if !spec.role.is_empty()
            && (spec.role.len() > limits::NAME_BYTES_MAX || !is_token(&spec.role))
        {
            let max = limits::NAME_BYTES_MAX;
            self.wrong("role", format!("must have at most {max} letters, digits, `_` and `-`"));
        }
        if !spec.notify.is_empty() {
            self.subject("notify", &spec.notify);
        }
        if let Some(tick) = &spec.schedule {
            self.name("schedule.name", &tick.name, QueueName::parse);
        }
    }

    fn subject(&mut self, field: &str, subject: &str) {
        let fits = subject.len() <= 256
            && !is_reserved(subject)
            && subject.split('.').all(|token| {
                !token.is_empty()
                    && token
                        .chars()
                        .all(|c| !c.is_whitespace() && !c.is_control() && c != '*' && c != '>')
            });
        if !fits {
            self.wrong(
                field,
                "must be a NATS subject without wildcards, at most 256 bytes, and none of Jetmill's own",
            );
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
        if spec
            .tags
            .iter()
            .any(|t| t.is_empty() || t.len() > limits::NAME_BYTES_MAX || t.contains('\0'))
        {
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
            let fits = |d: Duration| d.to_std().is_some_and(|d| d <= limits::DURATION_MAX);
            if duration.is_some_and(|d| !fits(d)) {
                self.wrong(field, "must be 0 to 366 days");
            }
        }
        for (field, time) in [
            ("run_at", spec.run_at),
            ("deadline", spec.deadline),
            ("schedule.tick", spec.schedule.as_ref().and_then(|of| of.tick)),
        ] {
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

    fn sizes(&mut self, spec: &pb::TaskSpec, input_max: usize) {
        self.json("input", spec.input.as_ref(), input_max, false);
        self.json("metadata", spec.metadata.as_ref(), limits::METADATA_BYTES_MAX, true);
        if let Some(object) = &spec.input_object {
            if spec.input.is_some() {
                self.wrong("input_object", "is there, and so is input; give one");
            }
            if let Some(problem) = object_problem(object) {
                self.wrong("input_object", problem);
            }
        }
        // A large input goes where it does not count.
        let input = spec.input.as_ref().map_or(0, |json| json.text.len());
        let elsewhere = if input > limits::INPUT_BYTES_MAX { input } else { 0 };
        let len = spec.encoded_len() - elsewhere;
        if len > limits::SPEC_BYTES_MAX {
            self.wrong(
                "task",
                format!("must have at most {} bytes encoded; it has {len}", limits::SPEC_BYTES_MAX),
            );
        }
    }

    fn json(&mut self, field: &str, json: Option<&pb::Json>, max: usize, object: bool) {
        let Some(pb::Json { text }) = json else { return };
        if object && text.len() <= max && !text.trim_start().starts_with('{') {
            self.wrong(field, "must be a JSON object");
        } else if let Some(problem) = json_problem(text, max) {
            self.wrong(field, problem);
        }
    }
}
