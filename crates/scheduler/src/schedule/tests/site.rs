//! The product's side: schedules that are driven through a log, with leaders that come and go.

use std::collections::HashMap;

use common::{
    id::{TaskId, TaskKey, Tenant},
    policy::schedule::{Advanced, Schedule},
    task::TaskSpec,
    time::Timestamp,
};

use super::{
    super::{Known, Order, Run, Schedules},
    oracle::{GRACE, Minute, Ran},
};

pub(super) const NAME: &str = "backup";

/// What the log holds.
#[derive(Clone, Debug)]
enum Entry {
    Set(Box<Schedule>),
    Created(Box<TaskSpec>),
    Ended(TaskKey),
    Advanced(Advanced),
}

/// How a leader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// It has followed the log.
    Followed,
    /// From the beginning of the log.
    FromTheLog,
    /// From a snapshot.
    FromASnapshot,
    /// Where the log was cut.
    AtTheFloor,
}

#[derive(Debug)]
struct Job {
    ran: Ran,
    waits_for: Vec<TaskId>,
    ends: Minute,
}

#[derive(Debug, Default)]
pub(super) struct Site {
    pub(super) schedules: Schedules,
    log: Vec<(Timestamp, Entry)>,
    jobs: HashMap<TaskId, Job>,
    /// In the order of their creation.
    pub(super) created: Vec<TaskId>,
    open: Vec<TaskId>,
    /// Decisions that were lost on their way to the log.
    loses_every: usize,
    decided: usize,
}

pub(super) fn at(minute: Minute) -> Timestamp {
    Timestamp::from_unix(minute * 60, 0)
}

fn minute_of(at: Timestamp) -> Minute {
    // What comes between two whole minutes is seen at the later one.
    (at.micros() + 59_999_999).div_euclid(60_000_000)
}

fn key(id: &TaskId) -> TaskKey {
    TaskKey::new(&Tenant::default(), id)
}

fn apply(schedules: &mut Schedules, sequence: u64, (at, entry): &(Timestamp, Entry)) {
    match entry {
        Entry::Set(schedule) => schedules.set(NAME, (**schedule).clone(), *at),
        Entry::Created(spec) => {
            let id = spec.id().unwrap();
            schedules.created(spec, sequence);
            schedules.opened(NAME, Run { key: key(&id), id });
        }
        Entry::Ended(key) => schedules.ended(*key),
        Entry::Advanced(advanced) => schedules.advanced(advanced, sequence),
    }
}

impl Site {
    /// One where every so many decisions are lost.
    pub(super) fn that_loses(loses_every: usize) -> Self {
        Self { loses_every, ..Self::default() }
    }

    fn append(&mut self, now: Timestamp, entry: Entry) {
        self.log.push((now, entry));
        apply(&mut self.schedules, self.log.len() as u64, &self.log[self.log.len() - 1]);
    }

    pub(super) fn set(&mut self, now: Minute, schedule: Schedule) {
        self.append(at(now), Entry::Set(Box::new(schedule)));
    }

    fn begin(&mut self, begins: Begins, now: Minute) {
        let known = self.schedules.get(NAME).unwrap().clone();
        let mut fresh = Schedules::default();
        match begins {
            Begins::Followed => return self.schedules.lead(at(now)),
            Begins::FromTheLog => {
                for (sequence, entry) in (1..).zip(&self.log) {
                    apply(&mut fresh, sequence, entry);
                }
            }
            Begins::FromASnapshot => {
                let Known { decided, stated, last, runs, .. } = known.clone();
                let stored = Known { decided, stated, last, runs, ..Known::default() };
                fresh.restore(NAME, stored);
                fresh.learn(NAME, known.schedule.clone().unwrap());
            }
            Begins::AtTheFloor => {
                // Half of the log is cut: what stands there is said again before.
                let floor = (self.log.len() as u64 / 2).max(1);
                for advanced in self.schedules.to_state(floor) {
                    self.append(at(now), Entry::Advanced(advanced));
                }
                assert!(self.schedules.to_state(floor).is_empty());
                fresh.learn(NAME, known.schedule.clone().unwrap());
                for run in &known.runs {
                    fresh.opened(NAME, run.clone());
                }
                for (sequence, entry) in (1..).zip(&self.log).filter(|(n, _)| *n >= floor) {
                    if let Entry::Created(spec) = &entry.1 {
                        // A run that is over or carried is known.
                        fresh.created(spec, sequence);
                    } else if !matches!(entry.1, Entry::Set(_)) {
                        apply(&mut fresh, sequence, entry);
                    }
                }
            }
        }
        fresh.lead(at(now));
        let again = fresh.get(NAME).unwrap();
        assert_eq!(again.decided, known.decided, "{begins:?}");
        assert_eq!(again.runs, known.runs, "{begins:?}");
        assert_eq!(again.last, known.last, "{begins:?}");
        self.schedules = fresh;
    }

    fn end(&mut self, id: &TaskId, now: Minute) {
        self.open.retain(|open| open != id);
        self.jobs.get_mut(id).unwrap().ran.ended = Some(now);
        self.append(at(now), Entry::Ended(key(id)));
    }

    /// Ends what is over, and begins what waits no more.
    fn work(&mut self, now: Minute, takes: &impl Fn(Minute) -> Minute) {
        let over = |id: &&TaskId| self.jobs[*id].ran.began.is_some() && self.jobs[*id].ends <= now;
        for id in self.open.iter().filter(over).cloned().collect::<Vec<_>>() {
            self.end(&id, now);
        }
        for id in self.open.clone() {
            let job = &self.jobs[&id];
            let waits = job.waits_for.iter().any(|id| self.open.contains(id));
            if job.ran.began.is_none() && !waits {
                let job = self.jobs.get_mut(&id).unwrap();
                job.ran.began = Some(now);
                job.ends = now + takes(job.ran.tick);
            }
        }
    }

    /// Decides until nothing is left.
    fn decide(&mut self, now: Minute, takes: &impl Fn(Minute) -> Minute) {
        loop {
            let orders = self.schedules.orders(at(now), 8);
            if orders.is_empty() {
                return;
            }
            for order in orders {
                self.decided += 1;
                let lost = self.loses_every > 0 && self.decided.is_multiple_of(self.loses_every);
                match order {
                    Order::Create { .. } | Order::Advance(_) if lost => {
                        self.schedules.put_back(NAME, at(now));
                    }
                    Order::Advance(advanced) => self.append(at(now), Entry::Advanced(advanced)),
                    Order::Create { tick, spec, cancel, .. } => {
                        for id in cancel {
                            let job = self.jobs.get_mut(&id).unwrap();
                            if job.ran.began.is_none() {
                                self.end(&id, now);
                            } else {
                                job.ends = job.ends.min(now + GRACE);
                            }
                        }
                        let (id, tick) = (spec.id().unwrap(), minute_of(tick));
                        let waits_for = spec.depends_on().into_iter().map(|edge| edge.id).collect();
                        let ran = Ran { tick, created: now, began: None, ended: None };
                        let job = Job { ran, waits_for, ends: Minute::MAX };
                        assert!(self.jobs.insert(id.clone(), job).is_none(), "{id} twice");
                        self.created.push(id.clone());
                        self.open.push(id);
                        self.append(at(now), Entry::Created(spec));
                        self.work(now, takes);
                    }
                }
            }
        }
    }

    /// Lets time pass; from one thing that happens to the next. `terms` are when a scheduler leads,
    /// and how it begins.
    pub(super) fn run(
        &mut self,
        (from, to): (Minute, Minute),
        terms: &[(Minute, Minute, Begins)],
        takes: impl Fn(Minute) -> Minute,
    ) -> Vec<Ran> {
        let mut now = from;
        loop {
            let leads = terms.iter().find(|(begin, end, _)| (*begin..*end).contains(&now));
            self.work(now, &takes);
            if let Some((begin, _, begins)) = leads {
                if *begin == now {
                    self.begin(*begins, now);
                }
                self.decide(now, &takes);
            }
            let ends = self.open.iter().map(|id| &self.jobs[id]);
            let ends = ends.filter(|job| job.ran.began.is_some()).map(|job| job.ends);
            let changes = terms.iter().flat_map(|(begin, end, _)| [*begin, *end]);
            let changes = changes.filter(|at| *at > now);
            let alarm = self.schedules.next_alarm().filter(|_| leads.is_some()).map(minute_of);
            let next = ends.chain(changes).chain(alarm).map(|at| at.max(now + 1)).min();
            match next {
                Some(next) if next < to => now = next,
                _ => break,
            }
        }
        self.created.iter().map(|id| self.jobs[id].ran).collect()
    }
}
