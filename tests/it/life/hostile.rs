//! What tries to get out, or to take everything: each row of `docs/reference/hostile.md`, all at
//! once on one worker, with an honest task beside them.

use std::{net::SocketAddr, os::unix::fs::symlink, path::Path};

use anyhow::{Context as _, ensure};
use common::limits;
use jetmill_sdk::{
    TaskId,
    pb::{Cause, TaskState},
};
use serde_json::{Value, json};
use testkit::{Jetmill, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use crate::{rig::Rig, support::SOON};

/// Joins its attendant's group, where no signal to its own reaches it.
const LEAVES: [&str; 3] = ["perl", "-e", "setpgrp(0, getppid()) or die; sleep 300"];

/// A row of the table: what is tried, and how that ends.
struct Row {
    what: &'static str,
    task: Value,
    ends: (Cause, &'static str),
}

fn row(what: &'static str, task: Value, ends: (Cause, &'static str)) -> Row {
    Row { what, task, ends }
}

/// A task of one try, with a time limit that a hung one would reach.
fn task(executor: &str, spec: &Value, more: &Value) -> Value {
    let mut task = json!({
        "executor": { executor: spec }, "retry": { "max_attempts": 1 }, "timeouts": { "run": "60s" },
    });
    if let (Some(task), Some(more)) = (task.as_object_mut(), more.as_object()) {
        task.extend(more.clone());
    }
    task
}

fn shell(spec: &Value) -> Value {
    task("shell", spec, &json!({}))
}

fn as_coder(spec: &Value) -> Value {
    task("shell", spec, &json!({ "role": "coder" }))
}

fn lua(source: &str) -> Value {
    task("lua", &json!({ "source": source }), &json!({ "timeouts": { "run": "30s" } }))
}

/// A script that ends at its timeout and not before.
fn endless(source: &str) -> Value {
    task("lua", &json!({ "source": source }), &json!({ "timeouts": { "run": "3s" } }))
}

fn http(url: &str) -> Value {
    task("http", &json!({ "url": url }), &json!({}))
}

/// Sends whoever asks to where the path says, and streams without end at `/endless`.
async fn server() -> anyhow::Result<(SocketAddr, JoinSet<()>)> {
    let listener = TcpListener::bind("127.0.0.2:0").await?;
    let address = listener.local_addr()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            open.spawn(async move {
                let mut request = [0; 8192];
                let count = stream.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(request.get(..count).unwrap_or_default());
                let path = text.split_whitespace().nth(1).unwrap_or("/").to_owned();
                if path == "/endless" {
                    let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
                    let piece = [b'x'; 8192];
                    let _ = stream.write_all(head).await;
                    while stream.write_all(&piece).await.is_ok() {}
                    return;
                }
                let target = path.trim_start_matches("/to/");
                let answer = format!(
                    "HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    Ok((address, tasks))
}

async fn rig(folder: &Path) -> anyhow::Result<Rig> {
    let dev = Jetmill::dev()
        .arg("--worker-slots")
        .arg("40")
        .env("JETMILL_WORKER_POOL__HTTP__ALLOW_PRIVATE", "127.0.0.2")
        .env("JETMILL_WORKER_POOL__LIMITS_MAX", "processes=64,memory_mb=2048")
        .env("JETMILL_ROLES__CODER__EXECUTORS", "shell,lua,http")
        .env("JETMILL_ROLES__CODER__COMMANDS", "pwd,cat")
        .env("JETMILL_ROLES__CODER__PATHS", folder.to_string_lossy())
        .env("JETMILL_ROLES__CODER__HOSTS", "docs.rs")
        .env("JETMILL_ROLES__CODER__MAX_TIMEOUT", "60s");
    Rig::with(dev).await
}

/// Escapes: by path, link, name, environment and role.
fn escapes(folder: &Path) -> Vec<Row> {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let pwd = |cwd: String| as_coder(&json!({ "argv": ["pwd"], "cwd": cwd }));
    let no_path = (Cause::Rejected, "forbidden_path");
    let no_command = (Cause::Rejected, "forbidden_command");
    vec![
        row("a folder by ..", pwd(path("../..")), no_path),
        row("a folder by a link", pwd(path("out")), no_path),
        row("a folder whose name begins alike", pwd("/".into()), no_path),
        row("a command by a link", as_coder(&json!({ "argv": [path("cat")] })), no_command),
        row(
            "a command by its path",
            as_coder(&json!({ "argv": ["/bin/sh", "-c", "id"] })),
            no_command,
        ),
        row("a script", as_coder(&json!({ "script": "id" })), no_command),
        row(
            "a library by the environment",
            as_coder(&json!({ "argv": ["pwd"], "env": { "LD_PRELOAD": path("evil.so") } })),
            no_command,
        ),
        row(
            "a time that the role does not have",
            task(
                "shell",
                &json!({ "argv": ["pwd"] }),
                &json!({ "role": "coder", "timeouts": { "run": "1h" } }),
            ),
            (Cause::Rejected, "timeout_exceeded"),
        ),
        row(
            "an executor that the role does not have",
            task("nats", &json!({ "subject": "a.b" }), &json!({ "role": "coder" })),
            (Cause::Rejected, "forbidden_executor"),
        ),
        row(
            "a role that nobody knows",
            task("shell", &json!({ "argv": ["pwd"] }), &json!({ "role": "admin" })),
            (Cause::Rejected, "unknown_role"),
        ),
        row(
            "more than the worker allows",
            shell(&json!({ "argv": ["pwd"], "limits": { "processes": 65 } })),
            (Cause::Rejected, "forbidden_limit"),
        ),
    ]
}

/// Hogs: processes, memory, processor, output, files.
fn hogs() -> Vec<Row> {
    let limited =
        |script: &str, limits: Value| shell(&json!({ "script": script, "limits": limits }));
    let flood = json!({ "timeouts": { "run": "1s" } });
    let timeout = (Cause::Timeout, "timeout");
    vec![
        row(
            "a fork bomb",
            limited("while :; do sleep 300 & done", json!({ "processes": 32 })),
            (Cause::Error, "process_limit"),
        ),
        row(
            "a memory hog",
            limited("x=x; while :; do x=$x$x; done", json!({ "memory_mb": 64 })),
            (Cause::Error, "memory_limit"),
        ),
        row(
            "an endless loop",
            limited("while :; do :; done", json!({ "cpu_seconds": 1 })),
            (Cause::Error, "cpu_limit"),
        ),
        row(
            "a file without end",
            limited("exec cat /dev/zero >file", json!({ "file_mb": 2 })),
            (Cause::Error, "file_limit"),
        ),
        row(
            "a command that ignores its end",
            task("shell", &json!({ "script": "trap '' TERM; while :; do sleep 1; done" }), &flood),
            timeout,
        ),
        row(
            "a command that leaves its group",
            task("shell", &json!({ "argv": LEAVES }), &flood),
            timeout,
        ),
        row("a flood of output", task("shell", &json!({ "argv": ["yes"] }), &flood), timeout),
    ]
}

/// The same as scripts, and ways out of their sandbox.
fn scripts() -> Vec<Row> {
    let timeout = (Cause::Timeout, "timeout");
    vec![
        row("an endless loop in Lua", endless("function main() while true do end end"), timeout),
        row(
            "an endless match in Lua",
            endless(
                "function main() return string.find(string.rep('a', 60), string.rep('a-', 40) .. 'b') end",
            ),
            timeout,
        ),
        row(
            "a flood of output in Lua",
            endless("function main() while true do print(string.rep('x', 9999)) end end"),
            timeout,
        ),
        row(
            "a memory hog in Lua",
            lua("function main() local s = 'x' while true do s = s .. s end end"),
            (Cause::Rejected, "memory_limit"),
        ),
        row(
            "a command in Lua",
            lua("function main() return os.execute('id') end"),
            (Cause::Rejected, "lua_error"),
        ),
        row(
            "a file in Lua",
            lua("function main() return io.open('/etc/passwd') end"),
            (Cause::Rejected, "lua_error"),
        ),
        row(
            "code in Lua",
            lua("function main() return loadstring('return 1')() end"),
            (Cause::Rejected, "lua_error"),
        ),
    ]
}

/// Ways into the private network.
fn ways_in(server: SocketAddr) -> Vec<Row> {
    let port = server.port();
    let to = |target: &str| http(&format!("http://{server}/to/{target}"));
    let no = (Cause::Rejected, "forbidden_url");
    let role =
        task("http", &json!({ "url": format!("http://{server}/") }), &json!({ "role": "coder" }));
    vec![
        row("an address of this machine", http(&format!("http://127.0.0.1:{port}/")), no),
        row("the same as a number", http(&format!("http://2130706433:{port}/")), no),
        row("the same within IPv6", http(&format!("http://[::ffff:127.0.0.1]:{port}/")), no),
        row("a name of this machine", http(&format!("http://localhost:{port}/")), no),
        row("the cloud's metadata", http("http://169.254.169.254/latest/meta-data/"), no),
        row("a redirect to a name of this machine", to(&format!("http://localhost:{port}/")), no),
        row("a redirect to the cloud's metadata", to("http://169.254.169.254/"), no),
        row("a redirect to a file", to("file:///etc/passwd"), (Cause::Rejected, "bad_redirect")),
        row(
            "redirects in a circle",
            to(&format!("http://{server}/to/again")),
            (Cause::Rejected, "too_many_redirects"),
        ),
        row("a host that the role does not have", role, no),
    ]
}

#[tokio::test]
async fn what_is_hostile_harms_nobody_and_hangs_nowhere() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    symlink("/etc", folder.path().join("out"))?;
    symlink("/bin/sh", folder.path().join("cat"))?;
    let (server, _server) = server().await?;
    let rig = rig(folder.path()).await?;
    let rows =
        escapes(folder.path()).into_iter().chain(hogs()).chain(scripts()).chain(ways_in(server));
    let mut sent = Vec::new();
    for row in rows {
        let id = rig.submit(row.task.clone()).await.with_context(|| row.what)?;
        sent.push((row, id));
    }
    let beside = rig.submit(shell(&json!({ "script": "echo undisturbed" }))).await?;
    let allowed = as_coder(&json!({ "argv": ["pwd"], "cwd": folder.path().to_string_lossy() }));
    let allowed = rig.submit(allowed).await?;
    let endless = rig.submit(http(&format!("http://{server}/endless"))).await?;
    let zombie = "setsid sh -c 'sleep 300 & exec sleep 300' & (exit 0) & echo $!; sleep 0.2";
    let zombie = rig.submit(shell(&json!({ "script": zombie }))).await?;

    for (row, id) in &sent {
        // So many hogs at once are slow on a busy machine, and none may hang.
        let over = eventually(row.what, 4 * SOON, async || {
            let task = rig.task(id).await.ok()?;
            (task.state() as i32 >= TaskState::Completed as i32).then_some(())
        });
        over.await?;
        let (cause, code) = row.ends;
        rig.fails(id, cause, code).await.with_context(|| row.what)?;
    }
    for id in [&beside, &allowed, &zombie] {
        rig.completes(id).await?;
    }
    rig.completes(&endless).await?;
    let read = rig.result(&endless).await?;
    assert_eq!(read["truncated"], true);
    within_bounds(&rig, &sent).await?;
    // Nothing of all this is left, and the worker goes on.
    let left = eventually("every child of the worker to be gone", SOON, async || {
        children(rig.dev.process().pid()).is_empty().then_some(())
    });
    left.await?;
    let after = rig.submit(shell(&json!({ "script": "echo after" }))).await?;
    rig.completes(&after).await?;
    Ok(())
}

/// What a flood leaves is what the caps allow.
async fn within_bounds(rig: &Rig, sent: &[(Row, TaskId)]) -> anyhow::Result<()> {
    let flood = sent.iter().find(|(row, _)| row.what == "a flood of output").context("a row")?;
    let logs = rig.cli(&["logs", flood.1.as_str()]).await?;
    ensure!(logs.len() < limits::OUTPUT_BYTES_MAX + 4096, "{} bytes are kept", logs.len());
    ensure!(logs.contains("the rest is not kept"), "no notice");
    let looping =
        sent.iter().find(|(row, _)| row.what == "an endless loop in Lua").context("a row")?;
    let told = rig.cli(&["logs", looping.1.as_str()]).await?;
    ensure!(told.contains("time is up, in line 1"), "{told}");
    Ok(())
}

/// The attendants that a process has.
fn children(of: u32) -> Vec<String> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{of}/task")) else { return Vec::new() };
    let lists =
        threads.flatten().filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok());
    let pids =
        lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let command = |pid: String| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok();
    pids.filter_map(command).filter(|line| line.contains("attend")).collect()
}
