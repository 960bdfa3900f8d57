//! **Pure.** What limits say about a task that waits, and when it may start.

use std::{collections::HashMap, time::Duration};

use common::{id::TaskKey, pb, task::TaskSpec, time::Timestamp};

use super::reason;
use crate::{
    flow::{Held, Hold},
    plan::{Entry, Found, Place, Planner, Ticket},
};

/// Tasks that are named as holders of one limit.
const HOLDERS_MAX: usize = 3;
/// An estimate further away than this is none.
const ESTIMATE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A place in the log: the message, and which item of it.
type At = (u64, u32);
/// Where a task lies, and where its holders do.
pub type Places = (At, Vec<At>);
/// The ids of tasks, by where their submissions lie in the log.
pub type Names = HashMap<At, String>;

/// Where the submissions lie of tasks that are out and hold this one by a limit: the planner knows no
/// ids.
pub fn holders(planner: &Planner, key: TaskKey) -> Vec<At> {
    let Some(Found::Open(ticket, entry)) = planner.find(key) else { return Vec::new() };
    if matches!(entry.place, Place::External | Place::Released(_)) {
        return Vec::new();
    }
    let held = planner.holds(ticket, &entry).into_iter();
    let full = held.filter(|held| matches!(held.hold, Hold::Full { .. }));
    let tickets = full.flat_map(|h| planner.holders(ticket, &entry, &h.limit, HOLDERS_MAX));
    let places = tickets.filter_map(|ticket| planner.entry(ticket)).map(|e| (e.sequence, e.index));
    places.collect()
}

/// What the limits of a task's queue say, in their order.
pub(super) fn limits(
    planner: &Planner,
    (ticket, entry): (Ticket, &Entry),
    spec: &TaskSpec,
    names: &Names,
) -> Vec<pb::Reason> {
    let mut reasons = Vec::new();
    for held in planner.holds(ticket, entry) {
        let who = match held.hold {
            Hold::Full { .. } => planner.holders(ticket, entry, &held.limit, HOLDERS_MAX),
            Hold::Rate(_) | Hold::Debounce(_) | Hold::Unknown => Vec::new(),
        };
        let ids = who.into_iter().filter_map(|ticket| planner.entry(ticket));
        let ids = ids.filter_map(|e| names.get(&(e.sequence, e.index)).map(String::as_str));
        reasons.push(limit(&held, entry, &ids.collect::<Vec<_>>()));
    }
    for named in planner.limits_of(entry) {
        if let Some(key) = &named.limit.key
            && let Err(problem) = key.of(spec)
        {
            let (name, source) = (&named.name, key.source());
            let message =
                format!("for limit {name} it counts as the empty key: `{source}` {problem}");
            let hint = format!("`jetmill limit ls` shows the limit; submit what {source} names");
            reasons.push(reason("key", message, hint));
        }
    }
    reasons
}

fn limit(held: &Held, entry: &Entry, ids: &[&str]) -> pb::Reason {
    let Held { limit, key, hold } = held;
    let whose = key.as_ref().map_or_else(String::new, |key| format!(" with key {key:?}"));
    let hint = format!("`jetmill limit ls` shows limit {limit}");
    let at = hold.until().map(Timestamp::from_micros);
    let until = at.map(Into::into);
    let when = at.map_or_else(String::new, |at| at.to_string());
    let (code, message) = match hold {
        Hold::Full { out, max } => {
            let more = (*out as usize).saturating_sub(ids.len());
            let who = match (ids, more) {
                ([], _) => String::new(),
                (ids, 0) => format!(": {}", ids.join(", ")),
                (ids, more) => format!(": {} and {more} more", ids.join(", ")),
            };
            (
                "limit",
                format!("limit {limit} lets {max} run at once{whose}, and {out} are out{who}"),
            )
        }
        Hold::Rate(_) => {
            ("rate", format!("limit {limit} lets the next one{whose} start at {when}"))
        }
        Hold::Debounce(_) => {
            let what = "waits for newer submissions";
            ("debounce", format!("limit {limit} {what}{whose} until {when}"))
        }
        Hold::Unknown => {
            ("limit", format!("limit {limit} is new to it: its key is read when its turn comes"))
        }
    };
    let hint = match (hold, ids.first()) {
        (Hold::Full { .. }, Some(first)) if entry.place == Place::Ready => {
            format!("`jetmill why {first}`; {hint}")
        }
        _ => hint,
    };
    pb::Reason { until, ..reason(code, message, hint) }
}

/// When a task may start, where that can be said: times are known, and the queue's pace when it goes.
pub(super) fn estimated_start(
    planner: &Planner,
    ticket: Ticket,
    entry: &Entry,
    reasons: &[pb::Reason],
) -> Option<Timestamp> {
    if !matches!(entry.place, Place::Waiting | Place::Ready) {
        return None;
    }
    let now = planner.clock();
    let is_timed = |reason: &pb::Reason| reason.until.is_some();
    let is_pace = |reason: &pb::Reason| reason.code == "window" || reason.code == "key";
    if !reasons.iter().all(|reason| is_timed(reason) || is_pace(reason)) {
        return None;
    }
    let times = reasons.iter().filter_map(|reason| reason.until).map(Timestamp::from);
    let by_pace = (entry.place == Place::Ready).then(|| {
        let (_, queue) = planner.queue_of(entry);
        let ahead = planner.ahead(ticket)? + 1;
        let seconds = ahead as f64 / queue.pace.per_second()?;
        Some(now.after(Duration::try_from_secs_f64(seconds).ok()?))
    });
    let by_rate = planner.due_by_rate(ticket, entry);
    let start = times.chain(by_pace.flatten()).chain(by_rate).max()?;
    (start.since(now) <= ESTIMATE_MAX).then_some(start)
}
