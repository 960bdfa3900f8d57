//! Task types as people and programs read them, with their tasks by state.

use std::collections::{BTreeMap, HashMap};

use comfy_table::Cell;
use common::{limits, pb};
use pb::document::Body;
use serde::Serialize;

use crate::{connect::Session, exit::Exit, table};

/// The states whose tasks are counted.
const STATES: [&str; 6] = ["pending", "running", "completed", "failed", "cancelled", "skipped"];

/// A type with the number of its tasks in each state.
#[derive(Serialize)]
struct Counted {
    version: u64,
    #[serde(flatten)]
    task_type: pb::TaskType,
    tasks: BTreeMap<&'static str, u64>,
}

/// The types with the numbers of their tasks: one question for a thousand types.
async fn count(session: &Session, types: Vec<(u64, pb::TaskType)>) -> anyhow::Result<Vec<Counted>> {
    let filter = format!("tenant = \"{}\"", session.tenant);
    let mut counted = Vec::with_capacity(types.len());
    for some in types.chunks(limits::COUNTED_TYPES_MAX) {
        let request = pb::CountTypesRequest {
            task_types: some.iter().map(|(_, task_type)| task_type.name.clone()).collect(),
            filter: filter.clone(),
            min_sequence: 0,
        };
        let counts = session.client.count_types(&request).await?.counts;
        let counts = counts.into_iter().map(|of| (of.task_type, of.by_state));
        let mut counts = counts.collect::<HashMap<_, _>>();
        counted.extend(some.iter().map(|(version, task_type)| {
            let of = counts.remove(&task_type.name).unwrap_or_default();
            let tasks = STATES.map(|state| (state, of.get(state).copied().unwrap_or_default()));
            Counted { version: *version, task_type: task_type.clone(), tasks: tasks.into() }
        }));
    }
    Ok(counted)
}

/// Lists types.
pub(super) async fn list(session: &Session, documents: Vec<pb::Document>) -> anyhow::Result<Exit> {
    let types = documents.into_iter().filter_map(|document| match document.body {
        Some(Body::TaskType(task_type)) => Some((document.version, task_type)),
        _ => None,
    });
    let types = count(session, types.collect()).await?;
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
    let counted = count(session, vec![(version, task_type)]).await?.into_iter().next();
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
