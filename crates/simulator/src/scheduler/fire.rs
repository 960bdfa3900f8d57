//! **Pure.** What a leader does about ticks, and reads for limits, in the order of the product's shell: runs that are replaced
//! are asked to end, tasks are created, and what has none is said.

use common::{
    event::{Event, Kind, Policy, PolicyEvent, TaskEvent},
    id::{TaskId, TaskKey},
    policy::schedule::Advanced,
    subject,
    task::TaskSpec,
    time::Timestamp,
};
use scheduler::{
    orders::{self, Change, Then},
    plan::Decision,
    schedule::Order,
};

use super::{Point, Scheduler, Stage, act::PUBLISH_WAIT_US};
use crate::{
    invariants::{self, Broken},
    log::Publish,
    net::{Answer, What},
    truth::id_of,
    world::World,
};

/// Schedules that are decided together.
const FIRE_MAX: usize = 3;
/// Tasks whose keys are read together.
const KEYS_MAX: usize = 4;
/// Pause before a decision that the log did not take is made again.
const AGAIN_AFTER_US: i64 = 1_000_000;

/// A tick's task.
#[derive(Debug)]
struct Run {
    name: Box<str>,
    tick: Timestamp,
    spec: TaskSpec,
    cancel: Vec<TaskId>,
}

/// Requests to end runs: each event, what follows it, and what was to be decided before.
type Asked = Vec<(TaskEvent, Then, Option<Decision>)>;

/// What is waited for.
#[derive(Debug)]
enum Wait {
    /// The requests to end the runs that the last of `rest` replaces.
    Room(u64, Asked),
    /// The tasks, each with its own answer.
    Runs(Vec<u64>),
    /// What has no task.
    Advances(u64),
}

/// Decisions about ticks, on their way into the log.
#[derive(Debug)]
pub(super) struct Firing {
    rest: Vec<Run>,
    ready: Vec<Run>,
    advanced: Vec<Advanced>,
    wait: Wait,
    since_us: i64,
}

impl Scheduler {
    /// The tasks of ticks that it may yet create.
    pub fn firing(&self) -> impl Iterator<Item = TaskKey> {
        let firing = match &self.stage {
            Stage::Firing(firing) => Some(firing),
            _ => None,
        };
        let runs = firing.into_iter().flat_map(|firing| firing.rest.iter().chain(&firing.ready));
        runs.map(|run| key(&run.spec))
    }

    /// Reads the keys of tasks that were there before their limits.
    pub(super) fn read_keys(&mut self, world: &mut World) -> Result<(), Broken> {
        for ticket in self.planner.unkeyed(KEYS_MAX) {
            let Some(entry) = self.planner.entry(ticket) else { continue };
            match self.payload(world, &entry)? {
                Some((spec, _)) if !world.fault(world.setup.refusals, 12) => {
                    self.planner.keyed(ticket, &spec);
                }
                Some(_) | None => self.planner.not_keyed(ticket),
            }
        }
        Ok(())
    }

    /// Decides about ticks that are due; says whether it waits for the log.
    pub(super) fn fire(&mut self, world: &mut World) -> Result<bool, Broken> {
        let now = self.planner.clock();
        let (mut rest, mut advanced) = (Vec::new(), Vec::new());
        for order in self.planner.schedule_orders(FIRE_MAX) {
            world.note(|_| format!("{} decides: {order:?}", self.name()));
            invariants::resting_schedules_rest(&world.truth, &order, (self.cursor, now))?;
            invariants::no_tick_is_passed_over(&world.truth, &order, (self.cursor, now))?;
            match order {
                Order::Advance(advance) => advanced.push(advance),
                Order::Create { name, tick, spec, cancel } => {
                    rest.push(Run { name, tick, spec: *spec, cancel });
                }
            }
        }
        if rest.is_empty() && advanced.is_empty() {
            return Ok(false);
        }
        rest.reverse();
        self.make_room(world, (rest, Vec::new()), advanced);
        Ok(true)
    }

    /// Asks the runs to end that the next one replaces; then creates them all.
    fn make_room(
        &mut self,
        world: &mut World,
        (mut rest, mut ready): (Vec<Run>, Vec<Run>),
        advanced: Vec<Advanced>,
    ) {
        let since_us = world.now_us;
        while let Some(run) = rest.pop() {
            let asked = self.ask(&run);
            if asked.is_empty() {
                ready.push(run);
                continue;
            }
            let events = asked.iter().map(|(event, ..)| Event::Task(event.clone()));
            let token = world.publish(self.life, &events.collect::<Vec<_>>());
            rest.push(run);
            let wait = Wait::Room(token, asked);
            self.stage = Stage::Firing(Box::new(Firing { rest, ready, advanced, wait, since_us }));
            return;
        }
        let tokens = ready.iter().map(|run| world.send(self.life, What::Log(publish(run))));
        let wait = Wait::Runs(tokens.collect());
        self.stage = Stage::Firing(Box::new(Firing { rest, ready, advanced, wait, since_us }));
    }

    fn ask(&mut self, run: &Run) -> Asked {
        let mut asked = Vec::new();
        for id in &run.cancel {
            let tenant = run.spec.tenant();
            let change =
                Change::Cancel { reason: format!("schedule {} has a newer run", run.name) };
            let step = orders::step(&self.planner, TaskKey::new(&tenant, id), &change);
            let orders::Step::Publish { kind, then, .. } = step else { continue };
            let before = match then {
                Then::Hold(ticket) => self.planner.hold(ticket),
                Then::Nothing | Then::Stop(_) => None,
            };
            asked.push((TaskEvent::new(tenant, id.clone(), "scheduler", kind), then, before));
        }
        asked
    }

    /// Goes on when what is waited for was answered, or was not for too long.
    pub(super) fn fired(&mut self, world: &mut World, mut firing: Firing) -> Result<(), Broken> {
        let is_late = world.now_us - firing.since_us >= PUBLISH_WAIT_US;
        let waits = match &firing.wait {
            Wait::Room(token, _) | Wait::Advances(token) => !world.answers.contains_key(token),
            Wait::Runs(tokens) => tokens.iter().any(|token| !world.answers.contains_key(token)),
        };
        if waits && !is_late {
            self.stage = Stage::Firing(Box::new(firing));
            return Ok(());
        }
        match firing.wait {
            Wait::Room(token, asked) => {
                let stored = matches!(world.answers.remove(&token), Some(Answer::Stored(_)));
                self.asked(world, asked, stored);
                let run = firing.rest.pop().expect("invariant: it is what is waited for");
                if stored {
                    firing.ready.push(run);
                } else {
                    self.again(&run.name);
                }
                self.make_room(world, (firing.rest, firing.ready), firing.advanced);
                Ok(())
            }
            Wait::Runs(tokens) => {
                for (run, token) in firing.ready.into_iter().zip(tokens) {
                    let answer = world.answers.remove(&token);
                    firing.advanced.extend(self.created(world, &run, answer));
                }
                self.say(world, firing.advanced)
            }
            Wait::Advances(token) => {
                if !matches!(world.answers.remove(&token), Some(Answer::Stored(_))) {
                    firing.advanced.iter().for_each(|advanced| self.again(&advanced.name));
                }
                self.go_on(world, Point::Release)
            }
        }
    }

    fn asked(&mut self, world: &mut World, asked: Asked, stored: bool) {
        for (event, then, before) in asked {
            match then {
                Then::Hold(ticket) if !stored => self.planner.unhold(ticket, before),
                _ if stored => self.follow_up(world, then, &Event::Task(event)),
                _ => {}
            }
        }
    }

    /// What the log answered to a tick's task; a tick that can have none is advanced over.
    fn created(&mut self, world: &World, run: &Run, answer: Option<Answer>) -> Option<Advanced> {
        let there = match answer {
            Some(Answer::Stored(_)) => return None,
            Some(Answer::AlreadyThere) => world.log.keyed(&publish(run).subject),
            Some(Answer::Refused) | None => None,
        };
        match there.map(|message| message.items.as_slice()) {
            Some([Ok(Event::Task(TaskEvent { kind: Kind::Created(spec), .. }))])
                if spec.digest() == run.spec.digest() =>
            {
                None
            }
            Some(_) => {
                let (name, why) = (run.name.to_string(), "taken".to_owned());
                let last = self.planner.schedules().get(&name).and_then(|known| known.last);
                Some(Advanced { name, through: run.tick, last, why })
            }
            None => {
                self.again(&run.name);
                None
            }
        }
    }

    fn say(&mut self, world: &mut World, advanced: Vec<Advanced>) -> Result<(), Broken> {
        if advanced.is_empty() {
            return self.go_on(world, Point::Release);
        }
        let event = |advanced: &Advanced| {
            let policy = Policy::ScheduleAdvanced(advanced.clone());
            Event::Policy(PolicyEvent { actor: "scheduler".into(), policy })
        };
        let token = world.publish(self.life, &advanced.iter().map(event).collect::<Vec<_>>());
        let (rest, ready, since_us) = (Vec::new(), Vec::new(), world.now_us);
        let wait = Wait::Advances(token);
        self.stage = Stage::Firing(Box::new(Firing { rest, ready, advanced, wait, since_us }));
        Ok(())
    }

    fn again(&mut self, name: &str) {
        let again = Timestamp::from_micros(self.planner.clock().micros() + AGAIN_AFTER_US);
        self.planner.put_back_order(name, again);
    }
}

fn key(spec: &TaskSpec) -> TaskKey {
    TaskKey::new(&spec.tenant(), &id_of(spec))
}

/// A tick's task goes to a subject that takes one message.
fn publish(run: &Run) -> Publish {
    let (tenant, id) = (run.spec.tenant(), id_of(&run.spec));
    let kind = Kind::Created(Box::new(run.spec.clone()));
    let event = Event::Task(TaskEvent::new(tenant.clone(), id.clone(), "", kind));
    let subject = subject::created(&tenant, &id);
    let run = Some(key(&run.spec));
    Publish { subject, first_only: true, run, ..Publish::of(&[event]) }
}
