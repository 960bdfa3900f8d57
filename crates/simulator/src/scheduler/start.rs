//! **Pure.** How a scheduler begins: from a snapshot, old or new, or from the log alone.

use common::{
    event::{Event, Policy, PolicyEvent},
    lifecycle::FOLD_VERSION,
};
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
            flights: Vec::new(),
            released: 0,
            recall_at: 0,
            stored_at: 0,
            saved_at: 0,
            trimmer: super::trim::Trimmer::default(),
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
        let restored = restored.map(restore).transpose()?.flatten();
        // A snapshot of before the cut is of no use.
        let restored = restored.filter(|(_, cursor)| cursor + 1 >= world.log.first);
        (self.planner, self.cursor) = restored.unwrap_or_else(|| begin(world, world.log.last()));
        (self.stored_at, self.saved_at) = (self.cursor, self.cursor);
        world.note(|_| format!("{} begins at {}", self.name(), self.cursor));
        Ok(())
    }

    /// Stores what it knows.
    pub(super) fn save(&mut self, world: &mut World) {
        self.stored_at = self.cursor;
        if !self.planner.is_settled() {
            return;
        }
        self.saved_at = self.cursor;
        let stored = self.planner.store(world.log.stream.to_string(), self.cursor);
        world.note(|_| format!("{} stores a snapshot at {}", self.name(), self.cursor));
        world.snapshots.push(stored);
    }
}

/// The planner of a snapshot, if it is one for this version; one of another version is refused.
pub fn restore(stored: Stored) -> Result<Option<(Planner, u64)>, Broken> {
    let cursor = stored.sequence;
    let mut other = stored.clone();
    other.fold_version = FOLD_VERSION + 1;
    if Planner::restore(other).is_some() {
        return Err(Broken {
            invariant: "old_readers_stop",
            detail: "a snapshot of another version was taken".to_owned(),
        });
    }
    Ok(Planner::restore(stored).map(|planner| (planner, cursor)))
}

/// Begins with the log alone, as it is after a message: at its newest floor with what was carried
/// over it, or at its beginning.
pub fn begin(world: &World, end: u64) -> (Planner, u64) {
    let first = world.log.first;
    let messages = world.log.after(first - 1, (end + 1).saturating_sub(first) as usize);
    let messages = messages.unwrap_or_default();
    let cut = messages.iter().rev().find_map(|message| match message.items.as_slice() {
        [Ok(Event::Policy(PolicyEvent { policy: Policy::Trimmed(trimmed), .. }))] => {
            Some((message.sequence, trimmed))
        }
        _ => None,
    });
    let Some((sequence, trimmed)) = cut else { return (Planner::default(), first - 1) };
    let mut planner = Planner::begin_at(trimmed);
    for message in messages.iter().filter(|m| (trimmed.floor..=sequence).contains(&m.sequence)) {
        for (index, item) in (0..).zip(&message.items) {
            if let Ok(event) = item {
                planner.preload((message.sequence, index), event);
            }
        }
    }
    planner.preloaded();
    (planner, trimmed.floor - 1)
}

/// Compares what a scheduler knows with what one would know that read the whole log, and with one
/// that began at the newest snapshot.
pub fn compare(world: &World, warm: &Scheduler) -> Result<(), Broken> {
    // Before the cut that was purged nobody begins any more.
    let purged = world.log.first > 1 && warm.planner.floor() < world.log.first;
    if purged || !warm.planner.is_settled() {
        return Ok(());
    }
    if warm.cursor == world.log.last() {
        invariants::policy_is_kept(&world.truth, &warm.planner)?;
    }
    let (mut cold, from) = begin(world, warm.cursor);
    fold_up_to(world, &mut cold, from, warm.cursor);
    invariants::restarts_change_nothing(&world.truth, &warm.planner, &cold, "from the log alone")?;
    let stored = world.snapshots.last().and_then(|bytes| Stored::decode(bytes.as_slice()).ok());
    let restored = stored.map(restore).transpose()?.flatten();
    let Some((mut restored, from)) = restored else { return Ok(()) };
    if from <= warm.cursor && from + 1 >= world.log.first {
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
