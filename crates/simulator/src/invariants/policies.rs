//! **Pure.** What must hold of schedules, task types and documents.

use common::{
    event::Resolved,
    id::TaskKey,
    policy::{
        Document, Policies,
        schedule::{Overlap, Schedule},
    },
    task::TaskSpec,
    time::Timestamp,
};
use scheduler::{
    office::Out,
    plan::{Entry, Found, Place, Planner},
    schedule::{Known, Order},
};

use super::{Held, broken};
use crate::truth::{Truth, id_of};

/// How late a decision about a tick may be when nothing breaks any more.
const LATE_US: i64 = 30_000_000;

pub(super) fn documents(policies: &Policies) -> Vec<(&Document, u64)> {
    policies.of(None).map(|known| (&known.document, known.sequence)).collect()
}

/// Where each schedule stands, and which of its runs are open.
pub(super) fn schedules(planner: &Planner) -> Vec<String> {
    let stand = |(name, known): (&str, &Known)| {
        let runs = known.runs.iter().map(|run| run.id.as_str()).collect::<Vec<_>>();
        let Known { decided, last, .. } = known;
        format!("{name} up to {decided:?}, last {last:?}, open {runs:?}")
    };
    planner.schedules().iter().map(stand).collect()
}

/// Who has read the whole log knows every limit, schedule and task type that was not removed.
pub fn policy_is_kept(truth: &Truth, planner: &Planner) -> Held {
    let (told, known) = (documents(&truth.policies), documents(planner.policies()));
    if told == known {
        Ok(())
    } else {
        broken("policy_is_kept", format!("{known:?}; told: {told:?}"))
    }
}

fn name(order: &Order) -> &str {
    match order {
        Order::Create { name, .. } => name,
        Order::Advance(advanced) => &advanced.name,
    }
}

/// Who has read that a schedule is paused or removed decides about none of its ticks.
pub fn resting_schedules_rest(
    truth: &Truth,
    order: &Order,
    (cursor, now): (u64, Timestamp),
) -> Held {
    let schedule = truth.schedules.at(name(order), cursor).schedule;
    if schedule.is_none_or(|schedule| schedule.is_paused_at(now)) {
        return broken("resting_schedules_rest", format!("{order:?}"));
    }
    Ok(())
}

/// What is to be decided about a schedule, read off the documentation.
#[derive(Debug, PartialEq)]
enum Due {
    Nothing,
    /// All that is due up to this tick is too late, or newer ticks are caught up.
    Late(Timestamp),
    /// This one has no task, since others are open.
    Skipped(Timestamp),
    /// This one has its task, which waits for so many.
    Runs(Timestamp, usize),
}

fn due(
    (schedule, name): (&Schedule, &str),
    decided: Timestamp,
    open: usize,
    now: Timestamp,
) -> Due {
    let fires = |tick: &Timestamp| schedule.fires_at(name, *tick);
    let due = schedule.ticks(decided).take_while(|tick| fires(tick) <= now).collect::<Vec<_>>();
    let window = schedule.catch_up.window;
    let in_time = due.iter().filter(|tick| fires(tick).after(window) >= now).collect::<Vec<_>>();
    let kept = &in_time[in_time.len().saturating_sub(schedule.catch_up.max)..];
    let place = kept.first().and_then(|first| due.iter().position(|tick| tick == *first));
    match (place, due.last()) {
        (_, None) => Due::Nothing,
        (None, Some(last)) => Due::Late(*last),
        (Some(0), _) if open >= schedule.runs_max => Due::Skipped(due[0]),
        (Some(0), _) => match schedule.overlap {
            Overlap::Skip if open > 0 => Due::Skipped(due[0]),
            Overlap::Skip | Overlap::Allow => Due::Runs(due[0], 0),
            Overlap::Queue | Overlap::CancelOlder => Due::Runs(due[0], open),
        },
        (Some(place), _) => Due::Late(due[place - 1]),
    }
}

/// A tick has its task, or the log says why it has none, as its schedule's policies have it: the
/// decision of a leader that has read up to the cursor.
pub fn no_tick_is_passed_over(
    truth: &Truth,
    order: &Order,
    (cursor, now): (u64, Timestamp),
) -> Held {
    let name = name(order);
    let stand = truth.schedules.at(name, cursor);
    let (Some(schedule), Some(decided)) = (stand.schedule, stand.decided) else { return Ok(()) };
    let open = truth.open_runs(name, cursor);
    let due = due((&schedule, name), decided, open, now);
    // Whose type is disabled has no runs.
    let rests = schedule.type_of_runs().is_some_and(|of| truth.types.is_disabled(of, cursor));
    let fits = match order {
        Order::Create { tick, .. } if truth.schedules.has_fired(name, *tick, cursor) => {
            return broken("a_tick_fires_once", format!("{name} at {tick}"));
        }
        Order::Create { tick, spec, .. } => {
            !rests && due == Due::Runs(*tick, spec.depends_on().len())
        }
        Order::Advance(advanced) => match due {
            Due::Late(last) => {
                // Up to whichever instant before the next tick.
                advanced.why == "late"
                    && advanced.through >= last
                    && schedule.next(last).is_none_or(|next| advanced.through < next)
            }
            Due::Skipped(tick) => {
                advanced.through == tick && ["overlap", "full"].contains(&advanced.why.as_str())
            }
            Due::Runs(tick, _) => rests && advanced.through == tick && advanced.why == "disabled",
            Due::Nothing => false,
        },
    };
    if fits {
        return Ok(());
    }
    let detail = format!("{order:?} at {now} with {open} open after {decided}; {due:?} is due");
    broken("no_tick_is_passed_over", detail)
}

/// What was due is decided, when nothing breaks any more and time has passed.
pub fn no_tick_is_forgotten(truth: &Truth, now: Timestamp) -> Held {
    let late = Timestamp::from_micros(now.micros() - LATE_US);
    for (name, schedule, decided) in truth.schedules.iter().filter(|(_, s, _)| !s.is_paused_at(now))
    {
        if let Some(tick) = schedule.next(decided)
            && schedule.fires_at(name, tick) < late
        {
            let detail = format!("tick {tick} of {name} is not decided at {now}");
            return broken("nothing_is_forgotten", detail);
        }
    }
    Ok(())
}

/// While a leader knows of a limit it lets no more out than that: what it knows to be out, and what lies
/// in the work queue whether it knows it or not.
pub fn no_limit_is_exceeded(
    truth: &Truth,
    planner: &Planner,
    released: TaskKey,
    lies: &[Out],
) -> Held {
    let spec = |key| truth.tasks.get(&key).and_then(|task| task.spec.as_ref());
    let (Some(Found::Open(_, entry)), Some(own)) = (planner.find(released), spec(released)) else {
        return Ok(());
    };
    let queue = planner.queue_of(&entry).0;
    for named in planner.limits_of(&entry) {
        let key_of = |spec| named.limit.key.as_ref().map(|key| key.of(spec));
        let Some(max) = named.limit.out_max() else { continue };
        let is_out = |key: &TaskKey| match planner.find(*key) {
            Some(Found::Open(_, other)) => {
                planner.queue_of(&other).0 == queue
                    && !other.state.external
                    && spec(*key).is_some_and(|spec| key_of(spec) == key_of(own))
                    && (matches!(other.place, Place::Released(_))
                        || lies.contains(&(*key, other.state.attempt())))
            }
            _ => false,
        };
        let out = truth.tasks.keys().filter(|key| is_out(key)).count();
        if out > max as usize {
            let (name, limit) = (truth.name(released), &named.name);
            let detail = format!("with {name} {out} are out, by limit {limit} {max} may be");
            return broken("no_limit_is_exceeded", detail);
        }
    }
    Ok(())
}

/// While a leader knows that a type is disabled it releases none of its tasks, but by hand.
pub fn disabled_types_hold(truth: &Truth, key: TaskKey, folded: u64) -> Held {
    let Some(task) = truth.tasks.get(&key) else { return Ok(()) };
    let Some(spec) = task.spec.as_ref().map(TaskSpec::as_pb) else { return Ok(()) };
    if truth.types.is_disabled(&spec.task_type, folded) && !spec.by_hand {
        let detail = format!("{} was released; {} is disabled", task.name, spec.task_type);
        return broken("disabled_types_hold", detail);
    }
    Ok(())
}

/// A resolved task stays as its type had it when it came: what goes out, or is carried, is that.
pub fn versions_stay(truth: &Truth, entry: &Entry, spec: &TaskSpec, folded: u64) -> Held {
    let Some(task) = truth.tasks.get(&entry.key) else { return Ok(()) };
    let Some((version, since)) = task.resolved else { return Ok(()) };
    if since <= folded && !entry.state.external && task.spec.as_ref() != Some(spec) {
        let detail = format!("{} was resolved by version {version}, and is {spec:?}", task.name);
        return broken("versions_stay", detail);
    }
    Ok(())
}

/// Of a key and a period one task runs, for as long as the log keeps it: the decision of a leader
/// that has read up to the cursor.
pub fn one_for_each_key_and_period(truth: &Truth, resolved: &Resolved, cursor: u64) -> Held {
    let Some((unique, until)) = &resolved.unique else { return Ok(()) };
    let tenant = resolved.spec.tenant();
    let id = id_of(&resolved.spec);
    let holder = truth.types.holder(TaskKey::new(&tenant, unique), cursor);
    match holder {
        Some(holder) if holder != TaskKey::new(&tenant, &id) => {
            let detail = format!("{id} gets the place of {} until {until}", truth.name(holder));
            broken("one_for_each_key_and_period", detail)
        }
        Some(_) | None => Ok(()),
    }
}
