//! **Pure.** A cut that is being made, step by step: what it needs is carried and read back, then the
//! log says that it was cut, and only when that was read back it is purged.
//!
//! The shell takes the steps. One that fails gives the round up: until the log says that it was cut
//! nothing has happened, and after that the purge may come any time.

use common::event::Trimmed;

use crate::plan::{Pass, Planner};

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until more of the log is folded.
    Wait,
    /// Append these again: first what is said about tasks, then the tasks, open ones in the order of
    /// their submissions. Who begins at the floor takes them in in that order.
    Carry(Pass),
    /// Say that the log was cut, right after the message that the cut names.
    Say(Trimmed),
    /// Take away what lies below this message; that ends the round.
    Purge(u64),
}

/// A cut that is being made.
#[derive(Debug)]
pub struct Round {
    floor: u64,
    /// What is still to be carried, the oldest last.
    left: Pass,
    /// The last message that was carried: what follows waits until it is folded.
    carried_at: u64,
    said: bool,
}

impl Round {
    /// Begins with what [`Planner::begin_cut`] found.
    pub fn new(floor: u64, pass: Pass) -> Self {
        Self { floor, left: reversed(pass), carried_at: 0, said: false }
    }

    /// Where the log is cut.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// What to do now that the log is folded up to `cursor`; at most so many tasks and documents of
    /// each kind are carried at once.
    pub fn step(&mut self, planner: &mut Planner, cursor: u64, most: usize) -> Step {
        if self.said {
            if planner.floor() < self.floor {
                return Step::Wait;
            }
            planner.end_cut();
            return Step::Purge(self.floor);
        }
        if self.left.is_empty() {
            if cursor < self.carried_at {
                return Step::Wait;
            }
            let pass = planner.look_again(self.floor);
            if pass.is_done() {
                return Step::Say(planner.trim_at(self.floor, cursor));
            }
            self.left = reversed(pass);
        }
        if !self.left.documents.is_empty() || !self.left.schedules.is_empty() {
            return Step::Carry(Pass {
                documents: some(&mut self.left.documents, most),
                schedules: some(&mut self.left.schedules, most),
                ..Pass::default()
            });
        }
        Step::Carry(reversed(Pass {
            open: some(&mut self.left.open, most),
            over: some(&mut self.left.over, most),
            ..Pass::default()
        }))
    }

    /// What was to be carried lies in the log up to there.
    pub fn carried(&mut self, sequence: u64) {
        self.carried_at = self.carried_at.max(sequence);
    }

    /// The log says that it was cut.
    pub fn said(&mut self) {
        self.said = true;
    }
}

fn reversed(mut pass: Pass) -> Pass {
    pass.open.reverse();
    pass
}

/// At most so many of the last.
fn some<T>(left: &mut Vec<T>, most: usize) -> Vec<T> {
    left.split_off(left.len().saturating_sub(most))
}

#[cfg(test)]
mod tests {
    use common::{
        event::{Carried, Event, Kind, Policy, PolicyEvent, TaskEvent},
        id::{DocumentName, TaskId, Tenant},
        pb,
        policy::{Body, Document},
        task::TaskSpec,
        time::Timestamp,
    };

    use super::*;

    fn fold(planner: &mut Planner, sequence: u64, event: &Event) {
        planner.fold((sequence, 0), Timestamp::default(), event, 0);
    }

    fn about(kind: Kind) -> Event {
        Event::Task(TaskEvent::new(Tenant::default(), TaskId::parse("a").unwrap(), "test", kind))
    }

    #[test]
    fn it_says_nothing_before_what_it_carried_is_read_back_and_purges_after_what_it_said_is() {
        let worker = pb::Worker { handler: "h".into() };
        let executor = Some(pb::Executor { kind: Some(pb::executor::Kind::Worker(worker)) });
        let spec = pb::TaskSpec { task_id: "a".into(), executor, ..pb::TaskSpec::default() };
        let spec = TaskSpec::parse(spec).unwrap();
        let mut planner = Planner::default();
        fold(&mut planner, 1, &about(Kind::Created(Box::new(spec.clone()))));
        let pass = planner.begin_cut(2);
        let mut round = Round::new(2, pass);
        let Step::Carry(pass) = round.step(&mut planner, 1, 9) else { unreachable!() };
        assert!(pass.over.is_empty());
        let carried: Carried =
            planner.carry(pass.open[0], Some(&spec), Timestamp::default(), 1).unwrap();
        round.carried(2);
        assert_eq!(round.step(&mut planner, 1, 9), Step::Wait, "it is not read back");
        fold(&mut planner, 2, &about(Kind::Carried(Box::new(carried))));
        let Step::Say(trimmed) = round.step(&mut planner, 2, 9) else { unreachable!() };
        assert_eq!((trimmed.floor, trimmed.as_of), (2, 2));
        round.said();
        assert_eq!(round.step(&mut planner, 2, 9), Step::Wait, "it is not read back");
        let policy = Policy::Trimmed(trimmed);
        fold(&mut planner, 3, &Event::Policy(PolicyEvent { actor: "test".into(), policy }));
        assert_eq!(round.step(&mut planner, 3, 9), Step::Purge(2));
    }

    #[test]
    fn what_is_said_about_tasks_is_carried_before_them() {
        let limit = pb::Limit {
            queue: "default".into(),
            key: "input.k".into(),
            singleton: pb::LimitSingleton::Waiting.into(),
            ..pb::Limit::default()
        };
        let (name, body) = (DocumentName::parse("one").unwrap(), Body::Limit(Box::new(limit)));
        let policy = Policy::Document(Box::new(Document { name, version: 1, carried: None, body }));
        let decree = |policy| Event::Policy(PolicyEvent { actor: "test".into(), policy });
        let spec = |id: &str| {
            let worker = pb::Worker { handler: "h".into() };
            TaskSpec::parse(pb::TaskSpec {
                task_id: id.into(),
                executor: Some(pb::Executor { kind: Some(pb::executor::Kind::Worker(worker)) }),
                queue: "default".into(),
                input: Some(pb::Json { text: r#"{"k": "x"}"#.into() }),
                ..pb::TaskSpec::default()
            })
            .unwrap()
        };
        let mut planner = Planner::default();
        fold(&mut planner, 1, &decree(policy));
        fold(&mut planner, 2, &about(Kind::Created(Box::new(spec("a")))));
        let mut round = Round::new(3, planner.begin_cut(3));
        let mut log = Vec::new();
        for at in 3.. {
            let event = match round.step(&mut planner, at - 1, 9) {
                Step::Carry(pass) if at == 3 => {
                    assert!(pass.open.is_empty(), "{pass:?}");
                    decree(planner.carry_document(&pass.documents[0], at - 1).unwrap())
                }
                Step::Carry(pass) => {
                    let ticket = pass.open[0];
                    let spec = spec("a");
                    let carried = planner.carry(ticket, Some(&spec), Timestamp::default(), at - 1);
                    about(Kind::Carried(Box::new(carried.unwrap())))
                }
                Step::Say(trimmed) => {
                    let mut cold = Planner::begin_at(&trimmed);
                    for (sequence, event) in (3..).zip(&log) {
                        cold.preload((sequence, 0), event);
                    }
                    cold.preloaded();
                    assert!(!cold.has_unkeyed(), "its key is known");
                    // It is the one that waits.
                    let tenant = Tenant::default();
                    let later = Kind::Created(Box::new(spec("b")));
                    let later = TaskEvent::new(tenant, TaskId::parse("b").unwrap(), "", later);
                    fold(&mut cold, at + 1, &Event::Task(later));
                    cold.lead(Timestamp::default(), 0);
                    cold.tick(Timestamp::default(), 0);
                    assert_eq!(cold.take_decisions(9).len(), 1);
                    return;
                }
                other @ (Step::Wait | Step::Purge(_)) => panic!("{other:?}"),
            };
            fold(&mut planner, at, &event);
            round.carried(at);
            log.push(event);
        }
    }
}
