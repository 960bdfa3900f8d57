//! Flow control alone, against a model of its own: the product's planner with limits that change while
//! work runs, tasks that come, run, fail and come back, releases that are refused, leaders that are
//! followed by others, and cuts of the log.
//!
//! What must hold is checked at each release by the model, which knows tasks, keys and times and
//! nothing of lanes and buckets.

mod cut;
mod menu;
mod model;
pub mod shares;

use std::collections::BTreeMap;

use common::{
    event::{Event, Kind, TaskEvent, Trimmed},
    id::{TaskId, TaskKey, Tenant},
    pb,
    policy::{self, Body, limit::Limit},
    time::Timestamp,
};
use scheduler::{
    flow::Refusal,
    plan::{Decision, Found, Planner, Ticket},
};

use self::{
    menu::{document, menu, spec},
    model::Model,
};
use crate::{invariants::Broken, random::Random};

/// The queue of all tasks.
const QUEUE: &str = "q";
/// The keys, the busiest first.
const CUSTOMERS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Tasks that are open at once, at most.
const OPEN_MAX: usize = 80;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Steps that were made.
    pub steps: u64,
    /// Attempts that went out.
    pub released: u64,
    /// Tasks that a limit refused.
    pub refused: u64,
    /// Times that another planner took over.
    pub terms: u64,
    /// Times that the log was cut.
    pub cuts: u64,
    /// What did not hold.
    pub broken: Option<Broken>,
}

struct World {
    random: Random,
    leader: Planner,
    standby: Planner,
    log: Vec<(Timestamp, Event)>,
    versions: BTreeMap<&'static str, u64>,
    /// What a leader stored, and how much of the log is in it.
    snapshot: Option<(Vec<u8>, usize)>,
    /// The last cut, and the message that says so.
    trimmed: Option<(Trimmed, u64)>,
    names: BTreeMap<TaskKey, String>,
    now_us: i64,
    model: Model,
    tasks: u64,
    outcome: Outcome,
}

/// Runs one seed.
pub fn run(seed: u64, steps: u64) -> Outcome {
    let mut world = World {
        random: Random::new(seed, 0),
        leader: Planner::default(),
        standby: Planner::default(),
        log: Vec::new(),
        versions: BTreeMap::new(),
        snapshot: None,
        trimmed: None,
        names: BTreeMap::new(),
        now_us: 1_700_000_000_000_000,
        model: Model::default(),
        tasks: 0,
        outcome: Outcome::default(),
    };
    world.leader.lead(world.now(), world.now_ms());
    let ended = world.play(seed, steps);
    world.outcome.broken = ended.err();
    world.outcome
}

impl World {
    fn play(&mut self, seed: u64, steps: u64) -> Result<(), Broken> {
        for _ in 0..=self.random.below(3) {
            self.change_limit();
        }
        for step in 0..steps {
            self.random = Random::new(seed, step + 1);
            self.outcome.steps += 1;
            match self.random.weighted(&[30, 30, 20, 3, 2, 1, 1]) {
                0 => self.submit(),
                1 => self.end_some(),
                2 => self.pass(),
                3 => self.change_limit(),
                4 => self.read_keys(3),
                5 => self.take_over()?,
                _ => self.cut(),
            }
            self.decide()?;
            self.release()?;
        }
        self.drain()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now_us)
    }

    fn now_ms(&self) -> u64 {
        (self.now_us / 1_000 - 1_699_999_000_000) as u64
    }

    fn say(&mut self, event: Event) {
        let (at, now_ms) = (self.now(), self.now_ms());
        let sequence = self.log.len() as u64 + 1;
        for planner in [&mut self.leader, &mut self.standby] {
            planner.fold((sequence, 0), at, &event, now_ms);
        }
        self.log.push((at, event));
    }

    fn say_of(&mut self, id: &str, kind: Kind) {
        let id = TaskId::parse(id).expect("an id");
        self.say(Event::Task(TaskEvent::new(Tenant::default(), id, "sim", kind)));
    }

    fn decree(&mut self, name: &'static str, limit: Option<pb::Limit>) {
        let parsed = limit.as_ref().map(|limit| Limit::parse(limit).expect("a limit"));
        self.model.set_limit(name, parsed);
        let version = self.versions.entry(name).or_default();
        *version += 1;
        let none = Body::Removed(policy::Kind::Limit);
        let body = limit.map_or(none, |limit| Body::Limit(Box::new(limit)));
        let event = document(name, *version, body);
        self.say(event);
    }

    fn submit(&mut self) {
        for _ in 0..=self.random.below(4) {
            if self.model.open().count() >= OPEN_MAX {
                return;
            }
            self.tasks += 1;
            let id = format!("t{}", self.tasks);
            let customer = CUSTOMERS[self.random.weighted(&[8, 5, 3, 2, 1, 1])];
            let priority = *[1, 5, 5, 5, 10].get(self.random.below(5)).expect("a priority");
            let spec = spec(&id, customer, priority);
            self.name(key(&id), &id);
            self.model.created(&id, (customer, priority), self.now_us);
            self.say_of(&id, Kind::Created(Box::new(spec)));
        }
    }

    /// Attempts end in any way.
    fn end_some(&mut self) {
        let out = self.model.out().map(|task| task.id.clone()).collect::<Vec<_>>();
        for id in out {
            if !self.random.one_in(3) {
                continue;
            }
            let attempt = self.model.task(&id).attempt;
            match self.random.weighted(&[10, 2, 1, 3]) {
                0 => {
                    let duration = Some(std::time::Duration::from_micros(900).into());
                    let body = pb::Completed { attempt, duration, ..pb::Completed::default() };
                    self.model.over(&id);
                    self.say_of(&id, Kind::Completed(Box::new(body)));
                }
                1 => {
                    let delay = Some(std::time::Duration::from_millis(300).into());
                    let body = pb::Retrying { attempt, delay, ..pb::Retrying::default() };
                    self.model.back(&id, self.now_us + 300_000);
                    self.say_of(&id, Kind::Retrying(Box::new(body)));
                }
                2 => {
                    let body = pb::Returned { attempt, ..pb::Returned::default() };
                    self.model.back(&id, self.now_us);
                    self.say_of(&id, Kind::Returned(body));
                }
                _ if self.model.task(&id).began => {}
                _ => {
                    self.model.began(&id);
                    let body = pb::Started { attempt, worker: "w".into() };
                    self.say_of(&id, Kind::Started(body));
                }
            }
        }
    }

    fn pass(&mut self) {
        self.now_us += [1_000, 50_000, 400_000, 3_000_000][self.random.weighted(&[4, 4, 3, 1])];
    }

    fn change_limit(&mut self) {
        if self.random.one_in(8) {
            return self.pause(self.now_us + 2_000_000);
        }
        let (name, limit) = menu(&mut self.random);
        self.decree(name, limit);
    }

    /// Nothing starts before; it ends by itself.
    fn pause(&mut self, until_us: i64) {
        self.model.paused_until = until_us;
        self.say(menu::pause(until_us));
    }

    fn read_keys(&mut self, max: usize) {
        for ticket in self.leader.unkeyed(max) {
            let Some(entry) = self.leader.entry(ticket) else { continue };
            let task = self.model.by_key(entry.key);
            let spec = spec(&task.id, task.customer, task.priority);
            if self.random.one_in(20) {
                self.leader.not_keyed(ticket);
            } else {
                self.leader.keyed(ticket, &spec);
            }
        }
    }

    /// The standby leads; another one reads the log from where it begins, or from what was stored.
    fn take_over(&mut self) -> Result<(), Broken> {
        self.outcome.terms += 1;
        let planner = self.begin()?;
        let stored = self.leader.store("sim".into(), self.log.len() as u64);
        self.snapshot = Some((stored, self.log.len()));
        self.leader = std::mem::replace(&mut self.standby, planner);
        self.beat();
        let (now, now_ms) = (self.now(), self.now_ms());
        self.leader.lead(now, now_ms);
        let lie = self.model.out().filter(|task| !task.began);
        let lie = lie.map(|task| (task.key, task.attempt)).collect::<Vec<_>>();
        self.leader.only_these_are_out(&lie, now_ms);
        Ok(())
    }

    fn beat(&mut self) {
        let running = self.model.out().map(|task| pb::Attempt {
            task_id: task.id.clone(),
            attempt: task.attempt,
            ..pb::Attempt::default()
        });
        let beat = pb::Heartbeat {
            worker: "w".into(),
            queues: [(QUEUE.to_owned(), 16)].into(),
            running: running.collect(),
            ..pb::Heartbeat::default()
        };
        let now_ms = self.now_ms();
        self.leader.heard(beat.clone(), now_ms);
        self.standby.heard(beat, now_ms);
    }

    /// What the planner wants to end ends, if the model agrees.
    fn decide(&mut self) -> Result<(), Broken> {
        self.beat();
        let (now, now_ms) = (self.now(), self.now_ms());
        self.leader.tick(now, now_ms);
        let mut ends = Vec::new();
        for (ticket, decision) in self.leader.take_decisions(1_000) {
            let entry = self.leader.entry(ticket).expect("it is open");
            let id = self.model.by_key(entry.key).id.clone();
            self.model.may_end(&id, decision, self.now_us)?;
            ends.push((id, decision));
        }
        for (id, decision) in ends {
            self.model.over(&id);
            self.outcome.refused += 1;
            match decision {
                Decision::Refused(Refusal::TooMany) => self.fail(&id, pb::Cause::Rejected),
                Decision::Expired => self.fail(&id, pb::Cause::Expired),
                _ => self.say_of(&id, Kind::Skipped(pb::Skipped::default())),
            }
        }
        self.model.enough_wait()
    }

    fn fail(&mut self, id: &str, cause: pb::Cause) {
        let body = pb::Failed { cause: cause.into(), ..pb::Failed::default() };
        self.say_of(id, Kind::Failed(Box::new(body)));
    }

    fn release(&mut self) -> Result<(), Broken> {
        self.read_keys(50);
        let most = 1 + self.random.below(12);
        let now_ms = self.now_ms();
        let releases = self.leader.release(now_ms, 4_096, most);
        let tickets = releases.into_iter().flat_map(|release| release.tickets);
        let mut refused: Vec<Ticket> = Vec::new();
        for ticket in tickets.collect::<Vec<_>>() {
            let entry = self.leader.entry(ticket).expect("it is open");
            let id = self.model.by_key(entry.key).id.clone();
            let known = |task: &model::Task| match self.leader.find(task.key) {
                Some(Found::Open(ticket, entry)) => !self.leader.awaits_keys(&entry, ticket),
                _ => false,
            };
            self.model.may_start(&id, self.now_us, known)?;
            self.model.starts(&id, entry.state.attempt(), self.now_us);
            self.outcome.released += 1;
            if self.random.one_in(15) {
                refused.push(ticket);
            }
        }
        for ticket in refused.into_iter().rev() {
            let entry = self.leader.entry(ticket).expect("it is open");
            let id = self.model.by_key(entry.key).id.clone();
            self.leader.unrelease(ticket);
            self.model.refused(&id);
        }
        Ok(())
    }

    /// Nothing new comes: everything ends.
    fn drain(&mut self) -> Result<(), Broken> {
        self.pause(self.now_us);
        for _ in 0..3_000 {
            let out = self.model.out().map(|task| (task.id.clone(), task.attempt));
            for (id, attempt) in out.collect::<Vec<_>>() {
                let body = pb::Completed { attempt, ..pb::Completed::default() };
                self.model.over(&id);
                self.say_of(&id, Kind::Completed(Box::new(body)));
            }
            if self.model.open().next().is_none() {
                return Ok(());
            }
            self.now_us += 500_000;
            self.decide()?;
            self.release()?;
        }
        let left = self.model.open().map(|task| task.id.as_str()).collect::<Vec<_>>();
        Err(model::broken("no_key_is_starved", format!("left for ever: {}", left.join(", "))))
    }
}

/// The key of a task's id.
fn key(id: &str) -> TaskKey {
    TaskKey::new(&Tenant::default(), &TaskId::parse(id).expect("an id"))
}
