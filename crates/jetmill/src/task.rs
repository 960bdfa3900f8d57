//! One task and one outcome, in detail, as people read them.

use common::{
    lifecycle::state_word,
    pb::{self, TaskState},
    time::Timestamp,
};
use owo_colors::OwoColorize as _;
use serde_json::Value;

use crate::table;

/// Everything about a task that says something.
pub(crate) fn detail(task: &pb::Task, now: Timestamp) -> String {
    let mut text = Fields::default();
    text.add("task", &task.task_id);
    text.add("state", table::state_text(task));
    if task.tenant != "default" {
        text.add("tenant", &task.tenant);
    }
    text.add("title", &task.title);
    text.add("description", &task.description);
    text.add("type", &task.task_type);
    text.add("subsystem", &task.subsystem);
    text.add("created by", &task.created_by);
    text.add("priority", task.priority.to_string());
    text.add("queue", &task.queue);
    text.add("executor", executor(task));
    text.add("tags", task.tags.join(", "));
    text.add("depends on", dependencies(task));
    text.add("retry of", &task.retry_of);
    text.add("parent", &task.parent_id);
    text.add("created", table::exact(now, task.created_at));
    text.add("not before", table::exact(now, task.run_at));
    text.add("started", table::exact(now, task.started_at));
    text.add("finished", table::exact(now, task.finished_at));
    text.add("deadline", table::exact(now, task.deadline));
    text.add("took", table::wire_duration(task.duration));
    text.add("attempts", attempts(task));
    text.add("worker", &task.worker);
    text.add("progress", progress(task));
    let is_running = task.state() == TaskState::Running;
    text.add(if is_running { "used so far" } else { "used" }, used(task));
    if !matches!(task.verification_status.as_str(), "pending" | "skipped") {
        text.add("verification", &task.verification_status);
    }
    text.add("metadata", compact(task.metadata.as_ref()));
    text.add("input", compact(task.input.as_ref()));
    text.add("input", large(task.input_object.as_ref(), "--json prints it"));
    text.add("ml metrics", compact(task.ml_metrics.as_ref()));
    text.add("result data", compact(task.result_metadata.as_ref()));
    text.add("error", task.error.as_ref().map(error).unwrap_or_default());
    let result = result(task.result.as_ref());
    text.add("result", large(task.result_object.as_ref(), "`jetmill result` prints it"));
    if !result.is_empty() {
        text.add("result", format!("\n{}", indent(&result)));
    }
    text.0
}

#[derive(Default)]
struct Fields(String);

impl Fields {
    fn add(&mut self, name: &str, value: impl AsRef<str>) {
        let value = value.as_ref();
        if !value.is_empty() {
            self.0.extend([format!("{:<14}{value}\n", format!("{name}:")).replacen(
                name,
                &name.bold().to_string(),
                1,
            )]);
        }
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

fn executor(task: &pb::Task) -> String {
    use pb::executor::Kind;
    let kind = task.spec.as_ref().and_then(|s| s.executor.as_ref()).and_then(|e| e.kind.as_ref());
    match kind {
        Some(Kind::Shell(shell)) if !shell.argv.is_empty() => {
            format!("shell: {}", shell.argv.join(" "))
        }
        Some(Kind::Shell(shell)) => format!("shell: {}", table::cut(&shell.script, 100)),
        Some(Kind::Nats(nats)) => format!("nats: {}", nats.subject),
        Some(Kind::Http(http)) => format!("http: {}", request(http)),
        Some(Kind::Lua(lua)) => format!("lua: {}", table::cut(&lua.source, 100)),
        Some(Kind::Docker(docker)) => {
            format!("docker: {} {}", docker.image, table::cut(&docker.command.join(" "), 100))
        }
        Some(Kind::Worker(worker)) => format!("worker: {}", worker.handler),
        Some(Kind::External(_)) | None => task.executor.clone(),
    }
}

/// Method and address of an HTTP request, as people write it.
pub(crate) fn request(http: &pb::Http) -> String {
    let method = if http.method.is_empty() { "GET" } else { &http.method };
    format!("{} {}", method.to_ascii_uppercase(), table::cut(&http.url, 100))
}

fn dependencies(task: &pb::Task) -> String {
    use pb::dependency::On;
    let all = task.depends_on.iter().map(|d| match d.on() {
        On::Unspecified | On::Success => d.task_id.clone(),
        On::Failure => format!("{} (failure)", d.task_id),
        On::End => format!("{} (any end)", d.task_id),
    });
    all.collect::<Vec<_>>().join(", ")
}

fn attempts(task: &pb::Task) -> String {
    match (task.attempts, task.tries) {
        (0, _) => String::new(),
        (attempts, 0) => attempts.to_string(),
        (attempts, tries) => format!("{attempts}, {tries} of them ended in an error or a timeout"),
    }
}

fn progress(task: &pb::Task) -> String {
    let share = task.progress.map(|p| format!("{:.0} % ", p * 100.0)).unwrap_or_default();
    let counters = task.progress_counters.as_ref().map(pb::Json::to_value);
    format!("{share}{} {}", task.progress_message, self::counters(counters.as_ref()))
        .trim()
        .to_owned()
}

/// Counters as people read them: `rows 5, errors 0`.
pub(crate) fn counters(counters: Option<&Value>) -> String {
    let Some(fields) = counters.and_then(Value::as_object).filter(|f| !f.is_empty()) else {
        return String::new();
    };
    let parts = fields.iter().map(|(name, number)| format!("{name} {number}"));
    format!("({})", parts.collect::<Vec<_>>().join(", "))
}

/// What the task's attempt used; empty while there was none.
fn used(task: &pb::Task) -> String {
    match &task.resource_usage {
        Some(known) => usage(known),
        None if task.attempts > 0 || task.state() == TaskState::Running => "-".into(),
        None => String::new(),
    }
}

/// The resources that an attempt used; a dash is what nobody knows.
pub(crate) fn usage(usage: &pb::ResourceUsage) -> String {
    let mb = |value: Option<f64>, what: &str| {
        value.map_or_else(|| format!("- {what}"), |mb| format!("{mb:.3} MB {what}"))
    };
    let pair = |name: &str, first: (Option<f64>, &str), second: (Option<f64>, &str)| match first
        .0
        .or(second.0)
    {
        Some(_) => format!("{name} {}, {}", mb(first.0, first.1), mb(second.0, second.1)),
        None => format!("{name} -"),
    };
    let cpu = usage.cpu_seconds.map_or_else(|| "-".into(), |seconds| format!("{seconds:.3} s"));
    let parts = [
        format!("CPU {cpu}"),
        pair("memory", (usage.memory_peak_mb, "at most"), (usage.memory_avg_mb, "on average")),
        pair("disk", (usage.disk_read_mb, "read"), (usage.disk_write_mb, "written")),
        pair("network", (usage.network_tx_mb, "sent"), (usage.network_rx_mb, "received")),
    ];
    let kept = usage.storage_delta_mb.map(|mb| format!("storage {mb:+.3} MB"));
    parts.into_iter().chain(kept).collect::<Vec<_>>().join("; ")
}

fn compact(json: Option<&pb::Json>) -> String {
    json.map(|json| json.text.clone()).unwrap_or_default()
}

/// A value that lies in the object store, and how it is had.
fn large(object: Option<&pb::Object>, how: &str) -> String {
    let told =
        |o: &pb::Object| format!("{} in object {}; {how}", table::bytes(o.bytes.into()), o.name);
    object.map(told).unwrap_or_default()
}

/// An error with its code.
pub(crate) fn error(error: &pb::TaskError) -> String {
    let code = if error.code.is_empty() { "error" } else { &error.code };
    format!("{code}: {}", error.message).red().to_string()
}

/// A result as text: what a command printed, or JSON.
pub(crate) fn result(json: Option<&pb::Json>) -> String {
    let Some(json) = json else { return String::new() };
    let value = json.to_value();
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        Value::Object(ref fields) if is_shell(fields) => {
            let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
            let mut all = text("stdout").to_owned();
            if !text("stderr").is_empty() {
                all.extend([format!("{}\n{}", "stderr:".dimmed(), text("stderr"))]);
            }
            all
        }
        Value::Object(_) | Value::Array(_) | Value::Bool(_) | Value::Number(_) => {
            serde_json::to_string_pretty(&value).unwrap_or(json.text.clone())
        }
    }
}

/// Whether the result is that of a process.
fn is_shell(fields: &serde_json::Map<String, Value>) -> bool {
    fields.contains_key("stdout") && fields.contains_key("stderr") && fields.contains_key("exit")
}

/// The end of a task in a line, and what it produced.
pub(crate) fn outcome(outcome: &pb::Outcome) -> String {
    let produced = result(outcome.result.as_ref());
    let line = end(outcome);
    if produced.is_empty() { line } else { format!("{line}\n{}", produced.trim_end()) }
}

/// The end of a task in a line.
pub(crate) fn end(outcome: &pb::Outcome) -> String {
    let id = &outcome.task_id;
    let why = outcome.error.as_ref().map(|e| format!(": {}", error(e))).unwrap_or_default();
    match outcome.state() {
        TaskState::Completed => format!("{id} {}", "completed".green()),
        TaskState::Failed => {
            format!("{id} {} ({}){why}", "failed".red(), table::cause(outcome.cause()))
        }
        TaskState::Cancelled => format!("{id} {}{why}", "cancelled".yellow()),
        TaskState::Skipped => format!("{id} {}{why}", "skipped".yellow()),
        state @ (TaskState::Unspecified | TaskState::Pending | TaskState::Running) => {
            format!("{id} {}", state_word(state))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_a_command_reads_as_what_it_printed() {
        let json = |text: &str| Some(pb::Json { text: text.into() });
        let shell = json(r#"{"exit":0,"stdout":"hi\n","stderr":"","truncated":false}"#);
        assert_eq!(result(shell.as_ref()), "hi\n");
        assert_eq!(result(json("\"a\"").as_ref()), "a");
        assert_eq!(result(json("[1]").as_ref()), "[\n  1\n]");
        assert_eq!(result(None), "");
    }

    #[test]
    fn what_nobody_knows_is_a_dash_and_zero_is_zero() {
        let known = pb::ResourceUsage {
            cpu_seconds: Some(0.0),
            disk_write_mb: Some(1.5),
            ..pb::ResourceUsage::default()
        };
        let text = "CPU 0.000 s; memory -; disk - read, 1.500 MB written; network -";
        assert_eq!(usage(&known), text);
        let shown = |task: &pb::Task| detail(task, Timestamp::default());
        let mut task = pb::Task { resource_usage: Some(known), ..pb::Task::default() };
        task.set_state(TaskState::Running);
        assert!(shown(&task).contains("so far"));
        task.resource_usage = None;
        assert!(shown(&task).lines().any(|l| l.contains("so far") && l.ends_with(" -")));
        task.set_state(TaskState::Pending);
        assert!(!shown(&task).contains("used"), "nothing has run");
    }
}
