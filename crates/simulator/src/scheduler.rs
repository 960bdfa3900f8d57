//! **Pure.** A scheduler process: its lease, its loop, and each thing that it waits for as a step of
//! its own, so that it can be killed or stand still between any two. All decisions are the product's.

mod act;
mod fire;
mod releases;
pub mod start;
mod steps;
mod trim;

use std::collections::VecDeque;

use common::{event::Event, id::TaskKey, limits, pb, time::Timestamp, wire::NotAnEvent};
use scheduler::{
    office::{self, Doubts, Guard, Office, Sight},
    outgoing::Outgoing,
    plan::{Decision, Planner, Ticket},
};

use crate::{
    invariants::{self, Broken},
    world::World,
};

/// Why steps on the work queue are taken.
#[derive(Debug)]
enum Goal {
    TakeOver,
    FindOut,
    Compare(Vec<(Ticket, TaskKey, u32)>),
    Recall(Vec<(Ticket, TaskKey, u32)>),
    MoveFence,
}

/// What follows when nothing is under way to the work queue any more.
#[derive(Debug)]
enum After {
    Term,
    Steps(Goal),
}

/// Releases that were sent together.
#[derive(Debug)]
struct Flight {
    sent: Vec<(u64, Vec<(Ticket, u32)>)>,
    since_us: i64,
}

/// What the loop waits for.
#[derive(Debug, Default)]
enum Stage {
    /// Whatever comes first.
    #[default]
    Idle,
    /// Steps on the work queue.
    Steps { goal: Goal, at: usize, purged: bool, sight: Sight },
    /// Its decisions are on their way into the log.
    Deciding { taken: Vec<(Ticket, Decision)>, token: u64, since_us: i64 },
    /// Releases are written and not yet sent.
    Composed(Vec<(Outgoing, Vec<Ticket>)>),
    /// All that is under way to the work queue is to arrive first.
    Landing(After),
    /// It is on its way into the log that the attempts of a message are called back.
    Recalling { sequence: u64, rest: Vec<(u64, Vec<Ticket>)>, token: u64, since_us: i64 },
    /// What is carried over a cut, or the cut itself, is on its way.
    Trimming { token: u64, says: bool, since_us: i64 },
    /// Ticks are decided: their tasks, and what is said about others, are on their way.
    Firing(Box<fire::Firing>),
    /// The event of an order is on its way.
    Ordering {
        event: Box<Event>,
        then: scheduler::orders::Then,
        before: Option<Decision>,
        token: u64,
        since_us: i64,
    },
}

/// The points of the loop's second half, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Decide,
    Keys,
    Fire,
    Release,
    Fence,
    FindOut,
    Compare,
    Recall,
    Settle,
}

/// A scheduler process.
#[derive(Debug)]
pub struct Scheduler {
    /// Which of the world's places for schedulers it has.
    pub place: usize,
    /// The number of its connection, and its name in the lease.
    pub life: u64,
    /// It is dead until then.
    pub down_until: Option<i64>,
    /// It stands still until then.
    pub stalled_until: i64,
    /// How far its wall's clock is off, in microseconds.
    pub skew_us: i64,
    /// It met an event of a newer fold.
    pub too_old: bool,
    /// What it knows.
    pub planner: Planner,
    /// The last message that it has folded.
    pub cursor: u64,
    /// Heartbeats that it has yet to hear.
    pub beats: VecDeque<(String, Option<pb::Heartbeat>)>,
    office: Office,
    doubts: Doubts,
    guard: Guard,
    /// The end of the log when it last made the work queue its own.
    taken_over: u64,
    born_us: i64,
    lease: Lease,
    /// The epoch that the loop knows of.
    told: Option<u64>,
    stage: Stage,
    /// Releases that are not answered yet.
    flights: Vec<Flight>,
    /// Messages that were released since the fence was put.
    released: usize,
    recall_at: u64,
    stored_at: u64,
    saved_at: u64,
    trimmer: trim::Trimmer,
    compare_at: u64,
    acted_ms: u64,
    pauses_changed: bool,
}

/// Its side of the lease.
#[derive(Debug, Default)]
struct Lease {
    renewed_ms: u64,
    epoch: Option<u64>,
    held: Option<(u64, u64)>,
    seen: Option<(u64, u64)>,
    asked: Option<u64>,
}

impl Scheduler {
    fn now_ms(&self, world: &World) -> u64 {
        ((world.now_us - self.born_us) / 1_000) as u64 + 1
    }

    fn now(&self, world: &World) -> Timestamp {
        Timestamp::from_micros(world.now_us + self.skew_us)
    }

    fn name(&self) -> String {
        format!("scheduler {}", self.place)
    }

    fn is_held(&self, world: &World) -> bool {
        let lease = &self.lease;
        lease.renewed_ms > 0
            && lease.epoch.is_some()
            && office::is_fresh(lease.renewed_ms, self.now_ms(world))
    }

    /// Whether it decides now.
    pub fn decides(&self, world: &World) -> bool {
        self.down_until.is_none() && self.office.leads() && self.is_held(world)
    }

    /// Whether it has nothing under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// One thing that it does.
    pub fn step(&mut self, world: &mut World) -> Result<(), Broken> {
        if let Some(until) = self.down_until {
            if world.now_us >= until && !self.too_old {
                self.start(world)?;
            }
            return Ok(());
        }
        if world.now_us < self.stalled_until {
            return Ok(());
        }
        let overdue = self.now_ms(world).saturating_sub(self.lease.renewed_ms)
            > limits::LEASE_RENEW_EVERY.as_millis() as u64;
        if self.lease.asked.is_some() || (overdue && world.random.one_in(4)) {
            self.renew(world);
            return Ok(());
        }
        match std::mem::take(&mut self.stage) {
            Stage::Idle => self.come_round(world),
            stage => self.resume(world, stage),
        }
    }

    /// The loop comes round: it takes in one thing, and acts.
    fn come_round(&mut self, world: &mut World) -> Result<(), Broken> {
        if self.lease.epoch != self.told {
            self.told = self.lease.epoch;
            return self.landing(world, After::Term);
        }
        if !self.flights.is_empty() && world.random.one_in(3) {
            self.land(world);
            return self.act(world);
        }
        match world.random.below(4) {
            0 if !world.client.orders.is_empty() => {
                let n = world.random.below(world.client.orders.len());
                let order = world.client.orders.remove(n);
                return self.obey(world, order);
            }
            1 if !self.beats.is_empty() => self.hear(world),
            _ => {
                let max = if world.random.one_in(3) { 1 } else { 50 };
                self.fold(world, max)?;
            }
        }
        if self.down_until.is_some() {
            return Ok(());
        }
        self.act(world)
    }

    fn hear(&mut self, world: &mut World) {
        let now_ms = self.now_ms(world);
        let Some((name, beat)) = self.beats.pop_front() else { return };
        let Some(beat) = beat else {
            self.planner.worker_left(&name);
            return;
        };
        let stopping = self.planner.heard(beat, now_ms);
        if self.office.leads() {
            for stop in stopping {
                if let Some(key) = stop.held.key() {
                    world.tell_workers(key, stop.held.attempt, stop.stale);
                }
            }
        }
    }

    /// Folds what came, message by message, and is compared with the onlooker after each.
    pub fn fold(&mut self, world: &mut World, max: usize) -> Result<(), Broken> {
        let now_ms = self.now_ms(world);
        let Some(messages) = world.log.after(self.cursor, max) else {
            // It stood still for so long that the log was cut under it: it begins anew.
            self.stop(world, "the log no longer has what comes next");
            return Ok(());
        };
        let mut too_old = false;
        for message in messages {
            let mut keys = Vec::new();
            for (index, item) in (0..).zip(&message.items) {
                match item {
                    Ok(event) => {
                        if let Event::Task(event) = event {
                            keys.push(TaskKey::new(&event.tenant, &event.id));
                        }
                        let at = (message.sequence, index);
                        let folded = self.planner.fold(at, message.at, event, now_ms);
                        self.pauses_changed |= folded.policy;
                    }
                    Err(NotAnEvent::NewerFold(_)) => too_old = true,
                    Err(NotAnEvent::Undecodable(_) | NotAnEvent::UnknownInformational) => {}
                }
                if too_old {
                    break;
                }
            }
            if too_old {
                break;
            }
            self.cursor = message.sequence;
            // One that reads what it began from knows some tasks as they were later.
            let settled = self.planner.is_settled();
            for key in keys.into_iter().filter(|_| settled) {
                invariants::everyone_agrees(&world.truth, &self.planner, key, self.cursor)?;
            }
        }
        if too_old {
            self.too_old = true;
            self.stop(world, "it is too old for the log");
        }
        Ok(())
    }

    /// The process ends with an error.
    fn stop(&mut self, world: &mut World, why: &str) {
        world.note(|_| format!("{} stops: {why}", self.name()));
        self.kill(world);
    }

    /// Asks for the lease, or hears the answer.
    fn renew(&mut self, world: &mut World) {
        let now_ms = self.now_ms(world);
        let Some(asked) = self.lease.asked.take() else {
            self.lease.asked = Some(now_ms);
            return;
        };
        let late = now_ms.saturating_sub(asked) > limits::LEASE.as_millis() as u64 / 2;
        let answer_lost = late || world.fault(world.setup.lost_answers, 20);
        if !answer_lost || world.random.one_in(2) {
            let held = self.lease_step(world, now_ms);
            if !answer_lost {
                self.lease.held = held;
                match held {
                    Some((_, epoch)) => {
                        self.lease.renewed_ms = asked;
                        self.lease.epoch = Some(epoch);
                    }
                    None => self.lease.epoch = None,
                }
            }
        }
        if self.lease.held.is_some() && !self.is_held(world) {
            self.lease.held = None;
            self.lease.epoch = None;
        }
    }

    /// Renews, takes or watches the lease, as the product's shell does.
    fn lease_step(&mut self, world: &mut World, now_ms: u64) -> Option<(u64, u64)> {
        let (holder, revision, given_up) = world.lease;
        if let Some((mine, epoch)) = self.lease.held {
            if revision == mine {
                world.lease = (self.life, revision + 1, false);
                return Some((revision + 1, epoch));
            }
            return (holder == self.life && !given_up).then_some((revision, epoch));
        }
        if self.lease.seen.is_none_or(|(seen, _)| seen != revision) {
            self.lease.seen = Some((revision, now_ms));
        }
        let lapsed = self.lease.seen.is_some_and(|(_, at)| office::has_lapsed(at, now_ms));
        if !given_up && !lapsed {
            return None;
        }
        world.lease = (self.life, revision + 1, false);
        world.note(|_| format!("{} takes the lease", self.name()));
        Some((revision + 1, revision + 1))
    }

    /// The process dies.
    pub fn kill(&mut self, world: &mut World) {
        world.note(|_| format!("{} is down", self.name()));
        world.hang_up(self.life);
        self.down_until = Some(world.now_us + world.random.between(10_000, 20_000_000));
    }
}
