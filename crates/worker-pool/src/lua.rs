//! The executor `lua`: a script in a sandbox, in a process of its own.
//!
//! The sandbox (`script`) leaves a script nothing but tables, texts and numbers, and bounds its
//! memory. The process is there for what no sandbox can promise: it is attended as every command,
//! so it ends at its timeout whatever the script does, what it used is counted by the operating
//! system, and a fault in the interpreter takes nothing else along.

mod json;
mod script;

use std::{path::PathBuf, sync::Arc, time::Duration};

use common::{limits, pb, time::Clock, usage};
use jetmill_sdk::worker::{AttemptContext, AttemptError, AttemptResult, OutputStream};

use crate::{
    attend::{Order, Report, limits::Limits, oom::OUT_OF_MEMORY},
    attendant::{Attendant, Streams},
    redact::Redactor,
};
use script::{Outcome, Script};

pub use script::main;

/// What the script says is output; its result comes in one line of its own. A result that is
/// too large is refused in the script's process already.
const STREAMS: Streams =
    Streams { out: None, err: Some(OutputStream::Log), kept: 2 * limits::PROCESS_RESULT_BYTES_MAX };
/// The script's own clock rings a little before the engine's, so that it can say where it was: a
/// fifth of its time, and at most this.
const RINGS_BEFORE_MAX: Duration = Duration::from_millis(500);

/// Runs scripts.
#[derive(Clone)]
pub(crate) struct Lua {
    executable: PathBuf,
    clock: Arc<dyn Clock>,
}

impl Lua {
    /// Scripts run in `<executable> lua-run`, attended by `<executable> attend`.
    pub(crate) fn new(executable: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { executable, clock }
    }

    /// Runs the script of an attempt.
    pub(crate) async fn run(&self, attempt: &AttemptContext, lua: &pb::Lua) -> AttemptResult {
        let order = match self.order(attempt, lua) {
            Ok(order) => order,
            Err(error) => return AttemptResult::failure(error),
        };
        let ended = match Attendant::start(&self.executable, &order).await {
            Ok(attendant) => attendant.attend(attempt, &Redactor::new([]), &STREAMS).await,
            Err(error) => {
                let message = format!("the script's attendant could not be started: {error}");
                return AttemptResult::failure(AttemptError::retryable("cannot_start", message));
            }
        };
        let Some(report) = ended.report else {
            let message = "the script's attendant vanished; the script was killed";
            return AttemptResult::failure(AttemptError::retryable("attendant_lost", message));
        };
        let said = ended.out.text();
        let outcome = said.lines().find_map(|line| serde_json::from_str::<Outcome>(line).ok());
        let usage = usage::known(report.used.to_pb());
        match outcome {
            Some(Outcome::Result(text)) => {
                AttemptResult { error: None, result: Some(pb::Json { text }), usage }
            }
            Some(Outcome::Error { code, message }) => {
                let error = Some(AttemptError::permanent(code, message));
                AttemptResult { error, result: None, usage }
            }
            Some(Outcome::TimeIsUp { line }) => {
                let told = format!("[jetmill: time is up, in line {line} of the script]\n");
                attempt.log(OutputStream::Log, told.as_bytes());
                // What follows from a timeout is the engine's to say, and its clock rings next.
                attempt.cancellation().cancelled().await;
                let result = pb::Json::from_value(&serde_json::json!({ "stopped_in_line": line }));
                AttemptResult { error: None, result: Some(result), usage }
            }
            None => AttemptResult { error: Some(crash(&report)), result: None, usage },
        }
    }

    fn order(&self, attempt: &AttemptContext, lua: &pb::Lua) -> Result<Order, AttemptError> {
        let spec = &attempt.execution().spec;
        let run = spec.timeouts().run.unwrap_or(limits::LUA_RUN_MAX).min(limits::LUA_RUN_MAX);
        let script = Script {
            source: lua.source.clone(),
            input: spec.as_pb().input.as_ref().map(|json| json.text.clone()),
            memory_mb: lua
                .memory_mb
                .unwrap_or(limits::LUA_MEMORY_MB)
                .min(limits::LUA_MEMORY_MB_MAX),
            rings_after: run.saturating_sub((run / 5).min(RINGS_BEFORE_MAX)),
            sent_at: self.clock.now().micros(),
        };
        let bad = |e: serde_json::Error| AttemptError::permanent("bad_script", e.to_string());
        let stdin = serde_json::to_string(&script).map_err(bad)?;
        let executable = self.executable.to_string_lossy().into_owned();
        Ok(Order {
            argv: vec![executable.clone(), "lua-run".into()],
            cwd: "/".into(),
            stdin: Some(stdin),
            limits: walls(script.memory_mb, run),
            executable,
            measure_every: attempt.measure_every(),
            ..Order::default()
        })
    }
}

/// What the process may use: a wall behind the sandbox, which is stricter.
fn walls(memory_mb: u32, run: Duration) -> Limits {
    Limits {
        memory_mb: Some(2 * memory_mb + 128),
        cpu_seconds: Some(run.as_secs() as u32 + 2),
        open_files: Some(32),
        processes: Some(1),
        file_mb: Some(0),
    }
}

/// The process ended before it could say how.
fn crash(report: &Report) -> AttemptError {
    if let Some(fault) = &report.error {
        let message = format!("the script could not be run: {}", fault.message);
        return AttemptError::retryable(fault.code.clone(), message);
    }
    if let Some(fault) = &report.exceeded {
        if fault.code == OUT_OF_MEMORY {
            return AttemptError::retryable(OUT_OF_MEMORY, fault.message.clone());
        }
        return AttemptError::permanent(fault.code.clone(), fault.message.clone());
    }
    match (report.exit, report.signal) {
        (_, Some(signal)) => {
            let message = format!("the script's process was ended by signal {signal}");
            AttemptError::retryable(format!("signal_{signal}"), message)
        }
        (exit, None) => {
            let exit = exit.unwrap_or_default();
            let message = format!("the script's process ended with exit code {exit} and no result");
            AttemptError::retryable("no_result", message)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
