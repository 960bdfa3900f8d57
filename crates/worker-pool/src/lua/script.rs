//! `jetmill lua-run`: the process of one script.
//!
//! It reads a `Script` from its standard input, writes one line with the `Outcome` to its standard
//! output, and what the script says to its standard error. It opens nothing and starts nothing.

use std::{
    io::{self, Read as _, Write as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use common::{
    limits,
    time::{Clock as _, Timestamp},
};
use jetmill_sdk::SystemClock;
use mlua::{Error, Lua, LuaOptions, MultiValue, StdLib, Value, VmState, chunk::ChunkMode};
use serde::{Deserialize, Serialize};

use super::json;
use crate::attend::ORDER_BYTES_MAX;

/// What reaches out of the sandbox, loads code, or looks behind the scenes.
const REMOVED: [&str; 14] = [
    "collectgarbage",
    "debug",
    "dofile",
    "getfenv",
    "io",
    "load",
    "loadfile",
    "loadstring",
    "newproxy",
    "os",
    "package",
    "require",
    "setfenv",
    "vector",
];
/// How the script is called in messages: `script:3: …`.
const NAME: &str = "=script";
const MIB: usize = 1024 * 1024;
/// Longest message of an error, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// What is to be run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Script {
    pub(super) source: String,
    /// JSON.
    pub(super) input: Option<String>,
    pub(super) memory_mb: u32,
    pub(super) rings_after: Duration,
    /// When the worker said so, in microseconds since 1970: a busy machine starts no process at once.
    pub(super) sent_at: i64,
}

/// How it ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// What `main` returned, as JSON.
    Result(String),
    /// It did not return.
    Error { code: String, message: String },
    /// It was still running.
    TimeIsUp { line: usize },
}

/// The whole process.
#[must_use]
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to tell: the worker sees that there is no outcome.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let mut order = String::new();
    io::stdin().take(ORDER_BYTES_MAX).read_to_string(&mut order)?;
    let mut script: Script = serde_json::from_str(&order)?;
    let waited = SystemClock.now().since(Timestamp::from_micros(script.sent_at));
    script.rings_after = script.rings_after.saturating_sub(waited);
    let mut line = serde_json::to_vec(&run(&script))?;
    line.insert(0, b'\n');
    line.push(b'\n');
    io::stdout().write_all(&line)
}

/// Runs a script in a sandbox of its own.
pub(super) fn run(script: &Script) -> Outcome {
    let clock = Clock::default();
    match attempt(script, &clock) {
        Ok(outcome) => outcome,
        Err(_) if clock.rang.load(Ordering::Relaxed) => {
            Outcome::TimeIsUp { line: clock.line.load(Ordering::Relaxed) }
        }
        Err(error) => explain(&error, script.memory_mb),
    }
}

/// Rings once, and remembers where the script was.
#[derive(Clone, Debug, Default)]
struct Clock {
    rang: Arc<AtomicBool>,
    line: Arc<AtomicUsize>,
}

fn attempt(script: &Script, clock: &Clock) -> mlua::Result<Outcome> {
    let lua = sandbox(script.memory_mb as usize * MIB)?;
    let mark = json::array_mark(&lua)?;
    let input = script.input.as_deref().unwrap_or("null");
    let input = serde_json::from_str(input).map_err(Error::external)?;
    let input = json::to_lua(&lua, &input, &mark)?;
    watch(&lua, clock, script.rings_after);
    lua.load(&script.source).set_name(NAME).set_mode(ChunkMode::Text).exec()?;
    let Value::Function(main) = lua.globals().get::<Value>("main")? else {
        let message = "the script defines no function main(input)".to_owned();
        return Ok(Outcome::Error { code: "no_main".into(), message });
    };
    let mut values: MultiValue = main.call(input)?;
    let value = if values.len() > 1 {
        let list = lua.create_sequence_from(values)?;
        Value::Table(list)
    } else {
        values.pop_front().unwrap_or(Value::Nil)
    };
    Ok(match json::to_json(&value) {
        Ok(json) => bounded(json.to_string()),
        Err(why) => {
            let message = format!("what main returned {why}");
            Outcome::Error { code: "bad_result".into(), message }
        }
    })
}

/// Escapes may make a text longer than what it says.
fn bounded(text: String) -> Outcome {
    if text.len() <= limits::PROCESS_RESULT_BYTES_MAX {
        return Outcome::Result(text);
    }
    let message = format!("what main returned has {} bytes of JSON; return less", text.len());
    Outcome::Error { code: "result_too_large".into(), message }
}

/// A Lua with tables, texts, numbers and coroutines, `print`, `log` and `null`, and nothing else.
fn sandbox(memory_bytes: usize) -> mlua::Result<Lua> {
    let libraries = StdLib::TABLE
        | StdLib::STRING
        | StdLib::MATH
        | StdLib::UTF8
        | StdLib::BIT
        | StdLib::BUFFER
        | StdLib::COROUTINE;
    let lua = Lua::new_with(libraries, LuaOptions::default())?;
    lua.set_memory_limit(memory_bytes)?;
    let globals = lua.globals();
    for name in REMOVED {
        globals.raw_set(name, Value::Nil)?;
    }
    let say = lua.create_function(|_, values: MultiValue| {
        let words = values.iter().map(Value::to_string).collect::<mlua::Result<Vec<_>>>()?;
        // Who listens no more ends the process in other ways.
        let _ = io::stderr().write_all(format!("{}\n", words.join("\t")).as_bytes());
        Ok(())
    })?;
    globals.raw_set("print", &say)?;
    globals.raw_set("log", say)?;
    globals.raw_set("null", Value::NULL)?;
    lua.sandbox(true)?;
    Ok(lua)
}

/// Ends the script where it is, at the next call or turn of a loop, once the time is up.
fn watch(lua: &Lua, clock: &Clock, rings_after: Duration) {
    let rings = Arc::new(AtomicBool::new(false));
    let bell = rings.clone();
    thread::spawn(move || {
        thread::sleep(rings_after);
        bell.store(true, Ordering::Relaxed);
    });
    let clock = clock.clone();
    lua.set_interrupt(move |lua| {
        if !rings.load(Ordering::Relaxed) {
            return Ok(VmState::Continue);
        }
        if !clock.rang.swap(true, Ordering::Relaxed) {
            #[expect(
                clippy::redundant_closure_for_method_calls,
                reason = "the method is for one lifetime, the closure for all"
            )]
            let line = (0..4).find_map(|level| lua.inspect_stack(level, |at| at.current_line())?);
            clock.line.store(line.unwrap_or(0), Ordering::Relaxed);
        }
        Err(Error::runtime("time is up"))
    });
}

/// An error of the script, with its line.
fn explain(error: &Error, memory_mb: u32) -> Outcome {
    let (code, message) = if let Error::CallbackError { cause, .. } = error {
        return explain(cause, memory_mb);
    } else if let Error::MemoryError(_) = error {
        let what = format!("the script needs more than {memory_mb} MiB; memory_mb sets this");
        ("memory_limit", what)
    } else if let Error::SyntaxError { message, .. } = error {
        ("lua_syntax", message.clone())
    } else {
        ("lua_error", error.to_string())
    };
    let message = message.strip_prefix("runtime error: ").unwrap_or(&message);
    let message = message.split("\nstack traceback").next().unwrap_or(message).trim();
    if code == "lua_error" && message.ends_with("not enough memory") {
        return explain(&Error::MemoryError(String::new()), memory_mb);
    }
    let cut = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    let message = message.get(..cut).unwrap_or_default().to_owned();
    Outcome::Error { code: code.into(), message }
}
