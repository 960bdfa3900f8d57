//! Schedules in the planner: who restores a snapshot, who reads the whole log and who begins at a
//! floor go on where the leader was.

use common::{
    event::{Event, Kind, Policy, PolicyEvent, TaskEvent},
    id::{DocumentName, TaskId, Tenant},
    pb,
    policy::{Body, Document, Kind as DocumentKind},
};
use prost::Message as _;
use serde_json::json;

use super::*;
use crate::schedule::{Known, Order, fire};

/// A planner that leads, and its log: each event and when the log took it.
struct World {
    planner: Planner,
    log: Vec<(Timestamp, Event)>,
    now: Timestamp,
}

fn noon() -> Timestamp {
    Timestamp::parse("2026-06-01T12:00:00Z").unwrap()
}

fn fold(planner: &mut Planner, sequence: u64, (at, event): &(Timestamp, Event)) {
    planner.fold((sequence, 0), *at, event, 1);
}

/// Where each schedule stands.
fn stands(planner: &Planner) -> Vec<String> {
    let stand = |(name, known): (&str, &Known)| {
        let Known { schedule, decided, last, runs, .. } = known;
        format!("{name} {schedule:?} {decided:?} {last:?} {runs:?}")
    };
    planner.schedules().iter().map(stand).collect()
}

impl World {
    fn new() -> Self {
        let mut planner = Planner::default();
        planner.lead(noon(), 0);
        Self { planner, log: Vec::new(), now: noon() }
    }

    fn push(&mut self, event: Event) {
        self.log.push((self.now, event));
        let sequence = self.log.len() as u64;
        fold(&mut self.planner, sequence, &self.log[self.log.len() - 1]);
    }

    fn say(&mut self, policy: Policy) {
        self.push(Event::Policy(PolicyEvent { actor: "test".into(), policy }));
    }

    fn set(&mut self, name: &str, body: Option<serde_json::Value>) {
        let name = DocumentName::parse(name).unwrap();
        let version = self.planner.policies().next_version(&(DocumentKind::Schedule, name.clone()));
        let body = body.map_or(Body::Removed(DocumentKind::Schedule), |body| {
            Body::Schedule(Box::new(serde_json::from_value::<pb::Schedule>(body).unwrap()))
        });
        let document = Document { name, version, carried: None, body };
        self.say(Policy::Document(Box::new(document)));
    }

    /// Lets time pass and decides; how many runs there were.
    fn after(&mut self, seconds: u64) -> usize {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.planner.tick(self.now, 1);
        let mut runs = 0;
        loop {
            let orders = self.planner.schedule_orders(9);
            if orders.is_empty() {
                return runs;
            }
            for order in orders {
                match order {
                    Order::Advance(advanced) => self.say(Policy::ScheduleAdvanced(advanced)),
                    Order::Create { spec, .. } => {
                        runs += 1;
                        let id = spec.id().unwrap();
                        let kind = Kind::Created(spec);
                        self.push(Event::Task(TaskEvent::new(Tenant::default(), id, "", kind)));
                    }
                }
            }
        }
    }

    fn complete(&mut self, id: &TaskId) {
        let kind = Kind::Completed(Box::default());
        self.push(Event::Task(TaskEvent::new(Tenant::default(), id.clone(), "other", kind)));
    }

    fn oldest_run(&self, name: &str) -> TaskId {
        self.planner.schedules().get(name).unwrap().runs[0].id.clone()
    }

    /// Cuts the log, as a leader does.
    fn cut(&mut self, floor: u64) {
        let as_of = self.log.len() as u64;
        let pass = self.planner.begin_cut(floor);
        for id in pass.documents {
            let policy = self.planner.carry_document(&id, as_of).unwrap();
            self.say(policy);
        }
        for advanced in pass.schedules {
            self.say(Policy::ScheduleAdvanced(advanced));
        }
        for ticket in pass.open {
            let entry = self.planner.entry(ticket).unwrap();
            let Event::Task(lies) = &self.log[entry.sequence as usize - 1].1 else { panic!() };
            let spec = if let Kind::Carried(carried) = &lies.kind {
                carried.spec.clone().unwrap()
            } else {
                let Kind::Created(spec) = &lies.kind else { panic!("{lies:?}") };
                spec.clone()
            };
            let carried = self.planner.carry(ticket, Some(&spec), noon(), as_of).unwrap();
            let kind = Kind::Carried(Box::new(carried));
            let id = spec.id().unwrap();
            self.push(Event::Task(TaskEvent::new(Tenant::default(), id, "test", kind)));
        }
        let left = self.planner.look_again(floor);
        assert!(left.is_done(), "{left:?}");
        let trimmed = self.planner.trim_at(floor, self.log.len() as u64);
        self.say(Policy::Trimmed(trimmed));
    }

    /// Whoever begins anew knows what the leader knows, and decides what it would.
    fn check(&self) {
        let bytes = self.planner.store("log".into(), self.log.len() as u64);
        let stored = Planner::restore(Stored::decode(bytes.as_slice()).unwrap()).unwrap();
        let mut others = vec![("from a snapshot", stored)];
        let cut = self.log.iter().rev().find_map(|(_, event)| match event {
            Event::Policy(PolicyEvent { policy: Policy::Trimmed(trimmed), .. }) => Some(trimmed),
            Event::Task(_) | Event::Policy(_) => None,
        });
        let mut whole = Planner::default();
        for (sequence, entry) in (1..).zip(&self.log) {
            fold(&mut whole, sequence, entry);
        }
        others.push(("from the whole log", whole));
        if let Some(trimmed) = cut {
            let mut cold = Planner::begin_at(trimmed);
            let kept = || (trimmed.floor..).zip(&self.log[trimmed.floor as usize - 1..]);
            for (sequence, (_, event)) in kept() {
                cold.preload((sequence, 0), event);
            }
            cold.preloaded();
            for (sequence, entry) in kept() {
                fold(&mut cold, sequence, entry);
            }
            others.push(("from the floor", cold));
        }
        for (how, mut other) in others {
            assert_eq!(stands(&other), stands(&self.planner), "{how}");
            other.lead(self.now, 1);
            assert_eq!(
                other.schedules().next_alarm(),
                self.planner.schedules().next_alarm(),
                "{how}"
            );
        }
    }
}

fn every(seconds: u64, more: &serde_json::Value) -> serde_json::Value {
    let mut body = json!({ "every": seconds, "task": { "task_type": "x" } });
    for (field, value) in more.as_object().unwrap() {
        body[field] = value.clone();
    }
    body
}

#[test]
fn whoever_begins_goes_on_where_the_leader_was() {
    let mut world = World::new();
    world.set("skips", Some(every(60, &json!({ "overlap": "skip" }))));
    world.set("waits", Some(every(90, &json!({ "overlap": "queue", "runs_max": 3 }))));
    world.check();
    assert_eq!(world.after(60), 1, "the first of both is at noon, and that is over");
    assert_eq!(world.after(30), 1);
    world.check();
    // The floor is above both documents: all that is known of them comes from what is said again.
    world.cut(4);
    world.check();
    assert_eq!(world.after(30), 0, "it has a run that is open");
    world.check();
    world.complete(&world.oldest_run("skips"));
    assert_eq!(world.after(60), 2);
    world.check();
    world.cut(world.log.len() as u64);
    world.check();
    world.set("skips", Some(every(60, &json!({ "paused": true }))));
    world.after(300);
    world.check();
    world.set("skips", Some(every(45, &json!({ "overlap": "allow" }))));
    world.cut(world.log.len() as u64 - 1);
    world.check();
    assert!(world.after(90) >= 1);
    let until = world.now.after(Duration::from_secs(100)).to_string();
    let paused = json!({ "overlap": "allow", "paused": true, "paused_until": until });
    world.set("skips", Some(every(45, &paused)));
    world.check();
    world.cut(world.log.len() as u64 + 1);
    world.check();
    let runs = world.after(99);
    assert!(world.after(60) > 0 && runs == 0, "it ends by itself");
    world.check();
    world.set("waits", None);
    world.check();
    world.cut(world.log.len() as u64 + 1);
    world.check();
    while let Some(run) = world.planner.schedules().get("waits").map(|known| known.runs[0].clone())
    {
        world.complete(&run.id);
    }
    world.check();
    assert!(world.planner.schedules().get("waits").is_none());
}

/// The leader's wall is ahead of the log's clock, and in between the schedule is removed and set.
#[test]
fn a_tick_whose_run_was_there_before_its_schedule_is_decided() {
    let mut world = World::new();
    world.set("s", Some(every(60, &json!({}))));
    assert_eq!(world.after(60), 1);
    world.now = world.now.after(Duration::from_secs(1));
    world.planner.log_clock = noon();
    world.now = noon();
    world.set("s", None);
    world.set("s", Some(every(60, &json!({ "overlap": "allow" }))));
    let tick = noon().after(Duration::from_secs(60));
    let orders = world.planner.schedule_orders(9);
    assert!(matches!(orders.as_slice(), [Order::Create { .. }]), "{orders:?}");
    assert_eq!(world.planner.next_alarm(), None, "until the log tells of it");
    let answer = Ok(pb::Submission { existing: true, ..pb::Submission::default() });
    let advanced = fire::taken("s", (tick, None), &answer).expect("it is said");
    world.say(Policy::ScheduleAdvanced(advanced));
    let next = tick.after(Duration::from_secs(60));
    assert_eq!(world.planner.next_alarm(), Some(next));
    let created = Ok(pb::Submission::default());
    assert_eq!(fire::taken("s", (tick, None), &created), None, "the run says it");
}

#[test]
fn a_schedule_has_no_runs_while_their_type_is_disabled() {
    let mut world = World::new();
    let name = DocumentName::parse("report").unwrap();
    let mut version = 0;
    let mut turn = |world: &mut World, enabled: bool| {
        version += 1;
        let of = json!({
            "name": "report", "executor": {"shell": {"argv": ["true"]}}, "enabled": enabled
        });
        let body = Body::TaskType(Box::new(serde_json::from_value(of).unwrap()));
        let document = Document { name: name.clone(), version, carried: None, body };
        world.say(Policy::Document(Box::new(document)));
    };
    turn(&mut world, false);
    let typed = json!({"every": "60s", "task": {"task_type": "report"}, "overlap": "allow"});
    world.set("typed", Some(typed));
    let own = json!({"executor": {"shell": {"argv": ["true"]}}, "task_type": "report"});
    let own = json!({"every": "60s", "task": own, "overlap": "allow"});
    world.set("own", Some(own));
    assert_eq!(world.after(60), 1, "that with an executor of its own");
    assert_eq!(world.after(60), 1);
    world.cut(3);
    world.check();
    turn(&mut world, true);
    assert_eq!(world.after(0), 0, "what was passed over is not caught up");
    assert_eq!(world.after(60), 2);
    world.check();
}

#[test]
fn a_cut_between_two_versions_of_a_schedule_loses_no_tick() {
    let mut world = World::new();
    world.set("s", Some(every(60, &json!({}))));
    world.after(60);
    // Nobody decides for a while; then the policy changes, and the ticks do not.
    world.now = world.now.after(Duration::from_secs(90));
    world.set("s", Some(every(60, &json!({ "overlap": "allow" }))));
    world.cut(3);
    world.check();
    assert_eq!(world.after(0), 1, "the tick before the change");
    world.check();
    // Its task comes after the change, and is of before it: the cut says where that leaves it.
    world.cut(3);
    world.check();
}

#[test]
fn only_a_leader_decides_and_its_loop_wakes_for_it() {
    let mut world = World::new();
    world.set("s", Some(every(60, &json!({}))));
    let next = noon().after(Duration::from_secs(60));
    assert_eq!(world.planner.next_alarm(), Some(next));
    world.planner.follow();
    assert_eq!(world.after(60), 0);
    world.planner.lead(world.now, 1);
    assert_eq!(world.after(0), 1);
    assert_eq!(world.planner.next_alarm(), Some(noon().after(Duration::from_secs(120))));
}

#[test]
fn a_tick_that_two_leaders_told_is_one_task() {
    let mut world = World::new();
    world.set("s", Some(every(60, &json!({}))));
    world.after(60);
    let told = world.log[1].1.clone();
    world.push(told.clone());
    assert_eq!(world.planner.open_tasks(), 1);
    world.complete(&world.oldest_run("s"));
    world.push(told);
    assert_eq!((world.planner.open_tasks(), world.planner.finished_tasks()), (0, 1));
    assert!(world.planner.schedules().get("s").unwrap().runs.is_empty());
    world.check();
}
