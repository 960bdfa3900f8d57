//! **Pure.** The end of a run: faults stop, pauses end, time passes. Then everything that was
//! accepted has ended, or says for what it waits; and a version that is too old stops.

use common::{id::TaskKey, pb, subject};
use prost::Message as _;
use scheduler::plan::{Found, Planner};

use crate::{
    client::{Order, documents},
    invariants::{self, Broken},
    log::Publish,
    net::What,
    random::Random,
    scheduler::start,
    truth::Task,
    world::World,
};

/// Rounds of two seconds; the longest chain of waits is a worker that is found dead, a message that
/// comes again, and a comparison of the work queue with the backlog, several times over.
const ROUNDS_MAX: u64 = 600;

/// Until then schedules fire: for longer than it takes until somebody leads.
const FIRES_UNTIL: u64 = 24;

/// Lets everything settle, and looks at what is left.
pub fn quiesce(world: &mut World, seed: u64) -> Result<(), Broken> {
    world.faults = false;
    world.client.quiet = true;
    world.deserted = world.setup.deserted.then_some(crate::client::QUEUES[1]);
    world.note(|_| "--- faults end, time passes ---".to_owned());
    for scheduler in world.schedulers.iter_mut().flatten() {
        scheduler.stalled_until = 0;
    }
    for worker in world.workers.iter_mut().flatten() {
        worker.stalled_until = 0;
    }
    for round in 0..ROUNDS_MAX {
        world.random = Random::new(seed ^ 0xABCD, round);
        for _ in 0..8 {
            while !world.net.is_empty() {
                world.land()?;
            }
            for n in 0..world.schedulers.len() {
                for _ in 0..4 {
                    world.scheduler_step(n)?;
                }
            }
            for n in 0..world.workers.len() {
                for _ in 0..3 {
                    world.worker_step(n)?;
                }
            }
            world.registry()?;
            world.now_us += 250_000;
            world.expire();
        }
        if round % 5 == 4 && world.client.orders.is_empty() {
            let queues = crate::client::QUEUES.iter().map(|q| Some(crate::client::queue(q)));
            let held = queues.chain([None]).filter(|q| world.truth.is_held(q.as_ref()));
            world.client.orders = held.map(|queue| Order::Pause(queue, false)).collect();
            if round >= FIRES_UNTIL {
                look_at_ticks(world)?;
                let rest = documents::rest(world);
                world.client.orders.extend((!rest.is_empty()).then_some(Order::Documents(rest)));
            }
        }
        if round > 20 && settled(world) {
            break;
        }
    }
    look(world)?;
    too_old(world)
}

fn leader(world: &World) -> Option<&Planner> {
    let all = || world.schedulers.iter().flatten();
    let leads = all().find(|scheduler| scheduler.decides(world));
    leads.or_else(|| all().next()).map(|scheduler| &scheduler.planner)
}

/// What is left of tasks that should have ended.
fn left(world: &World) -> impl Iterator<Item = (TaskKey, Broken)> {
    let none = Planner::default();
    let planner = leader(world).unwrap_or(&none);
    let mut left = Vec::new();
    for (key, task) in &world.truth.tasks {
        if let Err(broken) = forgotten(world, planner, *key, task) {
            left.push((*key, broken));
        }
    }
    left.into_iter()
}

fn forgotten(world: &World, planner: &Planner, key: TaskKey, task: &Task) -> Result<(), Broken> {
    let state = task.state();
    if state.is_none_or(|s| s.phase.is_terminal() || s.external) {
        return Ok(());
    }
    let reasons = task.spec.as_ref().and_then(|spec| {
        let names = scheduler::why::Names::new();
        scheduler::why::why(planner, key, spec, world.setup.window_max, &names)
    });
    let reasons = reasons.map(|why| why.reasons).unwrap_or_default();
    let reasons = reasons.into_iter().map(|r| format!("{}: {}", r.code, r.message));
    let reasons = reasons.collect::<Vec<_>>();
    invariants::nothing_is_forgotten(&world.truth, key, planner, &reasons, world.deserted)
}

/// Where somebody leads, no tick is forgotten.
fn look_at_ticks(world: &World) -> Result<(), Broken> {
    let Some(leader) = world.schedulers.iter().flatten().find(|s| s.decides(world)) else {
        return Ok(());
    };
    invariants::no_tick_is_forgotten(&world.truth, leader.planner.clock())
}

fn settled(world: &World) -> bool {
    left(world).next().is_none()
        && documents::rest(world).is_empty()
        && world.net.is_empty()
        && (world.deserted.is_some() || world.queue.messages.is_empty())
        && world.ledger.cursor == world.log.last()
        && world.schedulers.iter().flatten().all(|s| s.cursor == world.log.last())
}

/// Looks at everything once more, now that nothing moves.
fn look(world: &mut World) -> Result<(), Broken> {
    if let Some((_, broken)) = left(world).next() {
        return Err(broken);
    }
    let end = world.log.last();
    let late = |who: String, at: u64| {
        let detail = format!("{who} has read up to {at} of {end} only");
        Err(Broken { invariant: "nothing_is_forgotten", detail })
    };
    if world.ledger.cursor != end {
        return late("the ledger".to_owned(), world.ledger.cursor);
    }
    for scheduler in world.schedulers.iter().flatten() {
        if scheduler.cursor != end {
            return late(format!("scheduler {}", scheduler.place), scheduler.cursor);
        }
        start::compare(world, scheduler)?;
    }
    for (key, task) in &world.truth.tasks {
        let row = world.ledger.rows.get(key).map(|row| row.live.life);
        if task.state().is_some() && task.state() != row {
            let detail = format!("{}: the ledger says {row:?} at the end", task.name);
            return Err(Broken { invariant: "everyone_agrees", detail });
        }
        let planner = leader(world);
        let open = planner.and_then(|p| p.find(*key)).is_some_and(|f| matches!(f, Found::Open(..)));
        if open != task.state().is_some_and(|s| !s.phase.is_terminal()) {
            let detail = format!("{}: is it open? the leader says {open}", task.name);
            return Err(Broken { invariant: "everyone_agrees", detail });
        }
    }
    Ok(())
}

/// An event of a newer version comes: everyone stops before it.
fn too_old(world: &mut World) -> Result<(), Broken> {
    let newer = pb::Event {
        task_id: "t0".into(),
        fold: common::lifecycle::FOLD_VERSION + 1,
        ..pb::Event::default()
    };
    let mut payload = newer.encode_to_vec();
    // A kind that this version has never heard of: field 99, empty.
    payload.extend([0x9A, 0x06, 0x00]);
    let sequence = world.log.last() + 1;
    let lane = world.fresh();
    let subject = subject::event("completed");
    world.send(
        lane,
        What::Log(Publish { subject, payload, first_only: false, after: None, run: None }),
    );
    world.land()?;
    let lane = world.fresh();
    let more = crate::client::policy(None, true);
    world.publish(lane, &[more]);
    world.land()?;
    for round in 0..40 {
        world.random = Random::new(round, 0xFFFF);
        for n in 0..world.schedulers.len() {
            world.scheduler_step(n)?;
        }
        world.registry()?;
        world.now_us += 1_000_000;
    }
    for scheduler in world.schedulers.iter().flatten() {
        invariants::old_readers_stop(scheduler.cursor, sequence, "a scheduler")?;
    }
    invariants::old_readers_stop(world.ledger.cursor, sequence, "the ledger")
}
