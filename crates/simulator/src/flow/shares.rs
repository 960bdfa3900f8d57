//! Shares over time: keys with weights that always have work, and one that comes and goes.

use common::{
    event::{Event, Kind, TaskEvent},
    id::{TaskId, Tenant},
    pb,
    policy::Body,
    time::Timestamp,
};
use scheduler::plan::{Planner, Ticket};

use super::{
    CUSTOMERS, QUEUE, key,
    menu::{document, spec},
    model::broken,
};
use crate::{invariants::Broken, random::Random};

/// Tasks of a key that are ready at once.
const READY: usize = 8;
/// Releases over which shares are compared.
const WINDOW: usize = 2_000;
/// How far a share may be off.
const OFF: f64 = 0.05;

/// Runs one seed: so many releases.
pub fn run(seed: u64, releases: usize) -> Result<(), Broken> {
    let mut random = Random::new(seed, 1);
    let mut weights = [1_u32; CUSTOMERS.len()];
    for weight in &mut weights {
        *weight = random.between(1, 5) as u32;
    }
    let mut planner = Planner::default();
    let named = CUSTOMERS.iter().zip(weights).map(|(c, weight)| ((*c).to_owned(), weight));
    let fair = Some(pb::LimitFair { weights: named.collect() });
    let limit = pb::Limit {
        queue: QUEUE.into(),
        key: "input.customer".into(),
        fair,
        // A key that is full now and then gets its share all the same.
        concurrency: seed.is_multiple_of(2).then_some(40),
        ..pb::Limit::default()
    };
    let event = document("fair", 1, Body::Limit(Box::new(limit)));
    planner.fold((1, 0), Timestamp::from_micros(1), &event, 1);
    let mut world =
        World { planner, sequence: 1, ready: [0; 6], gone: Vec::new(), out: Vec::new() };
    world.planner.lead(Timestamp::from_micros(1), 1);
    let beat = pb::Heartbeat {
        worker: "w".into(),
        queues: [(QUEUE.to_owned(), 32)].into(),
        ..pb::Heartbeat::default()
    };
    world.planner.heard(beat, 1);
    while world.gone.len() < releases {
        for place in 0..CUSTOMERS.len() {
            world.fill(place, READY);
        }
        world.release(1 + random.below(8));
        let ends = random.below(9).min(world.out.len());
        for _ in 0..ends {
            let place = random.below(world.out.len());
            world.complete(place);
        }
    }
    compare(&world.gone, weights)
}

struct World {
    planner: Planner,
    sequence: u64,
    ready: [usize; 6],
    gone: Vec<usize>,
    out: Vec<String>,
}

impl World {
    fn say(&mut self, id: &str, kind: Kind) {
        self.sequence += 1;
        let id = TaskId::parse(id).expect("an id");
        let event = Event::Task(TaskEvent::new(Tenant::default(), id, "sim", kind));
        self.planner.fold((self.sequence, 0), Timestamp::from_micros(1), &event, 1);
    }

    fn fill(&mut self, place: usize, most: usize) {
        while self.ready[place] < most {
            let id = format!("{}-{}", CUSTOMERS[place], self.sequence);
            self.say(&id, Kind::Created(Box::new(spec(&id, CUSTOMERS[place], 5))));
            self.ready[place] += 1;
            self.out.retain(|other| *other != id);
        }
    }

    fn release(&mut self, most: usize) {
        let releases = self.planner.release(1, 4_096, most);
        let tickets = releases.into_iter().flat_map(|release| release.tickets);
        for ticket in tickets.collect::<Vec<_>>() {
            let (place, id) = self.whose(ticket);
            self.ready[place] -= 1;
            self.gone.push(place);
            self.out.push(id);
        }
    }

    fn whose(&self, ticket: Ticket) -> (usize, String) {
        let entry = self.planner.entry(ticket).expect("it is open");
        let ids = (0..CUSTOMERS.len()).map(|place| {
            // The id has the sequence before its own.
            (place, format!("{}-{}", CUSTOMERS[place], entry.sequence - 1))
        });
        ids.into_iter().find(|(_, id)| key(id) == entry.key).expect("one of them")
    }

    fn complete(&mut self, place: usize) {
        let id = self.out.swap_remove(place);
        let body = pb::Completed { attempt: 1, ..pb::Completed::default() };
        self.say(&id, Kind::Completed(Box::new(body)));
    }
}

fn compare(gone: &[usize], weights: [u32; 6]) -> Result<(), Broken> {
    let all = f64::from(weights.iter().sum::<u32>());
    for (number, window) in gone.chunks_exact(WINDOW).enumerate() {
        for (place, weight) in weights.iter().enumerate() {
            let share = window.iter().filter(|p| **p == place).count() as f64 / WINDOW as f64;
            let due = f64::from(*weight) / all;
            if (share - due).abs() > OFF * due {
                let who = CUSTOMERS[place];
                let detail = format!("{who} had {share:.3} of window {number}, {due:.3} is due");
                return Err(broken("shares_are_fair", detail));
            }
        }
    }
    Ok(())
}
