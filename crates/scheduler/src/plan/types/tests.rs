//! What types do to submissions: resolved as they were when the task came, held while disabled.

#![expect(clippy::needless_pass_by_value, reason = "JSON that is written where it is used")]

use common::{
    event::{Event, Kind, TaskEvent},
    id::{TaskId, TaskKey, Tenant},
    pb,
    task::TaskSpec,
    time::Timestamp,
};
use prost::Message as _;
use serde_json::{Value, json};

use super::super::{Decision, Found, Place, Planner, Stored, Ticket};
use crate::verdict;

/// A planner with a log of its own, and what it says as a leader.
struct World {
    planner: Planner,
    log: Vec<(u64, TaskEvent)>,
    sequence: u64,
    /// How far nats-server's clock is ahead, in seconds.
    skew: i64,
}

const START: i64 = 1_800_000_000;

impl World {
    fn new() -> Self {
        let mut world = Self { planner: Planner::default(), log: Vec::new(), sequence: 0, skew: 0 };
        world.planner.lead(world.now(), 0);
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix(START + self.skew + self.sequence as i64, 0)
    }

    fn apply(&mut self, version: u64, change: Value) {
        let mut whole = json!({"name": "t", "queue": "slow", "priority": 8,
            "executor": {"shell": {"argv": ["echo", "{{ input.word | default('x') }}"]}}});
        for (field, value) in change.as_object().expect("fields") {
            whole[field] = value.clone();
        }
        let task_type = serde_json::from_value(whole).expect("a type");
        self.planner.set_type("t", version, Some(task_type));
    }

    fn say(&mut self, event: TaskEvent) {
        self.sequence += 1;
        let at = self.now();
        self.planner.fold((self.sequence, 0), at, &Event::Task(event.clone()), 0);
        self.log.push((self.sequence, event));
    }

    fn submit(&mut self, id: &str, mut body: Value) {
        body["task_id"] = id.into();
        if body.get("task_type").is_none() {
            body["task_type"] = "t".into();
        }
        let spec = TaskSpec::parse(serde_json::from_value(body).expect("fields")).expect("valid");
        let id = TaskId::parse(id).expect("text");
        self.say(TaskEvent::new(Tenant::default(), id, "", Kind::Created(Box::new(spec))));
    }

    fn report(&mut self, id: &str, kind: Kind) {
        let id = TaskId::parse(id).expect("text");
        self.say(TaskEvent::new(Tenant::default(), id, "", kind));
    }

    fn key(id: &str) -> TaskKey {
        TaskKey::new(&Tenant::default(), &TaskId::parse(id).expect("text"))
    }

    fn open(&self, id: &str) -> (Ticket, super::Entry) {
        match self.planner.find(Self::key(id)) {
            Some(Found::Open(ticket, entry)) => (ticket, entry),
            other => panic!("{id}: {other:?}"),
        }
    }

    fn place(&self, id: &str) -> Place {
        self.open(id).1.place
    }

    /// What the leader says about everything that it has to decide: the words.
    fn decide(&mut self) -> Vec<&'static str> {
        let events = self.decisions();
        let words = events.iter().map(|event| event.kind.word()).collect();
        for event in events {
            self.say(event);
        }
        words
    }

    fn decisions(&mut self) -> Vec<TaskEvent> {
        let mut events = Vec::new();
        for (ticket, decision) in self.planner.take_decisions(100) {
            assert_eq!(decision, Decision::Resolve);
            let entry = self.planner.entry(ticket).expect("open");
            let (sequence, event) = self
                .log
                .iter()
                .find(|(sequence, _)| *sequence == entry.sequence)
                .expect("a submission");
            let Kind::Created(spec) = &event.kind else { panic!("{event:?}") };
            let created = Timestamp::from_unix(START + self.skew + *sequence as i64, 0);
            events.extend(verdict::resolved(&mut self.planner, ticket, spec, created));
        }
        events
    }

    fn last(&self) -> &Kind {
        &self.log.last().expect("an event").1.kind
    }

    fn resolved(&self) -> &common::event::Resolved {
        let Kind::Resolved(resolved) = self.last() else { panic!("{:?}", self.last()) };
        resolved
    }

    /// Another process that begins with the snapshot.
    fn takes_over(&mut self) {
        let bytes = self.planner.store("s".into(), self.sequence);
        let stored = Stored::decode(bytes.as_slice()).expect("bytes");
        self.planner = Planner::restore(stored).expect("a snapshot");
    }
}

fn failed(kind: &Kind) -> (pb::Cause, String) {
    let Kind::Failed(body) = kind else { panic!("{kind:?}") };
    (body.cause(), body.error.as_ref().map(|e| e.message.clone()).unwrap_or_default())
}

#[test]
fn a_submission_without_an_executor_gets_its_types() {
    let mut world = World::new();
    world.apply(3, json!({}));
    world.submit("a", json!({"input": {"word": "hello"}, "priority": 2}));
    assert_eq!(world.place("a"), Place::External);
    assert_eq!(world.decide(), ["resolved"]);
    let (_, entry) = world.open("a");
    assert_eq!((entry.place, entry.priority, entry.state.external), (Place::Ready, 2, false));
    assert_eq!(world.planner.queue_of(&entry).0.as_str(), "slow");
    assert_eq!((entry.sequence, world.resolved().version), (2, 3));
    let text = serde_json::to_value(world.resolved().spec.as_pb()).expect("JSON");
    assert_eq!(text["executor"]["shell"]["argv"], json!(["echo", "hello"]));
    assert_eq!(world.decide(), [""; 0], "once");
}

#[test]
fn what_names_its_executor_or_an_unknown_type_is_left_as_it_is() {
    let mut world = World::new();
    world.apply(1, json!({}));
    world.submit("own", json!({"executor": {"shell": {"argv": ["true"]}}}));
    world.submit("external", json!({"executor": {"external": {}}}));
    world.submit("other", json!({"task_type": "reported"}));
    assert_eq!(world.decide(), [""; 0]);
    assert_eq!(world.place("own"), Place::Ready);
    assert_eq!(world.place("external"), Place::External);
    assert_eq!(world.place("other"), Place::External);
}

#[test]
fn the_type_counts_as_it_was_when_the_task_came() {
    let mut world = World::new();
    world.submit("before", json!({}));
    world.apply(1, json!({}));
    world.submit("a", json!({}));
    world.apply(2, json!({"executor": {"shell": {"argv": ["other"]}}}));
    world.takes_over();
    world.apply(2, json!({"executor": {"shell": {"argv": ["other"]}}}));
    world.planner.lead(world.now(), 0);
    assert_eq!(world.decide(), ["resolved"]);
    assert_eq!(world.resolved().version, 1);
    assert_eq!(world.place("before"), Place::External, "there was no such type");
}

#[test]
fn an_input_that_does_not_fit_fails_with_every_problem() {
    let mut world = World::new();
    world.apply(
        1,
        json!({"input_schema": {"required": ["word"],
        "properties": {"word": {"type": "string"}, "n": {"type": "integer"}}}}),
    );
    world.submit("a", json!({"input": {"n": "x", "word": 7}}));
    assert_eq!(world.decide(), ["failed"]);
    let (cause, message) = failed(world.last());
    assert_eq!(cause, pb::Cause::Rejected);
    assert!(message.contains("input/n") && message.contains("input/word"), "{message}");
    assert!(matches!(world.planner.find(World::key("a")), Some(Found::Over(_))));
}

#[test]
fn who_reports_about_a_task_first_keeps_it() {
    let mut world = World::new();
    world.apply(1, json!({}));
    world.submit("a", json!({}));
    let decided = world.decisions();
    world.report("a", Kind::Started(pb::Started { attempt: 0, worker: "w".into() }));
    for event in decided {
        world.say(event);
    }
    assert_eq!(world.place("a"), Place::External);
    world.submit("b", json!({}));
    world.report("b", Kind::Completed(Box::default()));
    assert_eq!(world.decide(), [""; 0]);
}

#[test]
fn what_it_waits_for_begins_when_it_is_resolved() {
    let mut world = World::new();
    world.apply(1, json!({}));
    world.submit("first", json!({"executor": {"external": {}}}));
    world.submit("late", json!({"delay": "1h"}));
    world.submit("then", json!({"depends_on": ["first"]}));
    assert_eq!(world.decide(), ["resolved", "resolved"]);
    assert_eq!((world.place("late"), world.place("then")), (Place::Waiting, Place::Waiting));
    assert_eq!(world.open("late").1.due, Timestamp::from_unix(START + 2 + 3_600, 0));
    world.report("first", Kind::Completed(Box::default()));
    assert_eq!(world.place("then"), Place::Ready);
}

#[test]
fn a_disabled_type_holds_what_is_not_released() {
    let mut world = World::new();
    world.apply(1, json!({}));
    for id in ["a", "b"] {
        world.submit(id, json!({}));
    }
    world.decide();
    let beat = pb::Heartbeat {
        worker: "w".into(),
        queues: [("slow".to_owned(), 1)].into(),
        ..pb::Heartbeat::default()
    };
    world.planner.heard(beat, 0);
    assert_eq!(world.planner.release(0, 1, 10).len(), 1);
    world.apply(2, json!({"enabled": false}));
    assert!(matches!(world.place("a"), Place::Released(_)), "what is out goes on");
    assert_eq!(world.place("b"), Place::Waiting);
    let (ticket, entry) = world.open("b");
    assert!(world.planner.type_holds(ticket, &entry));
    world.submit("c", json!({}));
    world.submit("d", json!({"by_hand": true}));
    assert_eq!(world.decide(), ["resolved", "resolved"]);
    assert_eq!((world.place("c"), world.place("d")), (Place::Waiting, Place::Ready));
    world.takes_over();
    world.apply(2, json!({"enabled": false}));
    assert_eq!((world.place("c"), world.place("d")), (Place::Waiting, Place::Ready));
    world.apply(3, json!({}));
    assert_eq!((world.place("b"), world.place("c")), (Place::Ready, Place::Ready));
    world.apply(4, json!({"enabled": false}));
    assert_eq!((world.place("b"), world.place("d")), (Place::Waiting, Place::Ready));
    world.planner.set_type("t", 5, None);
    assert_eq!(world.place("b"), Place::Ready, "there is nothing that holds it");
}

#[test]
fn an_attempt_that_comes_back_to_a_disabled_type_is_held() {
    let mut world = World::new();
    world.apply(1, json!({}));
    world.submit("a", json!({}));
    world.decide();
    let (ticket, _) = world.open("a");
    let beat = pb::Heartbeat {
        worker: "w".into(),
        queues: [("slow".to_owned(), 1)].into(),
        ..pb::Heartbeat::default()
    };
    world.planner.heard(beat, 0);
    world.planner.release(0, 1, 10);
    world.apply(2, json!({"enabled": false}));
    world.planner.unrelease(ticket);
    assert_eq!(world.place("a"), Place::Waiting);
    world.apply(3, json!({}));
    assert_eq!(world.place("a"), Place::Ready);
}

#[test]
fn each_key_and_period_has_one_task() {
    let mut world = World::new();
    let unique = json!({"unique": {"key": "{{ input.word }}", "period": "1h"}});
    world.apply(1, unique.clone());
    for (id, word) in [("a", "x"), ("b", "x"), ("c", "y")] {
        world.submit(id, json!({"input": {"word": word}}));
    }
    assert_eq!(world.decide(), ["resolved", "skipped", "resolved"], "even when they come together");
    world.submit("d", json!({"input": {"word": "x"}}));
    assert_eq!(world.decide(), ["skipped"]);
    let Kind::Skipped(body) = world.last() else { panic!("{:?}", world.last()) };
    assert_eq!(body.reason, "task a has the place of its key and period");
    world.takes_over();
    world.apply(1, unique.clone());
    world.planner.lead(world.now(), 0);
    world.submit("e", json!({"input": {"word": "x"}}));
    assert_eq!(world.decide(), ["skipped"], "a snapshot knows it too");
    world.sequence += 3_600;
    world.submit("f", json!({"input": {"word": "x"}}));
    assert_eq!(world.decide(), ["resolved"], "a new period");
}

#[test]
fn a_place_of_a_task_that_ended_without_it_is_free() {
    let mut world = World::new();
    world.apply(1, json!({"unique": {"period": "24h"}}));
    world.submit("a", json!({}));
    assert_eq!(world.decisions().len(), 1, "it does not get into the log");
    world.report("a", Kind::Cancelled(Box::default()));
    world.submit("b", json!({}));
    assert_eq!(world.decide(), ["resolved"]);
    world.submit("c", json!({}));
    assert_eq!(world.decide(), ["skipped"]);
    assert!(world.planner.types.unsaid.is_empty());
}

#[test]
fn what_a_disabled_type_held_goes_in_the_order_in_which_it_came() {
    let mut world = World::new();
    world.apply(1, json!({}));
    let own = || json!({"executor": {"shell": {"argv": ["true"]}}});
    for id in ["x", "y", "z"] {
        world.submit(id, own());
    }
    // Their slots are used again, the last one first.
    for id in ["x", "y", "z"] {
        let attempt = 1;
        let body = pb::Completed { attempt, ..pb::Completed::default() };
        world.report(id, Kind::Completed(Box::new(body)));
    }
    world.apply(2, json!({"enabled": false}));
    let ids = ["a", "b", "c"];
    for id in ids {
        world.submit(id, own());
    }
    assert_eq!(world.place("a"), Place::Waiting);
    world.apply(3, json!({}));
    let queues = [("default".to_owned(), 8)].into();
    let beat = pb::Heartbeat { worker: "w".into(), queues, ..pb::Heartbeat::default() };
    world.planner.heard(beat, 0);
    let releases = world.planner.release(0, 4_096, 10);
    let tickets = releases.into_iter().flat_map(|release| release.tickets);
    let keys = tickets.map(|ticket| world.planner.entry(ticket).expect("open").key);
    assert_eq!(keys.collect::<Vec<_>>(), ids.map(World::key));
}

#[test]
fn a_clock_that_is_set_back_gives_no_place_twice() {
    let mut world = World::new();
    world.apply(1, json!({"unique": {"period": "10s"}}));
    world.submit("a", json!({}));
    assert_eq!(world.decide(), ["resolved"]);
    world.skew = 100;
    world.submit("b", json!({}));
    assert_eq!(world.decide(), ["resolved"], "another period");
    world.skew = 0;
    world.submit("c", json!({}));
    assert_eq!(world.decide(), ["skipped"], "that of the first");
}

#[test]
fn a_place_that_did_not_get_into_the_log_is_its_tasks_all_the_same() {
    let mut world = World::new();
    world.apply(1, json!({"unique": {"period": "1h"}}));
    world.submit("a", json!({}));
    let (ticket, _) = world.open("a");
    assert_eq!(world.decisions().len(), 1, "and its publication fails");
    world.planner.put_back(ticket, Decision::Resolve);
    assert_eq!(world.decide(), ["resolved"]);
}

#[test]
fn a_limit_counts_what_a_type_put_into_its_queue() {
    let mut world = World::new();
    world.apply(1, json!({}));
    let limit = pb::Limit {
        queue: "slow".into(),
        key: "input.word".into(),
        depth: Some(1),
        ..pb::Limit::default()
    };
    let limit = common::policy::limit::Limit::parse(&limit).expect("a limit");
    world.planner.set_limit("one", Some(limit), 1);
    for (id, word) in [("a", "x"), ("b", "x"), ("c", "y")] {
        world.submit(id, json!({"input": {"word": word}}));
    }
    assert_eq!(world.decide(), ["resolved", "resolved", "resolved"]);
    world.planner.tick(world.now(), 0);
    let (b, _) = world.open("b");
    let refused = Decision::Refused(crate::flow::Refusal::TooMany);
    assert_eq!(world.planner.take_decisions(10), [(b, refused)]);
    assert_eq!((world.place("a"), world.place("c")), (Place::Ready, Place::Ready));
    world.takes_over();
    assert_eq!(world.open("b").1.deciding, Some(refused), "a snapshot keeps it");
}
