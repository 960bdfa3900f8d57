//! **Pure.** The tasks of the demonstration.

use std::path::PathBuf;

use common::{
    error::ApiError,
    id::{QueueName, TaskId, Tenant},
    pb,
    task::TaskSpec,
};
use jetmill_sdk::Task;
use serde_json::json;

use super::QUEUE;

/// The files that git knows, else all that are not hidden; no name of a file reaches a shell.
const LIST: &str = r#"{ git -c core.quotePath=false ls-files 2>/dev/null | grep . ||
  find . -type f -not -path '*/.*' -not -path './target/*' | sed 's|^\./||' | sort; } | head -n "$FILES""#;
/// What the handler counts; commands count the rest.
const HANDLED: [&str; 2] = ["rs", "lock"];

/// One run of the demonstration.
pub(super) struct Run {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) files_max: u32,
    pub(super) tenant: Tenant,
    pub(super) actor: String,
}

impl Run {
    fn list_id(&self) -> String {
        format!("{}-list", self.name)
    }

    /// The task of one file.
    pub(super) fn file_id(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// The last task.
    pub(super) fn report_id(&self) -> String {
        format!("{}-report", self.name)
    }

    fn dressed(&self, task: Task, id: &str, notify: &str) -> Result<TaskSpec, ApiError> {
        let id =
            TaskId::parse(id).map_err(|e| ApiError::invalid_field("task_id", e.to_string()))?;
        task.id(&id)
            .tenant(&self.tenant)
            .created_by(&self.actor)
            .subsystem("demo")
            .tag(&self.name)
            .with(|spec| notify.clone_into(&mut spec.notify))
            .build()
    }

    /// The task that lists the files.
    pub(super) fn listing(&self, notify: &str) -> Result<TaskSpec, ApiError> {
        let task = Task::script(LIST)
            .cwd(self.folder.display().to_string())
            .env("FILES", self.files_max.to_string())
            .title("list the files")
            .task_type("demo-list");
        self.dressed(task, &self.list_id(), notify)
    }

    /// The files that it found.
    pub(super) fn files(&self, listed: &pb::Outcome) -> Vec<String> {
        let result = listed.result.as_ref().map(pb::Json::to_value).unwrap_or_default();
        let text = result.get("stdout").and_then(serde_json::Value::as_str).unwrap_or_default();
        let cut = result.get("truncated").and_then(serde_json::Value::as_bool).unwrap_or(false);
        // Of a long list the result keeps the end, and its first line may be half a name.
        let lines = text.lines().skip(usize::from(cut));
        let files = lines.filter(|name| !name.is_empty() && self.folder.join(name).is_file());
        files.take(self.files_max as usize).map(str::to_owned).collect()
    }

    /// A task for each file, and the one that waits for them.
    pub(super) fn graph(&self, files: &[String], notify: &str) -> Result<Vec<TaskSpec>, ApiError> {
        let dependency = |id: String| pb::Dependency { task_id: id, on: 0 };
        let mut tasks = Vec::with_capacity(files.len() + 1);
        for (number, file) in files.iter().enumerate() {
            let task =
                self.file(file)?.with(|spec| spec.depends_on.push(dependency(self.list_id())));
            tasks.push(self.dressed(task, &self.file_id(number), notify)?);
        }
        let parts = files.iter().enumerate();
        let parts =
            parts.map(|(number, path)| json!({ "path": path, "task": self.file_id(number) }));
        let report = Task::handler("file-report")
            .queue(&queue()?)
            .title("report on the files")
            .task_type("demo-report")
            .input(json!({ "tenant": self.tenant.as_str(), "files": parts.collect::<Vec<_>>() }))
            .with(|spec| {
                let all = (0..files.len()).map(|number| dependency(self.file_id(number)));
                spec.depends_on.extend(all);
            });
        tasks.push(self.dressed(report, &self.report_id(), notify)?);
        Ok(tasks)
    }

    fn file(&self, file: &str) -> Result<Task, ApiError> {
        let title = file.chars().take(200).collect::<String>();
        let ending = file.rsplit_once('.').map_or("", |(_, ending)| ending);
        let task = if HANDLED.contains(&ending) {
            let path = self.folder.join(file).display().to_string();
            Task::handler("file-stats")
                .queue(&queue()?)
                .input(json!({ "path": path }))
                .task_type("demo-handler")
        } else {
            Task::shell(["wc", "-l", "-c", "--", file])
                .cwd(self.folder.display().to_string())
                .task_type("demo-shell")
        };
        Ok(task.title(title))
    }
}

fn queue() -> Result<QueueName, ApiError> {
    QueueName::parse(QUEUE).map_err(|e| ApiError::invalid_field("queue", e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_waits_for_every_file() {
        let run = Run {
            name: "demo-1".into(),
            folder: "/f".into(),
            files_max: 10,
            tenant: Tenant::default(),
            actor: "a".into(),
        };
        let graph = run.graph(&["a.rs".into(), "-b".into()], "_INBOX.x").expect("valid");
        let words = graph.iter().map(|task| task.executor().word()).collect::<Vec<_>>();
        assert_eq!(words, ["worker", "shell", "worker"]);
        let report = graph.last().expect("a report");
        assert_eq!(report.depends_on().len(), 2);
        assert_eq!(report.as_pb().notify, "_INBOX.x");
        run.listing("").expect("valid");
    }
}
