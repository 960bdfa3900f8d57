//! **Pure.** Everything that exists in a run: the streams, the processes, what is under way between
//! them, the true time; and one step of it.

use std::collections::{BTreeMap, BTreeSet};

use common::{event::Event, id::TaskKey, limits, pb};

use crate::{
    client::{self, Client},
    faults,
    invariants::Broken,
    ledger::{Ledger, Registry},
    log::{Log, Publish},
    net::{Answer, Flight, What},
    queue::WorkQueue,
    random::Random,
    scheduler::Scheduler,
    truth::Truth,
    worker::Worker,
};

/// How a run is made: drawn from its seed, so that each run has faults of its own.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many schedulers there are.
    pub schedulers: usize,
    /// How many workers there are.
    pub workers: usize,
    /// Own ids that clients use over and over.
    pub ids: usize,
    /// Released-but-unfinished tasks of a queue, at most.
    pub window_max: u32,
    /// Processes are killed.
    pub kills: bool,
    /// Processes stand still for a while.
    pub stalls: bool,
    /// Answers of nats-server are lost.
    pub lost_answers: bool,
    /// What was sent may arrive late and out of order.
    pub late: bool,
    /// Clocks jump.
    pub jumps: bool,
    /// nats-server is killed.
    pub server_kills: bool,
    /// Steps of a take-over may fail.
    pub refusals: bool,
    /// The log is trimmed.
    pub trims: bool,
    /// There are schedules and task types.
    pub policies: bool,
    /// At the end nobody serves the second queue any more.
    pub deserted: bool,
}

impl Setup {
    /// The setup of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed, u64::MAX);
        let mut often = |n: usize| !random.one_in(n);
        Self {
            kills: often(4),
            stalls: often(3),
            lost_answers: often(3),
            late: often(2),
            jumps: often(2),
            server_kills: often(2),
            refusals: often(2),
            deserted: !often(4),
            trims: often(3),
            schedulers: if often(4) { 2 } else { 1 },
            workers: 1 + usize::from(often(3)) + usize::from(often(2)),
            ids: if often(2) { 4 } else { 10 },
            window_max: if often(2) { 2 } else { 16 },
            policies: often(3),
        }
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// How this run is made.
    pub setup: Setup,
    /// The numbers of this step.
    pub random: Random,
    /// The true time in microseconds.
    pub now_us: i64,
    /// Whether faults may happen.
    pub faults: bool,
    /// The log.
    pub log: Log,
    /// The work queue.
    pub queue: WorkQueue,
    /// The onlooker.
    pub truth: Truth,
    /// What is under way, oldest first.
    pub net: Vec<Flight>,
    /// Answers that their processes have not looked at.
    pub answers: BTreeMap<u64, Answer>,
    /// The lease: its holder, its revision, and whether it was given up.
    pub lease: (u64, u64, bool),
    /// Heartbeats: when each was put, and what it says.
    pub beats: BTreeMap<String, (i64, pb::Heartbeat)>,
    /// Queues whose consumers a leader has paused.
    pub paused: BTreeSet<String>,
    /// Snapshots that were stored, newest last.
    pub snapshots: Vec<Vec<u8>>,
    /// The schedulers.
    pub schedulers: Vec<Option<Box<Scheduler>>>,
    /// The workers.
    pub workers: Vec<Option<Box<Worker>>>,
    /// The registries.
    pub registries: Vec<Registry>,
    /// The ledger.
    pub ledger: Ledger,
    /// What clients do.
    pub client: Client,
    /// The queue that nobody serves any more.
    pub deserted: Option<&'static str>,
    /// What happened, when somebody wants to read it.
    pub history: Option<Vec<String>>,
    next: u64,
}

impl World {
    /// A world in which nothing has happened.
    pub fn new(seed: u64, traced: bool) -> Self {
        let setup = Setup::of(seed);
        let mut world = Self {
            random: Random::new(seed, 0),
            now_us: 1_000_000_000_000,
            faults: true,
            log: Log::default(),
            queue: WorkQueue::default(),
            truth: Truth::default(),
            net: Vec::new(),
            answers: BTreeMap::new(),
            lease: (0, 0, true),
            beats: BTreeMap::new(),
            paused: BTreeSet::new(),
            snapshots: Vec::new(),
            schedulers: Vec::new(),
            workers: Vec::new(),
            registries: vec![Registry::default(), Registry::default()],
            ledger: Ledger::default(),
            client: Client::default(),
            deserted: None,
            history: traced.then(Vec::new),
            next: 0,
            setup,
        };
        for n in 0..world.setup.schedulers {
            let scheduler = Scheduler::new(&mut world, n);
            world.schedulers.push(Some(Box::new(scheduler)));
        }
        for n in 0..world.setup.workers {
            let worker = Worker::new(&mut world, n, None);
            world.workers.push(Some(Box::new(worker)));
        }
        world
    }

    /// A number that nobody else has.
    pub fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Writes a line of the history.
    pub fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.history.is_some() {
            let line = line(self);
            let at = (self.now_us - 1_000_000_000_000) as f64 / 1e6;
            if let Some(history) = &mut self.history {
                history.push(format!("{at:9.3}s  {line}"));
            }
        }
    }

    /// Whether a fault of this kind happens now, once in `n` times.
    pub fn fault(&mut self, kind: bool, n: usize) -> bool {
        self.faults && kind && self.random.one_in(n)
    }

    /// Sends something on its way; returns under what its answer will be found.
    pub fn send(&mut self, lane: u64, what: What) -> u64 {
        let token = self.fresh();
        self.net.push(Flight { lane, token, what });
        token
    }

    /// Sends some events to the log.
    pub fn publish(&mut self, lane: u64, events: &[Event]) -> u64 {
        self.send(lane, What::Log(Publish::of(events)))
    }

    /// The process is gone: what it had sent stays under way, or is lost with it.
    pub fn hang_up(&mut self, lane: u64) {
        let keep = self.random.next();
        let mut n = 0;
        self.net.retain(|flight| {
            n += 1;
            flight.lane != lane || keep >> (n % 64) & 1 == 0
        });
        let mut next = self.next;
        for flight in self.net.iter_mut().filter(|flight| flight.lane == lane) {
            next += 1;
            flight.lane = next;
        }
        self.next = next;
    }

    /// One step: one actor does one thing.
    pub fn step(&mut self, random: Random) -> Result<(), Broken> {
        self.random = random;
        match self.random.weighted(&[30, 26, 26, 6, 6, 10, 1]) {
            0 => self.land(),
            1 => self.scheduler(),
            2 => self.worker(),
            3 => self.registry(),
            4 => client::step(self),
            5 => {
                self.pass();
                Ok(())
            }
            _ => faults::step(self),
        }
    }

    fn scheduler(&mut self) -> Result<(), Broken> {
        let n = self.random.below(self.schedulers.len());
        self.scheduler_step(n)
    }

    /// One step of a scheduler.
    pub fn scheduler_step(&mut self, n: usize) -> Result<(), Broken> {
        let Some(mut scheduler) = self.schedulers.get_mut(n).and_then(Option::take) else {
            return Ok(());
        };
        let outcome = scheduler.step(self);
        self.schedulers[n] = Some(scheduler);
        outcome
    }

    fn worker(&mut self) -> Result<(), Broken> {
        let n = self.random.below(self.workers.len());
        self.worker_step(n)
    }

    /// One step of a worker.
    pub fn worker_step(&mut self, n: usize) -> Result<(), Broken> {
        let Some(mut worker) = self.workers.get_mut(n).and_then(Option::take) else {
            return Ok(());
        };
        let outcome = worker.step(self);
        self.workers[n] = Some(worker);
        outcome
    }

    /// One step of a registry.
    pub fn registry(&mut self) -> Result<(), Broken> {
        let n = self.random.below(self.registries.len());
        let mut registry = std::mem::take(&mut self.registries[n]);
        let outcome = registry.step(self, n);
        self.registries[n] = registry;
        outcome
    }

    /// Time passes.
    fn pass(&mut self) {
        let us = match self.random.weighted(&[40, 50, if self.faults { 2 } else { 0 }]) {
            0 => self.random.between(1_000, 50_000),
            1 => self.random.between(50_000, 700_000),
            _ => self.random.between(1_000_000, 15_000_000),
        };
        self.now_us += us;
        self.expire();
    }

    /// Keys of workers that are silent go by themselves.
    pub fn expire(&mut self) {
        let before = self.now_us - limits::WORKER_LOST_AFTER.as_micros() as i64;
        let gone = self.beats.iter().filter(|(_, (at, _))| *at < before).map(|(name, _)| name);
        for name in gone.cloned().collect::<Vec<_>>() {
            self.note(|_| format!("the heartbeat of {name} lapses"));
            self.forget_worker(&name);
        }
    }

    /// Takes a worker's heartbeat away, and lets the schedulers know.
    pub fn forget_worker(&mut self, name: &str) {
        if self.beats.remove(name).is_some() {
            for scheduler in self.schedulers.iter_mut().flatten() {
                scheduler.beats.push_back((name.to_owned(), None));
            }
        }
    }

    /// The tasks whose attempts lie in the work queue or are under way to it, and the tasks of ticks that
    /// somebody may yet create.
    pub fn about(&self) -> impl Iterator<Item = TaskKey> {
        let sent = self.net.iter().map(|flight| match &flight.what {
            What::Release { message, .. } => ::scheduler::outgoing::attempts(&message.1),
            What::Log(publish) => publish.run.map(|run| (run, 0)).into_iter().collect(),
        });
        let lie = self.queue.out().into_iter();
        let firing = self.schedulers.iter().flatten().flat_map(|scheduler| scheduler.firing());
        lie.chain(sent.flatten()).map(|(key, _)| key).chain(firing)
    }

    /// Every worker hears that it should end an attempt, unless the word is lost.
    pub fn tell_workers(&mut self, key: TaskKey, attempt: u32, stale: bool) {
        if self.fault(true, 5) {
            return;
        }
        for worker in self.workers.iter_mut().flatten() {
            worker.told(key, attempt, stale);
        }
    }
}
