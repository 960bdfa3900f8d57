//! Which tasks a change is for: named ones, or those that fit a filter.

use bus::{Bus, endpoint};
use common::{error::ApiError, id::TaskId, limits, pb};

use crate::orders::Change;

/// Tasks that one change over a filter reaches, at most.
const MATCHED_MAX: usize = 1_000_000;

pub(super) async fn ids(
    bus: &Bus,
    selection: &pb::Selection,
    change: &Change,
) -> Result<Vec<TaskId>, ApiError> {
    match (selection.task_ids.is_empty(), selection.filter.is_empty()) {
        (false, true) => selection
            .task_ids
            .iter()
            .map(|id| {
                TaskId::parse(id).map_err(|e| ApiError::invalid_field("task_ids", e.to_string()))
            })
            .collect(),
        (true, false) => matching(bus, &whole_filter(selection, change)).await,
        (true, true) => Err(ApiError::invalid_field("selection", "must have task_ids or a filter")),
        (false, false) => {
            Err(ApiError::invalid_field("selection", "must have task_ids or a filter, not both"))
        }
    }
}

/// What is over cannot be cancelled or reprioritised: only what could change is matched.
fn whole_filter(selection: &pb::Selection, change: &Change) -> String {
    let tenant = if selection.tenant.is_empty() { "default" } else { &selection.tenant };
    let open = match change {
        Change::Cancel { .. } | Change::Reprioritise { .. } => {
            " AND (state = pending OR state = running)"
        }
        Change::Retry => "",
    };
    format!("({}) AND tenant = \"{tenant}\"{open}", selection.filter)
}

async fn matching(bus: &Bus, filter: &str) -> Result<Vec<TaskId>, ApiError> {
    let min_sequence = bus::streams::last_sequence(bus).await.unwrap_or(0);
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListRequest {
            filter: filter.to_owned(),
            page_size: limits::PAGE_SIZE_MAX,
            page_token,
            min_sequence,
            count: false,
        };
        let page: pb::ListResponse = endpoint::request(bus, "registry", "list", &request).await?;
        ids.extend(page.tasks.iter().filter_map(|task| TaskId::parse(&task.task_id).ok()));
        if page.next_page_token.is_empty() || ids.len() >= MATCHED_MAX {
            return Ok(ids);
        }
        page_token = page.next_page_token;
    }
}
