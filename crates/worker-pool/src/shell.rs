//! The executor `shell`: a process on this machine, with no more of it than the task was given.

mod attendant;
mod capture;
mod redact;

use std::{collections::BTreeMap, path::PathBuf};

use common::{pb, task::TaskSpec};
use jetmill_sdk::worker::{AttemptContext, AttemptError, AttemptResult, Execution};

use crate::{
    attend::{Order, Report},
    environment::Environment,
};
use attendant::{Attendant, Ended};
use redact::Redactor;

/// Runs commands.
#[derive(Clone)]
pub(crate) struct Shell {
    executable: PathBuf,
    environment: Environment,
}

/// Everything that one command needs.
struct Plan {
    order: Order,
    redactor: Redactor,
    /// A fresh working directory, removed with the attempt.
    _folder: Option<tempfile::TempDir>,
}

impl Shell {
    /// Commands are attended by `<executable> attend`.
    pub(crate) fn new(executable: PathBuf, environment: Environment) -> Self {
        Self { executable, environment }
    }

    /// Runs the command of an attempt.
    pub(crate) async fn run(
        &self,
        attempt: &AttemptContext,
        shell: &pb::Shell,
        traceparent: &str,
    ) -> AttemptResult {
        let plan = match self.plan(attempt.execution(), shell, traceparent) {
            Ok(plan) => plan,
            Err(error) => return AttemptResult::failure(error),
        };
        let mut ended = match Attendant::start(&self.executable, &plan.order).await {
            Ok(attendant) => attendant.attend(attempt, &plan.redactor).await,
            Err(error) => {
                let message = format!("the command's attendant could not be started: {error}");
                return AttemptResult::failure(AttemptError::retryable("cannot_start", message));
            }
        };
        let Some(report) = ended.report.take() else {
            let message = "the command's attendant vanished; what it ran was killed";
            let error = AttemptError::retryable("attendant_lost", message);
            return AttemptResult { error: Some(error), ..left(&mut ended, &Report::default()) };
        };
        let error = judge(&report, &shell.ok_codes)
            .map(|error| AttemptError { message: plan.redactor.text(&error.message), ..error });
        AttemptResult { error, ..left(&mut ended, &report) }
    }

    fn plan(
        &self,
        execution: &Execution,
        shell: &pb::Shell,
        traceparent: &str,
    ) -> Result<Plan, AttemptError> {
        let mut env = self.environment.allowed().clone();
        env.extend(shell.env.clone());
        env.extend([
            ("JETMILL_TASK_ID".into(), execution.id.to_string()),
            ("JETMILL_ATTEMPT".into(), execution.attempt.to_string()),
            ("JETMILL_TENANT".into(), execution.tenant.to_string()),
        ]);
        if !traceparent.is_empty() {
            env.insert("TRACEPARENT".into(), traceparent.to_owned());
        }
        let mut secrets = BTreeMap::new();
        for (variable, reference) in &shell.secrets {
            secrets.insert(variable.clone(), self.environment.secret(reference)?);
        }
        let redactor = Redactor::new(secrets.values().map(String::as_str));
        env.extend(secrets);
        let (folder, cwd) = working_directory(&shell.cwd)?;
        let argv = match shell.script.as_str() {
            "" => shell.argv.clone(),
            script => ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        };
        let stdin = shell.stdin.clone().or_else(|| input(&execution.spec));
        Ok(Plan { order: Order { argv, cwd, env, stdin }, redactor, _folder: folder })
    }
}

fn input(spec: &TaskSpec) -> Option<String> {
    spec.as_pb().input.as_ref().map(|json| json.text.clone())
}

type Folder = (Option<tempfile::TempDir>, String);

fn working_directory(named: &str) -> Result<Folder, AttemptError> {
    if !named.is_empty() {
        return Ok((None, named.to_owned()));
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
fn judge(report: &Report, ok_codes: &[i32]) -> Option<AttemptError> {
    if let Some(fault) = &report.error {
        let (code, message) = (fault.code.as_str(), fault.message.as_str());
        return Some(match code {
            "cannot_start" | "cannot_wait" => AttemptError::retryable(code, message),
            _ => AttemptError::permanent(code, message),
        });
    }
    match (report.exit, report.signal) {
        (Some(code), _) if code == 0 || ok_codes.contains(&code) => None,
        (Some(code), _) => {
            let message = format!("the command ended with exit code {code}");
            Some(AttemptError::retryable(format!("exit_{code}"), message))
        }
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            let message = format!("the command was ended by signal {signal}");
            Some(AttemptError::retryable(format!("signal_{signal}"), message))
        }
    }
}

fn left(ended: &mut Ended, report: &Report) -> AttemptResult {
    let usage = pb::ResourceUsage {
        cpu_seconds: report.cpu_seconds,
        memory_peak_mb: report.memory_peak_mb,
        disk_read_mb: report.disk_read_mb,
        disk_write_mb: report.disk_write_mb,
        ..pb::ResourceUsage::default()
    };
    AttemptResult {
        error: None,
        result: report
            .error
            .is_none()
            .then(|| capture::result(report.exit, report.signal, &mut ended.out, &mut ended.err)),
        usage: (usage != pb::ResourceUsage::default()).then_some(usage),
    }
}

#[cfg(test)]
pub(crate) mod tests;
