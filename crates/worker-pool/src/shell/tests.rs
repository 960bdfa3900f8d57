use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use common::{pb, wire};
use jetmill_sdk::worker::{AttemptContext, AttemptResult, decode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Shell, judge};
use crate::{
    attend::{
        Fault, Report,
        tests::{MARK, SERVE},
    },
    environment::Environment,
};

#[test]
fn every_end_of_a_process_has_its_code() {
    let check = |report: &Report, expected: Option<(&str, bool)>| {
        let error = judge(report, &[3]);
        assert_eq!(error.as_ref().map(|e| (e.code.as_str(), e.retryable)), expected);
    };
    let exit = |code| Report { exit: Some(code), ..Report::default() };
    check(&exit(0), None);
    check(&exit(3), None);
    check(&exit(4), Some(("exit_4", true)));
    check(&Report { signal: Some(9), ..Report::default() }, Some(("signal_9", true)));
    let fault = Fault { code: "command_not_found".into(), message: "x".into() };
    check(&Report { error: Some(fault), ..Report::default() }, Some(("command_not_found", false)));
}

/// A worker's shell executor whose attendant is this test program, behind a script.
struct Bench {
    shell: Shell,
    _folder: tempfile::TempDir,
}

/// Makes a program that stands for `jetmill attend`.
pub(crate) fn attendant_script(folder: &Path) -> PathBuf {
    let script = folder.join("jetmill");
    let exe = std::env::current_exe().expect("this program");
    let text = format!("#!/bin/sh\n{MARK}=1 exec {} {}\n", exe.display(), SERVE.join(" "));
    fs::write(&script, text).expect("script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("executable");
    script
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().expect("folder");
    let script = attendant_script(folder.path());
    let variables = [("PATH", "/usr/bin:/bin"), ("JETMILL_SECRET_TOKEN", "s3cret-value")];
    let variables = variables.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let environment = Environment::new(variables, &["PATH".to_owned()], None);
    Bench { shell: Shell::new(script, environment), _folder: folder }
}

fn attempt(shell: &Value, input: &Value, cancelled: CancellationToken) -> AttemptContext {
    let request = json!({ "items": [{
        "task_id": "t 1", "attempt": 2, "queue": "default",
        "spec": { "executor": { "shell": shell }, "input": input },
    }] });
    let items = decode(request.to_string().as_bytes()).expect("an execution request");
    AttemptContext::detached(items.into_iter().next().expect("one"), cancelled)
}

async fn run(bench: &Bench, shell: Value) -> AttemptResult {
    let attempt = attempt(&shell, &json!({ "a": 1 }), CancellationToken::new());
    let spec: pb::Shell = serde_json::from_value(shell).expect("a shell spec");
    bench.shell.run(&attempt, &spec, "00-trace").await
}

/// The end of a command's stdout: the test program that attends it says something first.
fn stdout(result: &AttemptResult) -> String {
    let value = result.result.as_ref().expect("a result").to_value();
    value["stdout"].as_str().expect("text").to_owned()
}

#[tokio::test]
async fn a_command_gets_its_input_its_environment_and_nothing_else() {
    let bench = bench();
    let result = run(&bench, json!({ "script": "cat; echo; env | sort; pwd" })).await;
    assert_eq!(result.error, None);
    let out = stdout(&result);
    assert!(out.contains("{\"a\":1}\n"), "{out}");
    for line in [
        "JETMILL_TASK_ID=t 1",
        "JETMILL_ATTEMPT=2",
        "JETMILL_TENANT=default",
        "TRACEPARENT=00-trace",
    ] {
        assert!(out.contains(line), "{line} is missing in {out}");
    }
    assert!(!out.contains("SECRET") && !out.contains(MARK), "{out}");
    let folder = out.lines().find(|l| l.contains("/jetmill-")).expect("a fresh folder");
    assert!(!std::path::Path::new(folder).exists(), "the folder is removed");
    assert!(result.usage.expect("measured").cpu_seconds.is_some());
}

#[tokio::test]
async fn secrets_reach_the_command_and_no_reader_of_its_output() {
    let bench = bench();
    let shell = json!({
        "script": "test \"$T\" = s3cret-value && echo \"it is $T\" && echo \"$T\" >&2 && exit 5",
        "secrets": { "T": "env:TOKEN" },
    });
    let result = run(&bench, shell).await;
    assert_eq!(result.error.as_ref().map(|e| e.code.as_str()), Some("exit_5"));
    assert!(stdout(&result).contains("it is ***"));
    assert!(!result.result.expect("a result").text.contains("s3cret"));
    let unknown = json!({ "script": "true", "secrets": { "T": "env:HOME" } });
    let error = run(&bench, unknown).await.error.expect("refused");
    assert_eq!((error.code.as_str(), error.retryable), ("secret_not_found", false));
}

#[tokio::test]
async fn arguments_are_read_by_no_shell_and_ok_codes_are_successes() {
    let bench = bench();
    let result = run(&bench, json!({ "argv": ["printf", "%s", "$HOME; *"] })).await;
    assert!(stdout(&result).contains("$HOME; *"));
    let grep = json!({ "argv": ["grep", "zzz"], "ok_codes": [1], "stdin": "a" });
    assert_eq!(run(&bench, grep).await.error, None);
    let missing = run(&bench, json!({ "argv": ["no-such-program"] })).await;
    assert_eq!(missing.error.expect("an error").code, "command_not_found");
    assert_eq!(missing.result, None);
}

#[tokio::test]
async fn a_cancelled_command_ends_and_leaves_what_it_said() {
    let bench = bench();
    let cancelled = CancellationToken::new();
    let shell = json!({ "script": "trap 'echo bye; exit 0' TERM; kill -TERM $$" });
    let shell_spec: pb::Shell = serde_json::from_value(shell.clone()).expect("a shell spec");
    let attempt = attempt(&shell, &Value::Null, cancelled.clone());
    cancelled.cancel();
    let result = bench.shell.run(&attempt, &shell_spec, "").await;
    assert!(result.result.is_some());
    assert!(wire::is_json(None, result.result.expect("kept").text.as_bytes()));
}
