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
    text.add("used", task.resource_usage.as_ref().map(usage).unwrap_or_default());
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
    format!("{share}{}", task.progress_message).trim().to_owned()
}

/// The resources that an attempt used.
fn usage(usage: &pb::ResourceUsage) -> String {
    let part = |value: Option<f64>, unit: &str| value.map(|v| format!("{v:.3} {unit}"));
    [
        part(usage.cpu_seconds, "s CPU"),
        part(usage.memory_peak_mb, "MB memory at most"),
        part(usage.disk_read_mb, "MB read"),
        part(usage.disk_write_mb, "MB written"),
        part(usage.network_tx_mb, "MB sent"),
        part(usage.network_rx_mb, "MB received"),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(", ")
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
}
