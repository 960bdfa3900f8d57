//! Schedules on the real thing: they fire, a scheduler that is killed loses and doubles nothing, and
//! the command line shows and changes them.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use async_nats::jetstream;
use common::time::{Clock as _, Timestamp};
use futures::StreamExt as _;
use jetmill_sdk::{SystemClock, TaskId, pb};
use serde_json::{Value, json};
use testkit::{Jetmill, NatsServer, eventually};

use crate::{
    rig::{Rig, View},
    support::{self, SOON},
};

/// Longer than a lease, so that it is an outage whoever takes over.
const OUTAGE: Duration = Duration::from_secs(6);

/// The seconds for which a schedule has a run in the log, in its order: each as often as it is there.
async fn ticks(client: &async_nats::Client, name: &str) -> anyhow::Result<Vec<i64>> {
    let stream = jetstream::new(client.clone()).get_stream("TASKS").await?;
    let last = stream.cached_info().state.last_sequence;
    let mut messages = stream.create_consumer(ordered()).await?.messages().await?;
    let mut ticks = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message?;
        let sequence = message.info().map_err(|e| anyhow::anyhow!(e))?.stream_sequence;
        let received = common::wire::Received {
            subject: &message.subject,
            content_type: None,
            traceparent: None,
            payload: &message.payload,
            stream: uuid::Uuid::nil(),
            sequence,
        };
        for event in common::wire::decode(received).into_iter().flatten() {
            if let common::event::Event::Task(event) = event
                && let common::event::Kind::Created(spec) = event.kind
                && let Some(of) = spec.as_pb().schedule.as_ref().filter(|of| of.name == name)
            {
                ticks.push(of.tick.map(Timestamp::from).context("a tick")?.micros() / 1_000_000);
            }
        }
        if sequence >= last {
            break;
        }
    }
    Ok(ticks)
}

fn ordered() -> jetstream::consumer::pull::OrderedConfig {
    jetstream::consumer::pull::OrderedConfig::default()
}

/// Waits until the schedule has so many runs.
async fn fired(client: &async_nats::Client, name: &str, runs: usize) -> anyhow::Result<Vec<i64>> {
    eventually(&format!("{runs} runs of {name}"), 2 * SOON, async || {
        ticks(client, name).await.ok().filter(|ticks| ticks.len() >= runs)
    })
    .await
}

#[tokio::test]
async fn a_scheduler_that_is_killed_fires_nothing_twice_and_catches_up_as_it_should()
-> anyhow::Result<()> {
    let nats = NatsServer::start()?;
    let client = async_nats::connect(nats.url()).await?;
    let url = nats.url();
    let start = || {
        Jetmill::spawn(
            &["serve", "scheduler", "--nats-url", &url, "--http-addr", "127.0.0.1:0"],
            &[],
        )
    };
    let mut scheduler = start()?;
    let every_second = |catch_up: Value| {
        json!({ "cron": "* * * * * *", "overlap": "allow", "catch_up": catch_up,
                "task": { "task_type": "heartbeat" } })
    };
    let documents = json!({ "documents": [
        { "name": "all", "schedule": every_second(json!({ "mode": "all", "window": "1h" })) },
        { "name": "last", "schedule": every_second(json!({ "mode": "last", "window": "1h" })) },
    ]});
    eventually("the schedules to be taken", SOON, async || {
        let body = documents.to_string();
        let answer = support::admin(&client, "scheduler", "apply_policies", body).await.ok()?;
        answer.ok().filter(|answer| answer["changes"][0]["result"] == "created")
    })
    .await?;
    fired(&client, "all", 3).await?;
    let before = fired(&client, "last", 3).await?;

    scheduler.kill9()?;
    let down = ticks(&client, "last").await?.into_iter().max().context("a tick")?;
    let behind = |now: Timestamp| now.micros() / 1_000_000 - down >= OUTAGE.as_secs() as i64;
    eventually("an outage", SOON, async || behind(SystemClock.now()).then_some(())).await?;
    let mut scheduler = start()?;
    fired(&client, "last", before.len() + 4).await?;
    // Once more while they fire, with whatever is just under way.
    scheduler.kill9()?;
    let _scheduler = start()?;
    let known = ticks(&client, "last").await?.len();
    let last = fired(&client, "last", known + 3).await?;
    let all = ticks(&client, "all").await?;

    for (name, ticks) in [("all", &all), ("last", &last)] {
        ensure!(ticks.windows(2).all(|pair| pair[0] < pair[1]), "{name} fired twice: {ticks:?}");
    }
    ensure!(all.windows(2).all(|pair| pair[0] + 1 == pair[1]), "every second: {all:?}");
    let outage = OUTAGE.as_secs() as i64 - 2;
    let gaps = last.windows(2).filter(|pair| pair[1] - pair[0] > outage).count();
    ensure!(gaps == 1 || gaps == 2, "one or both outages are left out but for their end: {last:?}");
    Ok(())
}

const NIGHTLY: [&str; 7] =
    ["schedule", "set", "nightly", "--cron", "0 2 * * *", "--time-zone", "Europe/Berlin"];
const OFTEN: [&str; 8] = ["schedule", "set", "often", "--every", "1s", "--", "echo", "often"];

#[tokio::test]
async fn the_command_line_sets_shows_runs_and_holds_schedules() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    sets_and_shows(&rig).await.context("what sets and shows")?;
    runs_and_looks_ahead(&rig).await.context("what runs and looks ahead")?;
    holds_and_removes(&rig).await.context("what holds and removes")?;
    says_what_is_wrong(&rig).await.context("what is wrong")
}

async fn sets_and_shows(view: &View) -> anyhow::Result<()> {
    let dry = view.cli(&[&NIGHTLY[..], &["--dry-run", "--", "true"]].concat()).await?;
    let said = ["created", "nothing was changed", "(in "];
    ensure!(said.iter().all(|text| dry.contains(text)), "{dry}");
    ensure!(view.cli(&["schedule", "ls"]).await?.contains("there is no schedule"));
    view.cli(&[&NIGHTLY[..], &["--jitter", "5m", "--", "echo", "night"]].concat()).await?;
    view.cli(&OFTEN).await?;
    let first = eventually("a run of the one that comes often", SOON, async || {
        let shown = view.cli_json(&["schedule", "show", "often"]).await.ok()?;
        let last = Timestamp::parse(shown["last"].as_str()?)?;
        common::policy::schedule::tick_id("often", last)
    })
    .await?;
    let task = view.completes(&first).await?;
    ensure!(task.created_by == "schedule:often", "{}", task.created_by);
    let again = view.cli(&OFTEN).await?;
    ensure!(again.contains("often unchanged"), "{again}");
    Ok(())
}

async fn runs_and_looks_ahead(view: &View) -> anyhow::Result<()> {
    let ran = view.cli_json(&["schedule", "run", "nightly", "--key", "by hand"]).await?;
    let id = TaskId::parse(ran["task_id"].as_str().context("an id")?)?;
    let task = view.completes(&id).await?;
    let of = task.spec.and_then(|spec| spec.schedule).context("the run of a schedule")?;
    ensure!(of == pb::Tick { name: "nightly".into(), tick: None }, "{of:?}");
    let same = view.cli_json(&["schedule", "run", "nightly", "--key", "by hand"]).await?;
    ensure!(same["existing"] == true && same["task_id"] == ran["task_id"], "{same}");

    let after = ["-n", "2", "--after", "2027-03-27T12:00:00Z"];
    let next = view.cli_json(&[&["schedule", "next", "nightly"], &after[..]].concat()).await?;
    let ticks = next["fires"].as_array().context("fires")?;
    let ticks = ticks.iter().filter_map(|fire| fire["tick"].as_str()).collect::<Vec<_>>();
    // In the night to the 28th the clock jumps from two to three.
    ensure!(ticks == ["2027-03-28T01:00:00.000000Z", "2027-03-29T00:00:00.000000Z"], "{next}");
    Ok(())
}

async fn holds_and_removes(view: &View) -> anyhow::Result<()> {
    let held = view.cli(&["schedule", "pause", "*", "--reason", "fair"]).await?;
    ensure!(held.contains("nightly paused") && held.contains("often paused"), "{held}");
    let list = view.cli(&["schedule", "ls", "o*"]).await?;
    ensure!(list.contains("paused: fair") && !list.contains("nightly"), "{list}");
    let resumed = view.cli_json(&["schedule", "resume", "--all"]).await?;
    ensure!(resumed["changes"].as_array().is_some_and(|all| all.len() == 2), "{resumed}");
    let removed = view.cli(&["schedule", "rm", "nightly", "often"]).await?;
    ensure!(removed.lines().count() == 2, "{removed}");
    Ok(())
}

async fn says_what_is_wrong(view: &View) -> anyhow::Result<()> {
    let wrong = ["schedule", "set", "x", "--cron", "61 * * * *", "--jitter", "30h", "--id", "mine"];
    let bad = Jetmill::cli(&view.url, &[&wrong[..], &["--", "true"]].concat()).await?;
    let named = ["schedule.cron", "schedule.jitter", "schedule.task.task_id"];
    let all = named.iter().all(|field| bad.stderr.contains(field));
    ensure!(!bad.status.success() && all, "{}", bad.stderr);
    let missing = Jetmill::cli(&view.url, &["schedule", "run", "nightly"]).await?;
    ensure!(missing.stderr.contains("there is no schedule"), "{}", missing.stderr);
    Ok(())
}

/// The runs of a schedule in the ledger, oldest first.
async fn runs(view: &View, name: &str) -> Option<Vec<pb::Task>> {
    let request = pb::ListRequest {
        filter: format!("created_by = \"schedule:{name}\""),
        page_size: 100,
        ..pb::ListRequest::default()
    };
    let mut tasks = view.client.list(&request).await.ok()?.tasks;
    tasks.sort_by(|a, b| a.task_id.cmp(&b.task_id));
    Some(tasks)
}

#[tokio::test]
async fn a_run_waits_for_the_one_before_or_replaces_it() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let set = ["schedule", "set"];
    let newest = ["replaces", "--every", "3s", "--overlap", "cancel-older", "--", "sleep", "60"];
    rig.cli(&[&set[..], &newest].concat()).await?;
    let waits = ["--every", "1s", "--overlap", "queue", "--runs-max", "2", "--script", "sleep 1.5"];
    rig.cli(&[&set[..], &["waits"], &waits].concat()).await?;
    let replaced = eventually("a run to replace another", 2 * SOON, async || {
        let runs = runs(&rig, "replaces").await?;
        let [first, second, ..] = &runs[..] else { return None };
        let running = second.started_at.is_some();
        (first.state() == pb::TaskState::Cancelled && running).then(|| runs[..2].to_vec())
    });
    let replaced = replaced.await?;
    let micros =
        |at: Option<common::wire::time::Timestamp>| Timestamp::from(at.unwrap_or_default());
    ensure!(micros(replaced[1].started_at) >= micros(replaced[0].finished_at), "{replaced:?}");

    let done = eventually("two runs, one after the other", 2 * SOON, async || {
        let runs = runs(&rig, "waits").await?;
        let done = runs.iter().filter(|run| run.state() == pb::TaskState::Completed);
        let done = done.cloned().collect::<Vec<_>>();
        (done.len() >= 3).then_some(done)
    });
    let done = done.await?;
    for pair in done.windows(2) {
        ensure!(micros(pair[1].started_at) >= micros(pair[0].finished_at), "at once: {pair:?}");
    }
    let waited = done.iter().any(|run| !run.depends_on.is_empty());
    ensure!(waited, "none had to wait: {done:?}");
    Ok(())
}

/// The names of the schedules that a file sets, through the file's own door.
#[tokio::test]
async fn the_example_file_is_taken_as_it_is() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/schedules/schedules.yaml");
    rig.cli(&["schedule", "set", "-f", file]).await?;
    let list = rig.cli_json(&["schedule", "ls"]).await?;
    let names = list["schedules"].as_array().context("schedules")?;
    let names = names.iter().filter_map(|s| s["name"].as_str()).collect::<BTreeSet<_>>();
    ensure!(names == BTreeSet::from(["inbox", "nightly-backup", "new-year", "report"]), "{list}");
    Ok(())
}
