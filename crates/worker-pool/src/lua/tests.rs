//! The sandbox by itself, and scripts in real processes of their own. The process is this very test
//! program, told to run one "test" that serves its standard input.

use std::{pin::pin, time::Duration};

use jetmill_sdk::worker::decode;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{script::run, *};
use crate::shell::tests::program;

const PATIENCE: Duration = Duration::from_secs(40);
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);

/// Arguments that make this program run a script.
pub(crate) const SERVE: [&str; 3] =
    ["--exact", "lua::tests::runs_the_script_that_it_is_given", "--nocapture"];
/// Says that it is meant.
pub(crate) const MARK: &str = "JETMILL_TEST_LUA";

#[test]
fn runs_the_script_that_it_is_given() {
    if std::env::var_os(MARK).is_some() {
        let _ = main();
    }
}

fn script(source: &str, input: &Value) -> Script {
    Script {
        source: source.into(),
        input: Some(input.to_string()),
        memory_mb: 16,
        rings_after: Duration::from_secs(20),
        sent_at: 0,
    }
}

/// What `main` returns, or "code: message".
fn outcome(source: &str, input: &Value) -> Result<Value, String> {
    match run(&script(source, input)) {
        Outcome::Result(text) => Ok(serde_json::from_str(&text).expect("JSON")),
        Outcome::Error { code, message } => Err(format!("{code}: {message}")),
        Outcome::TimeIsUp { line } => Err(format!("time is up in line {line}")),
    }
}

fn check(source: &str, expected: &Value) {
    assert_eq!(outcome(source, &json!({})).as_ref(), Ok(expected), "{source}");
}

fn refused(source: &str, expected: &str) {
    let told = outcome(source, &json!({})).expect_err(source);
    assert!(told.contains(expected), "{source} ends with {told:?}, not {expected:?}");
}

#[test]
fn what_main_returns_is_the_result() {
    check("function main() end", &Value::Null);
    check("function main() return 1, 'a', true end", &json!([1, "a", true]));
    check("function main() return {1, 2.5, {a = null}} end", &json!([1, 2.5, {"a": null}]));
    check("function main() return {} end", &json!({}));
    check(
        "local function twice(x) return x * 2 end function main() return twice(4) end",
        &json!(8),
    );
    let echo = "function main(input) return input end";
    for input in [
        json!({"a": [1, null, {"b": []}], "c": "ä\n", "d": -1.5, "e": true, "f": {}}),
        json!([]),
        json!("text"),
        Value::Null,
    ] {
        assert_eq!(outcome(echo, &input), Ok(input));
    }
    let absent = "function main(input) return input.a == nil and input.b[1] == null end";
    assert_eq!(outcome(absent, &json!({"a": null, "b": [null]})), Ok(json!(true)));
}

#[test]
fn errors_name_the_line() {
    refused("function main()\n  local x = nil\n  return x.y\nend", "lua_error: script:3:");
    refused("function main()\n  error('no stock')\nend", "script:2: no stock");
    refused("function main(\nreturn", "lua_syntax: ");
    refused("x = 1", "no_main");
    refused("main = 1", "no_main");
    refused("error('at once')", "lua_error: script:1: at once");
}

#[test]
fn nothing_leads_out_of_the_sandbox() {
    for name in [
        "os",
        "io",
        "package",
        "debug",
        "dofile",
        "loadfile",
        "load",
        "loadstring",
        "require",
        "getfenv",
        "setfenv",
        "collectgarbage",
        "newproxy",
    ] {
        check(&format!("function main() return {name} == nil end"), &json!(true));
        check(&format!("function main() return _G['{name}'] == nil end"), &json!(true));
    }
    refused("function main() string.rep = 1 end", "readonly");
    refused("function main() getmetatable('').__index = nil end", "lua_error");
    refused("\u{1b}LuaQ", "lua_syntax");
}

#[test]
fn memory_is_bounded_in_the_script_and_in_its_result() {
    for source in [
        "function main() return #string.rep('x', 1e9) end",
        "function main() local t = {} while true do t[#t + 1] = {} end end",
        "function main() local s = 'x' while true do s = s .. s end end",
        "function main() return buffer.len(buffer.create(1e9)) end",
    ] {
        refused(source, "memory_limit: the script needs more than 16 MiB");
    }
    refused(
        "function main() local function f() return f() + 1 end return f() end",
        "stack overflow",
    );
    // 2^40 places in a few hundred bytes.
    refused(
        "function main() local t = {} for i = 1, 40 do t = {t, t} end return t end",
        "bad_result: what main returned has more than",
    );
    refused("function main() local t = {} t.t = t return t end", "a table in itself");
    refused("function main() return print end", "has a function");
    refused("function main() return 0/0 end", "infinite or none");
    refused("function main() return '\\xff' end", "UTF-8");
    refused("function main() return {1, a = 2} end", "names and places");
    refused("function main() return {[true] = 1} end", "a boolean");
}

#[test]
fn a_loop_ends_when_the_time_is_up_and_says_where_it_was() {
    for source in [
        "function main()\n  while true do end\nend",
        "function main()\n  while true do pcall(function() while true do end end) end\nend",
        "function main()\n  return coroutine.wrap(function() while true do end end)()\nend",
        "local x = 1\nwhile true do end",
    ] {
        let script =
            Script { rings_after: Duration::from_millis(50), ..script(source, &json!({})) };
        let ended = run(&script);
        assert!(matches!(ended, Outcome::TimeIsUp { line: 2 }), "{source} ends with {ended:?}");
    }
}

/// A worker's executor whose processes are this test program, behind a script.
struct Bench {
    lua: Lua,
    _folder: tempfile::TempDir,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().expect("folder");
    let lua = Lua::new(program(folder.path()), Arc::new(jetmill_sdk::SystemClock));
    Bench { lua, _folder: folder }
}

fn attempt(lua: &Value, run: &str, cancelled: CancellationToken) -> (AttemptContext, pb::Lua) {
    let request = json!({ "items": [{
        "task_id": "t", "attempt": 1, "queue": "default",
        "spec": { "executor": { "lua": lua }, "input": { "n": 20 }, "timeouts": { "run": run } },
    }] });
    let items = decode(request.to_string().as_bytes()).expect("an execution request");
    let attempt = AttemptContext::detached(items.into_iter().next().expect("one"), cancelled);
    (attempt, serde_json::from_value(lua.clone()).expect("a script"))
}

/// Runs a script as the engine does: it is told to end when its time is over.
async fn attended(source: &str, run: Duration) -> AttemptResult {
    ended_after(run, source, run).await
}

/// The same, where it is told so sooner or later than its own clock says.
async fn ended_after(told: Duration, source: &str, run: Duration) -> AttemptResult {
    let bench = bench();
    let cancelled = CancellationToken::new();
    let (attempt, lua) =
        attempt(&json!({ "source": source }), &format!("{run:?}"), cancelled.clone());
    let mut work = pin!(bench.lua.run(&attempt, &lua));
    if let Ok(result) = timeout(told, &mut work).await {
        return result;
    }
    cancelled.cancel();
    timeout(PATIENCE, work).await.expect("it ends")
}

#[tokio::test]
async fn a_script_runs_in_a_process_whose_use_is_counted() {
    let source = "function main(input)\n  print('n is', input.n)\n  local x = 0\n  \
        for i = 1, 3e6 do x = x + i % 7 end\n  return { twice = input.n * 2 }\nend";
    let result = attended(source, LONG).await;
    assert_eq!(result.error, None);
    assert_eq!(result.result.expect("a result").to_value(), json!({ "twice": 40 }));
    let usage = result.usage.expect("counted");
    assert!(usage.cpu_seconds.expect("known") > 0.0 && usage.memory_peak_mb.expect("known") > 0.0);
    let failed =
        attended("function main()\n  error('no')\nend", LONG).await.error.expect("an error");
    assert_eq!((failed.code.as_str(), failed.retryable), ("lua_error", false));
}

#[tokio::test]
async fn a_loop_says_where_it_was_before_it_is_killed() {
    let looping = attended("function main()\n  while true do end\nend", 5 * SHORT).await;
    let left = looping.result.expect("where it was").to_value();
    assert_eq!((looping.error, left), (None, json!({ "stopped_in_line": 2 })));
}

#[tokio::test]
async fn no_loop_outlives_its_timeout() {
    // Within one call of a function in C.
    let pattern = "function main() \
        return string.find(string.rep('a', 60), string.rep('a-', 40) .. 'b') end";
    let matching = attended(pattern, 5 * SHORT).await;
    let left = matching.result.expect("where it was").to_value();
    assert_eq!(left, json!({ "stopped_in_line": 1 }));
    // Where nothing looks at a clock, it is killed.
    let killed = ended_after(SHORT, "function main() while true do end end", LONG).await;
    assert_eq!(killed.error.expect("killed").code, "signal_15");
    let flood =
        attended("function main() while true do print(string.rep('x', 10000)) end end", SHORT)
            .await;
    // It may have no time to say so itself, between its clock and the engine's.
    let code = flood.error.map_or("none".into(), |error| error.code);
    assert!(["none", "signal_15"].contains(&code.as_str()), "{code}");
}
