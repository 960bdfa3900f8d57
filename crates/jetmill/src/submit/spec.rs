//! **Pure.** A task from the flags of the command line.

use std::{path::PathBuf, time::Duration};

use common::{
    error::ApiError,
    id::QueueName,
    pb::{self, executor::Kind},
    time::Timestamp,
};

use worker_pool::attend::limits::Limits;

use super::{
    container::Container,
    parse::{parse_dependency, parse_duration, parse_json, parse_pair, parse_time},
};
use crate::{exit::bad_input, queue};

/// The flags of one task.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct TaskArgs {
    /// A script for /bin/sh
    #[arg(long, value_name = "TEXT")]
    script: Option<String>,
    /// A handler that a worker program registered
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// A NATS subject; the reply is the result
    #[arg(long, value_name = "SUBJECT")]
    nats_subject: Option<String>,
    /// A URL to ask; the answer is the result
    #[arg(long, value_name = "URL")]
    http: Option<String>,
    /// The method of the request [default: GET, or POST with a body or an input]
    #[arg(long, value_name = "METHOD", requires = "http")]
    method: Option<String>,
    /// A header of the request; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_pair, requires = "http")]
    headers: Vec<(String, String)>,
    /// The body of the request, instead of the input
    #[arg(long, value_name = "TEXT", requires = "http")]
    body: Option<String>,
    /// A file with a Lua script that defines main(input); `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(super) lua: Option<PathBuf>,
    #[command(flatten)]
    container: Container,
    /// Another system runs it and reports
    #[arg(long)]
    external: bool,
    /// The input, as JSON
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// A file with the input, as JSON, of any size; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    pub(super) input_file: Option<PathBuf>,
    /// What people read in lists
    #[arg(long)]
    title: Option<String>,
    /// More about it
    #[arg(long)]
    description: Option<String>,
    /// The queue whose workers may run it
    #[arg(long, value_parser = queue::queue)]
    queue: Option<QueueName>,
    /// 1 to 10, 10 first
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10))]
    priority: Option<i32>,
    /// What kind of work it is
    #[arg(long = "type", value_name = "TYPE")]
    task_type: Option<String>,
    /// Which part of the organisation it is for
    #[arg(long)]
    subsystem: Option<String>,
    /// A tag to find it by; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A task that must complete first; `ID:failure` must fail, `ID:end` must end; may be repeated
    #[arg(long, value_name = "ID", value_parser = parse_dependency)]
    depends_on: Vec<pb::Dependency>,
    /// Not before so long from now
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "run_at")]
    delay: Option<Duration>,
    /// Not before this time, such as 2026-11-21T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    run_at: Option<Timestamp>,
    /// Tries in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1000))]
    max_attempts: Option<i32>,
    /// Wait before the second try
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    backoff: Option<Duration>,
    /// Longest time of one attempt
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Longest wait for its start
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    queue_timeout: Option<Duration>,
    /// Longest silence of an attempt
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    heartbeat_timeout: Option<Duration>,
    /// Longest time from now to its end
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    total_timeout: Option<Duration>,
    /// A variable of the command's environment; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// A secret of the worker as a variable or a header, such as TOKEN=env:TOKEN or
    /// `Authorization="Bearer file:token"`
    #[arg(long = "secret", value_name = "NAME=REF", value_parser = parse_pair)]
    secrets: Vec<(String, String)>,
    /// A file for the command's standard input; `-` is this one's
    #[arg(long, value_name = "FILE")]
    pub(crate) stdin: Option<PathBuf>,
    /// The command's working directory, on the worker or in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// What the command may use, such as `memory_mb=512,processes=64`
    #[arg(long, value_name = "LIMITS", value_parser = Limits::parse)]
    limits: Option<Limits>,
    /// The role whose policy the worker applies
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// An id of your own: the same id is the same task
    #[arg(long, conflicts_with = "key")]
    id: Option<String>,
    /// An idempotency key: the same key is the same task
    #[arg(long)]
    key: Option<String>,
    /// A JSON object to keep with it
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// Hours until it is due
    #[arg(long, value_name = "HOURS")]
    sla_hours: Option<f64>,
}

impl TaskArgs {
    /// In a file each line says for itself what it is.
    pub(super) fn refuse_with_file(&self) -> Result<(), ApiError> {
        let of_one = [
            ("--title", self.title.is_some()),
            ("--queue", self.queue.is_some()),
            ("--priority", self.priority.is_some()),
            ("--type", self.task_type.is_some()),
            ("--depends-on", !self.depends_on.is_empty()),
            ("--id", self.id.is_some()),
            ("--key", self.key.is_some()),
            ("--input", self.input.is_some()),
            ("--input-file", self.input_file.is_some()),
            ("--stdin", self.stdin.is_some()),
            ("--env", !self.env.is_empty()),
            ("--delay", self.delay.is_some()),
            ("--run-at", self.run_at.is_some()),
        ];
        match of_one.iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                Err(bad_input(format!("{flag} is for one task, and --file has many"))
                    .hint("say it in the lines of the file"))
            }
            None => Ok(()),
        }
    }
}

/// What the flags name files for.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    pub(super) stdin: Option<String>,
    pub(super) input: Option<String>,
    pub(super) lua: Option<String>,
}

/// The task that the flags describe; what is wrong with it is said by the door that checks it.
pub(super) fn build(
    args: &TaskArgs,
    command: &[String],
    files: Files,
) -> Result<pb::TaskSpec, ApiError> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let title = args.title.clone().unwrap_or_else(|| title(args, command));
    Ok(pb::TaskSpec {
        task_id: text(&args.id),
        idempotency_key: text(&args.key),
        task_type: args.task_type.clone().unwrap_or_else(|| kind_word(args).to_owned()),
        subsystem: text(&args.subsystem),
        title,
        description: text(&args.description),
        priority: args.priority,
        sla_hours: args.sla_hours,
        metadata: args
            .metadata
            .as_deref()
            .map(|json| parse_json("--metadata", json))
            .transpose()?,
        tags: args.tags.clone(),
        queue: args.queue.as_ref().map(ToString::to_string).unwrap_or_default(),
        input: input(args, &files)?,
        executor: Some(pb::Executor { kind: Some(executor(args, command, files)?) }),
        depends_on: args.depends_on.clone(),
        run_at: args.run_at.map(Into::into),
        delay: args.delay.map(Into::into),
        retry: retry(args),
        timeouts: timeouts(args),
        role: text(&args.role),
        ..pb::TaskSpec::default()
    })
}

fn input(args: &TaskArgs, files: &Files) -> Result<Option<pb::Json>, ApiError> {
    let given = [("--input", &args.input), ("--input-file", &files.input)];
    let mut given = given.into_iter().filter_map(|(flag, json)| Some((flag, json.as_deref()?)));
    given.next().map(|(flag, json)| parse_json(flag, json)).transpose()
}

fn kind_word(args: &TaskArgs) -> &'static str {
    let said = [
        (args.handler.is_some(), "worker"),
        (args.nats_subject.is_some(), "nats"),
        (args.http.is_some(), "http"),
        (args.lua.is_some(), "lua"),
        (args.container.image.is_some(), "docker"),
        (args.external, "external"),
    ];
    said.into_iter().find_map(|(given, word)| given.then_some(word)).unwrap_or("shell")
}

fn title(args: &TaskArgs, command: &[String]) -> String {
    let http = args.http.as_ref().map(|_| crate::task::request(&http(args)));
    let lua = args.lua.as_ref().map(|path| path.display().to_string());
    let named = args.handler.clone().or_else(|| args.nats_subject.clone()).or(http).or(lua);
    let said = named.or_else(|| args.script.clone()).unwrap_or_else(|| {
        args.container.image.iter().chain(command).map(String::as_str).collect::<Vec<_>>().join(" ")
    });
    let line = said.lines().next().unwrap_or_default();
    line.chars().take(120).collect()
}

fn executor(args: &TaskArgs, command: &[String], files: Files) -> Result<Kind, ApiError> {
    let is_shell = args.script.is_some() || !command.is_empty() || args.container.image.is_some();
    let for_shell = !args.env.is_empty()
        || files.stdin.is_some()
        || args.cwd.is_some()
        || args.limits.is_some();
    if for_shell && !is_shell {
        let told = bad_input("--env, --stdin, --cwd and --limits are for commands and scripts");
        return Err(told.hint("give the others their --input"));
    }
    if !args.secrets.is_empty() && !is_shell && args.http.is_none() {
        let told = bad_input("--secret is for commands, scripts and HTTP requests");
        return Err(told.hint("a handler has secrets of its own"));
    }
    Ok(if let Some(handler) = &args.handler {
        Kind::Worker(pb::Worker { handler: handler.clone() })
    } else if let Some(subject) = &args.nats_subject {
        Kind::Nats(pb::Nats { subject: subject.clone() })
    } else if args.http.is_some() {
        Kind::Http(http(args))
    } else if let Some(source) = files.lua {
        Kind::Lua(pb::Lua { source, memory_mb: None })
    } else if args.container.image.is_some() {
        let container = args.container.executor(args.limits.unwrap_or_default())?;
        Kind::Docker(pb::Docker {
            command: command.to_vec(),
            working_dir: args.cwd.clone().unwrap_or_default(),
            env: args.env.iter().cloned().collect(),
            secrets: args.secrets.iter().cloned().collect(),
            stdin: files.stdin,
            ..container
        })
    } else if args.external {
        Kind::External(pb::External {})
    } else {
        Kind::Shell(pb::Shell {
            argv: command.to_vec(),
            script: args.script.clone().unwrap_or_default(),
            cwd: args.cwd.clone().unwrap_or_default(),
            env: args.env.iter().cloned().collect(),
            stdin: files.stdin,
            secrets: args.secrets.iter().cloned().collect(),
            ok_codes: Vec::new(),
            limits: args.limits.map(Into::into),
        })
    })
}

fn http(args: &TaskArgs) -> pb::Http {
    let sends = args.body.is_some() || args.input.is_some() || args.input_file.is_some();
    let method = args.method.clone().unwrap_or(if sends { "POST".into() } else { String::new() });
    pb::Http {
        method,
        url: args.http.clone().unwrap_or_default(),
        headers: args.headers.iter().cloned().collect(),
        body: args.body.clone(),
        secrets: args.secrets.iter().cloned().collect(),
        ..pb::Http::default()
    }
}

fn retry(args: &TaskArgs) -> Option<pb::Retry> {
    (args.max_attempts.is_some() || args.backoff.is_some()).then(|| pb::Retry {
        max_attempts: args.max_attempts,
        backoff: args.backoff.map(Into::into),
        ..pb::Retry::default()
    })
}

fn timeouts(args: &TaskArgs) -> Option<pb::Timeouts> {
    let timeouts = pb::Timeouts {
        queue: args.queue_timeout.map(Into::into),
        run: args.timeout.map(Into::into),
        heartbeat: args.heartbeat_timeout.map(Into::into),
        total: args.total_timeout.map(Into::into),
        dependency: None,
    };
    (timeouts != pb::Timeouts::default()).then_some(timeouts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_a_task_that_is_valid() {
        let args = TaskArgs {
            env: vec![("A".into(), "b=c".into())],
            max_attempts: Some(1),
            timeout: Some(Duration::from_secs(3)),
            ..TaskArgs::default()
        };
        let spec = build(&args, &["echo".into(), "hi".into()], Files::default()).expect("a task");
        let spec = common::task::TaskSpec::parse(spec).expect("valid");
        assert_eq!(spec.as_pb().title, "echo hi");
        assert_eq!(spec.timeouts().run, Some(Duration::from_secs(3)));
        assert_eq!(spec.retry().max_attempts, 1);
    }

    #[test]
    fn what_is_for_commands_is_refused_for_handlers() {
        let args = TaskArgs {
            handler: Some("x".into()),
            env: vec![("A".into(), "b".into())],
            ..TaskArgs::default()
        };
        assert!(build(&args, &[], Files::default()).is_err());
        let args =
            TaskArgs { handler: Some("x".into()), input: Some("{".into()), ..TaskArgs::default() };
        assert!(
            build(&args, &[], Files::default()).expect_err("no JSON").message.contains("--input")
        );
    }

    #[test]
    fn a_request_is_a_get_until_it_has_something_to_send() {
        let args = TaskArgs { http: Some("https://example.com/a".into()), ..TaskArgs::default() };
        let spec = build(&args, &[], Files::default()).expect("a task");
        assert_eq!(
            (spec.task_type.as_str(), spec.title.as_str()),
            ("http", "GET https://example.com/a")
        );
        let args = TaskArgs { input: Some("{}".into()), ..args };
        let spec = build(&args, &[], Files::default()).expect("a task");
        assert_eq!(spec.title, "POST https://example.com/a");
        let files = Files { lua: Some("function main() end".into()), ..Files::default() };
        let args = TaskArgs { lua: Some("a.lua".into()), ..TaskArgs::default() };
        let spec = build(&args, &[], files).expect("a task");
        assert_eq!(spec.title, "a.lua");
        let spec = common::task::TaskSpec::parse(spec).expect("valid");
        assert_eq!(spec.executor().word(), "lua");
    }
}
