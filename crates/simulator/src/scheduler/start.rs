//! **Pure.** How a scheduler begins: from a snapshot, old or new, or from the log alone.

use common::lifecycle::FOLD_VERSION;
use prost::Message as _;
use scheduler::{
    office::{Doubts, Guard, Office},
    plan::{Planner, Stored},
};

use super::{Lease, Scheduler, Stage};
use crate::{
    invariants::{self, Broken},
    world::World,
};

impl Scheduler {
    /// A process that has just begun and knows nothing.
    pub fn new(world: &mut World, place: usize) -> Self {
        Self {
            place,
            life: world.fresh(),
            down_until: None,
            stalled_until: 0,
            skew_us: 0,
            too_old: false,
            planner: Planner::default(),
            cursor: 0,
            beats: world
                .beats
                .iter()
                .map(|(name, (_, beat))| (name.clone(), Some(beat.clone())))
                .collect(),
            office: Office::default(),
            doubts: Doubts::default(),
            guard: Guard::default(),
            taken_over: 0,
            born_us: world.now_us,
            lease: Lease::default(),
            told: None,
            stage: Stage::Idle,
            stored_at: 0,
            compare_at: 0,
            acted_ms: 0,
            pauses_changed: false,
        }
    }

    /// The process begins again, from the newest snapshot, an older one, or none.
    pub(super) fn start(&mut self, world: &mut World) -> Result<(), Broken> {
        let skew_us = self.skew_us;
        *self = Self::new(world, self.place);
        self.skew_us = skew_us;
        let newest = world.snapshots.len();
        let chosen = match world.random.below(6) {
            0 => None,
            1 => world.snapshots.get(world.random.below(newest)),
            _ => world.snapshots.last(),
        };
        let restored = chosen.and_then(|bytes| Stored::decode(bytes.as_slice()).ok());
        if let Some(stored) = restored {
            (self.planner, self.cursor) = restore(stored)?;
        }
        self.stored_at = self.cursor;
        world.note(|_| format!("{} begins at {}", self.name(), self.cursor));
        Ok(())
    }

    /// Stores what it knows.
    pub(super) fn save(&mut self, world: &mut World) {
        self.stored_at = self.cursor;
        let mut stored = self.planner.store();
        stored.stream = world.log.stream.to_string();
        stored.sequence = self.cursor;
        world.note(|_| format!("{} stores a snapshot at {}", self.name(), self.cursor));
        world.snapshots.push(stored.encode_to_vec());
    }
}

/// The planner of a snapshot, if it is one for this version; one of another version is refused.
pub fn restore(stored: Stored) -> Result<(Planner, u64), Broken> {
    let cursor = stored.sequence;
    let mut other = stored.clone();
    other.fold_version = FOLD_VERSION + 1;
    if Planner::restore(other).is_some() {
        return Err(Broken {
            invariant: "old_readers_stop",
            detail: "a snapshot of another version was taken".to_owned(),
        });
    }
    Ok(Planner::restore(stored).map_or((Planner::default(), 0), |planner| (planner, cursor)))
}

/// Compares what a scheduler knows with what one would know that read the whole log, and with one
/// that began at the newest snapshot.
pub fn compare(world: &World, warm: &Scheduler) -> Result<(), Broken> {
    let mut cold = Planner::default();
    fold_up_to(world, &mut cold, 0, warm.cursor);
    invariants::restarts_change_nothing(&world.truth, &warm.planner, &cold, "from the log alone")?;
    let stored = world.snapshots.last().and_then(|bytes| Stored::decode(bytes.as_slice()).ok());
    let Some((mut restored, from)) = stored.map(restore).transpose()? else { return Ok(()) };
    if from <= warm.cursor {
        fold_up_to(world, &mut restored, from, warm.cursor);
        let how = format!("from the snapshot at {from}");
        invariants::restarts_change_nothing(&world.truth, &warm.planner, &restored, &how)?;
    }
    Ok(())
}

fn fold_up_to(world: &World, planner: &mut Planner, from: u64, to: u64) {
    for message in world.log.after(from, (to - from) as usize).unwrap_or_default() {
        for (index, item) in (0..).zip(&message.items) {
            if let Ok(event) = item {
                planner.fold((message.sequence, index), message.at, event, 0);
            }
        }
    }
}
