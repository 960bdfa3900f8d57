//! Cuts of the log while limits are in force: what is open is carried, and a planner that begins at the
//! floor leads like one that has read everything.

use common::{
    event::{Event, Kind, Policy, PolicyEvent, TaskEvent, Trimmed},
    id::{TaskId, TaskKey, Tenant},
    time::Timestamp,
};
use prost::Message as _;
use scheduler::{
    plan::{Pass, Planner, Stored},
    trim::{Round, Step},
};

use super::{World, menu::spec};
use crate::invariants::Broken;

/// What is younger than this is kept: longer than any rate, quiet time and patience of the limits.
const KEPT_US: i64 = 25_000_000;

impl World {
    /// Cuts the log where it is old, if that is anywhere.
    pub(super) fn cut(&mut self) {
        let old = Timestamp::from_micros(self.now_us - KEPT_US);
        let old = self.log.partition_point(|(at, _)| *at < old) as u64;
        let marks = self.leader.marks();
        let current = self.leader.floor().max(marks.cut_at()).max(1);
        let Some(floor) = marks.at_or_before(old).filter(|floor| *floor > current) else { return };
        let pass = self.leader.begin_cut(floor);
        let mut round = Round::new(floor, pass);
        loop {
            let cursor = self.log.len() as u64;
            match round.step(&mut self.leader, cursor, 16) {
                Step::Carry(pass) if pass.is_empty() => {
                    // Something is being decided: another time.
                    return self.leader.end_cut();
                }
                Step::Carry(pass) => {
                    self.carry(pass, cursor);
                    round.carried(self.log.len() as u64);
                }
                Step::Say(trimmed) => {
                    self.trimmed = Some((trimmed.clone(), cursor + 1));
                    self.decide_policy(Policy::Trimmed(trimmed));
                    round.said();
                }
                Step::Purge(_) => {
                    self.outcome.cuts += 1;
                    return;
                }
                Step::Wait => unreachable!("what is said is folded at once"),
            }
        }
    }

    fn carry(&mut self, pass: Pass, as_of: u64) {
        // Limits first: who begins with them knows the keys of what comes next.
        for id in pass.documents {
            if let Some(policy) = self.leader.carry_document(&id, as_of) {
                self.decide_policy(policy);
            }
        }
        let mut said = Vec::new();
        for ticket in pass.open {
            let Some(entry) = self.leader.entry(ticket) else { continue };
            let task = self.model.by_key(entry.key);
            let (id, created) = (task.id.clone(), Timestamp::from_micros(task.created));
            let spec = spec(&id, task.customer, task.priority);
            let carried = self.leader.carry(ticket, Some(&spec), created, as_of);
            said.extend(carried.map(|carried| (id, carried)));
        }
        for key in pass.over {
            let carried = self.leader.carry_over(key, as_of);
            said.extend(carried.map(|carried| (self.names[&key].clone(), carried)));
        }
        for (id, carried) in said {
            let kind = Kind::Carried(Box::new(carried));
            let id = TaskId::parse(&id).expect("an id");
            self.say(Event::Task(TaskEvent::new(Tenant::default(), id, "sim", kind)));
        }
    }

    fn decide_policy(&mut self, policy: Policy) {
        self.say(Event::Policy(PolicyEvent { actor: "sim".into(), policy }));
    }

    /// A planner that begins with what was stored, or with the log as it is; it knows the open tasks.
    pub(super) fn begin(&mut self) -> Result<Planner, Broken> {
        let floor = self.trimmed.as_ref().map_or(1, |(trimmed, _)| trimmed.floor);
        let from_stored = self.random.one_in(2);
        let stored = self.snapshot.as_ref().filter(|_| from_stored);
        // A snapshot of before the cut is of no use.
        let stored = stored.filter(|(_, cursor)| *cursor as u64 + 1 >= floor);
        let (mut planner, from) = match (stored, &self.trimmed) {
            (Some((bytes, from)), _) => {
                let stored = Stored::decode(bytes.as_slice()).expect("it was stored");
                (Planner::restore(stored).expect("by this version"), *from)
            }
            (None, Some((trimmed, said))) => (self.at_floor(trimmed, *said), floor as usize - 1),
            (None, None) => (Planner::default(), 0),
        };
        for (place, (at, event)) in self.log.iter().enumerate().skip(from) {
            planner.fold((place as u64 + 1, 0), *at, event, 0);
        }
        let (knows, leader) = (planner.open_tasks(), self.leader.open_tasks());
        if knows == leader {
            Ok(planner)
        } else {
            let detail = format!("one that begins at {from} knows {knows} open tasks of {leader}");
            Err(super::model::broken("restarts_change_nothing", detail))
        }
    }

    fn at_floor(&self, trimmed: &Trimmed, said: u64) -> Planner {
        let mut planner = Planner::begin_at(trimmed);
        let kept = self.log.iter().enumerate().skip(trimmed.floor as usize - 1);
        for (place, (_, event)) in kept.take_while(|(place, _)| (*place as u64) < said) {
            planner.preload((place as u64 + 1, 0), event);
        }
        planner.preloaded();
        planner
    }

    pub(super) fn name(&mut self, key: TaskKey, id: &str) {
        self.names.insert(key, id.to_owned());
    }
}
