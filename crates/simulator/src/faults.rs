//! **Pure.** What breaks: processes die or stand still, clocks jump, nats-server is killed, workers
//! are drained, schedulers are asked to stop.

use crate::{invariants::Broken, scheduler::start, world::World};

/// One thing that breaks, or one look at whether a restart would have changed anything.
pub fn step(world: &mut World) -> Result<(), Broken> {
    let setup = world.setup.clone();
    if !world.faults {
        return Ok(());
    }
    match world.random.below(12) {
        0 | 1 if setup.kills => with_worker(world, super::worker::Worker::kill),
        2 if setup.kills => with_scheduler(world, super::scheduler::Scheduler::kill),
        3 | 4 if setup.stalls => with_worker(world, |worker, world| {
            worker.stalled_until = world.now_us + world.random.between(500_000, 60_000_000);
            world.note(|_| format!("{} stands still", worker.name));
        }),
        5 | 6 if setup.stalls => with_scheduler(world, |scheduler, world| {
            scheduler.stalled_until = world.now_us + world.random.between(500_000, 15_000_000);
            world.note(|_| format!("scheduler {} stands still", scheduler.place));
        }),
        7 if setup.jumps => {
            world.log.skew_us = world.random.between(-20_000_000, 20_000_000);
            world.note(|world| format!("nats-server's clock jumps to {} us", world.log.skew_us));
        }
        8 if setup.jumps => with_scheduler(world, |scheduler, world| {
            scheduler.skew_us = world.random.between(-20_000_000, 20_000_000);
            world.note(|_| format!("the clock of scheduler {} jumps", scheduler.place));
        }),
        9 if setup.server_kills => {
            world.note(|_| "nats-server is killed and begins again".to_owned());
            let forgotten = world.queue.forget_last_instant(world.now_us);
            world.truth.excused.extend(forgotten);
        }
        10 => with_worker(world, super::worker::Worker::drain),
        11 => {
            let n = world.random.below(world.schedulers.len());
            if let Some(Some(scheduler)) = world.schedulers.get(n) {
                start::compare(world, scheduler)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn with_worker(world: &mut World, act: impl FnOnce(&mut super::worker::Worker, &mut World)) {
    let n = world.random.below(world.workers.len());
    if let Some(mut worker) = world.workers[n].take() {
        if worker.down_until.is_none() {
            act(&mut worker, world);
        }
        world.workers[n] = Some(worker);
    }
}

fn with_scheduler(
    world: &mut World,
    act: impl FnOnce(&mut super::scheduler::Scheduler, &mut World),
) {
    let n = world.random.below(world.schedulers.len());
    if let Some(mut scheduler) = world.schedulers[n].take() {
        if scheduler.down_until.is_none() {
            act(&mut scheduler, world);
        }
        world.schedulers[n] = Some(scheduler);
    }
}
