//! What anyone publishes enters the log; what cannot be read ends in `DEAD`, with the reason.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use jetmill_sdk::pb;
use prost::Message as _;
use serde_json::{Value, json};
use testkit::{Dev, Jetmill, eventually};

use crate::support::{SOON, cli, cli_json, ended, nats, publish, task};

/// A subject, a message, and what the letter about it must say.
type Case = (&'static str, Vec<u8>, Vec<&'static str>);

fn event(kind: pb::event::Kind) -> pb::Event {
    pb::Event { task_id: "x".into(), kind: Some(kind), ..pb::Event::default() }
}

fn created(spec: pb::TaskSpec) -> Vec<u8> {
    event(pb::event::Kind::Created(Box::new(spec))).encode_to_vec()
}

/// Encoded, with a title that is no UTF-8.
fn not_text() -> Vec<u8> {
    let mut bytes = created(pb::TaskSpec { title: "####".into(), ..pb::TaskSpec::default() });
    bytes.iter_mut().filter(|byte| **byte == b'#').for_each(|byte| *byte = 0xff);
    bytes
}

fn cases() -> Vec<Case> {
    let completed = event(pb::event::Kind::Completed(pb::Completed::default())).encode_to_vec();
    let specs = super::bad_specs().into_iter();
    let mut cases: Vec<Case> = specs
        .map(|(spec, says)| ("task.created", spec.to_string().into_bytes(), says.to_vec()))
        .collect();
    // A door would put it into the object store first.
    let large = json!({ "input": "x".repeat(300_000) }).to_string().into_bytes();
    let others: [(&str, Vec<u8>, &[&str]); 20] = [
        ("task.created", large, &["input", "bytes"]),
        ("task.created", b"{broken".to_vec(), &["not JSON"]),
        ("task.created", b"{\"title\": \"\xff\"}".to_vec(), &["not JSON"]),
        ("task.created", b"{} {}".to_vec(), &["not JSON"]),
        ("task.created", b"hello".to_vec(), &["not an event"]),
        ("task.created", b"[1]".to_vec(), &["not an event"]),
        ("task.created", b"".to_vec(), &[]),
        ("task.created", not_text(), &["not an event", "title"]),
        ("task.created", completed, &["completed", "created"]),
        (
            "task.created",
            created(pb::TaskSpec { priority: Some(11), ..pb::TaskSpec::default() }),
            &["priority"],
        ),
        (
            "task.created",
            json!({ "description": "x".repeat(1024 * 1024 - 100) }).to_string().into(),
            &["description", "first"],
        ),
        ("task.bundle", b"{\"events\": []}".to_vec(), &["protobuf"]),
        ("task.bundle", b"\xff\xff\xff".to_vec(), &["not a bundle"]),
        ("task.completed", b"{\"success\": true}".to_vec(), &["task_id"]),
        ("task.completed", b"{\"task_id\": \"x\", \"attempt\": \"one\"}".to_vec(), &["wrong type"]),
        ("task.started", created(pb::TaskSpec::default()), &["created", "started"]),
        ("task.reprioritised", b"{\"task_id\": \"x\", \"priority\": 99}".to_vec(), &["priority"]),
        ("policy.paused", b"{\"queue\": \"a.b\"}".to_vec(), &["queue"]),
        ("mission.failed", b"{broken".to_vec(), &["not JSON"]),
        ("mission.resolved", b"{}".to_vec(), &["task_id"]),
    ];
    cases.extend(others.map(|(subject, body, says)| (subject, body, says.to_vec())));
    cases
}

#[tokio::test]
async fn what_cannot_be_read_is_a_dead_letter_with_the_reason() -> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    let client = nats(&dev).await?;
    let mut expected = BTreeMap::new();
    for (subject, body, says) in cases() {
        let sequence = publish(&client, subject, body).await?;
        expected.insert((sequence, 0), (subject, says));
    }
    let (sequence, bad) = bundle_with_bad_items(&client).await?;
    for index in bad {
        expected.insert((sequence, index), ("task.bundle", vec!["not an event"]));
    }
    publish(&client, "task.bundle", "").await?;
    let complete = eventually("a letter for each", SOON, async || {
        let letters = letters(&dev).await.ok()?;
        (letters.len() >= expected.len()).then_some(letters)
    });
    let letters = match complete.await {
        Ok(letters) => letters,
        // The ones that are missing are told below.
        Err(_) => letters(&dev).await?,
    };
    for (place, (subject, says)) in &expected {
        let letter =
            letters.get(place).with_context(|| format!("no letter for {subject} {says:?}"))?;
        ensure!(letter["kind"] == "undecodable" && letter["subject"] == *subject, "{letter}");
        let error = letter["error"].as_str().unwrap_or_default();
        ensure!(!error.is_empty(), "{letter}");
        for word in says {
            ensure!(error.contains(word), "{word:?} is not in {error:?} ({subject})");
        }
    }
    ensure!(letters.len() == expected.len(), "letters about what is good: {letters:?}");
    super::still_works(&dev, "after").await
}

/// The letters of `jetmill dead ls`, by the place of what they are about.
async fn letters(dev: &Dev) -> anyhow::Result<BTreeMap<(u64, u64), Value>> {
    let mut all = BTreeMap::new();
    let mut after = String::new();
    loop {
        let list = cli_json(dev, &["dead", "ls", "--limit", "1000", "--after", &after]).await?;
        for letter in list["letters"].as_array().into_iter().flatten() {
            let sequence = letter["sequence"].as_str().unwrap_or_default().parse()?;
            let index = letter["index"].as_u64().unwrap_or_default();
            all.insert((sequence, index), letter.clone());
        }
        match list["next_page_token"].as_str() {
            None | Some("") => return Ok(all),
            Some(token) => token.clone_into(&mut after),
        }
    }
}

/// Publishes good items around bad ones: the good ones run.
async fn bundle_with_bad_items(client: &async_nats::Client) -> anyhow::Result<(u64, Vec<u64>)> {
    let good = |id: &str| {
        let shell = pb::Shell { argv: vec!["true".into()], ..pb::Shell::default() };
        let executor = pb::Executor { kind: Some(pb::executor::Kind::Shell(shell)) };
        created(pb::TaskSpec {
            task_id: id.into(),
            executor: Some(executor),
            ..pb::TaskSpec::default()
        })
    };
    let events = vec![good("first"), not_text(), good("second"), b"\xff".to_vec(), good("third")];
    let sequence = publish(client, "task.bundle", pb::Bundle { events }.encode_to_vec()).await?;
    for id in ["first", "second", "third"] {
        let task = ended(client, id).await?;
        ensure!(task["state"] == "TASK_STATE_COMPLETED", "{task}");
    }
    Ok((sequence, vec![1, 3]))
}

#[tokio::test]
async fn conflicts_cycles_and_failures_end_and_can_be_replayed() -> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    let client = nats(&dev).await?;
    // What is no subject of the log is refused to the publisher.
    let elsewhere = client.request("task.nonsense", "{}".into()).await;
    ensure!(elsewhere.is_err(), "{elsewhere:?}");
    // A message of 1 MiB and one byte does not leave the client.
    let huge = vec![b' '; 1024 * 1024 + 1];
    ensure!(client.request("task.created", huge.into()).await.is_err());

    publish(&client, "task.created", r#"{"task_id": "twice", "title": "one"}"#).await?;
    publish(&client, "task.created", r#"{"task_id": "twice", "title": "one"}"#).await?;
    publish(&client, "task.created", r#"{"task_id": "twice", "title": "two"}"#).await?;
    let conflict = letter(&dev, "twice").await?;
    ensure!(
        conflict["error"].as_str().is_some_and(|error| error.contains("another body")),
        "{conflict}"
    );
    ensure!(task(&dev, "twice").await?["title"] == "one");

    cycle(&client).await.context("a cycle")?;
    replay(&dev, &client).await.context("a replay")?;
    super::still_works(&dev, "after").await
}

async fn letter(dev: &Dev, id: &str) -> anyhow::Result<Value> {
    let what = format!("a letter about {id}");
    let found = eventually(&what, SOON, async || {
        let letters = letters(dev).await.ok()?;
        letters.into_values().find(|letter| letter["task_id"] == id)
    });
    found.await
}

async fn cycle(client: &async_nats::Client) -> anyhow::Result<()> {
    let ring = [("r1", "r2"), ("r2", "r3"), ("r3", "r1")];
    for (id, needs) in ring {
        let task = json!({
            "task_id": id, "depends_on": [needs],
            "executor": { "shell": { "argv": ["true"] } },
        });
        publish(client, "task.created", task.to_string()).await?;
    }
    let mut causes = Vec::new();
    for (id, _) in ring {
        let task = ended(client, id).await?;
        ensure!(task["state"] == "TASK_STATE_FAILED", "{task}");
        causes.push(task["cause"].as_str().unwrap_or_default().to_owned());
    }
    // Whoever closes the ring is rejected; the others fail with their dependency.
    ensure!(causes.iter().any(|cause| cause == "CAUSE_REJECTED"), "{causes:?}");
    let known = ["CAUSE_REJECTED", "CAUSE_DEPENDENCY"];
    ensure!(causes.iter().all(|cause| known.contains(&cause.as_str())), "{causes:?}");
    Ok(())
}

async fn replay(dev: &Dev, client: &async_nats::Client) -> anyhow::Result<()> {
    let flag = dev.addresses().data_dir.with_file_name("flag");
    let doomed = json!({
        "task_id": "doomed", "title": "needs a file", "retry": { "max_attempts": 1 },
        "executor": { "shell": { "argv": ["test", "-f", flag] } },
    });
    publish(client, "task.created", doomed.to_string()).await?;
    let failed = ended(client, "doomed").await?;
    ensure!(failed["cause"] == "CAUSE_ERROR", "{failed}");
    let letter = letter(dev, "doomed").await?;
    ensure!(letter["kind"] == "task", "{letter}");
    std::fs::write(&flag, "")?;
    let number = letter["id"].as_str().context("a letter without a number")?;
    let replayed = cli_json(dev, &["dead", "replay", number]).await?;
    let new =
        replayed["submissions"][0]["task_id"].as_str().with_context(|| replayed.to_string())?;
    let again = ended(client, new).await?;
    ensure!(again["state"] == "TASK_STATE_COMPLETED" && again["retry_of"] == "doomed", "{again}");
    ensure!(again["title"] == "needs a file", "{again}");

    let broken = publish(client, "task.created", "{broken").await?;
    let number = eventually("its letter", SOON, async || {
        let letters = letters(dev).await.ok()?;
        letters.get(&(broken, 0))?["id"].as_str().map(str::to_owned)
    });
    let refused = cli(dev, &["dead", "replay", &number.await?]).await?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(refused.stdout.contains("not JSON"), "{refused:?}");
    Ok(())
}
