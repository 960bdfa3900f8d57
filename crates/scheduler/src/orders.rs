//! **Pure.** What somebody asks for about one task, and the fact that it comes to.

use common::{
    error::Violation,
    event::Kind,
    id::{TaskId, TaskKey},
    lifecycle::state_word,
    pb,
    task::TaskSpec,
};

use crate::plan::{Entry, Found, Place, Planner, Ticket, Tombstone};

/// What somebody asks for about one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// To end it.
    Cancel {
        /// Why.
        reason: String,
    },
    /// Not to wait for its delay; when it is over, to do it again.
    Retry,
    /// Another priority.
    Reprioritise {
        /// 1 to 10, 10 first.
        priority: u8,
    },
}

/// What an order comes to.
#[derive(Clone, Debug)]
pub enum Step {
    /// Nothing: the result's word, and why.
    Answer(&'static str, String),
    /// It is over: a retry is a new task.
    Over(Tombstone),
    /// This goes into the log.
    Publish {
        /// The fact.
        kind: Kind,
        /// The result's word.
        result: &'static str,
        /// What follows once it is in the log.
        then: Then,
    },
}

/// What an order means to its task while, and after, its fact goes into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// The task is held back from now until its end comes back through the log.
    Hold(Ticket),
    /// Its attempt is withdrawn or told to stop.
    Stop(Ticket),
}

/// What an order about a task comes to.
pub fn step(planner: &Planner, key: TaskKey, change: &Change) -> Step {
    let answer = |result, reason: &str| Step::Answer(result, reason.to_owned());
    match planner.find(key) {
        None => answer("refused", "there is no such task"),
        Some(Found::Over(end)) => match change {
            Change::Retry => Step::Over(end),
            Change::Cancel { .. } | Change::Reprioritise { .. } => {
                answer("unchanged", &format!("it is over: {}", state_word(end.phase.state())))
            }
        },
        Some(Found::Open(ticket, entry)) => match change {
            Change::Cancel { reason } => cancel(ticket, &entry, reason),
            Change::Retry if entry.place != Place::Waiting => {
                answer("unchanged", "nothing delays it")
            }
            Change::Retry => Step::Publish {
                kind: Kind::Expedited(pb::Expedited {}),
                result: "retrying_now",
                then: Then::Nothing,
            },
            Change::Reprioritise { priority } if entry.priority == *priority => {
                answer("unchanged", "it has this priority")
            }
            Change::Reprioritise { priority } => Step::Publish {
                kind: Kind::Reprioritised(pb::Reprioritised { priority: i32::from(*priority) }),
                result: "reprioritised",
                then: Then::Nothing,
            },
        },
    }
}

/// What waits ends at once. What is out is asked for: only its worker ends it.
fn cancel(ticket: Ticket, entry: &Entry, reason: &str) -> Step {
    match entry.place {
        Place::External | Place::Waiting | Place::Ready => Step::Publish {
            kind: Kind::Cancelled(Box::new(pb::Cancelled {
                reason: reason.to_owned(),
                ..pb::Cancelled::default()
            })),
            result: "cancelled",
            then: Then::Hold(ticket),
        },
        Place::Released(_) => Step::Publish {
            kind: Kind::CancelRequested(pb::CancelRequested { reason: reason.to_owned() }),
            result: "cancel_requested",
            then: Then::Stop(ticket),
        },
    }
}

/// The submission that does a finished task again. It is no run of its schedule: no tick waits for it
/// or finds it open, and it does not wait for the runs that were open when its tick came.
pub fn again(id: &TaskId, spec: pb::TaskSpec) -> Result<TaskSpec, Vec<Violation>> {
    let mut depends_on = spec.depends_on;
    if spec.schedule.is_some_and(|of| of.tick.is_some()) {
        depends_on.retain(|dependency| dependency.on() != pb::dependency::On::End);
    }
    TaskSpec::parse(pb::TaskSpec {
        task_id: String::new(),
        idempotency_key: String::new(),
        notify: String::new(),
        run_at: None,
        delay: None,
        retry_of: id.to_string(),
        depends_on,
        schedule: None,
        ..spec
    })
}

#[cfg(test)]
mod tests {
    use common::{policy::schedule::Schedule, time::Timestamp};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_of_a_schedule_is_done_again_as_a_task_of_its_own() {
        let body = json!({
            "every": "60s",
            "overlap": "queue",
            "task": {
                "executor": {"worker": {"handler": "h"}},
                "depends_on": [{"task_id": "import"}]
            }
        });
        let schedule = Schedule::parse(&serde_json::from_value(body).unwrap()).unwrap();
        let open = ["sched.s.1", "asked-for"].map(|id| TaskId::parse(id).unwrap());
        let run = schedule.run("s", Timestamp::from_unix(60, 0), &open).unwrap();
        let id = run.id().unwrap();
        let again = again(&id, run.into_pb()).unwrap().into_pb();
        assert_eq!((again.schedule, again.retry_of), (None, id.to_string()));
        let waits = again.depends_on.iter().map(|edge| edge.task_id.as_str());
        assert_eq!(waits.collect::<Vec<_>>(), ["import"]);
    }
}
