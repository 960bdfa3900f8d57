//! Task types as people and programs read them, with their tasks by state.

use comfy_table::Cell;
use common::pb;
use futures::StreamExt as _;
use pb::document::Body;
use serde::Serialize;

use crate::{connect::Session, exit::Exit, table};

/// Questions to the ledger that are under way at once.
const QUESTIONS: usize = 16;
/// The states whose tasks are counted.
const STATES: [&str; 6] = ["pending", "running", "completed", "failed", "cancelled", "skipped"];

/// A type with the number of its tasks in each state.
#[derive(Serialize)]
struct Counted {
    version: u64,
    #[serde(flatten)]
    task_type: pb::TaskType,
    tasks: std::collections::BTreeMap<&'static str, u64>,
}

async fn count(
    session: &Session,
    version: u64,
    task_type: pb::TaskType,
) -> anyhow::Result<Counted> {
    let mut tasks = std::collections::BTreeMap::new();
    for state in STATES {
        let (tenant, name) = (session.tenant.as_str(), &task_type.name);
        let filter =
            format!("tenant = \"{tenant}\" AND task_type = \"{name}\" AND state = {state}");
        let request =
            pb::ListRequest { filter, page_size: 1, count: true, ..pb::ListRequest::default() };
        tasks.insert(state, session.client.list(&request).await?.total.unwrap_or_default());
    }
    Ok(Counted { version, task_type, tasks })
}

/// Lists types.
pub(super) async fn list(session: &Session, documents: Vec<pb::Document>) -> anyhow::Result<Exit> {
    let types = documents.into_iter().filter_map(|document| match document.body {
        Some(Body::TaskType(task_type)) => Some(count(session, document.version, task_type)),
        _ => None,
    });
    let types = futures::stream::iter(types).buffered(QUESTIONS).collect::<Vec<_>>().await;
    let types = types.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    session.ui.answer(&serde_json::json!({ "types": types }), |_| {
        if types.is_empty() {
            return "no task types; apply some with `jetmill types apply -f FILE`".into();
        }
        let mut rows = table::table([
            "TYPE",
            "STATE",
            "QUEUE",
            "EXECUTOR",
            "SCHEDULE",
            "PENDING",
            "RUNNING",
            "COMPLETED",
            "FAILED",
            "DESCRIPTION",
        ]);
        for Counted { task_type, tasks, .. } in &types {
            let count = |state| Cell::new(tasks.get(state).copied().unwrap_or_default());
            rows.add_row(vec![
                Cell::new(&task_type.name),
                Cell::new(if task_type.enabled.unwrap_or(true) { "enabled" } else { "disabled" }),
                Cell::new(&task_type.queue),
                Cell::new(executor(task_type)),
                Cell::new(&task_type.schedule),
                count("pending"),
                count("running"),
                count("completed"),
                count("failed"),
                Cell::new(table::cut(&task_type.description, 48)),
            ]);
        }
        rows.trim_fmt()
    })?;
    Ok(Exit::Done)
}

/// Shows one type whole.
pub(super) async fn one(
    session: &Session,
    (version, task_type): (u64, pb::TaskType),
) -> anyhow::Result<Exit> {
    let counted = count(session, version, task_type).await?;
    session
        .ui
        .answer(&counted, |counted| serde_json::to_string_pretty(counted).unwrap_or_default())?;
    Ok(Exit::Done)
}

/// The word of a type's executor: its only field in JSON.
fn executor(task_type: &pb::TaskType) -> String {
    let value = serde_json::to_value(&task_type.executor).unwrap_or_default();
    let word = value.as_object().and_then(|fields| fields.keys().next());
    word.cloned().unwrap_or_default()
}
