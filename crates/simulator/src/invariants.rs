//! **Pure.** What must hold whatever breaks, in words that an operator understands: one function
//! each. The simulator calls them at every effect that they speak of; `docs/guarantees.md` links
//! here.

mod policies;
mod reading;

use common::{
    event::Kind,
    id::TaskKey,
    lifecycle::{Phase, State},
};
use registry::row::Row;
use scheduler::{
    office::Out,
    plan::{Found, Place, Planner, Ticket},
};

pub use self::policies::{
    disabled_types_hold, no_limit_is_exceeded, no_tick_is_forgotten, no_tick_is_passed_over,
    one_for_each_key_and_period, policy_is_kept, resting_schedules_rest, versions_stay,
};
use self::policies::{documents, schedules};
pub use self::reading::{nobody_is_cut_off, old_readers_stop, payloads_stay};
use crate::truth::{Task, Truth, attempt_of};

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its name: that of its function.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

/// Every invariant: its name and its words.
pub const ALL: [(&str, &str); 25] = [
    ("ends_once", "A task ends once; what comes after its end changes nothing."),
    ("everyone_agrees", "Every service that has read as far says the same about a task."),
    (
        "restarts_change_nothing",
        "A service that was restarted, or read only what trimming left, knows the same as one that never stopped.",
    ),
    ("nothing_is_forgotten", "What was accepted ends, or waits for a reason that can be stated."),
    ("an_attempt_goes_out_once", "No attempt number is given out twice."),
    ("the_queue_has_no_twins", "The work queue never holds an attempt twice."),
    (
        "an_attempt_begins_once",
        "No attempt is begun twice, but for what nats-server delivered in its last instant before it was killed.",
    ),
    ("dependencies_come_first", "Nobody gets a task whose dependencies have not ended as asked."),
    ("a_leader_catches_up_first", "A leader releases nothing that had ended before it took over."),
    ("only_the_current_attempt_speaks", "An attempt that was given up or never due has no say."),
    (
        "outcomes_come_before_acks",
        "A message leaves the work queue after the log has its outcomes, or has it that its only attempt began.",
    ),
    ("losses_are_counted_once", "A loss is counted once, and never as a try."),
    ("pauses_hold", "While a leader knows of a pause it releases nothing of that queue."),
    ("priorities_hold", "Nothing goes out before something ready of a higher priority."),
    ("nobody_is_cut_off", "Trimming never takes away what somebody has yet to read."),
    ("payloads_stay", "Trimming never takes away what an open task is to do."),
    ("policy_is_kept", "Trimming never takes away a limit, a schedule or a task type."),
    (
        "no_limit_is_exceeded",
        "While a leader knows of a limit it lets no more out than that, over leaders and cuts of the log.",
    ),
    ("a_tick_fires_once", "A tick of a schedule has one task, over leaders and cuts of the log."),
    (
        "no_tick_is_passed_over",
        "A tick has its task, or the log says why it has none, as its schedule's policies have it.",
    ),
    (
        "resting_schedules_rest",
        "Who knows that a schedule is paused or removed fires no tick of it.",
    ),
    (
        "disabled_types_hold",
        "While a leader knows that a type is disabled it releases none of its tasks, but by hand.",
    ),
    ("versions_stay", "A task stays as its type was when it came, whatever becomes of the type."),
    (
        "one_for_each_key_and_period",
        "Of a key and a period one task runs, for as long as the log keeps it, and but for what another leader did not know.",
    ),
    ("old_readers_stop", "A service reads no event and no snapshot that it is too old for."),
];

pub(crate) type Held = Result<(), Broken>;

pub(crate) fn broken(invariant: &'static str, detail: impl Into<String>) -> Held {
    Err(Broken { invariant, detail: detail.into() })
}

/// A task ends once; what comes after its end changes nothing but who described it.
pub fn ends_once(task: &Task, before: State, after: State) -> Held {
    if let Some((sequence, phase)) = task.ended
        && (after.phase != phase || before.phase != phase)
    {
        let name = &task.name;
        let detail = format!("{name} ended {phase:?} at {sequence}, and is {:?} now", after.phase);
        return broken("ends_once", detail);
    }
    Ok(())
}

/// Who was given up has no say. The scheduler's word after a loss names the attempt that was lost.
pub fn only_the_current_attempt_speaks(
    task: &Task,
    before: State,
    after: State,
    kind: &Kind,
) -> Held {
    let attempt = attempt_of(kind);
    let last = task.given_up.last().copied().unwrap_or(0);
    let verdict = before.phase == Phase::Verdict
        && attempt == last
        && matches!(kind, Kind::Retrying(_) | Kind::Failed(_) | Kind::Cancelled(_));
    if attempt == 0 || attempt == last + 1 || verdict || before == after {
        return Ok(());
    }
    let (name, word) = (&task.name, kind.word());
    let detail = format!("{word:?} of attempt {attempt} of {name} took effect; {last} had ended");
    broken("only_the_current_attempt_speaks", detail)
}

/// A loss is counted once, and never as a try.
pub fn losses_are_counted_once(task: &Task, state: State) -> Held {
    if state.external || (state.losses, state.tries) == (task.losses, task.tries) {
        return Ok(());
    }
    let detail = format!(
        "{}: the fold counts {} losses and {} tries; there were {} and {}",
        task.name, state.losses, state.tries, task.losses, task.tries
    );
    broken("losses_are_counted_once", detail)
}

/// Every service that has read as far says the same about a task.
pub fn everyone_agrees(truth: &Truth, planner: &Planner, key: TaskKey, sequence: u64) -> Held {
    let expected = truth.tasks.get(&key).and_then(|task| task.at(sequence));
    let agrees = match (planner.find(key), expected) {
        (None, None) => true,
        (Some(Found::Over(end)), Some(state)) => end.phase == state.phase,
        (Some(Found::Open(_, entry)), Some(state)) => entry.state == state,
        (None, Some(_)) | (Some(_), None) => false,
    };
    if agrees {
        return Ok(());
    }
    let found = planner.find(key).map(|found| match found {
        Found::Open(_, entry) => format!("{:?}", entry.state),
        Found::Over(end) => format!("{end:?}"),
    });
    let name = truth.name(key);
    let detail = format!("{name} at {sequence}: a scheduler says {found:?}, the log {expected:?}");
    broken("everyone_agrees", detail)
}

/// Every service that has read as far says the same about a task: the ledger's part.
pub fn the_ledger_agrees(truth: &Truth, row: &Row, sequence: u64) -> Held {
    let expected = truth.tasks.get(&row.key()).and_then(|task| task.at(sequence));
    // A batch that ends with a cut may have rows of tasks that are forgotten with it.
    let before = truth.tasks.get(&row.key()).and_then(|task| task.at(sequence.saturating_sub(1)));
    if expected == Some(row.live.life) || (expected.is_none() && before == Some(row.live.life)) {
        return Ok(());
    }
    let name = truth.name(row.key());
    let detail =
        format!("{name} at {sequence}: the ledger says {:?}, the log {expected:?}", row.live.life);
    broken("everyone_agrees", detail)
}

/// What a fold knows of a task, without what only a leader knows.
pub fn knowledge(planner: &Planner, key: TaskKey) -> Option<String> {
    Some(match planner.find(key)? {
        Found::Over(end) => {
            let (created, ended) = (end.created, end.ended);
            format!("over: {:?} at {ended}, created at {created:?}", end.phase)
        }
        Found::Open(ticket, e) => {
            let mut edges =
                planner.edges(ticket).iter().map(|e| format!("{e:?}")).collect::<Vec<_>>();
            edges.sort_unstable();
            // What another system runs is in no queue, whatever its submission says.
            let held = !e.state.external && planner.type_holds(ticket, &e);
            let queue = if e.state.external { "-" } else { planner.queue_of(&e).0.as_str() };
            format!(
                "{:?} at {}.{}, due {}, priority {}, alone {}, {queue}, held by {:?}, by its type {held}, waits for {edges:?}",
                e.state,
                e.sequence,
                e.index,
                e.due.micros(),
                e.priority,
                e.alone,
                planner.holder(ticket),
            )
        }
    })
}

/// A service that was restarted, or read only what trimming left, knows the same as one that never
/// stopped.
pub fn restarts_change_nothing(truth: &Truth, warm: &Planner, cold: &Planner, how: &str) -> Held {
    for (key, task) in &truth.tasks {
        let (warm, cold) = (knowledge(warm, *key), knowledge(cold, *key));
        if warm != cold {
            let detail = format!("{}: {how}: {cold:?}, and before: {warm:?}", task.name);
            return broken("restarts_change_nothing", detail);
        }
    }
    let pauses = |planner: &Planner| {
        let all = planner.pause_of_all();
        // Where all is held, so is every queue, whether one has heard of it or not.
        let held = planner.pauses().into_iter().filter(|(_, held)| held.is_some() && all.is_none());
        let mut paused = held.map(|(queue, _)| queue).collect::<Vec<_>>();
        paused.sort();
        (paused, all.cloned())
    };
    if pauses(warm) != pauses(cold) {
        let detail = format!("pauses: {how}: {:?}, and before: {:?}", pauses(cold), pauses(warm));
        return broken("restarts_change_nothing", detail);
    }
    if schedules(warm) != schedules(cold) {
        let (cold, warm) = (schedules(cold), schedules(warm));
        let detail = format!("schedules: {how}: {cold:?}, and before: {warm:?}");
        return broken("restarts_change_nothing", detail);
    }
    if documents(warm.policies()) != documents(cold.policies()) {
        let (cold, warm) = (documents(cold.policies()), documents(warm.policies()));
        let detail = format!("documents: {how}: {cold:?}, and before: {warm:?}");
        return broken("restarts_change_nothing", detail);
    }
    Ok(())
}

/// No attempt number is given out twice.
pub fn an_attempt_goes_out_once(truth: &Truth, out: Out) -> Held {
    if truth.given_out.contains(&out) {
        let detail = format!("attempt {} of {} was out before", out.1, truth.name(out.0));
        return broken("an_attempt_goes_out_once", detail);
    }
    Ok(())
}

/// The work queue never holds an attempt twice.
pub fn the_queue_has_no_twins(truth: &Truth, out: &[Out]) -> Held {
    let mut seen = std::collections::BTreeSet::new();
    for attempt in out {
        if !seen.insert(attempt) {
            let detail = format!("attempt {} of {}", attempt.1, truth.name(attempt.0));
            return broken("the_queue_has_no_twins", detail);
        }
    }
    Ok(())
}

/// No attempt is begun twice, but for what nats-server delivered in its last instant before it was
/// killed.
pub fn an_attempt_begins_once(truth: &Truth, out: Out) -> Held {
    if truth.begun.get(&out).is_some_and(|times| *times > 1) && !truth.excused.contains(&out) {
        let detail = format!("attempt {} of {} was begun twice", out.1, truth.name(out.0));
        return broken("an_attempt_begins_once", detail);
    }
    Ok(())
}

/// Nobody gets a task whose dependencies have not ended as asked.
pub fn dependencies_come_first(truth: &Truth, key: TaskKey) -> Held {
    let Some(task) = truth.tasks.get(&key) else {
        return broken("dependencies_come_first", "a task was released that the log does not know");
    };
    if let Some((dependency, on)) = task.waits.first() {
        let (name, other) = (&task.name, truth.name(*dependency));
        let detail = format!("{name} was released before {other} ended (it asks for {on:?})");
        return broken("dependencies_come_first", detail);
    }
    if task.doomed {
        let detail = format!("{} was released although a dependency ended otherwise", task.name);
        return broken("dependencies_come_first", detail);
    }
    Ok(())
}

/// A leader releases nothing that the log had ended before it took the work queue over.
pub fn a_leader_catches_up_first(truth: &Truth, (key, attempt): Out, taken_over: u64) -> Held {
    // An id may be new since then.
    let task = truth.tasks.get(&key).filter(|task| task.place.0 <= taken_over);
    let Some(state) = task.and_then(|task| task.at(taken_over)) else { return Ok(()) };
    if state.phase.is_terminal() || state.ended >= attempt {
        let name = truth.name(key);
        let detail = format!(
            "attempt {attempt} of {name} was released; at {taken_over}, when its leader took over, it was {:?} with {} ended",
            state.phase, state.ended
        );
        return broken("a_leader_catches_up_first", detail);
    }
    Ok(())
}

/// A message leaves the work queue after the log has its outcomes.
pub fn outcomes_come_before_acks(truth: &Truth, out: &[Out]) -> Held {
    for (key, attempt) in out {
        let Some(task) = truth.tasks.get(key) else { continue };
        // One that was forgotten had ended.
        let Some(state) = task.state() else { continue };
        if !state.phase.is_terminal() && state.ended < *attempt {
            let name = truth.name(*key);
            let detail = format!("attempt {attempt} of {name} was acknowledged and is {state:?}");
            return broken("outcomes_come_before_acks", detail);
        }
    }
    Ok(())
}

/// A message leaves the work queue after the log has its outcomes, or has it that its only attempt
/// began.
pub fn a_message_goes_once_its_attempt_began(truth: &Truth, out: &[Out]) -> Held {
    if let [(key, attempt)] = out
        && let Some(state) = truth.tasks.get(key).and_then(Task::state)
        && state.phase == Phase::Running
        && state.attempt() == *attempt
    {
        return Ok(());
    }
    outcomes_come_before_acks(truth, out)
}

/// While a leader knows of a pause it releases nothing of that queue.
pub fn pauses_hold(truth: &Truth, queue: &str, folded: u64) -> Held {
    if truth.is_paused(queue, folded) {
        return broken("pauses_hold", format!("a task of {queue} was released, which is paused"));
    }
    Ok(())
}

/// Nothing goes out before something ready of a higher priority in the same queue, if that has no limits.
pub fn priorities_hold(truth: &Truth, planner: &Planner, ticket: Ticket) -> Held {
    let Some(released) = planner.entry(ticket) else { return Ok(()) };
    // Where there are limits, one of them may hold what counts more.
    if !planner.limits_of(&released).is_empty() {
        return Ok(());
    }
    let queue = planner.queue_of(&released).0;
    for (key, task) in &truth.tasks {
        if let Some(Found::Open(_, other)) = planner.find(*key)
            && other.place == Place::Ready
            && other.priority > released.priority
            && planner.queue_of(&other).0 == queue
        {
            let (name, before) = (&task.name, truth.name(released.key));
            let detail = format!(
                "{before} ({}) went out before {name} ({})",
                released.priority, other.priority
            );
            return broken("priorities_hold", detail);
        }
    }
    Ok(())
}

/// What was accepted ends, or waits for a reason that can be stated. Asked when all faults are over
/// and time has passed: `reasons` is what the leader answers to "why is it not running?".
pub fn nothing_is_forgotten(
    truth: &Truth,
    key: TaskKey,
    planner: &Planner,
    reasons: &[String],
    deserted: Option<&str>,
) -> Held {
    let Some(task) = truth.tasks.get(&key) else { return Ok(()) };
    let Some(state) = task.state() else { return Ok(()) };
    let waits_for_others = task.waits.iter().any(|(dependency, _)| {
        let other = truth.tasks.get(dependency).and_then(Task::state);
        other.is_none_or(|s| !s.phase.is_terminal())
    });
    // Nobody serves its queue: it may wait, but not beyond a limit of its own, and it says so.
    let spec = task.spec.as_ref();
    let may_wait = spec.is_some_and(|spec| {
        let timeouts = spec.timeouts();
        let says = |code: &str| reasons.iter().any(|reason| reason.starts_with(code));
        let unlimited = timeouts.total.is_none() && timeouts.queue.is_none();
        deserted == Some(spec.queue().as_str())
            && !state.cancel_requested
            && unlimited
            && says("no_worker")
    });
    if state.phase.is_terminal() || state.external || waits_for_others || may_wait {
        return Ok(());
    }
    let knows = knowledge(planner, key);
    let place = match planner.find(key) {
        Some(Found::Open(_, entry)) => format!("{:?}, deciding {:?}", entry.place, entry.deciding),
        _ => "not open".to_owned(),
    };
    let detail =
        format!("{}: {state:?}; the leader: {place}, {knows:?}, says {reasons:?}", task.name);
    broken("nothing_is_forgotten", detail)
}
