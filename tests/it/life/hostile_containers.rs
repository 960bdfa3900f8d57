//! Containers that try to get out, or to take everything: the rows of `docs/reference/hostile.md`
//! for the executor `docker`, all at once on a real engine, with others' containers beside them.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

use std::{fs, os::unix::fs::symlink};

use anyhow::{Context as _, ensure};
use common::limits;
use jetmill_sdk::{TaskId, pb::Cause};
use serde_json::{Value, json};
use testkit::{DockerEngine, Jetmill, eventually};
use tokio::net::UnixListener;

use super::containers::{Yard, container, with};
use crate::{rig::value, support::SOON};

/// What is tried, and how that ends.
type Row = (&'static str, Value, (Cause, &'static str));

fn sh(script: &str, more: &Value) -> Value {
    container(&["sh", "-c", script], more)
}

fn mounting(source: &str, writable: bool) -> Value {
    let mounts = json!([{ "source": source, "target": "/m", "writable": writable }]);
    container(&["ls", "/m"], &json!({ "mounts": mounts }))
}

/// What is refused before anything of it runs.
fn refused(yard: &Yard) -> Vec<Row> {
    let no_path = (Cause::Rejected, "forbidden_path");
    let id = ["id"];
    let role = |name: &str, more: &Value| with(container(&id, more), &json!({ "role": name }));
    vec![
        ("a mount by ..", mounting(&yard.path("data/../.."), false), no_path),
        ("a mount by a link", mounting(&yard.path("data/away"), false), no_path),
        ("a mount of the machine's root", mounting("/", false), no_path),
        ("a mount of the engine's socket", mounting("/var/run/docker.sock", false), no_path),
        ("a socket of another program", mounting(&yard.path("data/other.sock"), false), no_path),
        ("writing to what may be read", mounting(&yard.path("data"), true), no_path),
        (
            "a mount that the role does not have",
            with(mounting(&yard.path("data"), false), &json!({ "role": "quiet" })),
            no_path,
        ),
        (
            "a network that the role does not have",
            role("quiet", &json!({ "network": "bridge" })),
            (Cause::Rejected, "forbidden_network"),
        ),
        (
            "an image that the role does not have",
            role("tester", &json!({})),
            (Cause::Rejected, "forbidden_image"),
        ),
        (
            "more memory than the worker allows",
            container(&id, &json!({ "memory_mb": 513 })),
            (Cause::Rejected, "forbidden_limit"),
        ),
        (
            "more processors than the machine has",
            container(&id, &json!({ "cpus": 1000 })),
            (Cause::Rejected, "engine_refused"),
        ),
        (
            "an image that is not there",
            container(&id, &json!({ "image": "evil.example.com/miner:1" })),
            (Cause::Rejected, "image_not_found"),
        ),
        (
            "a name that is another's",
            with(container(&id, &json!({})), &json!({ "task_id": "taken" })),
            (Cause::Error, "name_taken"),
        ),
    ]
}

/// What runs into a wall.
fn hogs() -> Vec<Row> {
    let timeout = (Cause::Timeout, "timeout");
    let soon = json!({ "timeouts": { "run": "4s" } });
    let bomb = "bomb() { bomb | bomb & }; bomb; while :; do sleep 1; done";
    vec![
        ("a fork bomb", with(sh(bomb, &json!({ "processes": 24 })), &soon), timeout),
        (
            "a memory hog",
            sh("x=x; while :; do x=$x$x; done", &json!({})),
            (Cause::Error, "memory_limit"),
        ),
        (
            "a memory hog by files",
            sh("cat /dev/zero >/dev/shm/a & cat /dev/zero >/tmp/a; wait", &json!({})),
            (Cause::Error, "memory_limit"),
        ),
        ("an endless loop", with(sh("while :; do :; done", &json!({})), &soon), timeout),
        ("a flood of output", with(container(&["yes"], &json!({})), &soon), timeout),
        (
            "a command that ignores its end",
            with(sh("trap '' TERM; while :; do sleep 1; done", &json!({})), &soon),
            timeout,
        ),
    ]
}

/// What ends by itself, and what it may not have seen or done.
fn tried() -> [(&'static str, Value, &'static str); 6] {
    [
        (
            "the network",
            sh(
                "wget -T 2 -O - http://1.1.1.1/ || nc -w 2 127.0.0.1 4222 || echo cut off",
                &json!({}),
            ),
            "cut off",
        ),
        ("privileges", sh("mount -t tmpfs none /data || echo none", &json!({})), "none"),
        (
            "the machine's devices",
            sh("ls /dev/vda /dev/sda /dev/mem || echo none", &json!({})),
            "none",
        ),
        (
            "the kernel's settings",
            sh(
                "echo 1 >/proc/sys/kernel/sysrq || echo 1 >/proc/sysrq-trigger || echo none",
                &json!({}),
            ),
            "none",
        ),
        (
            "the worker's environment",
            sh("env | grep -iE 's3cret|SECRET_|WORKER_POOL|HOME=/root' || echo none", &json!({})),
            "none",
        ),
        ("children that stay", sh("(sleep 600 &) ; (exit 0) & echo gone", &json!({})), "gone"),
    ]
}

#[tokio::test]
async fn hostile_containers_harm_nobody_and_hang_nowhere() -> anyhow::Result<()> {
    let Some(yard) = Yard::start().await? else { return Ok(()) };
    symlink("/etc", yard.folder.path().join("data/away"))?;
    let _other = UnixListener::bind(yard.folder.path().join("data/other.sock"))?;
    let log = bus::streams::identity(yard.rig.client.bus()).await?.to_string();
    let taken = name_of(&log, "taken")?;
    let bystander = yard.bystander(&taken, &[]).await?;
    let known = [bystander.as_str()];

    let mut sent = Vec::new();
    for (what, task, ends) in refused(&yard).into_iter().chain(hogs()) {
        sent.push((what, yard.rig.submit(task).await.context(what)?, ends));
    }
    let mut quiet = Vec::new();
    for (what, task, says) in tried() {
        quiet.push((what, yard.rig.submit(task).await.context(what)?, says));
    }
    at_the_door(&yard).await?;
    for (what, id, (cause, code)) in &sent {
        over(&yard, what, id).await?;
        yard.rig.fails(id, *cause, code).await.with_context(|| (*what).to_owned())?;
    }
    for (what, id, says) in &quiet {
        over(&yard, what, id).await?;
        let task = yard.rig.completes(id).await.with_context(|| (*what).to_owned())?;
        let result = value(task.result.as_ref());
        ensure!(
            result["stdout"].as_str().unwrap_or_default().ends_with(&format!("{says}\n")),
            "{what}: {result}"
        );
    }
    let flood = sent.iter().find(|(what, ..)| *what == "a flood of output").context("a row")?;
    let logs = yard.rig.cli(&["logs", flood.1.as_str()]).await?;
    ensure!(logs.len() < limits::OUTPUT_BYTES_MAX + 4096, "{} bytes are kept", logs.len());
    ensure!(logs.contains("the rest is not kept"), "no notice");
    yard.only(&known).await?;
    ensure!(yard.lives(&bystander).await?, "somebody else's container was ended");
    ensure!(!fs::exists(yard.path("data/x"))?, "nothing was written");
    Ok(())
}

/// What no door takes.
async fn at_the_door(yard: &Yard) -> anyhow::Result<()> {
    let image = DockerEngine::IMAGE;
    for (extra, field) in [
        (json!({ "privileged": true }), "privileged"),
        (json!({ "network": "host" }), "executor.docker.network"),
        (json!({ "cpus": 0 }), "executor.docker.cpus"),
        (json!({ "memory_mb": 0 }), "executor.docker.memory_mb"),
        (
            json!({ "mounts": [{ "source": "data", "target": "/m" }] }),
            "executor.docker.mounts[0].source",
        ),
        (json!({ "mounts": [{ "target": "/proc/sys" }] }), "executor.docker.mounts[0].target"),
        (json!({ "image": "--privileged" }), "executor.docker.image"),
    ] {
        let mut task = container(&["id"], &extra);
        task["executor"]["docker"]["image"] = extra.get("image").cloned().unwrap_or(image.into());
        let file = yard.folder.path().join("task.jsonl");
        fs::write(&file, task.to_string())?;
        let told =
            Jetmill::cli(&yard.rig.url, &["submit", "-f", &file.display().to_string()]).await?;
        ensure!(!told.status.success() && told.stderr.contains(field), "{field}: {}", told.stderr);
    }
    Ok(())
}

/// So many at once are slow on a busy machine, and none may hang.
async fn over(yard: &Yard, what: &str, id: &TaskId) -> anyhow::Result<()> {
    eventually(what, 4 * SOON, async || {
        let task = yard.rig.task(id).await.ok()?;
        crate::rig::is_over(task.state()).then_some(())
    })
    .await
}

/// The name that the container of a task's first attempt gets.
fn name_of(log: &str, id: &str) -> anyhow::Result<String> {
    use common::id::{TaskKey, Tenant};
    let key = TaskKey::new(&Tenant::default(), &TaskId::parse(id)?);
    Ok(format!("jetmill-{}-{:032x}-1", &log[..8], key.0))
}
