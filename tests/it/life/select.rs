//! Changes over a filter: counted first, then made.

use jetmill_sdk::{TaskId, pb};
use serde_json::{Value, json};

use crate::rig::{Rig, is_over};

const TASKS: usize = 5;

/// The count that a dry run or a change reports; 64-bit numbers may be texts in JSON.
fn matched(answer: &Value) -> Option<u64> {
    let found = answer.get("matched")?;
    found.as_u64().or_else(|| found.as_str()?.parse().ok())
}

async fn listed(rig: &Rig, filter: &str) -> anyhow::Result<Vec<pb::Task>> {
    let min_sequence = bus::streams::last_sequence(rig.client.bus()).await?;
    let request =
        pb::ListRequest { filter: filter.into(), min_sequence, ..pb::ListRequest::default() };
    Ok(rig.client.list(&request).await?.tasks)
}

#[tokio::test]
async fn a_filter_is_counted_without_effect_and_then_changed_as_a_whole() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let task = |subsystem: &str| json!({ "executor": { "shell": { "argv": ["true"] } }, "subsystem": subsystem, "delay": "1h" });
    let mut ids: Vec<TaskId> = Vec::new();
    for _task in 0..TASKS {
        ids.push(rig.submit(task("bulk")).await?);
    }
    let bystander = rig.submit(task("other")).await?;
    let bulk = r#"subsystem = "bulk""#;
    let count = Some(TASKS as u64);

    let raise = ["reprioritise", "--where", bulk, "--priority", "9"];
    let dry = rig.cli_json(&[&raise[..], &["--dry-run"]].concat()).await?;
    assert_eq!(matched(&dry), count, "{dry}");
    assert!(listed(&rig, bulk).await?.iter().all(|task| task.priority == 5), "a dry run acts");
    rig.cli(&[&raise[..], &["--yes"]].concat()).await?;
    assert!(listed(&rig, bulk).await?.iter().all(|task| task.priority == 9));

    let dry = rig.cli_json(&["cancel", "--where", bulk, "--dry-run"]).await?;
    assert_eq!(matched(&dry), count, "{dry}");
    assert!(listed(&rig, bulk).await?.iter().all(|task| !is_over(task.state())), "a dry run acts");
    let real = rig.cli_json(&["cancel", "--where", bulk, "--yes"]).await?;
    assert_eq!(matched(&real), count, "{real}");
    for id in &ids {
        rig.ends(id, pb::TaskState::Cancelled).await?;
    }

    let cancelled = r#"subsystem = "bulk" AND state = cancelled"#;
    let dry = rig.cli_json(&["retry", "--where", cancelled, "--dry-run"]).await?;
    assert_eq!(matched(&dry), count, "{dry}");
    assert_eq!(listed(&rig, bulk).await?.len(), TASKS, "a dry run acts");
    rig.cli(&["retry", "--where", cancelled, "--yes"]).await?;
    let all = listed(&rig, bulk).await?;
    let mut again: Vec<_> =
        all.iter().map(|task| &task.retry_of).filter(|id| !id.is_empty()).collect();
    again.sort();
    ids.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    assert_eq!(again, ids.iter().map(TaskId::as_str).collect::<Vec<_>>());

    let bystander = rig.task(&bystander).await?;
    assert!(!is_over(bystander.state()) && bystander.priority == 5);
    let error = rig.cli(&["cancel", "--where", "no such field = 1", "--yes"]).await;
    assert!(error.is_err(), "a filter that cannot be read is refused");
    Ok(())
}
