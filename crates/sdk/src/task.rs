//! Puts a submission together in Rust, and checks it before it leaves the program.

use std::time::Duration;

use common::{
    error::{ApiError, Violation},
    id::{QueueName, TaskId, Tenant},
    pb::{self, dependency::On, executor::Kind},
    task::TaskSpec,
    time::Timestamp,
};
use serde::Serialize;

/// A task in the making: `Task::shell(["echo", "hi"]).title("greet").build()`.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Task {
    spec: pb::TaskSpec,
    violations: Vec<Violation>,
}

impl Task {
    fn new(kind: Kind) -> Self {
        let executor = Some(pb::Executor { kind: Some(kind) });
        Self { spec: pb::TaskSpec { executor, ..pb::TaskSpec::default() }, violations: Vec::new() }
    }

    /// A program with its arguments; no shell reads them.
    pub fn shell<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        Self::new(Kind::Shell(pb::Shell { argv, ..pb::Shell::default() }))
    }

    /// A script for `/bin/sh`.
    pub fn script(script: impl Into<String>) -> Self {
        Self::new(Kind::Shell(pb::Shell { script: script.into(), ..pb::Shell::default() }))
    }

    /// A request to a subject; its reply is the result.
    pub fn nats(subject: impl Into<String>) -> Self {
        Self::new(Kind::Nats(pb::Nats { subject: subject.into() }))
    }

    /// An HTTP request with this method; the answer is the result.
    pub fn http(method: impl Into<String>, url: impl Into<String>) -> Self {
        let (method, url) = (method.into(), url.into());
        Self::new(Kind::Http(pb::Http { method, url, ..pb::Http::default() }))
    }

    /// A script in Lua, which defines `main(input)`.
    pub fn lua(source: impl Into<String>) -> Self {
        Self::new(Kind::Lua(pb::Lua { source: source.into(), memory_mb: None }))
    }

    /// A container of this image, with so many processors and so much memory in MiB; the command
    /// stands in the place of the image's own.
    pub fn docker<S: Into<String>>(
        image: impl Into<String>,
        (cpus, memory_mb): (f64, u32),
        command: impl IntoIterator<Item = S>,
    ) -> Self {
        let (image, command) = (image.into(), command.into_iter().map(Into::into).collect());
        Self::new(Kind::Docker(pb::Docker {
            image,
            command,
            cpus,
            memory_mb,
            ..pb::Docker::default()
        }))
    }

    /// A call of a handler.
    pub fn handler(name: impl Into<String>) -> Self {
        Self::new(Kind::Worker(pb::Worker { handler: name.into() }))
    }

    /// Work that another system runs and reports.
    pub fn external() -> Self {
        Self::new(Kind::External(pb::External {}))
    }

    /// Everything that has no method of its own.
    pub fn with(mut self, change: impl FnOnce(&mut pb::TaskSpec)) -> Self {
        change(&mut self.spec);
        self
    }

    fn with_shell(mut self, change: impl FnOnce(&mut pb::Shell)) -> Self {
        match self.spec.executor.as_mut().and_then(|e| e.kind.as_mut()) {
            Some(Kind::Shell(shell)) => change(shell),
            Some(
                Kind::Nats(_)
                | Kind::Http(_)
                | Kind::Lua(_)
                | Kind::Docker(_)
                | Kind::Worker(_)
                | Kind::External(_),
            )
            | None => {
                let problem = "has env, cwd and stdin only when it is shell".into();
                self.violations.push(Violation { field: "executor".into(), problem });
            }
        }
        self
    }

    /// The caller's own id: the same id is the same task.
    pub fn id(self, id: &TaskId) -> Self {
        self.with(|spec| id.as_str().clone_into(&mut spec.task_id))
    }

    /// The same key gives the same task.
    pub fn idempotency_key(self, key: impl Into<String>) -> Self {
        self.with(|spec| spec.idempotency_key = key.into())
    }

    /// The tenant that owns it.
    pub fn tenant(self, tenant: &Tenant) -> Self {
        self.with(|spec| tenant.as_str().clone_into(&mut spec.tenant))
    }

    /// What people read in lists.
    pub fn title(self, title: impl Into<String>) -> Self {
        self.with(|spec| spec.title = title.into())
    }

    /// What kind of work it is, for forecasts and lists.
    pub fn task_type(self, task_type: impl Into<String>) -> Self {
        self.with(|spec| spec.task_type = task_type.into())
    }

    /// Which part of the organisation it is for.
    pub fn subsystem(self, subsystem: impl Into<String>) -> Self {
        self.with(|spec| spec.subsystem = subsystem.into())
    }

    /// Who wants it.
    pub fn created_by(self, who: impl Into<String>) -> Self {
        self.with(|spec| spec.created_by = who.into())
    }

    /// 1 to 10, 10 first.
    pub fn priority(self, priority: u8) -> Self {
        self.with(|spec| spec.priority = Some(priority.into()))
    }

    /// A tag to find it by.
    pub fn tag(self, tag: impl Into<String>) -> Self {
        self.with(|spec| spec.tags.push(tag.into()))
    }

    /// The queue whose workers may run it.
    pub fn queue(self, queue: &QueueName) -> Self {
        self.with(|spec| queue.as_str().clone_into(&mut spec.queue))
    }

    /// Its input.
    pub fn input(mut self, input: impl Serialize) -> Self {
        match serde_json::to_string(&input) {
            Ok(text) => self.spec.input = Some(pb::Json { text }),
            Err(error) => {
                self.violations
                    .push(Violation { field: "input".into(), problem: error.to_string() });
            }
        }
        self
    }

    fn edge(self, id: &TaskId, on: On) -> Self {
        let edge = pb::Dependency { task_id: id.to_string(), on: on.into() };
        self.with(|spec| spec.depends_on.push(edge))
    }

    /// It runs after this task has completed.
    pub fn depends_on(self, id: &TaskId) -> Self {
        self.edge(id, On::Success)
    }

    /// It runs when this task has failed; it is skipped otherwise.
    pub fn depends_on_failure(self, id: &TaskId) -> Self {
        self.edge(id, On::Failure)
    }

    /// It runs when this task has ended, however it did.
    pub fn depends_on_end(self, id: &TaskId) -> Self {
        self.edge(id, On::End)
    }

    /// Not before creation plus this.
    pub fn delay(self, delay: Duration) -> Self {
        self.with(|spec| spec.delay = Some(delay.into()))
    }

    /// Not before this instant.
    pub fn run_at(self, at: Timestamp) -> Self {
        self.with(|spec| spec.run_at = Some(at.into()))
    }

    /// Tries in all.
    pub fn max_attempts(self, tries: u32) -> Self {
        let tries = i32::try_from(tries).unwrap_or(i32::MAX);
        self.with(|spec| spec.retry.get_or_insert_default().max_attempts = Some(tries))
    }

    /// Wait before the second try.
    pub fn backoff(self, backoff: Duration) -> Self {
        self.with(|spec| spec.retry.get_or_insert_default().backoff = Some(backoff.into()))
    }

    /// How long one attempt may take.
    pub fn run_timeout(self, timeout: Duration) -> Self {
        self.with(|spec| spec.timeouts.get_or_insert_default().run = Some(timeout.into()))
    }

    /// An environment variable of a shell task.
    pub fn env(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with_shell(|shell| {
            shell.env.insert(name.into(), value.into());
        })
    }

    /// A secret of the worker as an environment variable: `env:NAME` or `file:NAME`.
    pub fn secret(self, name: impl Into<String>, reference: impl Into<String>) -> Self {
        self.with_shell(|shell| {
            shell.secrets.insert(name.into(), reference.into());
        })
    }

    /// The working directory of a shell task.
    pub fn cwd(self, cwd: impl Into<String>) -> Self {
        self.with_shell(|shell| shell.cwd = cwd.into())
    }

    /// The standard input of a shell task.
    pub fn stdin(self, stdin: impl Into<String>) -> Self {
        self.with_shell(|shell| shell.stdin = Some(stdin.into()))
    }

    /// The submission, or everything that is wrong with it.
    pub fn build(self) -> Result<TaskSpec, ApiError> {
        let Self { spec, mut violations } = self;
        match TaskSpec::submitted(spec) {
            Ok(spec) if violations.is_empty() => Ok(spec),
            Ok(_) => Err(ApiError::invalid(violations)),
            Err(more) => {
                violations.extend(more);
                Err(ApiError::invalid(violations))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_built_and_everything_wrong_with_it_is_said_at_once() {
        let first = TaskId::parse("first").expect("text");
        let spec =
            Task::shell(["echo", "hi"]).title("greet").env("A", "b").depends_on(&first).build();
        let spec = spec.expect("valid");
        assert_eq!(spec.as_pb().title, "greet");
        assert_eq!(spec.depends_on().len(), 1);
        let error =
            Task::handler("a b").env("A", "b").priority(11).build().expect_err("three faults");
        let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["executor", "priority", "executor.worker.handler"]);
    }
}
