//! The doors that take a task: plain NATS, the command line, the SDK and gRPC.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use common::error::ErrorCode;
use gateway::client::RegistryClient;
use jetmill_sdk::{Client, QueueName, Task, TaskId, Tenant, pb};
use prost::Message as _;
use serde_json::{Value, json};
use testkit::{Dev, Jetmill};
use tonic::Code;

use crate::support::{SOON, admin, cli, cli_json, ended, grpc, nats, publish, submit_json, task};

const ID: &str = "healing_playbook_12345";

/// The messages of S2, as its documentation has them.
const CREATED: &str = r#"{
    "task_id": "healing_playbook_12345",
    "task_type": "playbook",
    "subsystem": "healing",
    "title": "Fix port collision",
    "created_by": "guardian",
    "metadata": {"playbook_id": "port_collision_fixer"}
}"#;
const STARTED: &str = r#"{"task_id": "healing_playbook_12345"}"#;
const COMPLETED: &str = r#"{
    "task_id": "healing_playbook_12345",
    "success": true,
    "verification_passed": true,
    "resource_usage": {"cpu_seconds": 2.5}
}"#;

#[tokio::test]
async fn what_any_nats_client_publishes_is_a_task_with_its_fields() -> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    let client = nats(&dev).await?;
    messages_of_s2(&dev, &client).await.context("the messages of S2")?;
    every_field(&dev, &client).await.context("every field of a submission")?;
    protobuf(&client).await.context("an event in protobuf")?;
    bundle(&client).await.context("a bundle")
}

async fn messages_of_s2(dev: &Dev, client: &async_nats::Client) -> anyhow::Result<()> {
    let sequence = publish(client, "task.created", CREATED).await?;
    let created = task(dev, ID).await?;
    ensure!(created["sequence"] == json!(sequence.to_string()), "{created}");
    ensure!(created["state"] == "TASK_STATE_PENDING", "{created}");
    for (field, value) in [
        ("task_type", "playbook"),
        ("subsystem", "healing"),
        ("title", "Fix port collision"),
        ("created_by", "guardian"),
        ("executor", "external"),
    ] {
        ensure!(created[field] == value, "{field}: {created}");
    }
    ensure!(created["priority"] == 5, "{created}");
    ensure!(created["metadata"] == json!({ "playbook_id": "port_collision_fixer" }), "{created}");

    publish(client, "task.started", STARTED).await?;
    ensure!(task(dev, ID).await?["state"] == "TASK_STATE_RUNNING");
    publish(client, "task.completed", COMPLETED).await?;
    let completed = task(dev, ID).await?;
    ensure!(completed["state"] == "TASK_STATE_COMPLETED", "{completed}");
    ensure!(completed["resource_usage"]["cpu_seconds"] == 2.5, "{completed}");
    ensure!(completed["verification_status"] == "passed", "{completed}");

    let shown = cli(dev, &["ls"]).await?;
    let line = shown.stdout.lines().find(|line| line.contains(ID)).context("it is not in `ls`")?;
    for word in ["completed", "playbook", "healing", "Fix port collision"] {
        ensure!(line.contains(word), "{word:?} is not in {line:?}");
    }
    let listed = cli_json(dev, &["ls", "--where", "subsystem = healing"]).await?;
    ensure!(listed["tasks"][0]["task_id"] == ID, "{listed}");
    let shown = cli(dev, &["get", ID]).await?;
    for word in ["guardian", "port_collision_fixer", "CPU 2.500 s"] {
        ensure!(shown.stdout.contains(word), "{word:?} is not in {}", shown.stdout);
    }
    Ok(())
}

async fn every_field(dev: &Dev, client: &async_nats::Client) -> anyhow::Result<()> {
    let full = json!({
        "taskId": "full", "task_type": "job", "subsystem": "ml", "title": "everything",
        "description": "long text", "created_by": "me", "priority": 9, "sla_hours": 2,
        "metadata": { "a": [1] }, "tags": ["x", "y"], "queue": "nobody",
        "executor": { "shell": { "argv": ["true"], "env": { "A": "b" } } },
        "input": { "n": 1 }, "dependsOn": [ID, { "task_id": "later", "on": "end" }],
        "delay": "1h30m", "retry": { "max_attempts": 5, "backoff": "2s" },
        "timeouts": { "run": "5m" }, "parent_id": "root",
    });
    publish(client, "task.created", full.to_string()).await?;
    let full = task(dev, "full").await?;
    for (field, value) in [
        ("priority", json!(9)),
        ("queue", json!("nobody")),
        ("executor", json!("shell")),
        ("tags", json!(["x", "y"])),
        ("input", json!({ "n": 1 })),
        ("metadata", json!({ "a": [1] })),
        ("description", json!("long text")),
        ("parent_id", json!("root")),
    ] {
        ensure!(full[field] == value, "{field} is not {value}: {full}");
    }
    ensure!(
        full["depends_on"] == json!([{ "task_id": ID }, { "task_id": "later", "on": "end" }]),
        "{full}"
    );
    ensure!(full["deadline"].is_string() && full["run_at"].is_string(), "{full}");
    ensure!(full["spec"]["retry"]["backoff"] == "2s", "{full}");
    Ok(())
}

fn created(id: &str, word: &str) -> pb::Event {
    let shell = pb::Shell { argv: vec!["echo".into(), word.into()], ..pb::Shell::default() };
    let executor = pb::Executor { kind: Some(pb::executor::Kind::Shell(shell)) };
    let spec =
        pb::TaskSpec { task_id: id.into(), executor: Some(executor), ..pb::TaskSpec::default() };
    pb::Event { kind: Some(pb::event::Kind::Created(Box::new(spec))), ..pb::Event::default() }
}

fn stdout(task: &Value) -> &str {
    task["result"]["stdout"].as_str().unwrap_or_default()
}

async fn protobuf(client: &async_nats::Client) -> anyhow::Result<()> {
    publish(client, "task.created", created("event", "one").encode_to_vec()).await?;
    let done = ended(client, "event").await?;
    ensure!(stdout(&done) == "one\n", "{done}");
    Ok(())
}

async fn bundle(client: &async_nats::Client) -> anyhow::Result<()> {
    let events = ["a", "b", "c"].map(|word| created(&format!("item-{word}"), word).encode_to_vec());
    let bundle = pb::Bundle { events: events.to_vec() };
    let sequence = publish(client, "task.bundle", bundle.encode_to_vec()).await?;
    for word in ["a", "b", "c"] {
        let done = ended(client, &format!("item-{word}")).await?;
        ensure!(stdout(&done).trim() == word, "{done}");
        ensure!(done["sequence"] == json!(sequence.to_string()), "{done}");
    }
    Ok(())
}

#[tokio::test]
async fn the_other_doors_answer_with_id_and_sequence_and_know_a_repeat() -> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    by_sdk(&dev).await.context("the SDK")?;
    by_grpc(&dev).await.context("gRPC")?;
    by_request(&dev).await.context("a request over NATS")?;
    by_command(&dev).await.context("the command line")?;
    by_file(&dev).await.context("a file")
}

async fn by_sdk(dev: &Dev) -> anyhow::Result<()> {
    let client = Client::connect(&dev.addresses().nats).await?;
    let echo = |word: &str| Task::shell(["echo", word]);
    let id = TaskId::parse("sdk-1")?;
    let first = client.submit(echo("hi").id(&id).build()?).await?;
    ensure!((first.task_id.as_str(), first.existing) == ("sdk-1", false) && first.sequence > 0);
    let again = client.submit(echo("hi").id(&id).build()?).await?;
    ensure!(again.existing && again.sequence == first.sequence, "{again:?}");
    let other = client.submit(echo("no").id(&id).build()?).await;
    ensure!(other.as_ref().is_err_and(|e| e.code == ErrorCode::Conflict), "{other:?}");
    let keyed = |word: &str| echo(word).idempotency_key("order-7").build();
    let (one, two) = (client.submit(keyed("a")?).await?, client.submit(keyed("a")?).await?);
    ensure!(one.task_id == two.task_id && !one.existing && two.existing, "{one:?} {two:?}");
    let other = client.submit(keyed("b")?).await;
    ensure!(other.as_ref().is_err_and(|e| e.code == ErrorCode::Conflict), "{other:?}");

    let many: Result<Vec<_>, _> = (0..20).map(|n| echo(&n.to_string()).build()).collect();
    for (n, submission) in client.submit_all(many?).await.into_iter().enumerate() {
        let id = TaskId::parse(&submission?.task_id)?;
        let outcome = client.wait(&Tenant::default(), &id, SOON).await?;
        let result = outcome.result.context("no result")?.to_value();
        ensure!(result["stdout"] == format!("{n}\n"), "{result}");
    }
    let outcome = client.submit_and_wait(echo("now").build()?, SOON).await?;
    ensure!(outcome.state() == pb::TaskState::Completed, "{outcome:?}");
    let never = Task::shell(["true"]).queue(&QueueName::parse("nobody")?).build()?;
    let open = client.submit_and_wait(never, Duration::from_millis(100)).await;
    ensure!(open.is_err_and(|e| e.code == ErrorCode::Unavailable));
    Ok(())
}

async fn by_grpc(dev: &Dev) -> anyhow::Result<()> {
    let mut client = RegistryClient::new(grpc(dev).await?);
    let request = |title: &str| pb::SubmitRequest {
        tasks: vec![pb::TaskSpec {
            task_id: "grpc-1".into(),
            title: title.into(),
            ..pb::TaskSpec::default()
        }],
    };
    let answer = client.submit(request("one")).await?.into_inner();
    let first = answer.submissions.first().context("no submission")?;
    ensure!(first.task_id == "grpc-1" && first.sequence > 0 && !first.existing, "{first:?}");
    let asked = pb::GetRequest {
        task_id: "grpc-1".into(),
        min_sequence: first.sequence,
        ..pb::GetRequest::default()
    };
    ensure!(client.get(asked).await?.into_inner().title == "one");
    let again = client.submit(request("one")).await?.into_inner();
    ensure!(again.submissions.first().is_some_and(|s| s.existing && s.sequence == first.sequence));
    let refused = client.submit(request("two")).await.err().context("it is no conflict")?;
    ensure!(refused.code() == Code::AlreadyExists, "{refused}");
    // One refused task among several does not touch the others.
    let mixed = [request("two").tasks, vec![pb::TaskSpec::default()]].concat();
    let mixed = client.submit(pb::SubmitRequest { tasks: mixed }).await?.into_inner();
    let errors: Vec<_> =
        mixed.submissions.iter().map(|s| s.error.as_ref().map(|e| e.code.as_str())).collect();
    ensure!(errors == [Some("conflict"), None], "{errors:?}");
    Ok(())
}

async fn by_request(dev: &Dev) -> anyhow::Result<()> {
    let client = nats(dev).await?;
    let first = submit_json(&client, &json!({ "task_id": "req-1", "title": "one" })).await?;
    ensure!(first["task_id"] == "req-1" && first["sequence"].is_string(), "{first}");
    let again = submit_json(&client, &json!({ "task_id": "req-1", "title": "one" })).await?;
    ensure!(again["existing"] == true && again["sequence"] == first["sequence"], "{again}");
    let other = r#"{"tasks": [{"task_id": "req-1", "title": "two"}]}"#;
    let refused = admin(&client, "registry", "submit", other).await?.err();
    let refused = refused.context("it is no conflict")?;
    ensure!(refused["status"] == "409" && refused["code"] == "conflict", "{refused}");
    ensure!(refused["hint"].as_str().is_some_and(|hint| hint.contains("jetmill get")), "{refused}");
    // Read your writes: with the sequence of the submission, and without anything.
    for n in 0..50 {
        let id = format!("read-{n}");
        let submission = submit_json(&client, &json!({ "task_id": id })).await?;
        let mut asked = json!({ "task_id": id });
        if n % 2 == 0 {
            asked["min_sequence"] = submission["sequence"].clone();
        }
        let seen = admin(&client, "registry", "get", asked.to_string()).await?;
        ensure!(seen.as_ref().is_ok_and(|task| task["task_id"] == id), "{seen:?}");
    }
    Ok(())
}

async fn by_command(dev: &Dev) -> anyhow::Result<()> {
    let submit = ["submit", "--id", "cli-1", "--wait", "--", "echo", "hi there"];
    let shown = cli(dev, &submit).await?;
    ensure!(shown.status.success() && shown.stdout.contains("hi there"), "{shown:?}");
    let again = cli_json(dev, &["submit", "--id", "cli-1", "--", "echo", "hi there"]).await?;
    ensure!(again["task_id"] == "cli-1" && again["existing"] == true, "{again}");
    ensure!(again["sequence"].is_string(), "{again}");
    let other = cli(dev, &["submit", "--id", "cli-1", "--", "echo", "no"]).await?;
    ensure!(other.status.code() == Some(4) && other.stderr.contains("cli-1"), "{other:?}");
    let script = ["submit", "--wait", "--script", "echo a; echo b | tr b c"];
    let shown = cli(dev, &script).await?;
    ensure!(shown.status.success() && shown.stdout.contains("a\nc"), "{shown:?}");
    let failing =
        cli(dev, &["submit", "--wait", "--script", "exit 3", "--max-attempts", "1"]).await?;
    ensure!(failing.status.code() == Some(1), "{failing:?}");
    let nonsense = cli(dev, &["submit", "--priority", "11", "--", "true"]).await?;
    ensure!(nonsense.status.code() == Some(2), "{nonsense:?}");
    Ok(())
}

async fn by_file(dev: &Dev) -> anyhow::Result<()> {
    let line = |n: u32| {
        let task = json!({
            "task_id": format!("line-{n}"), "task_type": "line",
            "executor": { "shell": { "argv": ["echo", n.to_string()] } },
        });
        task.to_string()
    };
    let lines = (0..30).map(line).collect::<Vec<_>>().join("\n");
    let file = dev.addresses().data_dir.with_file_name("tasks.jsonl");
    fs::write(&file, lines)?;
    let path = file.to_str().context("the folder's name is no text")?;
    let waited = cli(dev, &["submit", "-f", path, "--wait"]).await?;
    ensure!(waited.status.success(), "{waited:?}");
    let filter = "task_type = line AND state = completed";
    let listed = cli_json(dev, &["ls", "--where", filter]).await?;
    ensure!(listed["tasks"].as_array().is_some_and(|tasks| tasks.len() == 30), "{listed}");
    let again = cli(dev, &["submit", "-f", path]).await?;
    ensure!(again.status.success(), "{again:?}");
    Ok(())
}
