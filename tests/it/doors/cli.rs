//! The command line: each verb once, for people and for programs.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

use anyhow::{Context as _, ensure};
use gateway::client::RegistryClient;
use jetmill_sdk::pb;
use serde_json::{Value, json};
use testkit::{Dev, Jetmill, NatsServer, Output, eventually};

use crate::support::{SOON, cli, cli_json, ended, grpc, http, nats, publish, submit_json};

const ESCAPE: char = '\u{1b}';

/// Runs the verb in both renderings; both must succeed, and `--json` must print lines of JSON.
async fn both(dev: &Dev, args: &[&str]) -> anyhow::Result<(String, Vec<Value>)> {
    let human = cli(dev, args).await?;
    ensure!(human.status.success(), "{args:?}: {human:?}");
    ensure!(!human.stdout.contains(ESCAPE), "{args:?} writes colours into a pipe: {human:?}");
    Ok((human.stdout, lines(dev, args).await?))
}

/// The lines of JSON that a verb prints.
async fn lines(dev: &Dev, args: &[&str]) -> anyhow::Result<Vec<Value>> {
    let output = cli(dev, &[&["--json"], args].concat()).await?;
    ensure!(output.status.success(), "--json {args:?}: {output:?}");
    let lines: Result<Vec<_>, _> = output.stdout.lines().map(serde_json::from_str).collect();
    let lines: Vec<Value> = lines.with_context(|| format!("--json {args:?}: {}", output.stdout))?;
    ensure!(!lines.is_empty(), "--json {args:?} prints nothing");
    Ok(lines)
}

#[tokio::test]
async fn every_verb_answers_people_and_programs() -> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    about_one_task(&dev).await.context("verbs about one task")?;
    about_many(&dev).await.context("verbs about many tasks")?;
    about_changes(&dev).await.context("verbs that change tasks")?;
    about_queues(&dev).await.context("verbs about queues")?;
    about_dead(&dev).await.context("verbs about dead letters")?;
    about_the_platform(&dev).await.context("verbs about the platform")?;
    about_workers(&dev).await.context("verbs about workers")
}

async fn about_one_task(dev: &Dev) -> anyhow::Result<()> {
    let first =
        cli(dev, &["submit", "--id", "one", "--title", "say hi", "--wait", "--", "echo", "hi"])
            .await?;
    ensure!(first.status.success(), "{first:?}");
    let (text, json) = both(dev, &["get", "one"]).await?;
    ensure!(
        text.contains("say hi") && json[0]["state"] == "TASK_STATE_COMPLETED",
        "{text} {json:?}"
    );
    let (text, json) = both(dev, &["result", "one"]).await?;
    ensure!(text == "hi\n" && json[0]["result"]["stdout"] == "hi\n", "{text:?} {json:?}");
    both(dev, &["result", "--wait", "one"]).await?;
    let (text, json) = both(dev, &["history", "one"]).await?;
    ensure!(
        text.contains("completed") && json[0]["entries"][0]["kind"] == "created",
        "{text} {json:?}"
    );
    let (text, json) = both(dev, &["why", "one"]).await?;
    ensure!(
        text.contains("completed") && json[0]["reasons"][0]["code"] == "finished",
        "{text} {json:?}"
    );
    for args in [&["logs", "one"][..], &["logs", "-f", "one"]] {
        let (text, json) = both(dev, args).await?;
        ensure!(text == "hi\n" && json[0]["text"] == "hi\n", "{text:?} {json:?}");
    }
    let (text, json) = both(dev, &["watch", "one"]).await?;
    ensure!(text.contains("created") && json[0]["kind"] == "created", "{text} {json:?}");
    Ok(())
}

async fn about_many(dev: &Dev) -> anyhow::Result<()> {
    let (text, json) = both(dev, &["ls", "--where", "state = completed"]).await?;
    ensure!(text.contains("one") && json[0]["tasks"][0]["task_id"] == "one", "{text} {json:?}");
    let (text, _) = both(dev, &["ls", "--state", "failed"]).await?;
    ensure!(text.contains("jetmill submit"), "an empty list says what to do: {text}");
    let (text, json) = both(dev, &["stats"]).await?;
    ensure!(text.contains("completed") && json[0]["total"] == "1", "{text} {json:?}");
    Ok(())
}

async fn about_changes(dev: &Dev) -> anyhow::Result<()> {
    for id in ["w1", "w2", "w3", "w4", "w5", "w6"] {
        cli_json(dev, &["submit", "--id", id, "--type", "wait", "--delay", "1h", "--", "true"])
            .await?;
    }
    let filter = ["--where", "task_type = wait"];
    for verb in [&["cancel"][..], &["retry"], &["reprioritise", "--priority", "8"]] {
        let (text, json) = both(dev, &[verb, &filter, &["--dry-run"]].concat()).await?;
        ensure!(text.contains('6') && json[0]["matched"] == "6", "{verb:?}: {text} {json:?}");
    }
    let unsure = cli(dev, &["cancel", "--where", "task_type = wait"]).await?;
    ensure!(unsure.status.code() == Some(2) && unsure.stderr.contains("--yes"), "{unsure:?}");
    let args = [&["reprioritise", "--priority", "8", "--yes"][..], &filter].concat();
    let (text, _) = both(dev, &args).await?;
    ensure!(text.contains("reprioritised"), "{text}");
    for (verb, ids) in [("retry", ["w1", "w2"]), ("cancel", ["w3", "w4"])] {
        let text = cli(dev, &[verb, ids[0]]).await?;
        ensure!(text.status.success() && text.stdout.contains(ids[0]), "{text:?}");
        let json = lines(dev, &[verb, ids[1]]).await?;
        ensure!(json[0]["changes"][0]["task_id"] == ids[1], "{json:?}");
    }
    let client = nats(dev).await?;
    for (id, state) in
        [("w1", "COMPLETED"), ("w2", "COMPLETED"), ("w3", "CANCELLED"), ("w4", "CANCELLED")]
    {
        let task = ended(&client, id).await?;
        ensure!(task["state"] == format!("TASK_STATE_{state}") && task["priority"] == 8, "{task}");
    }
    let rest = ["cancel", "--yes", "--where", "task_type = wait AND state = pending"];
    let (text, json) = both(dev, &rest).await?;
    ensure!(text.contains("cancelled") && text.contains("w5") && text.contains("w6"), "{text}");
    ensure!(json[0]["changes"].as_array().is_none_or(Vec::is_empty), "nothing was left: {json:?}");
    Ok(())
}

async fn about_queues(dev: &Dev) -> anyhow::Result<()> {
    for [pause, resume] in
        [[&["pause"][..], &["resume"]], [&["queue", "pause"], &["queue", "resume"]]]
    {
        let (text, json) = both(dev, &[pause, &["default"]].concat()).await?;
        ensure!(text.contains("default is paused") && json[0].is_object(), "{text} {json:?}");
        let (text, json) = both(dev, &["queue", "ls"]).await?;
        ensure!(text.contains("paused") && json[0]["queues"].is_array(), "{text} {json:?}");
        let (text, _) = both(dev, &[resume, &["default"]].concat()).await?;
        ensure!(text.contains("default is running"), "{text}");
    }
    both(dev, &["pause", "--all"]).await?;
    let (text, json) = both(dev, &["queue", "ls"]).await?;
    ensure!(text.contains("everything is paused") && json[0]["paused"] == true, "{text} {json:?}");
    both(dev, &["resume", "--all"]).await?;
    Ok(())
}

async fn about_dead(dev: &Dev) -> anyhow::Result<()> {
    publish(&nats(dev).await?, "task.created", "{broken").await?;
    let args = ["submit", "--id", "bad", "--max-attempts", "1", "--wait", "--", "false"];
    ensure!(cli(dev, &args).await?.status.code() == Some(1));
    let letters = eventually("two dead letters", SOON, async || {
        let list = cli_json(dev, &["dead", "ls"]).await.ok()?;
        list["letters"].as_array().filter(|letters| letters.len() == 2).cloned()
    });
    let letters = letters.await?;
    let number = |kind: &str| {
        let letter = letters.iter().find(|letter| letter["kind"] == kind);
        letter.and_then(|letter| letter["id"].as_str()).context("no such letter")
    };
    let (text, _) = both(dev, &["dead", "ls"]).await?;
    ensure!(text.contains("undecodable") && text.contains("bad"), "{text}");
    let (text, json) = both(dev, &["dead", "show", number("undecodable")?]).await?;
    ensure!(text.contains("{broken") && json[0]["subject"] == "task.created", "{text} {json:?}");
    let (text, _) = both(dev, &["dead", "replay", "--all", "--dry-run"]).await?;
    ensure!(text.contains('2'), "{text}");
    // Replayed twice it is the same new task.
    let (_, json) = both(dev, &["dead", "replay", number("task")?]).await?;
    let submission = &json[0]["submissions"][0];
    ensure!(submission["existing"] == true, "{json:?}");
    let new = submission["task_id"].as_str().context("no new task")?;
    ensure!(ended(&nats(dev).await?, new).await?["retry_of"] == "bad");
    Ok(())
}

async fn about_the_platform(dev: &Dev) -> anyhow::Result<()> {
    let (text, json) = both(dev, &["doctor"]).await?;
    ensure!(!text.is_empty() && json[0].is_object(), "{text} {json:?}");
    let (text, json) = both(dev, &["services"]).await?;
    ensure!(text.contains("jetmill-registry") && json.len() >= 3, "{text} {json:?}");
    let (text, _) = both(dev, &["config", "show", "--origin"]).await?;
    ensure!(text.contains("nats.url") && text.contains("default"), "{text}");
    for shell in ["bash", "zsh", "fish"] {
        let script = cli(dev, &["completions", shell]).await?;
        ensure!(script.status.success() && script.stdout.contains("reprioritise"), "{shell}");
    }
    let help = cli(dev, &["--help"]).await?;
    for verb in [
        "dev", "serve", "doctor", "submit", "ls", "get", "result", "logs", "watch", "why", "cancel",
    ] {
        ensure!(
            help.stdout.contains(&format!("\n  {verb} ")),
            "{verb} is not in the help: {}",
            help.stdout
        );
    }
    Ok(())
}

async fn about_workers(dev: &Dev) -> anyhow::Result<()> {
    let (text, json) = both(dev, &["worker", "ls"]).await?;
    let name = json[0]["workers"][0]["worker"].as_str().context("no worker")?;
    ensure!(text.contains(name), "{text}");
    let drained = cli(dev, &["worker", "drain", "--yes", name]).await?;
    ensure!(drained.status.success() && drained.stdout.contains("leaving"), "{drained:?}");
    Ok(())
}

#[tokio::test]
async fn colours_respect_no_color_and_exit_codes_tell_the_kinds_of_errors_apart()
-> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    submit_json(&nats(&dev).await?, &json!({ "task_id": "seen" })).await?;
    let coloured = with_env(&dev, &["ls"], &[("CLICOLOR_FORCE", "1")]).await?;
    ensure!(coloured.contains(ESCAPE), "{coloured:?}");
    let plain = with_env(&dev, &["ls"], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).await?;
    ensure!(plain.contains("seen") && !plain.contains(ESCAPE), "{plain:?}");

    probes(&dev).await.context("probes and metrics")?;
    let nats_url = dev.addresses().nats.clone();
    for (args, code, says) in [
        (&["get", "nobody"][..], 3, "jetmill ls"),
        (&["get", ""], 2, "ID"),
        (&["ls", "--where", "colour = red"], 2, "colour"),
        (&["result", "seen"], 4, "--wait"),
        (&["dead", "show", "99"], 3, "jetmill dead ls"),
        (&["worker", "drain", "--yes", "nobody"], 3, "jetmill worker ls"),
        (&["nonsense"], 2, "--help"),
        (&["submit"], 2, "--help"),
    ] {
        let ended = Jetmill::cli(&nats_url, args).await?;
        expect_error(args, &ended, code, says)?;
    }
    let json = cli(&dev, &["--json", "get", "nobody"]).await?;
    let error: Value = serde_json::from_str(&json.stderr).with_context(|| json.stderr.clone())?;
    ensure!(error["error"]["code"] == "not_found" && error["error"]["hint"].is_string(), "{error}");
    let empty = NatsServer::start()?;
    let nats_url = empty.url();
    let alone = Jetmill::cli(&nats_url, &["get", "a"]).await?;
    expect_error(&["get", "a"], &alone, 5, "jetmill serve registry")?;
    drop(empty);
    let away = Jetmill::cli(&nats_url, &["get", "a"]).await?;
    expect_error(&["get", "a"], &away, 5, "jetmill dev")
}

fn expect_error(args: &[&str], ended: &Output, code: i32, says: &str) -> anyhow::Result<()> {
    ensure!(ended.status.code() == Some(code), "{args:?} should end with {code}: {ended:?}");
    ensure!(ended.stderr.contains(says), "{args:?} should say {says:?}: {ended:?}");
    Ok(())
}

async fn with_env(dev: &Dev, args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<String> {
    let all = [&["--nats-url", dev.addresses().nats.as_str()], args].concat();
    let mut command = Jetmill::spawn(&all, env)?;
    let status = command.wait_exit(SOON).await?;
    ensure!(status.success(), "{args:?}: {}", command.stderr());
    Ok(command.stdout())
}

async fn probes(dev: &Dev) -> anyhow::Result<()> {
    let address = &dev.addresses().http;
    for path in ["/livez", "/readyz"] {
        let (status, body) = http(address, path).await?;
        ensure!(status == 200, "{path} is {status}: {body}");
    }
    let (status, _) = http(address, "/nowhere").await?;
    ensure!(status == 404, "{status}");
    let ran = cli(dev, &["submit", "--wait", "--", "true"]).await?;
    ensure!(ran.status.success(), "{ran:?}");
    RegistryClient::new(grpc(dev).await?).stats(pb::StatsRequest::default()).await?;
    let wanted = [
        "jetmill_registry_events_total",
        "jetmill_scheduler_released_total",
        "jetmill_worker_attempts_total",
        "jetmill_gateway_requests_total",
    ];
    let (status, metrics) = http(address, "/metrics").await?;
    ensure!(status == 200, "{metrics}");
    for name in wanted {
        let kind = format!("# TYPE {name} counter");
        ensure!(metrics.contains(&kind), "{kind:?} is not in {metrics}");
    }
    Ok(())
}

#[tokio::test]
async fn who_waits_for_what_does_not_start_hears_why() -> anyhow::Result<()> {
    let dev = Jetmill::dev().start().await?;
    let wait = ["--wait", "--wait-timeout", "8s", "--", "true"];
    let output = cli(&dev, &[&["submit", "--queue", "nosuch"], &wait[..]].concat()).await?;
    ensure!(!output.status.success(), "{output:?}");
    ensure!(output.stderr.contains("it waits: no worker serves queue nosuch"), "{output:?}");
    Ok(())
}
