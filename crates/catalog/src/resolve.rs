//! **Pure.** A type and a submission together.

use common::{
    error::Violation,
    id::{TaskId, Tenant},
    limits, pb,
    policy::task_type,
    task::{TaskSpec, UNKNOWN, UNTITLED},
    time::Timestamp,
};
use jsonschema::Validator;
use prost::Message as _;

use crate::{
    schema,
    template::{self, Budget},
};

/// A type that was checked as a whole and can resolve submissions.
#[derive(Debug)]
pub struct Compiled {
    task_type: pb::TaskType,
    schema: Option<Validator>,
}

/// What a submission became.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The task as it runs, under the id that the submission had.
    pub spec: pb::TaskSpec,
    /// For a type of which each key and period has one task: the id that stands for both. Whoever
    /// chooses the task's id takes this one, so that the log refuses a second.
    pub unique: Option<TaskId>,
}

impl Compiled {
    /// Checks a type and makes it ready; or everything that is wrong with it.
    pub fn new(given: &pb::TaskType) -> Result<Self, Vec<Violation>> {
        let mut violations = task_type::check(given);
        let max = limits::DOCUMENT_BYTES_MAX - 1024;
        if given.encoded_len() > max {
            let problem = format!("must have at most {max} bytes encoded");
            violations.push(Violation { field: "task_type".into(), problem });
            return Err(violations);
        }
        let at_fault = |field: &str, found: &[Violation]| found.iter().any(|v| v.field == field);
        let mut schema = None;
        if let Some(json) = &given.input_schema
            && !at_fault("input_schema", &violations)
        {
            match schema::compile(&json.text) {
                Ok(compiled) => schema = Some(compiled),
                Err(problem) => {
                    violations.push(Violation { field: "input_schema".into(), problem });
                }
            }
        }
        violations.extend(templates(given));
        if !violations.is_empty() {
            return Err(violations);
        }
        Ok(Self { task_type: given.clone(), schema })
    }

    /// The type.
    pub fn task_type(&self) -> &pb::TaskType {
        &self.task_type
    }

    /// What a submission becomes that the log took, or a door takes, at `created`. Everything that is
    /// wrong with it is said at once; the input's problems by JSON pointer.
    ///
    /// What the submission says itself counts; what it leaves open, the type says.
    pub fn resolve(
        &self,
        submission: pb::TaskSpec,
        created: Timestamp,
    ) -> Result<Resolved, Vec<Violation>> {
        if let Some(object) = &submission.input_object
            && self.reads_input()
        {
            let (name, max) = (&self.task_type.name, limits::INPUT_BYTES_MAX);
            let problem = format!(
                "has {} bytes, and type {name} reads its input, of which it can read {max}; give \
                 such a type the place of what is large",
                object.bytes
            );
            return Err(vec![Violation { field: "input".into(), problem }]);
        }
        let input = submission.input.as_ref().map(pb::Json::to_value);
        let input = input.unwrap_or_else(|| serde_json::json!({}));
        let violations = self.schema.as_ref().map(|schema| schema::problems(schema, &input));
        if let Some(violations) = violations.filter(|found| !found.is_empty()) {
            return Err(violations);
        }
        let (budget, input) = (Budget::new(), template::input(&input));
        let mut violations = Vec::new();
        let mut fill = |field: &str, source: &str| {
            template::render(source, &input, &budget).unwrap_or_else(|problem| {
                violations.push(Violation { field: field.to_owned(), problem });
                String::new()
            })
        };
        let executor = self.task_type.executor.as_ref();
        let executor = executor.map(|executor| task_type::map_texts(executor, &mut fill));
        let key = self.task_type.unique.as_ref().map(|unique| fill("unique.key", &unique.key));
        if !violations.is_empty() {
            return Err(violations);
        }
        let executor = executor.transpose().map_err(|violation| vec![violation])?;
        let unique = key.and_then(|key| self.unique_id(&submission.tenant, &key, created));
        let spec = self.merge(submission, executor);
        // The same bounds as for a task that says everything itself.
        TaskSpec::parse(spec.clone())?;
        Ok(Resolved { spec, unique })
    }

    /// Whether what a submission becomes depends on its input: on what cannot be seen of a large one.
    fn reads_input(&self) -> bool {
        let mut reads = self.schema.is_some();
        let mut look = |_: &str, source: &str| {
            reads |= source.contains("{{") || source.contains("{%");
            String::new()
        };
        if let Some(executor) = &self.task_type.executor {
            let _ = task_type::map_texts(executor, &mut look);
        }
        if let Some(unique) = &self.task_type.unique {
            look("unique.key", &unique.key);
        }
        reads
    }

    fn unique_id(&self, tenant: &str, key: &str, created: Timestamp) -> Option<TaskId> {
        let period = self.task_type.unique.as_ref()?.period?.to_std()?;
        let period = i64::try_from(period.as_micros()).ok().filter(|micros| *micros > 0)?;
        let start = created.micros().div_euclid(period).saturating_mul(period);
        let tenant = Tenant::parse_or_default(tenant).unwrap_or_default();
        // No key of a caller's has the characters between the parts.
        let text = format!("unique\0{}\0{period}\0{start}\0{key}", self.task_type.name);
        Some(TaskId::from_idempotency_key(&tenant, &text))
    }

    fn merge(&self, mut spec: pb::TaskSpec, executor: Option<pb::Executor>) -> pb::TaskSpec {
        let of_type = &self.task_type;
        if spec.executor.as_ref().is_none_or(|executor| executor.kind.is_none()) {
            spec.executor = executor;
        }
        for (field, empty, default) in [
            (&mut spec.task_type, UNKNOWN, &of_type.name),
            (&mut spec.title, UNTITLED, &of_type.name),
            (&mut spec.subsystem, UNKNOWN, &of_type.subsystem),
            (&mut spec.description, "", &of_type.description),
            (&mut spec.queue, "", &of_type.queue),
        ] {
            if (field.is_empty() || field == empty) && !default.is_empty() {
                field.clone_from(default);
            }
        }
        spec.priority = spec.priority.or(of_type.priority);
        if spec.deadline.is_none() {
            spec.sla_hours = spec.sla_hours.or(of_type.sla_hours);
        }
        spec.retry = retry(spec.retry, of_type.retry.as_ref());
        spec.timeouts = timeouts(spec.timeouts, of_type.timeouts);
        for tag in &of_type.tags {
            if !spec.tags.contains(tag) && spec.tags.len() < limits::TAGS_MAX {
                spec.tags.push(tag.clone());
            }
        }
        spec
    }
}

/// What is wrong with the templates of a type.
fn templates(given: &pb::TaskType) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut count = 0;
    let mut look = |field: &str, source: &str| {
        count += 1;
        let problem = match template::check(source) {
            _ if count == limits::TEMPLATES_MAX + 1 => {
                format!("is one template too many; at most {}", limits::TEMPLATES_MAX)
            }
            Err(problem) if count <= limits::TEMPLATES_MAX => problem,
            _ => return String::new(),
        };
        violations.push(Violation { field: field.to_owned(), problem });
        String::new()
    };
    if let Some(executor) = &given.executor {
        // What it becomes with nothing in it is of no interest.
        let _ = task_type::map_texts(executor, &mut look);
    }
    if let Some(unique) = &given.unique {
        look("unique.key", &unique.key);
    }
    violations
}

fn retry(given: Option<pb::Retry>, of_type: Option<&pb::Retry>) -> Option<pb::Retry> {
    let Some(default) = of_type else { return given };
    let mut retry = given.unwrap_or_default();
    retry.max_attempts = retry.max_attempts.or(default.max_attempts);
    retry.backoff = retry.backoff.or(default.backoff);
    retry.factor = retry.factor.or(default.factor);
    retry.backoff_max = retry.backoff_max.or(default.backoff_max);
    retry.jitter = retry.jitter.or(default.jitter);
    if retry.non_retryable.is_empty() {
        retry.non_retryable.clone_from(&default.non_retryable);
    }
    Some(retry)
}

fn timeouts(given: Option<pb::Timeouts>, of_type: Option<pb::Timeouts>) -> Option<pb::Timeouts> {
    let Some(default) = of_type else { return given };
    let given = given.unwrap_or_default();
    Some(pb::Timeouts {
        queue: given.queue.or(default.queue),
        run: given.run.or(default.run),
        heartbeat: given.heartbeat.or(default.heartbeat),
        total: given.total.or(default.total),
        dependency: given.dependency.or(default.dependency),
    })
}
