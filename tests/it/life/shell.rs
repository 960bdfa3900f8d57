//! The executor `shell`: what a command gets, and what is kept of it.

use common::limits;
use jetmill_sdk::pb::Cause;
use serde_json::{Value, json};
use testkit::Jetmill;

use crate::rig::{Rig, value};

const SECRET: &str = "s3cret-of-the-environment";
const FILE_SECRET: &str = "s3cret-of-a-file";

fn shell(shell: &Value) -> Value {
    json!({ "executor": { "shell": shell }, "retry": { "max_attempts": 1 } })
}

async fn rig(secrets: &tempfile::TempDir) -> anyhow::Result<Rig> {
    std::fs::write(secrets.path().join("token"), FILE_SECRET)?;
    let dev = Jetmill::dev()
        .env("JETMILL_SECRET_TOKEN", SECRET)
        .env("JETMILL_WORKER_POOL__SECRETS_DIR", secrets.path().to_string_lossy())
        .env("PRIVATE_TO_THE_WORKER", "not-for-commands");
    Rig::with(dev).await
}

#[tokio::test]
async fn a_command_gets_what_it_was_given_and_no_more() -> anyhow::Result<()> {
    let secrets = tempfile::tempdir()?;
    let rig = rig(&secrets).await?;
    let env = rig.submit(shell(&json!({ "argv": ["env"], "env": { "GIVEN": "yes" } }))).await?;
    let cwd = rig.submit(shell(&json!({ "argv": ["pwd"], "cwd": "/usr" }))).await?;
    let fresh = rig.submit(shell(&json!({ "script": "ls -A; pwd" }))).await?;
    let stdin = rig.submit(shell(&json!({ "argv": ["cat"], "stdin": "hello" }))).await?;
    let mut input = shell(&json!({ "argv": ["cat"] }));
    input["input"] = json!({ "a": [1, 2] });
    let input = rig.submit(input).await?;
    let literal = rig.submit(shell(&json!({ "argv": ["echo", "$HOME", "; exit 1", "*"] }))).await?;
    let nowhere = rig.submit(shell(&json!({ "argv": ["true"], "cwd": "/no/such/folder" }))).await?;

    let done = rig.completes(&env).await?;
    let result = value(done.result.as_ref());
    assert_eq!(result["exit"], 0);
    let text = result["stdout"].as_str().unwrap_or_default();
    let has = |line: &str| text.lines().any(|l| l == line);
    assert!(has("GIVEN=yes") && has(&format!("JETMILL_TASK_ID={env}")), "{text}");
    assert!(text.contains("PATH="), "{text}");
    assert!(!text.contains("PRIVATE_TO_THE_WORKER") && !text.contains("SECRET"), "{text}");

    let stdout = async |id| {
        let result = value(rig.completes(id).await?.result.as_ref());
        anyhow::Ok(result["stdout"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(stdout(&cwd).await?, "/usr\n");
    let folder = stdout(&fresh).await?;
    assert_eq!(folder.lines().count(), 1, "a fresh folder is empty: {folder}");
    assert!(!std::path::Path::new(folder.trim()).exists(), "{folder} was left behind");
    assert_eq!(stdout(&stdin).await?, "hello");
    assert_eq!(stdout(&input).await?, r#"{"a":[1,2]}"#);
    assert_eq!(stdout(&literal).await?, "$HOME ; exit 1 *\n");
    rig.fails(&nowhere, Cause::Rejected, "cwd_not_found").await?;
    Ok(())
}

#[tokio::test]
async fn secrets_reach_the_command_and_nobody_else() -> anyhow::Result<()> {
    let secrets = tempfile::tempdir()?;
    let rig = rig(&secrets).await?;
    let task = shell(&json!({
        "script": r#"echo "length ${#A} ${#B}"; echo "it is $A"; echo "and $B" >&2; exit 3"#,
        "secrets": { "A": "env:TOKEN", "B": "file:token" },
    }));
    let told = rig.submit(task).await?;
    let missing =
        rig.submit(shell(&json!({ "argv": ["true"], "secrets": { "A": "env:NONE" } }))).await?;

    let failed = rig.fails(&told, Cause::Error, "exit_3").await?;
    let result = value(failed.result.as_ref());
    assert_eq!(result["exit"], 3);
    let lengths = format!("length {} {}\n", SECRET.len(), FILE_SECRET.len());
    assert_eq!(result["stdout"], format!("{lengths}it is ***\n"));
    assert_eq!(result["stderr"], "and ***\n");
    let logs = Jetmill::cli(&rig.url, &["logs", told.as_str()]).await?;
    assert!(logs.stdout.contains("it is ***") && logs.stderr.contains("and ***"), "{logs:?}");
    let everything = [
        format!("{logs:?}"),
        rig.cli(&["get", told.as_str()]).await?,
        rig.cli(&["--json", "get", told.as_str()]).await?,
        rig.cli(&["--json", "result", told.as_str()]).await.unwrap_or_default(),
        format!("{:?}", rig.history(&told).await?),
        rig.dev.process().stderr(),
    ];
    for text in everything {
        assert!(!text.contains(SECRET) && !text.contains(FILE_SECRET), "a secret is in {text}");
    }
    rig.fails(&missing, Cause::Rejected, "secret_not_found").await?;
    Ok(())
}

#[tokio::test]
async fn output_is_kept_up_to_its_cap_and_usage_is_measured() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let much = format!(
        "head -c {} /dev/zero | tr '\\0' x; echo; echo the-end",
        limits::OUTPUT_BYTES_MAX + 4096
    );
    let much = rig.submit(shell(&json!({ "script": much }))).await?;
    let burner = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo burnt";
    let burner = rig.submit(shell(&json!({ "script": burner }))).await?;
    let idle = rig.submit(shell(&json!({ "argv": ["true"] }))).await?;

    rig.completes(&much).await?;
    let result = rig.result(&much).await?;
    assert_eq!(result["truncated"], false);
    let stdout = result["stdout"].as_str().unwrap_or_default();
    assert!(stdout.ends_with("the-end\n"), "the result is whole");
    assert!(stdout.len() > limits::OUTPUT_BYTES_MAX);
    let logs = rig.cli(&["logs", much.as_str()]).await?;
    assert_eq!(logs.matches("the rest is not kept").count(), 1, "one notice, please");
    assert!(logs.len() < limits::OUTPUT_BYTES_MAX + 4096, "{} bytes are kept", logs.len());
    assert!(logs.matches('x').count() >= limits::OUTPUT_BYTES_MAX, "the beginning is kept whole");

    let burnt = rig.completes(&burner).await?.resource_usage.unwrap_or_default();
    let rested = rig.completes(&idle).await?.resource_usage.unwrap_or_default();
    let seconds = |usage: &jetmill_sdk::pb::ResourceUsage| usage.cpu_seconds.unwrap_or(-1.0);
    assert!(seconds(&burnt) > 0.02, "{burnt:?}");
    assert!(seconds(&rested) >= 0.0 && seconds(&rested) < seconds(&burnt), "{rested:?} {burnt:?}");
    assert!(burnt.memory_peak_mb.unwrap_or_default() > 0.0, "{burnt:?}");
    assert!(rig.cli(&["logs", burner.as_str()]).await?.contains("burnt"));
    Ok(())
}
