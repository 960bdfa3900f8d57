//! The executor `shell`: a process on this machine, with no more of it than the task was given.

use std::path::{Path, PathBuf};

use common::{limits, pb, usage};
use jetmill_sdk::worker::{AttemptContext, AttemptError, AttemptResult, OutputStream};

use crate::{
    attend::{Order, Report, limits::Limits},
    attendant::{Attendant, Ended, Streams},
    capture,
    environment::{self, Environment},
    redact::Redactor,
    roles::{self, Role},
};

const STREAMS: Streams = Streams {
    out: Some(OutputStream::Stdout),
    err: Some(OutputStream::Stderr),
    kept: limits::PROCESS_RESULT_BYTES_MAX,
};

/// Runs commands.
#[derive(Clone)]
pub(crate) struct Shell {
    executable: PathBuf,
    environment: Environment,
    limits: Bounds,
}

/// What commands may use, by the worker's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Of a command whose task asks for nothing else.
    pub default: Limits,
    /// Whatever a task asks for.
    pub most: Limits,
}

/// Everything that one command needs.
struct Plan {
    order: Order,
    redactor: Redactor,
    /// A fresh working directory, which the attendant removes; empty until there is one.
    folder: Option<tempfile::TempDir>,
}

impl Shell {
    /// Commands are attended by `<executable> attend`.
    pub(crate) fn new(executable: PathBuf, environment: Environment, limits: Bounds) -> Self {
        Self { executable, environment, limits }
    }

    /// Runs the command of an attempt.
    pub(crate) async fn run(
        &self,
        attempt: &AttemptContext,
        shell: &pb::Shell,
        role: Option<&Role>,
        traceparent: &str,
    ) -> AttemptResult {
        let mut plan = match self.plan(attempt, shell, role, traceparent) {
            Ok(plan) => plan,
            Err(error) => return AttemptResult::failure(error),
        };
        let mut ended = match Attendant::start(&self.executable, &plan.order).await {
            Ok(attendant) => {
                // It is the attendant's from here on.
                plan.folder.take().map(tempfile::TempDir::keep);
                attendant.attend(attempt, &plan.redactor, &STREAMS).await
            }
            Err(error) => {
                let message = format!("the command's attendant could not be started: {error}");
                return AttemptResult::failure(AttemptError::retryable("cannot_start", message));
            }
        };
        let Some(report) = ended.report.take() else {
            let message = "the command's attendant vanished; what it ran was killed";
            let error = AttemptError::retryable("attendant_lost", message);
            // What it used is known as far as it was said.
            return AttemptResult {
                error: Some(error),
                usage: None,
                ..left(&mut ended, &Report::default())
            };
        };
        let error = judge(&report, &shell.ok_codes, plan.order.limits)
            .map(|error| AttemptError { message: plan.redactor.text(&error.message), ..error });
        AttemptResult { error, ..left(&mut ended, &report) }
    }

    fn plan(
        &self,
        attempt: &AttemptContext,
        shell: &pb::Shell,
        role: Option<&Role>,
        traceparent: &str,
    ) -> Result<Plan, AttemptError> {
        let execution = attempt.execution();
        let mut env = self.environment.allowed().clone();
        env.extend(shell.env.clone());
        env.extend(environment::of_attempt(execution, traceparent));
        let secrets = self.environment.secrets(&shell.secrets, role)?;
        let redactor = Redactor::new(secrets.values().map(String::as_str));
        env.extend(secrets);
        let (folder, cwd) = working_directory(&shell.cwd, role)?;
        let argv = match shell.script.as_str() {
            "" => shell.argv.clone(),
            script => ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        };
        let stdin = shell.stdin.clone().or_else(|| environment::input(execution));
        let given = shell.env.keys().chain(shell.secrets.keys()).collect::<Vec<_>>();
        let command = roles::Command { argv: &argv, cwd: Path::new(&cwd), env: &given };
        let path = self.environment.allowed().get("PATH").map(String::as_str);
        let program = match role {
            Some(role) => role.check_command(command, path)?,
            None => None,
        };
        let order = Order {
            argv,
            cwd,
            env,
            stdin,
            program: program.map(|file| file.to_string_lossy().into_owned()),
            limits: self.limits(shell.limits.as_ref())?,
            executable: self.executable.to_string_lossy().into_owned(),
            measure_every: attempt.measure_every(),
            folder: folder.as_ref().map(|own| own.path().to_string_lossy().into_owned()),
        };
        Ok(Plan { order, redactor, folder })
    }

    fn limits(&self, asked: Option<&pb::Limits>) -> Result<Limits, AttemptError> {
        let Bounds { default, most } = self.limits;
        default.of_task(most, asked).map_err(|why| AttemptError::permanent("forbidden_limit", why))
    }
}

type Folder = (Option<tempfile::TempDir>, String);

fn working_directory(named: &str, role: Option<&Role>) -> Result<Folder, AttemptError> {
    if !named.is_empty() {
        let real = match role {
            Some(role) => role.check_folder(named)?,
            None => None,
        };
        return Ok((None, real.map_or(named.into(), |path| path.to_string_lossy().into_owned())));
    }
    let made = tempfile::Builder::new().prefix("jetmill-").tempdir();
    let folder = made.map_err(|e| {
        let message =
            format!("no working directory could be made: {e}; is the worker's disk full?");
        AttemptError::retryable("no_working_directory", message)
    })?;
    let path = folder.path().to_string_lossy().into_owned();
    Ok((Some(folder), path))
}

/// What the end of a process means.
fn judge(report: &Report, ok_codes: &[i32], limits: Limits) -> Option<AttemptError> {
    if let Some(fault) = &report.error {
        let (code, message) = (fault.code.as_str(), fault.message.as_str());
        return Some(match code {
            "cannot_start" | "cannot_wait" => AttemptError::retryable(code, message),
            _ => AttemptError::permanent(code, message),
        });
    }
    if let Some(fault) = &report.exceeded {
        return Some(AttemptError::retryable(fault.code.clone(), fault.message.clone()));
    }
    // A program that was refused something ends as it likes: the limits may be why. A process more is
    // not refused, it is the end.
    let limits = match (Limits { processes: None, ..limits }).text() {
        text if text.is_empty() => text,
        text => format!("; its limits: {text}"),
    };
    match (report.exit, report.signal) {
        (Some(code), _) if code == 0 || ok_codes.contains(&code) => None,
        (Some(code), _) => {
            let message = format!("the command ended with exit code {code}{limits}");
            Some(AttemptError::retryable(format!("exit_{code}"), message))
        }
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            let message = format!("the command was ended by signal {signal}{limits}");
            Some(AttemptError::retryable(format!("signal_{signal}"), message))
        }
    }
}

fn left(ended: &mut Ended, report: &Report) -> AttemptResult {
    AttemptResult {
        error: None,
        result: report
            .error
            .is_none()
            .then(|| capture::result(report.exit, report.signal, &mut ended.out, &mut ended.err)),
        usage: usage::known(report.used.to_pb()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
