//! **Pure.** What is wrong with the form of a task type. Whether its templates and its schema can be
//! used is for the crate `catalog` to say: it knows their languages.

use serde_json::Value;

use crate::{
    error::Violation,
    id::DocumentName,
    limits,
    pb::{self, executor::Kind, schedule::When},
    policy::schedule::Schedule,
    task::TaskSpec,
};

/// Who creates the tasks of a type's own schedule.
const CATALOG: &str = "catalog";
/// Why the schedule of a disabled type rests.
pub const DISABLED: &str = "its type is disabled";
/// Fields of an executor that are taken as they are written: code, references and names.
const LITERAL: [&str; 6] = ["script", "source", "secrets", "handler", "mounts", "image"];
/// What stands for a template while the form of its executor is checked. A problem counts when no
/// value can cure it.
const SAMPLES: [&str; 4] = ["1", "x", "http://x/", "/x"];

/// Everything that is wrong with a task type as a document.
pub(super) fn violations(task_type: &pb::TaskType) -> Vec<Violation> {
    let within = |violation: Violation| Violation {
        field: format!("task_type.{}", violation.field),
        ..violation
    };
    check(task_type).into_iter().map(within).collect()
}

/// Everything that is wrong with the form of a task type; empty when nothing is.
pub fn check(task_type: &pb::TaskType) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut wrong = |field: &str, problem: String| {
        found.push(Violation { field: field.to_owned(), problem });
    };
    if let Err(error) = DocumentName::parse(&task_type.name) {
        wrong("name", error.to_string());
    }
    match task_type.executor.as_ref().and_then(|executor| executor.kind.as_ref()) {
        None => wrong("executor", "says how it is run, and is missing".into()),
        Some(Kind::External(_)) => {
            wrong(
                "executor",
                "must not be external: such work is reported and needs no type".into(),
            );
        }
        Some(_) => {}
    }
    texts(task_type, &mut wrong);
    unique(task_type.unique.as_ref(), &mut wrong);
    verification(task_type.verification.as_ref(), &mut wrong);
    let own = found.iter().map(|v| v.field.clone()).collect::<Vec<_>>();
    let of_tasks = of_tasks(task_type).into_iter().filter(|v| !own.contains(&v.field));
    found.extend(of_tasks);
    found
}

fn texts(task_type: &pb::TaskType, wrong: &mut impl FnMut(&str, String)) {
    for (field, words) in [("capabilities", &task_type.capabilities), ("tags", &task_type.tags)] {
        if words.len() > limits::TAGS_MAX {
            wrong(field, format!("must be at most {}", limits::TAGS_MAX));
        }
        let fits = |word: &String| (1..=limits::NAME_BYTES_MAX).contains(&word.len());
        if !words.iter().all(fits) || words.iter().any(|word| word.contains(char::is_control)) {
            let max = limits::NAME_BYTES_MAX;
            wrong(field, format!("must each have 1 to {max} bytes and no control characters"));
        }
    }
    let schedule = &task_type.schedule;
    if schedule.len() > limits::TITLE_BYTES_MAX || schedule.contains(char::is_control) {
        wrong("schedule", "must be one line such as \"*/5 * * * *\" or \"every 10m\"".into());
    } else if let Some(own) = self::schedule(task_type) {
        for violation in Schedule::parse(&own).err().into_iter().flatten() {
            wrong("schedule", violation.problem);
        }
    }
    let schema = task_type.input_schema.as_ref().map_or("", |schema| schema.text.as_str());
    if schema.len() > limits::SCHEMA_BYTES_MAX {
        wrong("input_schema", format!("must have at most {} bytes", limits::SCHEMA_BYTES_MAX));
    } else if !matches!(schema.trim_start().as_bytes().first(), None | Some(b'{')) {
        wrong("input_schema", "must be a JSON Schema: an object".into());
    }
}

fn unique(unique: Option<&pb::Unique>, wrong: &mut impl FnMut(&str, String)) {
    let Some(unique) = unique else { return };
    let period = unique.period.and_then(crate::wire::time::Duration::to_std);
    if !period.is_some_and(|p| p >= limits::UNIQUE_PERIOD_MIN && p <= limits::DURATION_MAX) {
        wrong("unique.period", "must be a second to 366 days, such as 6h".into());
    }
    if unique.key.len() > limits::TEMPLATE_BYTES_MAX {
        wrong("unique.key", format!("must have at most {} bytes", limits::TEMPLATE_BYTES_MAX));
    }
}

fn verification(verification: Option<&pb::Verification>, wrong: &mut impl FnMut(&str, String)) {
    let Some(given) = verification else { return };
    let ways = [
        !given.expression.is_empty(),
        given.schema.is_some(),
        !given.command.is_empty(),
        !given.task_type.is_empty(),
        given.manual,
    ];
    match ways.iter().filter(|way| **way).count() {
        0 if given.required => wrong(
            "verification",
            "is required, so it needs one of expression, schema, command, task_type and manual"
                .into(),
        ),
        0 | 1 => {}
        _ => wrong("verification", "must have at most one way to verify".into()),
    }
    let timeout = given.timeout.map(crate::wire::time::Duration::to_std);
    if timeout.is_some_and(|t| t.is_none_or(|t| t > limits::DURATION_MAX)) {
        wrong("verification.timeout", "must be 0 to 366 days".into());
    }
    if given.expression.len() > limits::TEMPLATE_BYTES_MAX {
        let max = limits::TEMPLATE_BYTES_MAX;
        wrong("verification.expression", format!("must have at most {max} bytes"));
    }
}

/// The schedule that a type asks for, under the type's own name; it rests while the type is disabled.
pub fn schedule(task_type: &pb::TaskType) -> Option<pb::Schedule> {
    let text = task_type.schedule.trim();
    if text.is_empty() {
        return None;
    }
    let every = text.strip_prefix("every ").map(str::trim);
    let when = match every.and_then(crate::time::parse_duration) {
        Some(every) => When::Every(every.into()),
        None => When::Cron(text.to_owned()),
    };
    let paused = task_type.enabled == Some(false);
    Some(pb::Schedule {
        when: Some(when),
        description: task_type.description.clone(),
        paused,
        pause_reason: if paused { DISABLED.into() } else { String::new() },
        task: Some(pb::TaskSpec {
            task_type: task_type.name.clone(),
            created_by: CATALOG.into(),
            ..pb::TaskSpec::default()
        }),
        ..pb::Schedule::default()
    })
}

/// The schedule that a type asks for, where there is one already: what somebody set on it stays, a
/// pause of theirs too.
pub fn schedule_anew(asked: pb::Schedule, known: &pb::Schedule) -> pb::Schedule {
    // A pause that ends by itself must not end that of a disabled type.
    let ends = known.paused_until.is_some() && asked.paused;
    let theirs = known.paused && known.pause_reason != DISABLED && !ends;
    let (paused, pause_reason, paused_until) = if theirs {
        (true, known.pause_reason.clone(), known.paused_until)
    } else {
        (asked.paused, asked.pause_reason, None)
    };
    let (when, description) = (asked.when, asked.description);
    pb::Schedule { when, description, paused, pause_reason, paused_until, ..known.clone() }
}

/// Whether a schedule is the one that a type of this name asked for.
pub fn is_own(schedule: &pb::Schedule, name: &str) -> bool {
    schedule.task.as_ref().is_some_and(|t| t.task_type == name && t.created_by == CATALOG)
}

/// What would be wrong with every task of the type.
fn of_tasks(task_type: &pb::TaskType) -> Vec<Violation> {
    let spec = |executor: Option<pb::Executor>| pb::TaskSpec {
        task_type: task_type.name.clone(),
        subsystem: task_type.subsystem.clone(),
        description: task_type.description.clone(),
        queue: task_type.queue.clone(),
        priority: task_type.priority,
        retry: task_type.retry.clone(),
        timeouts: task_type.timeouts,
        sla_hours: task_type.sla_hours,
        executor,
        ..pb::TaskSpec::default()
    };
    let problems = |sample| {
        let executor = task_type.executor.as_ref().map(|executor| filled(executor, sample));
        match executor.transpose() {
            Ok(executor) => TaskSpec::parse(spec(executor)).err().unwrap_or_default(),
            Err(violation) => vec![violation],
        }
    };
    let [first, rest @ ..] = SAMPLES;
    let mut found = problems(first);
    for sample in rest {
        let others = problems(sample);
        found.retain(|violation| others.contains(violation));
    }
    found
}

/// The executor with something in the place of its templates.
fn filled(executor: &pb::Executor, sample: &str) -> Result<pb::Executor, Violation> {
    map_texts(executor, &mut |_, text| fill(text, sample))
}

/// The text with something in the place of what is between braces.
fn fill(text: &str, sample: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let (before, tail) = rest.split_at(start);
        let (close, value) = if tail.starts_with("{{") { ("}}", sample) } else { ("%}", "") };
        let Some(end) = tail.find(close) else { break };
        out.push_str(before);
        out.push_str(value);
        rest = tail.get(end + 2..).unwrap_or_default();
    }
    out + rest
}

/// Whether a text has anything of a template in it.
pub fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

/// The executor with each of its templates replaced; the callback gets the path and the text. One that
/// cannot be read with what was put there is an error: it must not run as it was.
pub fn map_texts(
    executor: &pb::Executor,
    replace: &mut impl FnMut(&str, &str) -> String,
) -> Result<pb::Executor, Violation> {
    let mut value = serde_json::to_value(executor).map_err(|e| unreadable(&e))?;
    if walk(&mut value, "executor", replace) { read(value) } else { Ok(executor.clone()) }
}

fn read(value: Value) -> Result<pb::Executor, Violation> {
    serde_json::from_value(value).map_err(|e| unreadable(&e))
}

fn unreadable(error: &serde_json::Error) -> Violation {
    let problem = format!("cannot be read once its templates are filled: {error}");
    Violation { field: "executor".into(), problem }
}

/// Replaces the templates below a value; whether there were any.
fn walk(value: &mut Value, path: &str, replace: &mut impl FnMut(&str, &str) -> String) -> bool {
    let mut any = false;
    match value {
        Value::String(text) if is_template(text) => {
            *text = replace(path, text);
            any = true;
        }
        Value::Array(items) => {
            for (n, item) in items.iter_mut().enumerate() {
                any |= walk(item, &format!("{path}[{n}]"), replace);
            }
        }
        Value::Object(fields) => {
            for (key, field) in
                fields.iter_mut().filter(|(key, _)| !LITERAL.contains(&key.as_str()))
            {
                any |= walk(field, &format!("{path}.{key}"), replace);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    any
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(value: Value) -> Vec<String> {
        let task_type = serde_json::from_value(value).expect("fields of the right types");
        check(&task_type).into_iter().map(|violation| violation.field).collect()
    }

    fn with(field: &str, value: Value) -> Value {
        let mut whole = json!({"name": "a", "executor": {"shell": {"argv": ["true"]}}});
        whole[field] = value;
        whole
    }

    #[test]
    fn every_field_has_its_rules() {
        assert!(faults(with("queue", json!("slow"))).is_empty());
        for (field, value) in [
            ("name", json!("")),
            ("name", json!("a b")),
            ("name", json!("a".repeat(65))),
            ("executor", Value::Null),
            ("executor", json!({"external": {}})),
            ("executor.shell", json!({"shell": {}})),
            ("queue", json!("a.b")),
            ("priority", json!(11)),
            ("subsystem", json!("a".repeat(129))),
            ("description", json!("a\0b")),
            ("retry.max_attempts", json!({"max_attempts": 0})),
            ("timeouts.run", json!({"run": "367d"})),
            ("sla_hours", json!(-1)),
            ("tags", json!([""])),
            ("capabilities", json!(["a\nb"])),
            ("capabilities", json!(vec!["a"; 65])),
            ("schedule", json!("a\nb")),
            ("schedule", json!("*/5 * * *")),
            ("schedule", json!("every fortnight")),
            ("input_schema", json!([])),
            ("unique.period", json!({"period": "10ms"})),
            ("unique.period", json!({"key": "a"})),
            ("verification", json!({"required": true})),
            ("verification", json!({"expression": "a", "manual": true})),
            ("verification.timeout", json!({"manual": true, "timeout": "400d"})),
        ] {
            let name = field.split('.').next().unwrap_or_default();
            assert_eq!(faults(with(name, value.clone())), [field], "{value}");
        }
    }

    #[test]
    fn a_type_asks_for_a_schedule_under_its_name() {
        let of = |value| schedule(&serde_json::from_value(value).expect("a type"));
        assert_eq!(of(with("description", json!("x"))), None);
        let hourly = of(with("schedule", json!("every 1h"))).expect("a schedule");
        let hour = std::time::Duration::from_secs(3_600);
        assert_eq!(hourly.when, Some(When::Every(hour.into())));
        assert!(is_own(&hourly, "a") && !is_own(&hourly, "b") && !hourly.paused);
        let mut off = with("schedule", json!("0 * * * *"));
        off["enabled"] = false.into();
        let off = of(off).expect("a schedule");
        assert!(off.paused);
        let set = pb::Schedule { runs_max: Some(3), ..off.clone() };
        let on = schedule_anew(hourly.clone(), &set);
        assert!(!on.paused && on.runs_max == Some(3) && on.when == hourly.when);
        let by_hand = pb::Schedule { pause_reason: "holidays".into(), ..set };
        assert!(schedule_anew(hourly, &by_hand).paused, "who paused it resumes it");
    }

    #[test]
    fn everything_is_said_at_once() {
        let bad = json!({"name": "", "queue": "a b", "priority": 0, "tags": [""]});
        assert_eq!(faults(bad), ["name", "executor", "tags", "queue", "priority"]);
    }

    #[test]
    fn a_template_is_no_fault_and_hides_none() {
        let nats = |subject: &str| with("executor", json!({"nats": {"subject": subject}}));
        assert!(faults(nats("work.{{ input.kind }}")).is_empty());
        assert!(faults(nats("{{ input.subject }}")).is_empty());
        assert_eq!(faults(nats("task.{{ input.kind }}")), ["executor.nats.subject"]);
        assert_eq!(faults(nats("a b.{{ input.kind }}")), ["executor.nats.subject"]);
        let both = json!({"shell": {"argv": ["{{ input.a }}"], "script": "true"}});
        assert_eq!(faults(with("executor", both)), ["executor.shell"]);
    }

    #[test]
    fn an_executor_that_is_none_once_it_is_filled_is_an_error() {
        let violation = read(json!({"shell": {"argv": 5}})).expect_err("no arguments");
        assert_eq!(violation.field, "executor");
        assert!(violation.problem.contains("once its templates are filled"), "{violation:?}");
        assert!(read(json!({"shell": {"argv": ["true"]}})).is_ok());
    }

    #[test]
    fn a_type_of_containers_says_what_they_may_use() {
        let docker = |more: Value| {
            let mut docker = json!({"image": "alpine:3", "working_dir": "{{ input.dir }}"});
            for (name, value) in more.as_object().expect("an object") {
                docker[name] = value.clone();
            }
            faults(with("executor", json!({"docker": docker})))
        };
        assert!(docker(json!({"cpus": 1, "memory_mb": 64})).is_empty());
        assert_eq!(docker(json!({})), ["executor.docker.cpus", "executor.docker.memory_mb"]);
        let of_input = json!({"cpus": 1, "memory_mb": 64, "image": "{{ input.image }}"});
        assert_eq!(docker(of_input), ["executor.docker.image"], "an image is code");
    }

    #[test]
    fn code_and_references_are_no_templates() {
        let executor: pb::Executor = serde_json::from_value(json!({"shell": {
            "script": "echo {{ input.a }}",
            "secrets": {"A": "env:{{ input.a }}"},
            "env": {"B": "{{ input.b }}"}
        }}))
        .expect("an executor");
        let mut seen = Vec::new();
        let mapped = map_texts(&executor, &mut |path, text| {
            seen.push((path.to_owned(), text.to_owned()));
            "!".into()
        });
        assert_eq!(seen, [("executor.shell.env.B".to_owned(), "{{ input.b }}".to_owned())]);
        let text = serde_json::to_string(&mapped.expect("mapped")).expect("JSON");
        assert!(text.contains("echo {{") && text.contains("env:{{") && text.contains(r#""B":"!""#));
    }
}
