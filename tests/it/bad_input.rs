//! Bad input of every kind at every door: a clear error there, or a letter in `DEAD`; nothing else
//! is spoiled, and no service stops.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

mod asked;
mod published;

use anyhow::ensure;
use serde_json::{Value, json};
use testkit::Dev;

use crate::support::{ended, http, nats, submit_json};

/// Submissions that are JSON, and no tasks: with the words of which the complaint must consist.
fn bad_specs() -> Vec<(Value, &'static [&'static str])> {
    let long = |bytes: usize| "x".repeat(bytes);
    let many = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    vec![
        (json!({ "priority": "high" }), &["wrong type"]),
        (json!({ "title": ["a"] }), &["wrong type"]),
        (json!({ "executor": { "shell": { "argv": "ls" } } }), &["wrong type"]),
        (json!({ "tilte": "a", "prio": 1, "title": "b" }), &["tilte", "prio"]),
        (json!({ "executor": {} }), &["executor", "shell"]),
        (json!({ "executor": { "shell": {} } }), &["argv", "script"]),
        (json!({ "task_id": "self", "depends_on": ["self"] }), &["depends_on[0]", "itself"]),
        (json!({ "depends_on": [""] }), &["depends_on[0]"]),
        (json!({ "depends_on": many(1_001) }), &["depends_on", "1000"]),
        (json!({ "priority": 0 }), &["priority", "1 to 10"]),
        (json!({ "priority": 11 }), &["priority", "1 to 10"]),
        (json!({ "run_at": 253_402_300_800_i64 }), &["run_at", "9999"]),
        (json!({ "run_at": -1 }), &["run_at", "1970"]),
        (json!({ "run_at": "tomorrow" }), &["RFC 3339"]),
        (json!({ "delay": "400d" }), &["delay", "366 days"]),
        (json!({ "delay": -1 }), &["duration"]),
        (json!({ "sla_hours": 0 }), &["sla_hours"]),
        (json!({ "retry": { "max_attempts": 0 } }), &["retry.max_attempts"]),
        (json!({ "task_id": long(129) }), &["task_id", "128"]),
        (json!({ "task_id": "a\nb" }), &["task_id", "control"]),
        (json!({ "queue": "a.b" }), &["queue"]),
        (json!({ "tenant": "../etc" }), &["tenant"]),
        (json!({ "notify": "$SYS.a" }), &["notify"]),
        (json!({ "schedule": { "name": "nightly" } }), &["schedule", "set by the scheduler"]),
        (json!({ "title": long(513) }), &["title", "512"]),
        (json!({ "description": long(9_000) }), &["description"]),
        (json!({ "metadata": [1] }), &["metadata", "object"]),
        (
            json!({ "priority": 99, "sla_hours": -1, "queue": "" , "title": long(600) }),
            &["priority", "sla_hours", "title"],
        ),
    ]
}

/// Work goes on: a good task completes, and every service is ready.
async fn still_works(dev: &Dev, id: &str) -> anyhow::Result<()> {
    let client = nats(dev).await?;
    let good = json!({ "task_id": id, "executor": { "shell": { "argv": ["echo", "fine"] } } });
    submit_json(&client, &good).await?;
    let task = ended(&client, id).await?;
    ensure!(task["state"] == "TASK_STATE_COMPLETED", "{task}");
    let (status, body) = http(&dev.addresses().http, "/readyz").await?;
    ensure!(status == 200, "it is not ready any more: {body}");
    Ok(())
}
