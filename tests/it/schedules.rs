//! Schedules on the real thing: they fire, a scheduler that is killed loses and doubles nothing, and
//! the command line shows and changes them.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use async_nats::jetstream;
use common::time::Timestamp;
use futures::StreamExt as _;
use jetmill_sdk::{TaskId, pb};
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
    // Time has to pass: that is what an outage is.
    tokio::time::sleep(OUTAGE).await;
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

#[tokio::test]
async fn the_command_line_sets_shows_runs_and_holds_schedules() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let view: &View = &rig;
    let dry = view
        .cli(&[
            "schedule",
            "set",
            "nightly",
            "--cron",
            "0 2 * * *",
            "--time-zone",
            "Europe/Berlin",
            "--dry-run",
            "--",
            "true",
        ])
        .await?;
    ensure!(
        dry.contains("created") && dry.contains("nothing was changed") && dry.contains("in "),
        "{dry}"
    );
    ensure!(view.cli(&["schedule", "ls"]).await?.contains("there is no schedule"));
    view.cli(&[
        "schedule",
        "set",
        "nightly",
        "--cron",
        "0 2 * * *",
        "--time-zone",
        "Europe/Berlin",
        "--jitter",
        "5m",
        "--",
        "echo",
        "night",
    ])
    .await?;
    view.cli(&["schedule", "set", "often", "--every", "1s", "--", "echo", "often"]).await?;

    let first = eventually("a run of the one that comes often", SOON, async || {
        let shown = view.cli_json(&["schedule", "show", "often"]).await.ok()?;
        let last = Timestamp::parse(shown["last"].as_str()?)?;
        common::policy::schedule::tick_id("often", last)
    })
    .await?;
    let task = view.completes(&first).await?;
    ensure!(task.created_by == "schedule:often", "{}", task.created_by);
    let again =
        view.cli(&["schedule", "set", "often", "--every", "1s", "--", "echo", "often"]).await?;
    ensure!(again.contains("often unchanged"), "{again}");

    let ran = view.cli_json(&["schedule", "run", "nightly", "--key", "by hand"]).await?;
    let id = TaskId::parse(ran["task_id"].as_str().context("an id")?)?;
    let task = view.completes(&id).await?;
    let of = task.spec.and_then(|spec| spec.schedule).context("the run of a schedule")?;
    ensure!(of == pb::Tick { name: "nightly".into(), tick: None }, "{of:?}");
    let same = view.cli_json(&["schedule", "run", "nightly", "--key", "by hand"]).await?;
    ensure!(same["existing"] == true && same["task_id"] == ran["task_id"], "{same}");

    let next = view
        .cli_json(&["schedule", "next", "nightly", "-n", "2", "--after", "2027-03-27T12:00:00Z"])
        .await?;
    let ticks = next["fires"].as_array().context("fires")?;
    let ticks = ticks.iter().filter_map(|fire| fire["tick"].as_str()).collect::<Vec<_>>();
    // In the night to the 28th the clock jumps from two to three.
    ensure!(ticks == ["2027-03-28T01:00:00.000000Z", "2027-03-29T00:00:00.000000Z"], "{next}");

    let held = view.cli(&["schedule", "pause", "*", "--reason", "fair"]).await?;
    ensure!(held.contains("nightly paused") && held.contains("often paused"), "{held}");
    let list = view.cli(&["schedule", "ls", "o*"]).await?;
    ensure!(list.contains("paused: fair") && !list.contains("nightly"), "{list}");
    let resumed = view.cli_json(&["schedule", "resume", "--all"]).await?;
    ensure!(resumed["changes"].as_array().is_some_and(|all| all.len() == 2), "{resumed}");
    let removed = view.cli(&["schedule", "rm", "nightly", "often"]).await?;
    ensure!(removed.lines().count() == 2, "{removed}");

    let bad = Jetmill::cli(
        &view.url,
        &[
            "schedule",
            "set",
            "x",
            "--cron",
            "61 * * * *",
            "--jitter",
            "30h",
            "--id",
            "mine",
            "--",
            "true",
        ],
    )
    .await?;
    let named = ["schedule.cron", "schedule.jitter", "schedule.task.task_id"];
    ensure!(
        !bad.status.success() && named.iter().all(|n| bad.stderr.contains(n)),
        "{}",
        bad.stderr
    );
    let missing = Jetmill::cli(&view.url, &["schedule", "run", "nightly"]).await?;
    ensure!(missing.stderr.contains("there is no schedule"), "{}", missing.stderr);
    Ok(())
}

/// The names of the schedules that a file sets, through the file's own door.
#[tokio::test]
async fn the_example_file_is_taken_as_it_is() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/schedules/schedules.json");
    rig.cli(&["schedule", "set", "-f", file]).await?;
    let list = rig.cli_json(&["schedule", "ls"]).await?;
    let names = list["schedules"].as_array().context("schedules")?;
    let names = names.iter().filter_map(|s| s["name"].as_str()).collect::<BTreeSet<_>>();
    ensure!(names == BTreeSet::from(["inbox", "nightly-backup", "new-year", "report"]), "{list}");
    Ok(())
}
