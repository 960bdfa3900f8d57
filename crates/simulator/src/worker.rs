//! **Pure.** A worker process: pulls, runs, reports, acknowledges, says that it lives. What it does
//! with a delivery, how it concludes and when it may acknowledge is the SDK's own code.

use std::time::Duration;

use common::{
    event::{Event, Kind, TaskEvent},
    id::{QueueName, TaskKey},
    limits, pb,
    time::Timestamp,
};
use jetmill_sdk::worker::{
    AttemptError, AttemptResult, Execution,
    attempt::{self, Facts, How, Limit, Stop},
    decode,
    delivery::{Delivery, Outcome, may_end, may_end_early, on_delivery},
};

use crate::{
    client,
    invariants::{self, Broken},
    net::Answer,
    world::World,
};

/// One attempt in a worker's hands.
#[derive(Debug)]
struct Item {
    execution: Execution,
    stop: Option<Stop>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Held,
    /// Its start is on its way into the log, or there.
    Runs {
        since_us: i64,
        told: Option<u64>,
    },
    Reports {
        token: u64,
        since_us: i64,
    },
    Done(Outcome),
}

/// One message in a worker's hands.
#[derive(Debug)]
struct Run {
    sequence: u64,
    delivery: Delivery,
    items: Vec<Item>,
    /// The message has left the work queue already.
    ended: bool,
}

/// A worker process.
#[derive(Debug)]
pub struct Worker {
    /// Which of the world's places for workers it has.
    pub place: usize,
    /// Its name.
    pub name: String,
    /// The number of its connection.
    pub life: u64,
    /// It is dead until then.
    pub down_until: Option<i64>,
    /// It stands still until then.
    pub stalled_until: i64,
    /// It takes no more work.
    pub draining: bool,
    runs: Vec<Run>,
    slots: u32,
    queues: Vec<QueueName>,
    beaten_us: i64,
}

impl Worker {
    /// A process that has just begun, under an old name or a new one.
    pub fn new(world: &mut World, place: usize, name: Option<String>) -> Self {
        let life = world.fresh();
        let name = name.unwrap_or_else(|| format!("w{place}-{life}"));
        let both = place == 0 || world.random.one_in(2);
        let queues = client::QUEUES.iter().take(if both { 2 } else { 1 });
        Self {
            place,
            name,
            life,
            down_until: None,
            stalled_until: 0,
            draining: false,
            runs: Vec::new(),
            slots: 1 + world.random.below(2) as u32,
            queues: queues.map(|name| client::queue(name)).collect(),
            beaten_us: i64::MIN / 2,
        }
    }

    /// The process dies, and with it what it held.
    pub fn kill(&mut self, world: &mut World) {
        world.note(|_| format!("{} is killed", self.name));
        world.hang_up(self.life);
        self.runs.clear();
        self.down_until = Some(world.now_us + world.random.between(10_000, 30_000_000));
    }

    /// Somebody tells it to end an attempt.
    pub fn told(&mut self, key: TaskKey, attempt: u32, stale: bool) {
        let why = if stale { Stop::Stale } else { Stop::Cancel("asked".into()) };
        for item in
            self.runs.iter_mut().filter(|r| r.delivery == Delivery::Run).flat_map(|r| &mut r.items)
        {
            let same = item.execution.key() == key && item.execution.attempt == attempt;
            if same && item.stop.is_none() && !matches!(item.stage, Stage::Done(_)) {
                item.stop = Some(why.clone());
            }
        }
    }

    /// One thing that it does.
    pub fn step(&mut self, world: &mut World) -> Result<(), Broken> {
        if let Some(until) = self.down_until {
            if world.now_us >= until {
                let name = world.random.one_in(2).then(|| self.name.clone());
                *self = Self::new(world, self.place, name);
                world.note(|_| format!("{} begins", self.name));
            }
            return Ok(());
        }
        if world.now_us < self.stalled_until {
            return Ok(());
        }
        let late = world.now_us - self.beaten_us;
        if late > limits::HEARTBEAT_EVERY.as_micros() as i64 || world.random.one_in(30) {
            self.beat(world);
            return Ok(());
        }
        if self.draining && self.runs.is_empty() {
            world.note(|_| format!("{} leaves", self.name));
            world.forget_worker(&self.name);
            world.hang_up(self.life);
            self.down_until = Some(world.now_us + world.random.between(10_000, 5_000_000));
            return Ok(());
        }
        let busy = self.runs.len();
        let room = (busy as u32) < self.slots && !self.draining;
        if room && (busy == 0 || world.random.one_in(3)) && self.pull(world)? {
            return Ok(());
        }
        if !self.runs.is_empty() {
            let n = world.random.below(self.runs.len());
            let mut run = self.runs.swap_remove(n);
            if self.go_on(world, &mut run)? {
                self.runs.push(run);
            }
        }
        Ok(())
    }

    fn holds(&self, execution: &Execution) -> bool {
        let held = self.runs.iter().filter(|r| r.delivery == Delivery::Run).flat_map(|r| &r.items);
        held.filter(|i| !matches!(i.stage, Stage::Done(_))).any(|i| {
            i.execution.key() == execution.key() && i.execution.attempt == execution.attempt
        })
    }

    fn served(&self, world: &World) -> impl Iterator<Item = &QueueName> {
        let deserted = world.deserted;
        self.queues.iter().filter(move |queue| deserted != Some(queue.as_str()))
    }

    fn beat(&mut self, world: &mut World) {
        self.beaten_us = world.now_us;
        let held = self.runs.iter().filter(|r| r.delivery == Delivery::Run).flat_map(|r| &r.items);
        let held = held.filter(|i| !matches!(i.stage, Stage::Done(_))).map(|i| pb::Attempt {
            tenant: i.execution.tenant.to_string(),
            task_id: i.execution.id.to_string(),
            attempt: i.execution.attempt,
            queue: i.execution.queue.to_string(),
        });
        let beat = pb::Heartbeat {
            worker: self.name.clone(),
            queues: self.served(world).map(|q| (q.to_string(), self.slots)).collect(),
            running: held.collect(),
            draining: self.draining,
            encoding: "protobuf".into(),
            ..pb::Heartbeat::default()
        };
        for scheduler in world.schedulers.iter_mut().flatten() {
            scheduler.beats.push_back((self.name.clone(), Some(beat.clone())));
        }
        world.beats.insert(self.name.clone(), (world.now_us, beat));
    }

    fn pull(&mut self, world: &mut World) -> Result<bool, Broken> {
        let n = world.random.below(self.queues.len());
        let queue = &self.queues[n];
        if world.deserted == Some(queue.as_str()) || world.paused.contains(queue.as_str()) {
            return Ok(false);
        }
        let free = world.queue.free(queue.as_str(), world.now_us);
        let Some(sequence) = free.first() else { return Ok(false) };
        let wait = limits::EXECUTION_ACK_WAIT.as_micros() as i64;
        let Some(work) = world.queue.deliver(*sequence, world.now_us, wait) else {
            return Ok(false);
        };
        let Ok(executions) = decode(&work.body) else { return Ok(false) };
        let held = executions.iter().any(|execution| self.holds(execution));
        let delivery = on_delivery(work.delivered, executions.len(), held, self.draining);
        world.note(|_| {
            format!("{} is given work {sequence}, time {}: {delivery:?}", self.name, work.delivered)
        });
        let mut items = Vec::new();
        for execution in executions {
            let stage = match &delivery {
                Delivery::Leave => return Ok(true),
                Delivery::Run if self.holds(&execution) => Stage::Done(Outcome::Unknown),
                Delivery::Run => Stage::Held,
                Delivery::Lost => {
                    let kind = attempt::lost(execution.attempt, &self.name, "delivered again");
                    self.report(world, &execution, kind)
                }
                Delivery::Return(reason) => {
                    let kind = attempt::returned(execution.attempt, &self.name, *reason);
                    self.report(world, &execution, kind)
                }
            };
            items.push(Item { execution, stop: None, stage });
        }
        self.runs.push(Run { sequence: *sequence, delivery, items, ended: false });
        Ok(true)
    }

    fn report(&self, world: &mut World, execution: &Execution, kind: Kind) -> Stage {
        let event = TaskEvent::new(
            execution.tenant.clone(),
            execution.id.clone(),
            self.name.as_str(),
            kind,
        );
        let token = world.publish(self.life, &[Event::Task(event)]);
        Stage::Reports { token, since_us: world.now_us }
    }

    /// Goes on with a message; says whether it is still in hand.
    fn go_on(&mut self, world: &mut World, run: &mut Run) -> Result<bool, Broken> {
        if !run.ended {
            let wait = limits::EXECUTION_ACK_WAIT.as_micros() as i64;
            world.queue.progress(run.sequence, world.now_us + wait);
        }
        self.end_early(world, run)?;
        let reports = run.items.iter().position(|i| matches!(i.stage, Stage::Reports { .. }));
        let runs =
            run.items.iter().position(|i| matches!(i.stage, Stage::Held | Stage::Runs { .. }));
        // Outcomes travel while the next item runs.
        let next = if world.random.one_in(2) { reports.or(runs) } else { runs.or(reports) };
        if let Some(item) = next.and_then(|n| run.items.get_mut(n)) {
            item.stage = self.advance(world, item)?;
        }
        let outcomes = run.items.iter().map(|item| match item.stage {
            Stage::Done(outcome) => outcome,
            Stage::Held | Stage::Runs { .. } | Stage::Reports { .. } => Outcome::Unknown,
        });
        if may_end(&outcomes.collect::<Vec<_>>()) {
            if run.ended {
                return Ok(false);
            }
            if world.fault(world.setup.lost_answers, 30) {
                world.note(|_| format!("the ack of work {} is lost", run.sequence));
                return Ok(false);
            }
            world.note(|_| format!("{} ends work {}", self.name, run.sequence));
            if let Some(work) = world.queue.end(run.sequence) {
                invariants::outcomes_come_before_acks(&world.truth, &work.out)?;
            }
            return Ok(false);
        }
        Ok(!run.items.iter().all(|item| matches!(item.stage, Stage::Done(_))))
    }

    /// Ends a message whose attempt goes on, if the log has it that it began.
    fn end_early(&self, world: &mut World, run: &mut Run) -> Result<(), Broken> {
        let begun = |item: &Item| match item.stage {
            Stage::Runs { told: Some(token), .. } => world.answers.contains_key(&token),
            Stage::Runs { told: None, .. }
            | Stage::Held
            | Stage::Reports { .. }
            | Stage::Done(_) => false,
        };
        let runs = |item: &Item| matches!(item.stage, Stage::Held | Stage::Runs { .. });
        let (has_begun, goes_on) = (run.items.iter().any(begun), run.items.iter().any(runs));
        if run.ended || !goes_on || run.delivery != Delivery::Run {
            return Ok(());
        }
        // If nats-server does not answer it is tried again.
        if !may_end_early(run.items.len(), has_begun) || world.fault(world.setup.lost_answers, 5) {
            return Ok(());
        }
        world.note(|_| format!("{} ends work {} early", self.name, run.sequence));
        run.ended = true;
        if let Some(work) = world.queue.end(run.sequence) {
            invariants::a_message_goes_once_its_attempt_began(&world.truth, &work.out)?;
        }
        Ok(())
    }

    fn advance(&self, world: &mut World, item: &Item) -> Result<Stage, Broken> {
        let execution = &item.execution;
        Ok(match item.stage {
            Stage::Held => {
                let out = (execution.key(), execution.attempt);
                *world.truth.begun.entry(out).or_default() += 1;
                invariants::an_attempt_begins_once(&world.truth, out)?;
                world.note(|_| format!("{} begins {}({})", self.name, execution.id, out.1));
                Stage::Runs { since_us: world.now_us, told: None }
            }
            Stage::Runs { since_us, told: None } if world.random.one_in(3) => {
                let worker = self.name.clone();
                let kind = Kind::Started(pb::Started { attempt: execution.attempt, worker });
                let started = self.report(world, execution, kind);
                let Stage::Reports { token, .. } = started else { return Ok(started) };
                Stage::Runs { since_us, told: Some(token) }
            }
            // Some work takes long.
            Stage::Runs { since_us, told } if item.stop.is_none() && world.random.one_in(3) => {
                Stage::Runs { since_us, told }
            }
            Stage::Runs { since_us, .. } => match self.conclude(world, item, since_us) {
                Some(kind) if item.stop != Some(Stop::Stale) => self.report(world, execution, kind),
                Some(_) | None => Stage::Done(Outcome::Unwanted),
            },
            Stage::Reports { token, since_us } => match world.answers.remove(&token) {
                Some(Answer::Stored(_)) => Stage::Done(Outcome::Stored),
                Some(Answer::AlreadyThere | Answer::Refused) => Stage::Done(Outcome::Unknown),
                // The log is full or away for so long that the worker gives up.
                None if world.fault(world.setup.lost_answers, 60) => Stage::Done(Outcome::Unknown),
                None => Stage::Reports { token, since_us },
            },
            Stage::Done(outcome) => Stage::Done(outcome),
        })
    }

    fn conclude(&self, world: &mut World, item: &Item, since_us: i64) -> Option<Kind> {
        let left = AttemptResult::default();
        let how = match &item.stop {
            Some(stop) => How::Stopped(stop.clone(), left),
            None => match world.random.weighted(&[70, 20, 5, 5]) {
                0 => How::Finished(left),
                1 => {
                    let error = Some(AttemptError::retryable("oops", "it did not work"));
                    How::Finished(AttemptResult { error, ..left })
                }
                2 => How::TimedOut(Limit::Run(Duration::from_secs(1)), left),
                _ => How::Panicked("boom".into()),
            },
        };
        let facts = Facts {
            attempt: item.execution.attempt,
            tries: item.execution.tries,
            worker: self.name.clone(),
            started_at: Timestamp::from_micros(since_us),
            duration: Duration::from_millis(1),
            used: None,
        };
        attempt::conclude(&item.execution.spec.retry(), &facts, how, world.random.unit())
    }

    /// Takes no more work; what runs is handed back when it takes too long.
    pub fn drain(&mut self, world: &mut World) {
        world.note(|_| format!("{} is told to leave", self.name));
        self.draining = true;
        if world.random.one_in(2) {
            for item in self.runs.iter_mut().flat_map(|run| &mut run.items) {
                item.stop.get_or_insert_with(|| Stop::Return("the worker leaves".into()));
            }
        }
    }
}
