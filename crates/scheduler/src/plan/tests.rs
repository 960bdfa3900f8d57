mod flow;

use common::{
    event::{Event, Kind, Pause, Policy, PolicyEvent, TaskEvent},
    id::{QueueName, TaskId, TaskKey, Tenant},
    lifecycle::{Cause, Phase},
    pb,
    task::TaskSpec,
    time::Timestamp,
};

use prost::Message as _;

use super::{Decision, Found, Place, Planner, Stored, Ticket};

/// A planner with a log of its own: every event gets the next sequence, a second a step.
pub(super) struct World {
    pub(super) planner: Planner,
    sequence: u64,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self { planner: Planner::default(), sequence: 0, now_ms: 1_000 };
        world.planner.lead(world.now(), world.now_ms);
        world
    }

    /// One that decides nothing.
    pub(super) fn following() -> Self {
        Self { planner: Planner::default(), sequence: 0, now_ms: 1_000 }
    }

    fn with_worker(slots: u32) -> Self {
        let mut world = Self::new();
        world.beat("w", slots, &[]);
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now_ms as i64 * 1_000)
    }

    fn say(&mut self, id: &str, kind: Kind) {
        self.sequence += 1;
        let event = TaskEvent::new(Tenant::default(), TaskId::parse(id).unwrap(), "test", kind);
        self.planner.fold((self.sequence, 0), self.now(), &Event::Task(event), self.now_ms);
    }

    fn decree(&mut self, policy: Policy) {
        self.sequence += 1;
        let event = Event::Policy(PolicyEvent { actor: "op".into(), policy });
        self.planner.fold((self.sequence, 0), self.now(), &event, self.now_ms);
    }

    fn submit(&mut self, id: &str, change: impl FnOnce(&mut pb::TaskSpec)) {
        let worker = pb::Worker { handler: "h".into() };
        let mut spec = pb::TaskSpec {
            task_id: id.into(),
            executor: Some(pb::Executor { kind: Some(pb::executor::Kind::Worker(worker)) }),
            ..pb::TaskSpec::default()
        };
        change(&mut spec);
        self.say(id, Kind::Created(Box::new(TaskSpec::parse(spec).unwrap())));
    }

    fn after(&mut self, id: &str, on: &[&str]) {
        let edge = |id: &&str| pb::Dependency { task_id: (*id).into(), on: 0 };
        self.submit(id, |spec| spec.depends_on = on.iter().map(edge).collect());
    }

    fn complete(&mut self, id: &str, attempt: u32) {
        self.say(
            id,
            Kind::Completed(Box::new(pb::Completed { attempt, ..pb::Completed::default() })),
        );
    }

    fn fail(&mut self, id: &str, attempt: u32) {
        self.say(id, Kind::Failed(Box::new(pb::Failed { attempt, ..pb::Failed::default() })));
    }

    fn beat(&mut self, worker: &str, slots: u32, running: &[(&str, u32)]) -> usize {
        let running = running.iter().map(|(id, attempt)| pb::Attempt {
            task_id: (*id).into(),
            attempt: *attempt,
            ..pb::Attempt::default()
        });
        let beat = pb::Heartbeat {
            worker: worker.into(),
            queues: [("handlers".to_owned(), slots)].into(),
            running: running.collect(),
            ..pb::Heartbeat::default()
        };
        self.planner.heard(beat, self.now_ms).len()
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.planner.tick(self.now(), self.now_ms);
    }

    /// Ids are told apart by their place in `ids`; what is released, in order.
    fn released(&mut self, ids: &[&str]) -> Vec<String> {
        self.planner.tick(self.now(), self.now_ms);
        let releases = self.planner.release(self.now_ms, 4_096, 1_000);
        let tickets = releases.into_iter().flat_map(|r| r.tickets).collect::<Vec<_>>();
        tickets.into_iter().map(|t| self.name(t, ids)).collect()
    }

    fn name(&self, ticket: Ticket, ids: &[&str]) -> String {
        let key = self.planner.entry(ticket).unwrap().key;
        ids.iter().find(|id| key_of(id) == key).map_or("?".into(), |id| (*id).into())
    }

    fn decisions(&mut self) -> Vec<Decision> {
        self.planner.take_decisions(100).into_iter().map(|(_, d)| d).collect()
    }

    fn place(&self, id: &str) -> Place {
        match self.planner.find(key_of(id)) {
            Some(Found::Open(_, entry)) => entry.place,
            _ => Place::External,
        }
    }

    fn end(&self, id: &str) -> Option<Phase> {
        match self.planner.find(key_of(id))? {
            Found::Over(end) => Some(end.phase),
            Found::Open(..) => None,
        }
    }
}

fn key_of(id: &str) -> TaskKey {
    TaskKey::new(&Tenant::default(), &TaskId::parse(id).unwrap())
}

#[test]
fn nothing_is_released_while_no_worker_serves_the_queue() {
    let mut world = World::new();
    world.submit("a", |_| {});
    assert!(world.released(&["a"]).is_empty());
    world.beat("w", 1, &[]);
    assert_eq!(world.released(&["a"]), ["a"]);
    assert!(world.released(&["a"]).is_empty(), "once");
}

#[test]
fn urgent_tasks_go_first_and_a_reprioritised_one_moves() {
    let mut world = World::with_worker(4);
    for (id, priority) in [("low", 1), ("high", 10), ("mid", 5)] {
        world.submit(id, |spec| spec.priority = Some(priority));
    }
    world.say("low", Kind::Reprioritised(pb::Reprioritised { priority: 7 }));
    assert_eq!(world.released(&["low", "high", "mid"]), ["high", "low", "mid"]);
}

#[test]
fn the_window_holds_back_what_no_slot_could_take() {
    let mut world = World::with_worker(1);
    let ids = (0..40).map(|n| format!("t{n}")).collect::<Vec<_>>();
    let ids = ids.iter().map(String::as_str).collect::<Vec<_>>();
    for id in &ids {
        world.submit(id, |_| {});
    }
    assert_eq!(world.released(&ids).len(), common::limits::WINDOW_MIN as usize);
    world.complete("t0", 1);
    assert_eq!(world.released(&ids), ["t16"]);
}

#[test]
fn a_dependent_waits_also_for_a_task_that_comes_later() {
    let mut world = World::with_worker(4);
    world.after("b", &["a"]);
    assert!(world.released(&["b"]).is_empty());
    world.submit("a", |_| {});
    assert_eq!(world.released(&["a", "b"]), ["a"]);
    world.complete("a", 1);
    assert_eq!(world.released(&["a", "b"]), ["b"]);
}

#[test]
fn a_failed_dependency_ends_its_dependents_down_the_chain() {
    let mut world = World::with_worker(4);
    world.submit("a", |_| {});
    world.after("b", &["a"]);
    world.after("c", &["b"]);
    world.released(&["a"]);
    world.fail("a", 1);
    assert_eq!(world.decisions(), [Decision::DependencyFailed]);
    let cause = pb::Cause::Dependency.into();
    world.say("b", Kind::Failed(Box::new(pb::Failed { cause, ..pb::Failed::default() })));
    assert_eq!(world.end("b"), Some(Phase::Failed(Cause::Dependency)));
    assert_eq!(world.decisions(), [Decision::DependencyFailed], "of c");
}

#[test]
fn an_edge_may_ask_for_failure_or_for_any_end() {
    let mut world = World::with_worker(4);
    world.submit("a", |_| {});
    for (id, on) in [("cleanup", pb::dependency::On::End), ("rescue", pb::dependency::On::Failure)]
    {
        let edge = pb::Dependency { task_id: "a".into(), on: on.into() };
        world.submit(id, |spec| spec.depends_on = vec![edge]);
    }
    world.released(&["a"]);
    world.complete("a", 1);
    assert_eq!(world.released(&["a", "cleanup", "rescue"]), ["cleanup"]);
    assert_eq!(world.decisions(), [Decision::Skip]);
}

#[test]
fn the_task_that_closes_a_cycle_is_ended() {
    let mut world = World::with_worker(4);
    world.after("a", &["b"]);
    world.after("b", &["c"]);
    assert!(world.decisions().is_empty());
    world.after("c", &["a"]);
    assert_eq!(world.decisions(), [Decision::Cycle]);
}

#[test]
fn a_delay_ends_by_the_clock_and_by_hand() {
    let mut world = World::with_worker(4);
    let delay =
        |spec: &mut pb::TaskSpec| spec.delay = Some(std::time::Duration::from_secs(60).into());
    world.submit("a", delay);
    world.submit("b", delay);
    assert!(world.released(&["a", "b"]).is_empty());
    world.say("b", Kind::Expedited(pb::Expedited {}));
    assert_eq!(world.released(&["a", "b"]), ["b"]);
    world.beat("w", 4, &[("b", 1)]);
    world.pass(59_000);
    world.beat("w", 4, &[("b", 1)]);
    assert!(world.released(&["a", "b"]).is_empty());
    world.pass(1_001);
    assert_eq!(world.released(&["a", "b"]), ["a"]);
}

#[test]
fn a_retry_waits_for_its_backoff_and_is_a_new_attempt() {
    let mut world = World::with_worker(4);
    world.submit("a", |_| {});
    world.released(&["a"]);
    let delay = Some(std::time::Duration::from_secs(5).into());
    world.say(
        "a",
        Kind::Retrying(Box::new(pb::Retrying { attempt: 1, delay, ..pb::Retrying::default() })),
    );
    assert!(world.released(&["a"]).is_empty());
    world.pass(5_001);
    world.beat("w", 4, &[]);
    assert_eq!(world.released(&["a"]), ["a"]);
    world.complete("a", 1);
    assert_eq!(world.end("a"), None, "the first attempt is over");
    world.complete("a", 2);
    assert_eq!(world.end("a"), Some(Phase::Completed));
}

#[test]
fn a_silent_worker_loses_its_attempts_and_the_scheduler_decides_what_follows() {
    let mut world = World::with_worker(4);
    world.submit("a", |_| {});
    world.released(&["a"]);
    world.beat("w", 4, &[("a", 1)]);
    world.pass(9_000);
    assert!(world.decisions().is_empty());
    world.pass(2_000);
    assert_eq!(world.decisions(), [Decision::Lost]);
    world.say("a", Kind::Lost(pb::Lost { attempt: 1, ..pb::Lost::default() }));
    assert_eq!(world.decisions(), [Decision::AfterLoss]);
    world
        .say("a", Kind::Retrying(Box::new(pb::Retrying { attempt: 1, ..pb::Retrying::default() })));
    world.beat("v", 4, &[]);
    world.pass(1);
    assert_eq!(world.released(&["a"]), ["a"]);
}

#[test]
fn a_new_leader_gives_up_what_a_worker_held_that_nobody_hears_any_more() {
    let mut world = World::new();
    world.planner.follow();
    world.submit("a", |_| {});
    world.say("a", Kind::Started(pb::Started { attempt: 1, worker: "gone".into() }));
    world.planner.lead(world.now(), world.now_ms);
    world.pass(5_000);
    assert!(world.decisions().is_empty());
    world.pass(6_000);
    assert_eq!(world.decisions(), [Decision::Lost]);
}

#[test]
fn a_stale_attempt_is_told_to_stop_each_time_it_is_listed() {
    let mut world = World::with_worker(4);
    world.submit("a", |_| {});
    world.released(&["a"]);
    world.say("a", Kind::Returned(pb::Returned { attempt: 1, ..pb::Returned::default() }));
    assert_eq!(world.beat("w", 4, &[("a", 1)]), 1);
    assert_eq!(world.beat("w", 4, &[("a", 1)]), 1);
    assert_eq!(world.beat("w", 4, &[("a", 2)]), 0);
}

#[test]
fn a_cancelled_task_that_nobody_holds_is_ended_after_a_heartbeat() {
    let mut world = World::with_worker(4);
    world.submit("a", |_| {});
    world.released(&["a"]);
    world.say("a", Kind::CancelRequested(pb::CancelRequested::default()));
    assert!(world.decisions().is_empty());
    world.beat("w", 4, &[("a", 1)]);
    world.pass(4_100);
    assert!(world.decisions().is_empty(), "held");
    world.beat("w", 4, &[]);
    world.pass(2_100);
    assert_eq!(world.decisions(), [Decision::Cancel]);
}

#[test]
fn a_total_timeout_that_was_not_said_before_another_leader_gave_the_task_out_rings_again() {
    let mut world = World::with_worker(1);
    let total = Some(std::time::Duration::from_secs(10).into());
    world.submit("a", |spec| {
        spec.timeouts = Some(pb::Timeouts { total, ..pb::Timeouts::default() });
    });
    world.pass(11_000);
    assert_eq!(world.decisions(), [Decision::TotalTimeout]);
    world.planner.follow();
    world.say("a", Kind::Started(pb::Started { attempt: 1, worker: "w".into() }));
    world.say("a", Kind::Returned(pb::Returned { attempt: 1, ..pb::Returned::default() }));
    world.planner.lead(world.now(), world.now_ms);
    world.pass(1);
    assert_eq!(world.decisions(), [Decision::TotalTimeout]);
}

#[test]
fn what_is_to_be_cancelled_is_not_given_out_again_by_the_next_leader() {
    let mut world = World::with_worker(4);
    world.planner.follow();
    world.submit("a", |_| {});
    world.say("a", Kind::CancelRequested(pb::CancelRequested::default()));
    world.submit("b", |_| {});
    // The last leader had it out and withdrew it: the work queue has nothing.
    world.planner.lead(world.now(), world.now_ms);
    assert_eq!(world.released(&["a", "b"]), ["b"]);
    world.pass(4_100);
    assert_eq!(world.decisions(), [Decision::Cancel]);
}

#[test]
fn a_total_timeout_that_rings_while_the_attempt_is_out_is_not_forgotten() {
    let mut world = World::with_worker(4);
    let total = Some(std::time::Duration::from_secs(1).into());
    world.submit("a", |spec| spec.timeouts = Some(pb::Timeouts { total, ..Default::default() }));
    world.released(&["a"]);
    world.pass(1_100);
    assert!(world.decisions().is_empty(), "its worker ends it");
    world.planner.worker_left("w");
    world.say("a", Kind::Returned(pb::Returned { attempt: 1, ..pb::Returned::default() }));
    world.pass(2_100);
    assert_eq!(world.decisions(), [Decision::TotalTimeout]);
}

#[test]
fn timeouts_end_what_waits_too_long() {
    let timeouts = |f: fn(&mut pb::Timeouts)| {
        move |spec: &mut pb::TaskSpec| {
            let mut timeouts = pb::Timeouts::default();
            f(&mut timeouts);
            spec.timeouts = Some(timeouts);
        }
    };
    let mut world = World::new();
    world.submit("q", timeouts(|t| t.queue = Some(std::time::Duration::from_secs(1).into())));
    world.pass(1_001);
    assert_eq!(world.decisions(), [Decision::Expired]);
    let mut world = World::new();
    world.submit("t", timeouts(|t| t.total = Some(std::time::Duration::from_secs(1).into())));
    world.pass(1_001);
    assert_eq!(world.decisions(), [Decision::TotalTimeout]);
    let mut world = World::new();
    world.submit("d", |spec| {
        timeouts(|t| t.dependency = Some(std::time::Duration::from_secs(1).into()))(spec);
        spec.depends_on = vec![pb::Dependency { task_id: "never".into(), on: 0 }];
    });
    world.pass(1_001);
    assert_eq!(world.decisions(), [Decision::DependencyMissing]);
}

#[test]
fn short_tasks_travel_together_only_when_they_are_known_to_be_short_and_are_many() {
    let mut world = World::with_worker(2);
    let ids = (0..400).map(|n| format!("t{n}")).collect::<Vec<_>>();
    for id in &ids {
        world.submit(id, |_| {});
    }
    let first = world.planner.release(world.now_ms, 4_096, 1_000);
    assert!(first.iter().all(|r| r.tickets.len() == 1), "nothing is known yet");
    let mut done = 0;
    while done < 100 {
        let duration = Some(std::time::Duration::from_micros(50).into());
        let completed = pb::Completed { attempt: 1, duration, ..pb::Completed::default() };
        world.say(&ids[done], Kind::Completed(Box::new(completed)));
        world.planner.release(world.now_ms, 4_096, 1);
        done += 1;
    }
    for id in &ids[100..100 + 16] {
        world.complete(id, 1);
    }
    let grouped = world.planner.release(world.now_ms, 4_096, 1_000);
    assert!(grouped.iter().any(|r| r.tickets.len() > 1), "{grouped:?}");
    assert!(grouped.iter().all(|r| r.tickets.len() <= 32));
}

#[test]
fn a_stored_backlog_goes_on_as_it_was() {
    let mut world = World::with_worker(4);
    world.submit("run", |_| {});
    world.after("dep", &["run"]);
    world.submit("late", |spec| spec.delay = Some(std::time::Duration::from_secs(60).into()));
    world.submit("gone", |_| {});
    world.released(&["run", "gone"]);
    world.say("run", Kind::Started(pb::Started { attempt: 1, worker: "w".into() }));
    world.complete("gone", 1);
    let bytes = world.planner.store("the log".to_owned(), 7);
    let stored = Stored::decode(bytes.as_slice()).expect("a snapshot");
    assert_eq!((stored.stream.as_str(), stored.sequence), ("the log", 7));
    world.planner = Planner::restore(stored).expect("of this version");
    world.planner.lead(world.now(), world.now_ms);
    world.beat("w", 4, &[("run", 1)]);
    assert!(matches!(world.place("run"), Place::Released(_)));
    assert_eq!(world.end("gone"), Some(Phase::Completed));
    assert!(world.released(&["run", "dep", "late"]).is_empty());
    world.complete("run", 1);
    assert_eq!(world.released(&["dep", "late"]), ["dep"]);
    world.pass(60_001);
    world.beat("w", 4, &[]);
    assert_eq!(world.released(&["dep", "late"]), ["late"]);
}

#[test]
fn a_refused_release_goes_back_to_the_front() {
    let mut world = World::with_worker(4);
    for id in ["a", "b", "c"] {
        world.submit(id, |_| {});
    }
    let releases = world.planner.release(world.now_ms, 4_096, 2);
    for ticket in releases.into_iter().flat_map(|r| r.tickets).rev() {
        world.planner.unrelease(ticket);
    }
    assert_eq!(world.released(&["a", "b", "c"]), ["a", "b", "c"]);
}

#[test]
fn pauses_hold_new_starts_and_end() {
    let mut world = World::with_worker(4);
    world.submit("a", |_| {});
    world.decree(Policy::Paused(Pause { queue: None, reason: "night".into(), until: None }));
    assert!(world.released(&["a"]).is_empty());
    world.decree(Policy::Resumed { queue: None });
    assert_eq!(world.released(&["a"]), ["a"]);
}

#[test]
fn a_pause_ends_by_itself_after_a_restart_too() {
    let mut world = World::with_worker(4);
    world.submit("a", |_| {});
    let until = world.now().after(std::time::Duration::from_secs(60));
    let pause = |queue, until| Pause { queue, reason: "night".into(), until };
    let queue = QueueName::parse("handlers").ok();
    world.decree(Policy::Paused(pause(queue.clone(), Some(until))));
    assert!(world.released(&["a"]).is_empty());
    assert_eq!(world.planner.next_alarm(), Some(until));
    assert_eq!(world.planner.pauses(), [(queue.clone().unwrap(), Some(until))]);
    let why = crate::why::why(
        &world.planner,
        key_of("a"),
        &TaskSpec::parse(pb::TaskSpec { task_id: "a".into(), ..pb::TaskSpec::default() }).unwrap(),
        4_096,
        &std::collections::HashMap::new(),
    )
    .unwrap();
    assert_eq!(why.reasons[0].message, format!("queue handlers is paused until {until}: night"));
    assert_eq!(why.estimated_start, Some(until.into()));

    let bytes = world.planner.store("the log".to_owned(), 7);
    world.planner = Planner::restore(Stored::decode(bytes.as_slice()).unwrap()).unwrap();
    world.planner.lead(world.now(), world.now_ms);
    world.beat("w", 4, &[]);
    world.pass(59_000);
    world.beat("w", 4, &[]);
    assert!(world.released(&["a"]).is_empty());
    // That of everything counts as well, and the later end.
    let later = until.after(std::time::Duration::from_secs(1));
    world.decree(Policy::Paused(pause(None, Some(later))));
    assert_eq!(world.planner.pauses(), [(queue.unwrap(), Some(later))]);
    world.pass(1_000);
    assert!(world.released(&["a"]).is_empty());
    world.pass(1_000);
    world.beat("w", 4, &[]);
    assert_eq!(world.released(&["a"]), ["a"]);
    assert!(world.planner.pause_of_all().is_none() && world.planner.pause_ends().is_none());
}

#[test]
fn a_standby_decides_nothing_by_the_clock_and_a_delay_counts_from_the_log() {
    let mut world = World::new();
    world.planner.follow();
    let second = |n| Some(std::time::Duration::from_secs(n).into());
    world.submit("t", |spec| {
        spec.timeouts = Some(pb::Timeouts { total: second(1), ..pb::Timeouts::default() });
    });
    world.pass(60_000);
    assert!(world.decisions().is_empty());
    // Folded a minute later, as after a restart: the delay of an old task is over.
    let now_ms = world.now_ms;
    world.now_ms = 2_000;
    world.submit("d", |spec| spec.delay = second(10));
    world.now_ms = now_ms;
    world.planner.lead(world.now(), world.now_ms);
    world.beat("w", 4, &[]);
    world.pass(1);
    assert_eq!(world.decisions(), [Decision::TotalTimeout]);
    assert_eq!(world.released(&["d"]), ["d"]);
}

#[test]
fn a_cancel_that_fails_leaves_what_was_decided_before() {
    let mut world = World::new();
    world.after("b", &["a"]);
    world.submit("a", |_| {});
    world.fail("a", 1);
    let taken = world.planner.take_decisions(10);
    let (ticket, decision) = taken[0];
    assert_eq!(decision, Decision::DependencyFailed);
    let before = world.planner.hold(ticket);
    world.planner.unhold(ticket, before);
    assert_eq!(world.decisions(), [Decision::DependencyFailed]);
}

#[test]
fn a_release_that_never_left_is_ready_again_unless_it_ran() {
    let mut world = World::with_worker(4);
    world.submit("a", |_| {});
    world.submit("b", |_| {});
    let out = world.planner.release(world.now_ms, 4_096, 10);
    let tickets = out.into_iter().flat_map(|r| r.tickets).collect::<Vec<_>>();
    world.say("b", Kind::Started(pb::Started { attempt: 1, worker: "w".into() }));
    for ticket in tickets {
        world.planner.never_left(ticket, 1);
    }
    assert_eq!(world.released(&["a", "b"]), ["a"]);
}

/// A task of this id was over, its tombstone trimmed, and another system spoke of the id; a decision
/// about it would never find a submission.
#[test]
fn what_another_system_runs_is_not_lost_with_a_worker_that_listed_its_id() {
    let mut world = World::with_worker(1);
    world.beat("w", 1, &[("a", 1)]);
    world.say("a", Kind::Progress(pb::Progress::default()));
    world.say("b", Kind::Started(pb::Started { attempt: 0, worker: "w".into() }));
    world.planner.worker_left("w");
    assert_eq!(world.decisions(), []);
    assert!(world.planner.to_carry(100).open.len() == 2, "nothing keeps the log from being cut");
    world.say("a", Kind::CancelRequested(pb::CancelRequested::default()));
    world.pass(5_000);
    assert_eq!(world.decisions(), [Decision::Cancel]);
}

/// Its answer never came, and then the lease went and came back.
#[test]
fn a_new_term_begins_with_what_lies_in_the_work_queue() {
    let mut world = World::with_worker(4);
    for id in ["a", "b", "c", "d"] {
        world.submit(id, |_| {});
    }
    assert_eq!(world.released(&["a", "b", "c", "d"]).len(), 4);
    world.say("b", Kind::Started(pb::Started { attempt: 1, worker: "w".into() }));
    world.beat("w", 4, &[("b", 1), ("c", 1)]);
    world.planner.follow();
    world.planner.only_these_are_out(&[(key_of("a"), 1)], world.now_ms);
    world.planner.lead(world.now(), world.now_ms);
    assert_eq!(world.released(&["a", "b", "c", "d"]), ["d"], "at no cost, as the same attempt");
    assert_eq!(world.decisions(), []);
}

#[test]
fn what_lies_on_a_queue_that_nobody_serves_any_more_is_called_back_and_may_expire() {
    let mut world = World::with_worker(1);
    let limit = |s: i64| pb::Timeouts {
        queue: Some(std::time::Duration::from_secs(s as u64).into()),
        ..pb::Timeouts::default()
    };
    world.submit("a", |spec| spec.timeouts = Some(limit(30)));
    world.submit("b", |_| {});
    assert_eq!(world.released(&["a", "b"]), ["a", "b"]);
    world.say("b", Kind::Started(pb::Started { attempt: 1, worker: "w".into() }));
    assert_eq!(world.planner.unserved(world.now_ms), []);
    world.planner.worker_left("w");
    assert_eq!(world.decisions(), [Decision::Lost], "what ran is lost");
    assert_eq!(world.planner.unserved(world.now_ms), [], "it may come back");
    world.pass(12_000);
    let unserved = world.planner.unserved(world.now_ms);
    assert_eq!(
        unserved.iter().map(|(_, key, n)| (*key, *n)).collect::<Vec<_>>(),
        [(key_of("a"), 1)]
    );
    world.say("a", Kind::Returned(pb::Returned { attempt: 1, ..pb::Returned::default() }));
    assert_eq!(world.place("a"), Place::Ready);
    world.pass(31_000);
    assert_eq!(world.decisions(), [Decision::Expired]);
}

/// The timeout rang while the release was under way, which was refused; and then the worker left.
#[test]
fn a_queue_timeout_that_rings_during_a_release_is_not_forgotten() {
    let mut world = World::with_worker(1);
    let queue = Some(std::time::Duration::from_secs(1).into());
    let timeouts = pb::Timeouts { queue, ..pb::Timeouts::default() };
    world.submit("a", |spec| spec.timeouts = Some(timeouts));
    assert_eq!(world.released(&["a"]), ["a"]);
    world.pass(2_000);
    let Some(Found::Open(ticket, _)) = world.planner.find(key_of("a")) else { panic!() };
    world.planner.unrelease(ticket);
    world.pass(2_000);
    assert_eq!(world.decisions(), [Decision::Expired]);
}

#[test]
fn what_a_worker_began_and_does_not_list_any_more_is_lost() {
    let mut world = World::with_worker(4);
    world.submit("a", |_| ());
    world.planner.release(world.now_ms, 16, 10);
    world.say("a", Kind::Started(pb::Started { attempt: 1, worker: "w".into() }));
    world.beat("w", 4, &[]);
    assert!(
        world.planner.take_decisions(9).is_empty(),
        "its heartbeat may be older than the start"
    );
    world.now_ms += 7_000;
    world.beat("w", 4, &[("a", 1)]);
    assert!(world.planner.take_decisions(9).is_empty(), "it lists it");
    world.beat("w", 4, &[]);
    let decisions = world.planner.take_decisions(9);
    assert!(matches!(decisions.as_slice(), [(_, Decision::Lost)]), "{decisions:?}");
}
