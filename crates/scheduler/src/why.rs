//! **Pure.** Why a task is not running: every reason, in the order in which they must be met.

mod limits;

use common::{
    event::Pause,
    id::TaskKey,
    lifecycle::{Phase, state_word},
    pb,
    task::{Executor, TaskSpec},
};

pub use self::limits::{Names, Places, holders};
use self::limits::{estimated_start, limits};
use crate::{
    flow::Refusal,
    graph::Verdict,
    plan::{Decision, Entry, Found, Place, Planner, Ticket},
};

fn reason(code: &str, message: impl Into<String>, hint: impl Into<String>) -> pb::Reason {
    pb::Reason { code: code.into(), message: message.into(), until: None, hint: hint.into() }
}

/// Explains one task. The submission names the dependencies, whose keys alone the planner knows;
/// `names` has the ids of its [`holders`].
pub fn why(
    planner: &Planner,
    key: TaskKey,
    spec: &TaskSpec,
    window_max: u32,
    names: &Names,
) -> Option<pb::WhyResponse> {
    let task_id = spec.as_pb().task_id.clone();
    let (ticket, entry) = match planner.find(key)? {
        Found::Open(ticket, entry) => (ticket, entry),
        Found::Over(end) => {
            let message = format!("it is over: {}", state_word(end.phase.state()));
            let hint = format!(
                "`jetmill get {task_id}` shows how; `jetmill retry {task_id}` runs it again"
            );
            return Some(pb::WhyResponse {
                task_id,
                state: end.phase.state().into(),
                reasons: vec![reason("finished", message, hint)],
                ..pb::WhyResponse::default()
            });
        }
    };
    let reasons = match entry.place {
        Place::External if entry.deciding == Some(Decision::Resolve) => {
            vec![deciding(Decision::Resolve)]
        }
        Place::External => vec![reason(
            "external",
            "another system runs it and reports; Jetmill never dispatches it",
            "publish task.started, task.completed or task.failed about it",
        )],
        Place::Released(_) => vec![released(planner, ticket, &entry)],
        Place::Waiting | Place::Ready => {
            waiting(planner, (ticket, &entry), spec, window_max, names)
        }
    };
    Some(pb::WhyResponse {
        state: entry.state.phase.state().into(),
        ahead: (entry.place == Place::Ready).then(|| planner.ahead(ticket)).flatten(),
        estimated_start: estimated_start(planner, ticket, &entry, &reasons).map(Into::into),
        reasons,
        task_id,
    })
}

fn released(planner: &Planner, ticket: Ticket, entry: &Entry) -> pb::Reason {
    let attempt = entry.state.attempt();
    match (entry.state.phase, planner.holder(ticket)) {
        (Phase::Running, Some(worker)) => reason(
            "running",
            format!("attempt {attempt} runs on worker {worker}"),
            "`jetmill logs -f` follows it",
        ),
        _ => reason(
            "released",
            format!("attempt {attempt} is on its way to a worker, or has just begun"),
            "",
        ),
    }
}

fn waiting(
    planner: &Planner,
    (ticket, entry): (Ticket, &Entry),
    spec: &TaskSpec,
    window_max: u32,
    names: &Names,
) -> Vec<pb::Reason> {
    let mut reasons = Vec::new();
    reasons.extend(entry.deciding.map(deciding));
    reasons.extend(dependencies(planner, ticket, spec));
    if entry.due > planner.clock() {
        let (code, what) = match entry.state.tries + entry.state.losses {
            0 => ("delay", "it is not to start before"),
            _ => ("backoff", "its last attempt failed; the next is not to start before"),
        };
        let id = &spec.as_pb().task_id;
        let hint = format!("`jetmill retry {id}` starts it now");
        let until = Some(entry.due.into());
        reasons.push(pb::Reason { until, ..reason(code, format!("{what} {}", entry.due), hint) });
    }
    let (name, queue) = planner.queue_of(entry);
    let all = planner.pause_of_all().map(|pause| paused("everything", pause, "--all"));
    let own = planner.pause_of(queue);
    let own = own.map(|pause| paused(&format!("queue {name}"), pause, name.as_str()));
    reasons.extend(all.into_iter().chain(own));
    if planner.type_holds(ticket, entry) {
        let kind = &spec.as_pb().task_type;
        let hint =
            format!("`jetmill types enable {kind}`, or `jetmill types run {kind}` for one more");
        reasons.push(reason("type_disabled", format!("its type {kind} is disabled"), hint));
    }
    reasons.extend(limits(planner, (ticket, entry), spec, names));
    let window = planner.window(name.as_str(), queue, window_max);
    if window == 0 {
        let message = format!("no worker serves queue {name}");
        let hint = match spec.executor() {
            Executor::Worker(worker) => {
                format!("start the program that registers handler {}", worker.handler)
            }
            Executor::Shell(_)
            | Executor::Nats(_)
            | Executor::Http(_)
            | Executor::Lua(_)
            | Executor::Docker(_)
            | Executor::External => {
                format!("start one: `jetmill serve worker-pool --queues {name}=4`")
            }
        };
        reasons.push(reason("no_worker", message, hint));
    } else if entry.place == Place::Ready && reasons.iter().all(|reason| reason.code == "key") {
        let ahead = planner.ahead(ticket).unwrap_or(0);
        let message = format!(
            "{} tasks of queue {name} are out, of {window} that may be; {ahead} go before it",
            queue.outstanding
        );
        reasons.push(reason("window", message, "more workers or slots, or a higher priority"));
    }
    reasons
}

fn paused(what: &str, Pause { reason: why, until, .. }: &Pause, name: &str) -> pb::Reason {
    let until_when = until.map_or_else(String::new, |until| format!(" until {until}"));
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    let message = format!("{what} is paused{until_when}{why}");
    let until = until.map(Into::into);
    pb::Reason { until, ..reason("paused", message, format!("`jetmill resume {name}`")) }
}

fn deciding(decision: Decision) -> pb::Reason {
    let message = match decision {
        Decision::Lost => "its worker is gone; the attempt is being given up",
        Decision::AfterLoss => "its attempt was lost; the scheduler is deciding what follows",
        Decision::DependencyFailed | Decision::DependencyMissing => {
            "it fails: a dependency did not end well"
        }
        Decision::Skip => "it is being skipped",
        Decision::Cycle => "it fails: it is part of a cycle",
        Decision::Expired => "it fails: it waited too long",
        Decision::TotalTimeout => "it fails: it took too long as a whole",
        Decision::Cancel => "it is being cancelled",
        Decision::Resolve => "it is getting what its type says",
        Decision::Refused(Refusal::Superseded | Refusal::Duplicate) => {
            "it is being skipped, by a limit of its queue"
        }
        Decision::Refused(Refusal::TooMany) => "it fails: enough tasks wait already",
    };
    reason("verdict", message, "")
}

fn dependencies(planner: &Planner, ticket: Ticket, spec: &TaskSpec) -> Vec<pb::Reason> {
    let open = planner.edges(ticket);
    let tenant = spec.tenant();
    let mut reasons = Vec::new();
    for edge in spec.depends_on() {
        let key = TaskKey::new(&tenant, &edge.id);
        if !open.iter().any(|e| e.dependency == key) {
            continue;
        }
        let id = &edge.id;
        reasons.push(match planner.find(key) {
            None => reason(
                "dependency",
                format!("it depends on {id}, which nobody has submitted"),
                "submit it, or cancel this task",
            ),
            Some(_) => reason(
                "dependency",
                format!("it depends on {id}, which has not ended"),
                format!("`jetmill why {id}`"),
            ),
        });
    }
    reasons
}

/// How the first dependency that settles the task's fate ended: for the error's text.
pub fn culprit(planner: &Planner, spec: &TaskSpec) -> Option<(String, Phase)> {
    let tenant = spec.tenant();
    spec.depends_on().into_iter().find_map(|edge| {
        let end = match planner.find(TaskKey::new(&tenant, &edge.id))? {
            Found::Over(end) => end.phase,
            Found::Open(..) => return None,
        };
        (crate::graph::judge(edge.on, end) != Verdict::Met).then(|| (edge.id.to_string(), end))
    })
}
