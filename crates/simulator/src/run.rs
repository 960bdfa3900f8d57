//! **Pure.** One run of a seed, and the shortest history that still breaks what it broke.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{invariants::Broken, quiesce::quiesce, random::Random, world::World};

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What did not hold.
    pub broken: Option<Broken>,
    /// Steps that were taken.
    pub steps: u64,
    /// Messages of the log.
    pub messages: u64,
    /// Tasks that ended.
    pub ended: u64,
    /// Attempts that were begun.
    pub begun: u64,
    /// What happened, if it was asked for.
    pub history: Vec<String>,
}

/// Runs a seed for so many steps, without those that are left out.
pub fn run(seed: u64, steps: u64, without: &BTreeSet<u64>, traced: bool) -> Outcome {
    let mut world = World::new(seed, traced);
    let mut taken = 0;
    let mut broken = None;
    for step in 0..steps {
        if without.contains(&step) {
            continue;
        }
        taken = step + 1;
        broken = safely(&mut world, |world| world.step(Random::new(seed, step + 1)));
        if broken.is_some() {
            break;
        }
    }
    if broken.is_none() {
        broken = safely(&mut world, |world| quiesce(world, seed));
    }
    if let Some(what) = &broken {
        world.note(|_| format!("BROKEN {}: {}", what.invariant, what.detail));
    }
    let ended = world.truth.tasks.values().filter(|task| task.ended.is_some()).count() as u64;
    Outcome {
        broken,
        steps: taken,
        messages: world.log.last(),
        ended,
        begun: world.truth.begun.values().map(|n| u64::from(*n)).sum(),
        history: world.history.unwrap_or_default(),
    }
}

/// A panic of the product is something that does not hold, too.
fn safely(world: &mut World, act: impl FnOnce(&mut World) -> Result<(), Broken>) -> Option<Broken> {
    let act = AssertUnwindSafe(|| act(world));
    catch_unwind(act).map_or_else(
        |panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let detail = text.unwrap_or_else(|| "a panic".to_owned());
            Some(Broken { invariant: "nothing_panics", detail })
        },
        Result::err,
    )
}

/// Leaves out steps as long as the same invariant breaks, in at most so many runs; returns the steps
/// that are left out and the number of steps up to the break.
pub fn shorten(seed: u64, steps: u64, invariant: &str, mut runs: usize) -> (u64, BTreeSet<u64>) {
    let breaks = |end: u64, without: &BTreeSet<u64>| {
        let outcome = run(seed, end, without, false);
        outcome.broken.is_some_and(|b| b.invariant == invariant).then_some(outcome.steps)
    };
    let (mut end, mut without) = (steps, BTreeSet::new());
    // A break at the end of the run may come of fewer steps.
    let mut cut = end / 2;
    while cut > 0 && runs > 0 {
        runs -= 1;
        match breaks(end - cut, &without) {
            Some(at) => end = at.min(end - cut),
            None => cut /= 2,
        }
        cut = cut.min(end / 2);
    }
    let mut size = (end / 2).max(1);
    while size > 0 && runs > 0 {
        let mut from = 0;
        let mut changed = false;
        while from < end && runs > 0 {
            let chunk = (from..(from + size).min(end)).filter(|step| !without.contains(step));
            let chunk = chunk.collect::<Vec<_>>();
            from += size;
            if chunk.is_empty() {
                continue;
            }
            runs -= 1;
            let mut fewer = without.clone();
            fewer.extend(&chunk);
            if breaks(end, &fewer).is_some() {
                (without, changed) = (fewer, true);
            }
        }
        if !changed || size > 1 {
            size /= 2;
        }
    }
    (end, without)
}
