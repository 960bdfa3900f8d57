//! **Pure.** The registries and their ledger: a batch is made of the rows as they are, and written
//! in one transaction, if nobody else has written meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    event::{Event, Policy},
    id::TaskKey,
    lifecycle::FOLD_VERSION,
    time::Timestamp,
};
use prost::Message as _;
use registry::{
    project::{self, Changes, Fold},
    row::{Change, Place, Row},
};

use crate::{
    invariants::{self, Broken},
    world::World,
};

/// The ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The newest row of each task.
    pub rows: BTreeMap<TaskKey, Row>,
    /// The last message that is in it.
    pub cursor: u64,
    clock: Timestamp,
    /// The cursor that trimming knows of.
    pub registered: u64,
    /// Whose row is at a place.
    places: BTreeMap<Place, TaskKey>,
    history: BTreeSet<Place>,
    letters: BTreeSet<(u64, u32, String)>,
}

/// A registry process.
#[derive(Debug, Default)]
pub struct Registry {
    /// It waits for somebody to upgrade it.
    pub stopped: Option<u32>,
    batch: Option<(u64, u64, Changes)>,
}

impl Registry {
    /// Reads a batch, or writes the one that it has read.
    pub fn step(&mut self, world: &mut World, n: usize) -> Result<(), Broken> {
        match self.batch.take() {
            None => self.read(world),
            Some(_) if world.fault(world.setup.kills, 8) => {
                world.note(|_| format!("registry {n} is killed before it writes"));
            }
            Some((from, to, batch)) if world.ledger.cursor == from => {
                world.note(|_| format!("registry {n} writes up to {to}"));
                return write(world, to, batch);
            }
            // Another one came first.
            Some(_) => {}
        }
        if world.random.one_in(3) {
            world.ledger.registered = world.ledger.cursor;
        }
        Ok(())
    }

    fn read(&mut self, world: &mut World) {
        let from = world.ledger.cursor;
        let max = world.random.below(20) + 1;
        let Some(messages) = world.log.after(from, max) else { return };
        // A batch ends with a cut: what ended before its floor is forgotten, and the ids are new.
        let cut = messages.iter().position(|message| {
            let trimmed = |item: &Result<Event, _>| match item {
                Ok(Event::Policy(event)) => matches!(event.policy, Policy::Trimmed(_)),
                _ => false,
            };
            message.items.iter().any(trimmed)
        });
        let messages = cut.map_or(messages, |place| &messages[..=place]);
        let (known, newer) = project::known(messages);
        let known = &messages[..known];
        self.stopped = newer;
        debug_assert!(newer.is_none_or(|version| version > FOLD_VERSION));
        let Some(last) = known.last() else { return };
        let newest = world.ledger.rows.values().map(|row| row.fixed.id.as_str());
        let newest = newest.filter(|id| id.starts_with('0')).max();
        let mut fold = Fold::new(world.ledger.clock, newest, false);
        let rows = fold.missing(known).into_iter().filter_map(|(tenant, id)| {
            let key = TaskKey::new(&tenant, &id);
            world.truth.tasks.get(&key)?.at(from)?;
            world.ledger.rows.get(&key).cloned()
        });
        let rows = rows.collect();
        fold.load(rows);
        fold.fold(known.to_vec());
        self.batch = Some((from, last.sequence, fold.take()));
    }
}

/// The row that a change makes.
fn row(ledger: &Ledger, change: Change) -> Option<Row> {
    let Change { mut live, report, fixed, .. } = change;
    let before = ledger.places.get(&live.place).and_then(|key| ledger.rows.get(key));
    let fixed = match fixed {
        Some(fixed) => *fixed,
        None => before?.fixed.clone(),
    };
    live.report = common::pb::Task::decode(report.as_slice()).ok().map(Box::new);
    Some(Row { live, fixed })
}

fn write(world: &mut World, to: u64, batch: Changes) -> Result<(), Broken> {
    let mut rows = Vec::new();
    for change in batch.tasks {
        let place = change.live.place;
        let Some(row) = row(&world.ledger, change) else {
            let detail = format!("the ledger is to change {place:?}, which it does not have");
            return Err(Broken { invariant: "everyone_agrees", detail });
        };
        invariants::the_ledger_agrees(&world.truth, &row, to)?;
        rows.push(row);
    }
    let ledger = &mut world.ledger;
    for entry in &batch.entries {
        if !ledger.history.insert(entry.place) {
            let detail = format!("the history has {:?} twice", entry.place);
            return Err(Broken { invariant: "everyone_agrees", detail });
        }
    }
    // nats-server drops the repeats of a batch that was made twice.
    ledger.letters.extend(batch.dead.iter().map(|l| (l.sequence, l.index, l.kind.clone())));
    for row in rows {
        ledger.places.insert(row.live.place, row.key());
        ledger.rows.insert(row.key(), row);
    }
    ledger.cursor = to;
    ledger.clock = batch.clock;
    Ok(())
}
