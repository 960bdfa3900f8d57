use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use common::{pb, wire};
use jetmill_sdk::worker::{AttemptContext, AttemptResult, decode};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::unix::pipe};
use tokio_util::sync::CancellationToken;

use super::{Bounds, Shell, judge};
use crate::{
    attend::{
        Fault, Report, limits,
        limits::{Limits, reached},
        tests::{MARK, SERVE},
    },
    environment::Environment,
    lua,
};

#[test]
fn every_end_of_a_process_has_its_code() {
    let check = |report: &Report, expected: Option<(&str, bool)>| {
        let error = judge(report, &[3], Limits::default());
        assert_eq!(error.as_ref().map(|e| (e.code.as_str(), e.retryable)), expected);
    };
    let exit = |code| Report { exit: Some(code), ..Report::default() };
    check(&exit(0), None);
    check(&exit(3), None);
    check(&exit(4), Some(("exit_4", true)));
    check(&Report { signal: Some(9), ..Report::default() }, Some(("signal_9", true)));
    let fault = Fault { code: "command_not_found".into(), message: "x".into() };
    let limit = Report { exceeded: Some(reached("memory_mb", 9)), ..exit(0) };
    check(&limit, Some(("memory_limit", true)));
    check(&Report { error: Some(fault), ..Report::default() }, Some(("command_not_found", false)));
}

/// Arguments that make this program the step before a command; what follows them is that step's.
const LIMIT: [&str; 4] = ["--exact", "shell::tests::becomes_the_command", "--nocapture", "--"];

#[test]
fn becomes_the_command() {
    let mut given = std::env::args().skip_while(|word| word != "--").skip(1).peekable();
    if given.peek().is_some() {
        let error = limits::become_command(given);
        eprintln!("the command could not be started: {error}");
    }
}

/// A worker's shell executor whose attendant is this test program, behind a script.
struct Bench {
    shell: Shell,
    _folder: tempfile::TempDir,
}

/// Makes a program that stands for `jetmill attend`, `jetmill become` and `jetmill lua-run`.
pub(crate) fn program(folder: &Path) -> PathBuf {
    let script = folder.join("jetmill");
    let exe = std::env::current_exe().expect("this program");
    let exe = exe.display();
    let (attend, run) = (SERVE.join(" "), lua::tests::SERVE.join(" "));
    let (lua, limit) = (lua::tests::MARK, LIMIT.join(" "));
    let text = format!(
        "#!/bin/sh\ncase $1 in\n  attend) {MARK}=1 exec {exe} {attend};;\n  \
         lua-run) {lua}=1 exec {exe} {run};;\n  \
         become) shift; exec {exe} {limit} \"$@\";;\nesac\n"
    );
    fs::write(&script, text).expect("script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("executable");
    script
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().expect("folder");
    let script = program(folder.path());
    let variables = [("PATH", "/usr/bin:/bin"), ("JETMILL_SECRET_TOKEN", "s3cret-value")];
    let variables = variables.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let environment = Environment::new(variables, &["PATH".to_owned()], None);
    Bench { shell: Shell::new(script, environment, Bounds::default()), _folder: folder }
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
    bench.shell.run(&attempt, &spec, None, "00-trace").await
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
    let (bench, folder) = (bench(), tempfile::tempdir().expect("folder"));
    let fifo = folder.path().join("ready");
    mkfifo(&fifo, Mode::S_IRWXU).expect("a pipe");
    let mut ready = pipe::OpenOptions::new().read_write(true).open_receiver(&fifo).expect("open");
    let cancelled = CancellationToken::new();
    let script = format!(
        "trap 'echo bye; exit 0' TERM; echo >{}; sleep 60 & wait; echo unasked",
        fifo.display()
    );
    let shell = json!({ "script": script });
    let spec: pb::Shell = serde_json::from_value(shell.clone()).expect("a shell spec");
    let attempt = attempt(&shell, &Value::Null, cancelled.clone());
    let cancel = async {
        ready.read_u8().await.expect("a byte");
        cancelled.cancel();
    };
    let (result, ()) = tokio::join!(bench.shell.run(&attempt, &spec, None, ""), cancel);
    let out = stdout(&result);
    assert!(out.contains("bye") && !out.contains("unasked"), "{out}");
    let result = result.result.expect("kept");
    assert_eq!(result.to_value()["exit"], 0);
    assert!(wire::is_json(None, result.text.as_bytes()));
}

/// The code of the error that a command ends with, and its message.
async fn ends(script: &str, limits: Value) -> (String, String) {
    let bench = bench();
    let mut shell = json!({ "script": script });
    if !limits.is_null() {
        shell["limits"] = limits;
    }
    let result = run(&bench, shell).await;
    let error = result.error.unwrap_or_else(|| panic!("{script} ends well: {:?}", result.result));
    (error.code, error.message)
}

#[tokio::test]
async fn a_command_within_its_limits_is_none_the_wiser() {
    let limits = json!({ "memory_mb": 256, "cpu_seconds": 60, "open_files": 64, "processes": 16,
        "file_mb": 4 });
    let script = "ulimit -n; ulimit -c; ulimit -f; echo \"$0 is here\" | cat";
    let result = run(&bench(), json!({ "script": script, "limits": limits })).await;
    assert_eq!(result.error, None);
    let out = stdout(&result);
    assert!(out.contains("64\n0\n8192\n") && out.contains("/bin/sh is here"), "{out}");
}

#[tokio::test]
async fn the_environment_of_a_task_is_for_its_command_alone() {
    // The loader complains for each program that obeys this; on the way to the command none may.
    let env = json!({ "LD_PRELOAD": "/no/such/library.so", "GIVEN": "yes" });
    let shell = json!({ "argv": ["env"], "env": env, "limits": { "open_files": 64 } });
    let result = run(&bench(), shell).await;
    assert_eq!(result.error, None);
    let out = stdout(&result);
    assert!(out.contains("\nLD_PRELOAD=/no/such") && out.contains("\nGIVEN=yes\n"), "{out}");
    assert!(!out.contains("HELD"), "{out}");
    let value = result.result.expect("a result").to_value();
    let complaints = value["stderr"].as_str().expect("text").matches("LD_PRELOAD").count();
    assert!(complaints <= 1, "{value}");
}

#[tokio::test]
async fn each_limit_ends_a_command_that_wants_more() {
    let hog = "x=x; while :; do x=$x$x; done";
    let (code, message) = ends(hog, json!({ "memory_mb": 48 })).await;
    assert!(code == "memory_limit" && message.contains("48 MiB"), "{code}: {message}");
    // Each for itself is below the limit, and all together are not. A shell becomes its last command.
    let herd = "for i in 1 2 3 4; do (x=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 60; :) & done; wait";
    let (code, message) = ends(herd, json!({ "memory_mb": 48 })).await;
    assert_eq!(code, "memory_limit", "{message}");
    let (code, message) = ends("while :; do :; done", json!({ "cpu_seconds": 1 })).await;
    assert!(code == "cpu_limit" && message.contains("1 s of"), "{code}: {message}");
    let (code, message) = ends("while :; do sleep 60 & done", json!({ "processes": 20 })).await;
    assert!(code == "process_limit" && message.contains("20 processes"), "{code}: {message}");
    let (code, message) =
        ends("exec head -c 3000000 /dev/zero >file", json!({ "file_mb": 1 })).await;
    assert!(code == "file_limit" && message.contains("limits.file_mb"), "{code}: {message}");
    let files = "exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null 7</dev/null 8</dev/null";
    let (code, message) = ends(files, json!({ "open_files": 6 })).await;
    assert!(code.starts_with("exit_") && message.contains("its limits: open_files 6"), "{message}");
}

#[tokio::test]
async fn a_child_that_nobody_waits_for_counts_all_the_same() {
    let perl = |script: &str, limits: Value| {
        let shell = json!({ "argv": ["perl", "-e", script], "limits": limits });
        async move { run(&bench(), shell).await.error.expect("a limit").code }
    };
    // Bounded in themselves, should a limit fail.
    let zombies = "for (1..60) { fork or exit } sleep 20";
    assert_eq!(perl(zombies, json!({ "processes": 20 })).await, "process_limit");
    let forgotten = "$SIG{CHLD} = 'IGNORE'; for (1..20) { \
        fork or do { $x++ until (times)[0] > 0.2; exit }; wait }";
    assert_eq!(perl(forgotten, json!({ "cpu_seconds": 1 })).await, "cpu_limit");
}

#[tokio::test]
async fn a_bomb_ends_though_nobody_set_a_limit() {
    // Bounded in itself, should the limit fail; what it starts waits for a word that nobody says.
    let bomb = "mkfifo word; exec 3<>word; i=0; while [ $i -lt 3000 ]; do \
        (read x <&3) & i=$((i+1)); done; sleep 20";
    let (code, message) = ends(bomb, Value::Null).await;
    assert!(code == "process_limit" && message.contains("1024 processes"), "{code}: {message}");
}

#[tokio::test]
async fn a_bomb_that_leaves_its_session_ends_with_its_command() {
    // Bounded in itself, should the limit fail: each level starts two, six levels deep.
    let bomb = "bomb() { [ $1 -eq 0 ] && exec sleep 60; for i in 1 2; do \
        setsid sh -c \"$TEXT\" sh $(($1 - 1)) & done; wait; }; bomb $1";
    let script = format!("export TEXT='{bomb}'; sh -c \"$TEXT\" sh 6");
    let (code, _) = ends(&script, json!({ "processes": 12 })).await;
    assert_eq!(code, "process_limit");
    let asked = json!({ "limits": { "processes": 9 }, "script": "true" });
    let mut small = bench();
    small.shell.limits.most = Limits::parse("processes=8").expect("limits");
    let error = run(&small, asked).await.error.expect("refused");
    assert_eq!((error.code.as_str(), error.retryable), ("forbidden_limit", false));
}
