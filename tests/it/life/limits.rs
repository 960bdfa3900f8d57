//! Limits that are set while work runs, and what `why` says of them.

use anyhow::{bail, ensure};
use jetmill_sdk::{TaskId, pb};
use serde_json::{Value, json};
use testkit::eventually;

use super::order::Record;
use crate::{
    rig::{Rig, gate, spec},
    support::SOON,
};

fn of(handler: &str, title: &str, customer: &str) -> Value {
    json!({
        "executor": { "worker": { "handler": handler } },
        "queue": "shared", "title": title, "input": { "customer": customer },
    })
}

async fn says(rig: &Rig, id: &TaskId) -> anyhow::Result<pb::Reason> {
    let request = pb::WhyRequest { tenant: String::new(), task_id: id.to_string() };
    let reasons = rig.client.why(&request).await?.reasons;
    reasons.into_iter().next().ok_or_else(|| anyhow::anyhow!("there is no reason"))
}

#[tokio::test]
async fn a_limit_that_is_set_while_work_runs_holds_and_why_names_the_holder() -> anyhow::Result<()>
{
    let rig = Rig::start().await?;
    let (record, gate) = (Record::default(), gate());
    let _worker = rig.worker("shared", 8, record.handlers(&gate)).await?;
    // Two of one customer and one of another run, before there is a limit.
    let first = rig.submit(of("wait", "first", "acme")).await?;
    let second = rig.submit(of("wait", "second", "acme")).await?;
    let other = rig.submit(of("wait", "other", "globex")).await?;
    for id in [&first, &second, &other] {
        rig.running(id).await?;
    }
    let set = ["limit", "set", "each", "--queue", "shared", "--key", "input.customer"];
    rig.cli(&[&set[..], &["--concurrency", "1"]].concat()).await?;

    // The keys of what is out were not known before: they count all the same.
    let third = rig.submit(of("note", "third", "acme")).await?;
    rig.first_waits_for(&third, "limit").await?;
    let reason = says(&rig, &third).await?;
    let named = [&first, &second].iter().all(|id| reason.message.contains(id.as_str()));
    ensure!(named && !reason.message.contains(other.as_str()), "{reason:?}");
    ensure!(reason.message.contains("with key \"acme\""), "{reason:?}");
    let free = rig.submit(of("note", "free", "initech")).await?;
    rig.completes(&free).await?;
    ensure!(record.seen().iter().all(|title| title != "third"), "{:?}", record.seen());

    // A limit without room for it is taken away, and set again with more.
    let text = rig.cli(&["limit", "ls"]).await?;
    ensure!(text.contains("each") && text.contains("concurrency 1"), "{text}");
    rig.cli(&[&set[..], &["--concurrency", "3"]].concat()).await?;
    rig.completes(&third).await?;

    // A rate holds until a time that is said; without the limit it goes at once.
    rig.cli(&["limit", "set", "slow", "--queue", "shared", "--rate", "1/1h"]).await?;
    let one = rig.submit(of("note", "one", "acme")).await?;
    let two = rig.submit(of("note", "two", "acme")).await?;
    rig.completes(&one).await?;
    rig.first_waits_for(&two, "rate").await?;
    let reason = says(&rig, &two).await?;
    ensure!(reason.until.is_some(), "{reason:?}");
    rig.cli(&["limit", "rm", "slow", "each"]).await?;
    rig.completes(&two).await?;
    gate.add_permits(3);
    for id in [&first, &second, &other] {
        rig.completes(id).await?;
    }
    Ok(())
}

#[tokio::test]
async fn of_a_burst_the_newest_runs_and_the_others_say_why_not() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let (record, gate) = (Record::default(), gate());
    let _worker = rig.worker("shared", 8, record.handlers(&gate)).await?;
    let set = ["limit", "set", "calm", "--queue", "shared", "--key", "input.customer"];
    rig.cli(&[&set[..], &["--debounce", "1s"]].concat()).await?;
    let mut ids = Vec::new();
    for title in ["a", "b", "c", "d"] {
        ids.push(rig.submit(of("note", title, "acme")).await?);
    }
    let newest = ids.pop().expect("four were submitted");
    for id in &ids {
        rig.ends(id, pb::TaskState::Skipped).await?;
        let last = rig.history(id).await?.pop().and_then(|entry| entry.event?.kind);
        let Some(pb::event::Kind::Skipped(body)) = &last else { bail!("{last:?}") };
        ensure!(body.reason.contains("by limit calm"), "{body:?}");
    }
    rig.completes(&newest).await?;
    let seen = eventually("one of the burst to run", SOON, async || {
        Some(record.seen()).filter(|seen| !seen.is_empty())
    });
    ensure!(seen.await? == ["d"], "{:?}", record.seen());
    Ok(())
}

#[tokio::test]
async fn a_full_queue_is_said_at_the_door_until_it_has_room() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    rig.cli(&["limit", "set", "cap", "--queue", "shared", "--depth", "2"]).await?;
    let named = |id: &str| {
        let mut task = of("note", id, "acme");
        task["task_id"] = id.into();
        task
    };
    for id in ["first", "second"] {
        rig.submit(named(id)).await?;
    }
    // The door hears of it a moment later; what comes in between the scheduler refuses.
    let refused = eventually("a refusal at the door", SOON, async || {
        rig.client.submit(spec(of("note", "more", "acme")).ok()?).await.err()
    })
    .await?;
    let text = refused.to_string();
    ensure!(text.contains("queue shared is at its depth cap of 2 (limit cap)"), "{text}");
    ensure!(refused.code.as_str() == "exhausted" && refused.hint.contains("retry"), "{refused:?}");
    let again = rig.client.submit(spec(named("first"))?).await?;
    ensure!(again.existing, "what is there already needs no room: {again:?}");

    let (record, gate) = (Record::default(), gate());
    let _worker = rig.worker("shared", 2, record.handlers(&gate)).await?;
    eventually("room", SOON, async || {
        rig.client.submit(spec(of("note", "late", "acme")).ok()?).await.ok()
    })
    .await?;
    Ok(())
}
