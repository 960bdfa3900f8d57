//! Dependencies: every kind of edge, in any order of submission.

use std::io::Write as _;

use jetmill_sdk::{
    TaskId,
    pb::{Cause, TaskState},
};
use serde_json::{Value, json};

use crate::rig::Rig;

fn node(id: &str, script: &str, depends_on: &Value) -> Value {
    json!({
        "task_id": id,
        "executor": { "shell": { "script": script } },
        "depends_on": depends_on,
        "retry": { "max_attempts": 1 },
    })
}

fn edge(id: &str, on: &str) -> Value {
    json!({ "task_id": id, "on": on })
}

#[tokio::test]
async fn a_graph_with_a_failing_branch_ends_as_its_edges_say() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    // Leaves first: every dependency is unknown when its dependent comes.
    let graph = [
        node(
            "report",
            "echo report",
            &json!(["good", edge("bad", "ON_END"), edge("rescue", "ON_END")]),
        ),
        node("after-skipped", "true", &json!(["no-need"])),
        node("no-need", "true", &json!([edge("good", "ON_FAILURE")])),
        node("rescue", "echo rescued", &json!([edge("bad", "ON_FAILURE")])),
        node("after-after-bad", "true", &json!(["after-bad"])),
        node("after-bad", "true", &json!(["bad", "good"])),
        node("rescue-dependent", "true", &json!([edge("after-bad", "ON_FAILURE")])),
        node("bad", "exit 3", &json!([])),
        node("good", "true", &json!([])),
    ];
    let mut file = tempfile::NamedTempFile::new()?;
    for task in &graph {
        writeln!(file, "{task}")?;
    }
    rig.cli(&["submit", "-f", &file.path().to_string_lossy()]).await?;

    let id = |id: &str| TaskId::parse(id);
    for completed in ["good", "rescue", "rescue-dependent", "report"] {
        rig.completes(&id(completed)?).await?;
    }
    rig.fails(&id("bad")?, Cause::Error, "exit_3").await?;
    let failed = rig.fails(&id("after-bad")?, Cause::Dependency, "dependency").await?;
    let message = failed.error.unwrap_or_default().message;
    assert!(message.contains("bad"), "the message names the dependency: {message}");
    rig.fails(&id("after-after-bad")?, Cause::Dependency, "dependency").await?;
    rig.ends(&id("no-need")?, TaskState::Skipped).await?;
    rig.ends(&id("after-skipped")?, TaskState::Skipped).await?;
    for never_ran in ["after-bad", "after-after-bad", "no-need", "after-skipped"] {
        let task = rig.task(&id(never_ran)?).await?;
        assert!(task.attempts == 0 && task.started_at.is_none(), "{never_ran} has run");
    }
    Ok(())
}

#[tokio::test]
async fn a_task_waits_for_one_that_comes_later_and_says_so() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let dependent = rig.submit(node("early", "echo done", &json!(["late"]))).await?;
    rig.waits_for(&dependent, &["dependency"]).await?;
    let why = rig.cli(&["why", "early"]).await?;
    assert!(why.contains("late"), "why names the dependency: {why}");

    let mut late = node("late", "true", &json!([]));
    late["delay"] = json!("1h");
    let late = rig.submit(late).await?;
    rig.waits_for(&late, &["delay"]).await?;
    rig.waits_for(&dependent, &["dependency"]).await?;

    // The delay ends now.
    rig.cli(&["retry", "late"]).await?;
    let (first, second) = (rig.completes(&late).await?, rig.completes(&dependent).await?);
    assert!(
        second.started_at.map(common::time::Timestamp::from) >= first.finished_at.map(Into::into)
    );
    rig.waits_for(&dependent, &["finished"]).await?;

    // What is over already counts as well.
    let after =
        rig.submit(node("after", "true", &json!(["late", edge("early", "ON_END")]))).await?;
    rig.completes(&after).await?;
    Ok(())
}

#[tokio::test]
async fn a_cycle_is_refused_as_soon_as_it_is_closed() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let [a, b] = [node("a", "true", &json!(["b"])), node("b", "true", &json!(["a"]))];
    let (a, b) = (rig.submit(a).await?, rig.submit(b).await?);
    rig.ends(&a, TaskState::Failed).await?;
    rig.ends(&b, TaskState::Failed).await?;
    let codes =
        [rig.task(&a).await?, rig.task(&b).await?].map(|t| t.error.unwrap_or_default().code);
    assert!(codes.contains(&"cycle".to_owned()), "{codes:?}");
    Ok(())
}
