//! **Pure.** What is wrong with how a task is to be run.

use std::collections::BTreeMap;

use super::Check;
use crate::{
    id::is_token,
    limits,
    pb::{self, executor},
    task::http,
    wire::time::Duration,
};

impl Check {
    pub(super) fn executor(&mut self, spec: &pb::TaskSpec) {
        match spec.executor.as_ref().map(|e| e.kind.as_ref()) {
            None | Some(Some(executor::Kind::External(_))) => {}
            Some(None) => {
                self.wrong(
                    "executor",
                    "must be one of shell, nats, http, lua, docker, worker, external",
                );
            }
            Some(Some(executor::Kind::Shell(shell))) => self.shell(shell),
            Some(Some(executor::Kind::Nats(nats))) => {
                self.subject("executor.nats.subject", &nats.subject);
            }
            Some(Some(executor::Kind::Http(http))) => self.http(http),
            Some(Some(executor::Kind::Lua(lua))) => self.lua(lua, spec.timeouts.as_ref()),
            Some(Some(executor::Kind::Docker(docker))) => {
                self.docker(docker, spec.timeouts.as_ref());
            }
            Some(Some(executor::Kind::Worker(worker))) => {
                let max = limits::NAME_BYTES_MAX;
                if worker.handler.len() > max || !is_token(&worker.handler.replace('.', "_")) {
                    let problem = format!("must have 1 to {max} letters, digits, `.`, `_` and `-`");
                    self.wrong("executor.worker.handler", problem);
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
        self.environment("executor.shell", &shell.env, &shell.secrets);
        if let Some(limits) = &shell.limits {
            self.limits(limits);
        }
    }

    fn limits(&mut self, given: &pb::Limits) {
        for (name, value, max) in [
            ("memory_mb", given.memory_mb, 1024 * 1024),
            ("cpu_seconds", given.cpu_seconds, 366 * 24 * 3600),
            ("open_files", given.open_files, 1024 * 1024),
            ("processes", given.processes, 1024 * 1024),
            ("file_mb", given.file_mb, 1024 * 1024),
        ] {
            if value.is_some_and(|n| !(1..=max).contains(&n)) {
                let field = format!("executor.shell.limits.{name}");
                self.wrong(field, format!("must be 1 to {max}"));
            }
        }
    }

    fn http(&mut self, given: &pb::Http) {
        if http::method(&given.method).is_none() {
            let words = http::METHODS.join(", ").to_ascii_lowercase();
            self.wrong("executor.http.method", format!("must be one of {words}"));
        }
        if let Err(problem) = http::url(&given.url) {
            self.wrong("executor.http.url", problem);
        }
        if given.headers.len() + given.secrets.len() > limits::HTTP_HEADERS_MAX {
            let max = limits::HTTP_HEADERS_MAX;
            self.wrong("executor.http.headers", format!("must be at most {max} with the secrets"));
        }
        for (field, headers) in [("headers", &given.headers), ("secrets", &given.secrets)] {
            for name in headers.keys() {
                if let Err(problem) = http::header_name(name) {
                    self.wrong(format!("executor.http.{field}"), format!("{name:?} {problem}"));
                }
            }
        }
        if given.headers.values().any(|v| !http::is_header_value(v)) {
            self.wrong("executor.http.headers", "must have values without line breaks and NUL");
        }
        if given.secrets.values().any(|v| http::secret(v).is_none()) {
            self.wrong(
                "executor.http.secrets",
                "must be references such as \"env:TOKEN\", \"file:token\" or \"Bearer env:TOKEN\"",
            );
        }
        for (field, statuses) in
            [("ok_statuses", &given.ok_statuses), ("retry_statuses", &given.retry_statuses)]
        {
            if statuses.iter().any(|s| http::Statuses::parse(s).is_none()) {
                self.wrong(
                    format!("executor.http.{field}"),
                    "must be codes, classes and ranges such as \"404\", \"2xx\" or \"200-299\"",
                );
            }
        }
    }

    fn lua(&mut self, lua: &pb::Lua, timeouts: Option<&pb::Timeouts>) {
        if lua.source.trim().is_empty() {
            self.wrong("executor.lua.source", "must define a function main(input)");
        }
        let max = limits::LUA_MEMORY_MB_MAX;
        if lua.memory_mb.is_some_and(|mb| !(1..=max).contains(&mb)) {
            self.wrong("executor.lua.memory_mb", format!("must be 1 to {max}"));
        }
        self.run_at_most(limits::LUA_RUN_MAX, "lua", timeouts);
    }

    /// Attempts of some executors must end.
    pub(super) fn run_at_most(
        &mut self,
        max: std::time::Duration,
        what: &str,
        timeouts: Option<&pb::Timeouts>,
    ) {
        let run = timeouts.and_then(|t| t.run).and_then(Duration::to_std);
        if run.is_some_and(|run| run.is_zero() || run > max) {
            let problem = format!("must be more than 0 and at most {max:?} for {what}");
            self.wrong("timeouts.run", problem);
        }
    }

    /// Variables of an environment, and secrets among them.
    pub(super) fn environment(
        &mut self,
        what: &str,
        env: &BTreeMap<String, String>,
        secrets: &BTreeMap<String, String>,
    ) {
        let mut names = env.keys().chain(secrets.keys());
        if names.any(|name| name.is_empty() || name.contains(['=', '\0'])) {
            self.wrong(format!("{what}.env"), "must have names without `=`");
        }
        if secrets.values().any(|v| !v.starts_with("env:") && !v.starts_with("file:")) {
            self.wrong(
                format!("{what}.secrets"),
                "must be references such as \"env:TOKEN\" or \"file:token\"",
            );
        }
    }
}
