//! Who starts first, and who does not start at all.

use std::sync::{Arc, Mutex};

use jetmill_sdk::{HandlerContext, TaskId, WorkerBuilder, pb};
use serde_json::{Value, json};
use testkit::eventually;

use crate::{
    rig::{Gate, Rig, View, gate},
    support::SOON,
};

/// What a worker ran, by title, in the order in which it did.
#[derive(Clone, Default)]
pub(super) struct Record(Arc<Mutex<Vec<String>>>);

impl Record {
    fn add(&self, handler: &HandlerContext) {
        let title = handler.spec().as_pb().title.clone();
        self.0.lock().expect("no test panics with this lock").push(title);
    }

    pub(super) fn seen(&self) -> Vec<String> {
        self.0.lock().expect("no test panics with this lock").clone()
    }

    /// Handlers that put themselves on record: `note` at once, `wait` until the gate lets one go.
    pub(super) fn handlers(&self, gate: &Gate) -> impl FnOnce(WorkerBuilder) -> WorkerBuilder {
        let (note, wait, gate) = (self.clone(), self.clone(), gate.clone());
        move |worker| {
            worker
                .handler("note", move |handler| {
                    note.add(&handler);
                    async { Ok(()) }
                })
                .handler("wait", move |handler| {
                    wait.add(&handler);
                    let gate = gate.clone();
                    async move {
                        gate.acquire().await?.forget();
                        Ok(())
                    }
                })
        }
    }
}

pub(super) fn call(queue: &str, handler: &str, title: &str) -> Value {
    urgent(queue, handler, title, 5)
}

fn urgent(queue: &str, handler: &str, title: &str, priority: u8) -> Value {
    json!({
        "executor": { "worker": { "handler": handler } },
        "queue": queue, "title": title, "priority": priority,
    })
}

async fn pause(view: &View, queue: &str) -> anyhow::Result<bool> {
    let request =
        pb::PauseRequest { queue: queue.into(), reason: "a test".into(), ..Default::default() };
    Ok(view.client.pause(&request).await?.changed)
}

#[tokio::test]
async fn a_resumed_queue_starts_the_most_urgent_first_and_then_the_oldest() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let record = Record::default();
    let _worker = rig.worker("ordered", 1, record.handlers(&gate())).await?;
    rig.cli(&["queue", "pause", "ordered"]).await?;
    assert!(!pause(&rig, "ordered").await?, "a second pause changes nothing");

    let mut ids = Vec::new();
    for (title, priority) in
        [("a", 5), ("b", 1), ("c", 10), ("d", 5), ("e", 7), ("f", 10), ("g", 1)]
    {
        ids.push(rig.submit(urgent("ordered", "note", title, priority)).await?);
    }
    let last = ids.last().expect("seven were submitted");
    rig.first_waits_for(last, "paused").await?;
    let changed = rig.cli_json(&["reprioritise", last.as_str(), "--priority", "9"]).await?;
    assert!(changed.to_string().contains("reprioritised"), "{changed}");
    rig.until(last, "of priority 9", |task| task.priority == 9).await?;
    assert!(record.seen().is_empty(), "a paused queue started {:?}", record.seen());

    rig.cli(&["queue", "resume", "ordered"]).await?;
    for id in &ids {
        rig.completes(id).await?;
    }
    assert_eq!(record.seen(), ["c", "f", "g", "e", "a", "d", "b"]);
    Ok(())
}

/// Waits until the messages of a queue are withheld from its workers, or not any more.
async fn consumer_paused(view: &View, queue: &str, paused: bool) -> anyhow::Result<()> {
    let queue = jetmill_sdk::QueueName::parse(queue)?;
    let name = common::subject::executions_consumer(&queue);
    let stream = view.client.bus().jetstream().get_stream(common::subject::EXECUTIONS).await?;
    eventually("the pause of a consumer", SOON, async || {
        let info = stream.consumer_info(&name).await.ok()?;
        (info.paused == paused).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_pause_also_stops_what_is_on_its_way_and_leaves_what_runs() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let (record, gate) = (Record::default(), gate());
    let _worker = rig.worker("held", 1, record.handlers(&gate)).await?;
    let _other = rig.worker("open", 1, Record::default().handlers(&gate)).await?;
    let busy = rig.submit(call("held", "wait", "busy")).await?;
    rig.running(&busy).await?;
    let next = rig.submit(call("held", "note", "next")).await?;
    rig.waits_for(&next, &["released"]).await?;

    assert!(pause(&rig, "held").await?);
    consumer_paused(&rig, "held", true).await?;
    gate.add_permits(1);
    rig.completes(&busy).await?;
    let later = rig.submit(call("held", "note", "later")).await?;
    // Whatever could start has started by the end of a task that came last.
    let elsewhere = rig.submit(call("open", "note", "elsewhere")).await?;
    rig.completes(&elsewhere).await?;
    assert_eq!(record.seen(), ["busy"]);
    rig.first_waits_for(&later, "paused").await?;

    rig.cli(&["queue", "resume", "held"]).await?;
    rig.completes(&next).await?;
    rig.completes(&later).await?;
    assert_eq!(record.seen(), ["busy", "next", "later"]);
    Ok(())
}

#[tokio::test]
async fn everything_can_be_paused_and_goes_on() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let record = Record::default();
    let _worker = rig.worker("one", 4, record.handlers(&gate())).await?;
    rig.cli(&["pause", "--all", "--reason", "a test"]).await?;
    assert!(!pause(&rig, "").await?, "everything is paused already");
    let shell: TaskId =
        rig.submit(json!({ "executor": { "shell": { "argv": ["true"] } } })).await?;
    let call = rig.submit(call("one", "note", "x")).await?;
    for id in [&shell, &call] {
        rig.first_waits_for(id, "paused").await?;
    }
    let queues = rig.cli(&["queue", "ls"]).await?;
    assert!(queues.contains("paused"), "{queues}");
    assert!(record.seen().is_empty());

    rig.cli(&["resume", "--all"]).await?;
    rig.completes(&shell).await?;
    rig.completes(&call).await?;
    Ok(())
}
