//! The executor `docker` on a real engine: what a container gets, what it leaves, and that nothing
//! but its own is ever ended.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

use std::{collections::HashMap, fs};

use anyhow::{Context as _, ensure};
use jetmill_sdk::{
    TaskId,
    pb::{Cause, TaskState},
};
use serde_json::{Value, json};
use testkit::{
    DockerEngine, Jetmill,
    bollard::{
        Docker,
        models::ContainerCreateBody,
        query_parameters::{
            CreateContainerOptions, InspectContainerOptions, ListContainersOptions,
        },
    },
    eventually,
};

use crate::{
    rig::{Rig, is_over, value},
    support::SOON,
};

/// A platform whose worker has an engine, and people beside it who use the same one.
pub(super) struct Yard {
    pub(super) rig: Rig,
    pub(super) client: Docker,
    pub(super) folder: tempfile::TempDir,
    engine: DockerEngine,
}

impl Yard {
    /// `None` where there can be no engine.
    pub(super) async fn start() -> anyhow::Result<Option<Self>> {
        let Some(engine) = DockerEngine::start().await? else { return Ok(None) };
        let folder = tempfile::tempdir()?;
        for name in ["data", "out"] {
            fs::create_dir(folder.path().join(name))?;
            std::os::unix::fs::chown(folder.path().join(name), Some(1000), Some(1000))?;
        }
        fs::write(folder.path().join("data/file"), "from the machine\n")?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mounts = format!("{},{}:rw", path("data"), path("out"));
        let dev = Jetmill::dev()
            .arg("--worker-slots")
            .arg("24")
            .env("JETMILL_WORKER_POOL__DOCKER__SOCKET", engine.socket().display().to_string())
            .env("JETMILL_WORKER_POOL__DOCKER__MOUNTS", mounts)
            .env("JETMILL_WORKER_POOL__DOCKER__NETWORK", "bridge")
            .env("JETMILL_WORKER_POOL__LIMITS_MAX", "processes=64,memory_mb=512")
            .env("JETMILL_NAME", "yard")
            .env("JETMILL_SECRET_TOKEN", "s3cret-value")
            .env("JETMILL_ROLES__TESTER__EXECUTORS", "docker")
            .env("JETMILL_ROLES__TESTER__IMAGES", "other:1")
            .env("JETMILL_ROLES__QUIET__NETWORK", "none")
            .env("JETMILL_ROLES__QUIET__PATHS", path("out"));
        let rig = Rig::with(dev).await?;
        let client = engine.client().await?;
        Ok(Some(Self { rig, client, folder, engine }))
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Starts a container that is none of Jetmill's: its id.
    pub(super) async fn bystander(
        &self,
        name: &str,
        labels: &[(&str, &str)],
    ) -> anyhow::Result<String> {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let body = ContainerCreateBody {
            image: Some(DockerEngine::IMAGE.into()),
            cmd: Some(vec!["sleep".into(), "600".into()]),
            labels: Some(labels.collect::<HashMap<_, _>>()),
            network_disabled: Some(true),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions { name: Some(name.into()), ..Default::default() };
        let id = self.client.create_container(Some(options), body).await?.id;
        self.client.start_container(&id, None).await?;
        Ok(id)
    }

    pub(super) async fn lives(&self, id: &str) -> anyhow::Result<bool> {
        let found = self.client.inspect_container(id, None::<InspectContainerOptions>).await?;
        Ok(found.state.and_then(|state| state.running) == Some(true))
    }

    /// The ids of all containers but these.
    pub(super) async fn others(&self, known: &[&str]) -> anyhow::Result<Vec<String>> {
        let options = ListContainersOptions { all: true, ..Default::default() };
        let all = self.client.list_containers(Some(options)).await?;
        let ids = all.into_iter().filter_map(|container| container.id);
        Ok(ids.filter(|id| !known.contains(&id.as_str())).collect())
    }

    /// Waits until these are the only containers.
    pub(super) async fn only(&self, known: &[&str]) -> anyhow::Result<()> {
        eventually("every container of a task to be gone", SOON, async || {
            self.others(known).await.ok()?.is_empty().then_some(())
        })
        .await
    }
}

/// A task of one try in a container, with more of its own.
pub(super) fn container(command: &[&str], more: &Value) -> Value {
    let mut docker =
        json!({ "image": DockerEngine::IMAGE, "command": command, "cpus": 0.5, "memory_mb": 32 });
    merge(&mut docker, more);
    json!({
        "executor": { "docker": docker }, "retry": { "max_attempts": 1 }, "timeouts": { "run": "60s" },
    })
}

pub(super) fn with(mut task: Value, more: &Value) -> Value {
    merge(&mut task, more);
    task
}

fn merge(value: &mut Value, more: &Value) {
    if let (Some(fields), Some(more)) = (value.as_object_mut(), more.as_object()) {
        fields.extend(more.clone());
    }
}

fn script(text: &str, more: &Value) -> Value {
    container(&["sh", "-c", text], more)
}

/// What a container sees of the world, and what of it it cannot change.
const LOOK: &str = "id -u; id -g; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; \
    ls /sys/class/net; touch /etc/x 2>/dev/null || echo sealed; touch /tmp/x && echo scratch; \
    touch /data/x 2>/dev/null || echo read-only; cat /data/file; touch /out/made && echo written; \
    touch /work/x && echo fresh; pwd; echo it is $TOKEN; env";

#[tokio::test]
async fn a_container_gets_what_it_was_granted_and_leaves_nothing_else() -> anyhow::Result<()> {
    let Some(mut yard) = Yard::start().await? else { return Ok(()) };
    let bystander = yard.bystander("somebody", &[]).await?;
    let foreign = [
        ("jetmill.log", "another"),
        ("jetmill.worker", "yard"),
        ("jetmill.tenant", "default"),
        ("jetmill.task", "long"),
        ("jetmill.attempt", "1"),
    ];
    let foreign = yard.bystander("another-jetmill", &foreign).await?;
    let known = [bystander.as_str(), foreign.as_str()];

    from_the_command_line(&yard).await?;
    let look = script(
        LOOK,
        &json!({
            "mounts": [
                { "source": yard.path("data"), "target": "/data" },
                { "source": yard.path("out"), "target": "/out", "writable": true },
                { "target": "/work" },
            ],
            "working_dir": "/work", "env": { "A": "b c" }, "secrets": { "TOKEN": "env:TOKEN" },
        }),
    );
    let look = yard.rig.submit(look).await?;
    let bridged = script("ls /sys/class/net; sleep 3", &json!({ "network": "bridge" }));
    let bridged = yard.rig.submit(bridged).await?;
    let fails = yard.rig.submit(script("echo so; echo bad >&2; exit 3", &json!({}))).await?;
    let fine = yard.rig.submit(script("exit 3", &json!({ "ok_codes": [3] }))).await?;
    let image = yard.rig.submit(container(&[], &json!({ "image": "no-such:1" }))).await?;

    let done = yard.rig.completes(&look).await?;
    seen(&value(done.result.as_ref()))?;
    ensure!(yard.folder.path().join("out/made").is_file(), "what it wrote is there");
    let done = yard.rig.completes(&bridged).await?;
    ensure!(value(done.result.as_ref())["stdout"].as_str().unwrap_or_default().contains("eth0"));
    let used = done.resource_usage.context("what it used")?;
    ensure!(used.cpu_seconds.unwrap_or_default() > 0.0, "{used:?}");
    ensure!(used.memory_peak_mb.unwrap_or_default() > 0.0, "{used:?}");
    ensure!(used.network_rx_mb.is_some(), "{used:?}");
    let failed = yard.rig.fails(&fails, Cause::Error, "exit_3").await?;
    let result = value(failed.result.as_ref());
    assert_eq!(result, json!({"exit": 3, "stdout": "so\n", "stderr": "bad\n", "truncated": false}));
    yard.rig.completes(&fine).await?;
    let missing = yard.rig.fails(&image, Cause::Rejected, "image_not_found").await?;
    let told = missing.error.unwrap_or_default().message;
    ensure!(told.contains("docker pull no-such:1"), "{told}");

    ends_only_its_own(&yard, &known).await?;
    survives_the_worker(&mut yard, &known).await
}

/// Everything that a person needs, with words of their own.
async fn from_the_command_line(yard: &Yard) -> anyhow::Result<()> {
    let submit = ["submit", "--docker", DockerEngine::IMAGE, "--wait", "--id", "greeting"];
    let more = ["--cpus", "0.5", "--limits", "memory_mb=32,processes=8", "--input", "{\"a\": 1}"];
    let said = yard
        .rig
        .cli(&[&submit[..], &more, &["--", "sh", "-c", "cat; echo; echo hi"]].concat())
        .await?;
    ensure!(said.contains("{\"a\":1}\nhi"), "{said}");
    ensure!(yard.rig.cli(&["logs", "greeting"]).await?.contains("hi"));
    ensure!(yard.rig.cli(&["get", "greeting"]).await?.contains("docker: box:1 sh -c"));
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/containers.jsonl");
    let ran = Jetmill::cli(&yard.rig.url, &["submit", "-f", examples, "--wait"]).await?;
    let told = format!("{}{}", ran.stdout, ran.stderr);
    ensure!(told.contains("2 completed, 1 ended otherwise"), "{told}");
    ensure!(told.contains("memory_limit"), "{told}");
    let unbounded =
        ["submit", "--docker", "a", "--cpus", "1", "--limits", "processes=8", "--", "x"];
    let refused = Jetmill::cli(&yard.rig.url, &unbounded).await?;
    ensure!(
        !refused.status.success() && refused.stderr.contains("executor.docker.memory_mb"),
        "{}",
        refused.stderr
    );
    Ok(())
}

fn seen(result: &Value) -> anyhow::Result<()> {
    let out = result["stdout"].as_str().context("text")?;
    let lines = out.lines().collect::<Vec<_>>();
    assert_eq!(lines.get(..2), Some(&["1000", "1000"][..]), "{out}");
    for line in [
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "lo",
        "sealed",
        "scratch",
        "read-only",
        "from the machine",
        "written",
        "fresh",
        "/work",
        "it is ***",
        "A=b c",
        "JETMILL_ATTEMPT=1",
        "TOKEN=***",
    ] {
        ensure!(lines.contains(&line), "{line} is missing in {out}");
    }
    ensure!(
        !out.contains("eth0") && !out.contains("s3cret") && !out.contains("JETMILL_WORKER"),
        "{out}"
    );
    Ok(())
}

/// Cancelling and timeouts end the container of the task and no other.
async fn ends_only_its_own(yard: &Yard, known: &[&str]) -> anyhow::Result<()> {
    let rig = &yard.rig;
    let asked = script("trap 'echo bye; exit 0' TERM; echo up; sleep 300 & wait", &json!({}));
    let asked = rig.submit(asked).await?;
    let short = with(script("sleep 300", &json!({})), &json!({ "timeouts": { "run": "2s" } }));
    let late = rig.submit(short).await?;
    says(rig, &asked, "up").await?;
    rig.cli(&["cancel", asked.as_str()]).await?;
    let ended = rig.ends(&asked, TaskState::Cancelled).await?;
    let result = value(ended.result.as_ref());
    ensure!(result["stdout"] == "up\nbye\n", "{result}");
    rig.fails(&late, Cause::Timeout, "timeout").await?;
    yard.only(known).await?;
    for id in known {
        ensure!(yard.lives(id).await?, "{id} was ended");
    }
    Ok(())
}

/// Waits until the output of a running task has this.
async fn says(rig: &Rig, id: &TaskId, text: &str) -> anyhow::Result<()> {
    eventually(&format!("{id} to say {text}"), SOON, async || {
        rig.cli(&["logs", id.as_str()]).await.ok()?.contains(text).then_some(())
    })
    .await
}

/// After `kill -9` of the worker its container goes, and the task is run again without it.
async fn survives_the_worker(yard: &mut Yard, known: &[&str]) -> anyhow::Result<()> {
    let twice = "echo attempt $JETMILL_ATTEMPT; [ $JETMILL_ATTEMPT = 1 ] && sleep 600; echo over";
    let task = with(script(twice, &json!({})), &json!({ "task_id": "long" }));
    let id = yard.rig.submit(task).await?;
    says(&yard.rig, &id, "attempt 1").await?;
    yard.rig.dev.kill9()?;
    let [orphan] =
        yard.others(known).await?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    ensure!(yard.lives(&orphan).await?, "nobody has ended it yet");
    yard.rig.restart().await?;
    eventually("the orphan to be removed", SOON, async || {
        (!yard.others(known).await.ok()?.contains(&orphan)).then_some(())
    })
    .await?;
    for id in known {
        ensure!(yard.lives(id).await?, "{id} was ended");
    }
    // The attempt is given up ten seconds after the worker, and delivered again after thirty.
    eventually("the second attempt to end", 3 * SOON, async || {
        is_over(yard.rig.task(&id).await.ok()?.state()).then_some(())
    })
    .await?;
    let done = yard.rig.completes(&id).await?;
    assert_eq!(done.attempts, 2);
    yard.only(known).await?;
    let socket = yard.engine.socket().display().to_string();
    let env = [("JETMILL_WORKER_POOL__DOCKER__SOCKET", socket.as_str())];
    let mut doctor = Jetmill::spawn(&["--nats-url", &yard.rig.url, "doctor"], &env)?;
    doctor.wait_exit(SOON).await?;
    ensure!(doctor.stdout().contains(&format!("at {socket}")), "{}", doctor.stdout());
    Ok(())
}
