//! **Pure.** A fold that begins where the log was cut: it knows nothing of the tasks from before
//! but what was carried over the cut.
//!
//! A first pass over the log remembers where each task was carried last. When the second pass meets
//! an event about one of them, that row comes first, and what the carried state has already is
//! skipped. Behind the cut the fold knows of open tasks what one knows that has read everything.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, hash_map::Entry as Slot},
};

use bus::Message;
use common::{
    event::{Carried, Event, Kind, TaskEvent},
    id::TaskKey,
    lifecycle::{Cause, Phase, State},
    time::Timestamp,
};

use super::Fold;
use crate::{
    change, raw,
    row::{Entry, Live, Place, UNKNOWN_EXECUTOR, Verification},
};

/// Where a task was carried last.
#[derive(Clone, Copy)]
struct Source {
    as_of: u64,
    sequence: u64,
    index: u32,
    /// The row is known, or in the ledger.
    is_there: bool,
}

/// What was carried over a cut, until the cut is folded.
pub struct Cold {
    floor: u64,
    until: u64,
    sources: HashMap<TaskKey, Source>,
    /// Tasks whose rows are about to come.
    wanted: HashSet<TaskKey>,
}

/// What an event is to a task that was carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carriage {
    /// An event like every other.
    Nothing,
    /// The event that the row was made of: its line is written.
    Source,
    /// The carried state has it.
    Before,
}

impl Cold {
    /// For a cut that the log says at `until`.
    pub fn new(floor: u64, until: u64) -> Self {
        Self { floor, until, sources: HashMap::new(), wanted: HashSet::new() }
    }

    /// Remembers that a task was carried there, in the first pass.
    pub fn remember(&mut self, (sequence, index): (u64, u32), key: TaskKey, carried: &Carried) {
        let as_of = carried.as_of;
        // What was carried for an older cut does not know what came before this floor; and what
        // claims to be later than itself, or earlier than its own first mention, is none of ours.
        let is_good = as_of + 1 >= self.floor && as_of < sequence && carried.place.0 <= as_of;
        if !is_good || index >= Place::INDEX_END || carried.place.1 >= Place::INDEX_END {
            return;
        }
        let source = Source { as_of, sequence, index, is_there: false };
        match self.sources.entry(key) {
            Slot::Vacant(slot) => drop(slot.insert(source)),
            Slot::Occupied(mut slot) if slot.get().as_of < as_of => drop(slot.insert(source)),
            Slot::Occupied(_) => {}
        }
    }

    /// How many tasks were carried.
    pub fn tasks(&self) -> usize {
        self.sources.len()
    }

    /// The ledger has a row of the task.
    pub(super) fn found(&mut self, key: &TaskKey) {
        if let Some(source) = self.sources.get_mut(key) {
            source.is_there = true;
        }
    }

    fn arrives(&mut self, key: &TaskKey, at: Place) -> bool {
        let Some(source) = self.sources.get_mut(key) else { return false };
        let arrives =
            (source.sequence, source.index) == (at.sequence, at.index) && self.wanted.remove(key);
        source.is_there |= arrives;
        arrives
    }
}

impl Fold {
    /// Begins where the log was cut.
    pub fn begin_at(&mut self, cold: Cold) {
        self.cold = Some(cold);
    }

    /// Whether the cut at which it began is still to come.
    pub fn is_cold(&self) -> bool {
        self.cold.is_some()
    }

    /// The messages with the carried tasks that must be [thawed](Fold::thaw) before these messages
    /// can be folded, once the ledger was asked for what is missing.
    pub fn wanted(&mut self, messages: &[Message]) -> Vec<u64> {
        let Some(cold) = &mut self.cold else { return Vec::new() };
        let mut sequences = Vec::new();
        for item in messages.iter().flat_map(|m| &m.items) {
            let Ok(Event::Task(event)) = item else { continue };
            let key = TaskKey::new(&event.tenant, &event.id);
            let Some(source) = cold.sources.get(&key) else { continue };
            if !source.is_there && cold.wanted.insert(key) {
                sequences.push(source.sequence);
            }
        }
        sequences.sort_unstable();
        sequences.dedup();
        sequences
    }

    /// Takes the rows of wanted tasks from the message in which they were carried.
    pub fn thaw(&mut self, message: &Message) {
        let mut raws = raw::items(message);
        for (index, item) in (0..Place::INDEX_END).zip(&message.items) {
            let raw = raws.next(item);
            let Ok(Event::Task(event)) = item else { continue };
            let Kind::Carried(carried) = &event.kind else { continue };
            let key = TaskKey::new(&event.tenant, &event.id);
            let at = Place { sequence: message.sequence, index };
            if self.cold.as_mut().is_some_and(|cold| cold.arrives(&key, at)) {
                let bytes = raw.or_encode(|| common::wire::encode(&Event::Task(event.clone())));
                self.bytes += bytes.len();
                let task = self.arrive(key, at, event, carried);
                self.entry(Entry {
                    task: Some(task),
                    place: at,
                    at: message.at,
                    kind: event.kind.word().into(),
                    ignored: "".into(),
                    event: bytes,
                });
            }
        }
    }

    /// Makes the row of a task that was carried, and returns its place.
    fn arrive(&mut self, key: TaskKey, at: Place, event: &TaskEvent, carried: &Carried) -> Place {
        let (sequence, index) = carried.place;
        let place = Place { sequence, index };
        let is_over = carried.state.phase.is_terminal();
        let floor = self.cold.as_ref().map_or(0, |cold| cold.floor);
        // What is not known of one that is over can be no later than this.
        let known = |at: Timestamp| if at > Timestamp::default() { at } else { self.out.clock };
        let live = Live {
            place,
            spec_at: at,
            life: carried.state,
            priority: carried.priority,
            subsystem: Box::default(),
            worker: carried.worker.as_str().into(),
            created_at: known(carried.created_at),
            started_at: None,
            finished_at: is_over.then_some(self.out.clock),
            ended_at: is_over.then_some(carried.ended_at),
            duration: None,
            // The event that ended it may still come: it says how.
            verification: if is_over && carried.ended_at < floor {
                Verification::Skipped
            } else {
                Verification::Pending
            },
            report: None,
        };
        let slot = self.known.insert(key, live, &event.id);
        let stub = || change::stub(event);
        let Some(spec) = carried.spec.as_deref().cloned().or_else(stub) else { return place };
        slot.describe(event.tenant.clone(), event.id.clone(), spec, at);
        slot.live.priority = carried.priority;
        if let Some(fixed) = slot.fixed.as_mut().filter(|_| carried.spec.is_none() && is_over) {
            fixed.executor = Cow::Borrowed(UNKNOWN_EXECUTOR);
        }
        place
    }

    /// What the event at a place is to its task.
    pub(super) fn carriage(&self, key: &TaskKey, at: Place) -> Carriage {
        let source = self.cold.as_ref().and_then(|cold| cold.sources.get(key));
        match source {
            Some(source) if (source.sequence, source.index) == (at.sequence, at.index) => {
                Carriage::Source
            }
            Some(source) if at.sequence <= source.as_of => Carriage::Before,
            Some(_) | None => Carriage::Nothing,
        }
    }

    /// How a carried task ended that is known to be over: what its end says is in no other place.
    /// Says whether this was that end.
    pub(super) fn ends_carried(&mut self, key: &TaskKey, at: Place, event: &TaskEvent) -> bool {
        let clock = self.out.clock;
        let is_end = self.known.get(key).is_some_and(|slot| {
            let Live { life, ended_at, verification, .. } = &slot.live;
            *ended_at == Some(at.sequence)
                && *verification == Verification::Pending
                && ends(&event.kind, life.phase)
        });
        if !is_end {
            return false;
        }
        let Some(slot) = self.known.change(key) else { return false };
        let life = slot.live.life;
        slot.live.life = State { phase: Phase::Pending, ..life };
        change::apply(&mut slot.live, life, event, at.sequence, clock);
        true
    }

    /// The cut at which it began is folded: from here on it knows what everybody knows.
    pub(super) fn passed(&mut self, sequence: u64) {
        self.cold.take_if(|cold| cold.until <= sequence);
    }

    /// The cut that is still to come; 0 for none.
    pub(super) fn cold_until(&self) -> u64 {
        self.cold.as_ref().map_or(0, |cold| cold.until)
    }
}

/// Whether it may end a task so.
fn ends(kind: &Kind, phase: Phase) -> bool {
    match kind {
        Kind::Completed(_) => phase == Phase::Completed,
        Kind::Failed(body) => phase == Phase::Failed(Cause::from_pb(body.cause())),
        Kind::Cancelled(_) => phase == Phase::Cancelled,
        Kind::Skipped(_) => phase == Phase::Skipped,
        Kind::Updated(_) => phase.is_terminal(),
        Kind::Created(_)
        | Kind::Started(_)
        | Kind::Progress(_)
        | Kind::Snapshot(_)
        | Kind::Retrying(_)
        | Kind::Lost(_)
        | Kind::Returned(_)
        | Kind::CancelRequested(_)
        | Kind::Reprioritised(_)
        | Kind::Expedited(_)
        | Kind::Carried(_)
        | Kind::Resolved(_) => false,
    }
}
