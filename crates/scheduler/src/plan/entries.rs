//! **Pure.** Open and finished tasks, packed: millions of them are kept.
//!
//! An [`Entry`] is how one reads; 64 bytes are what is stored, beside about ten of the index.

use std::collections::HashMap;

use common::{
    id::TaskKey,
    lifecycle::{Phase, State},
    time::Timestamp,
};
use hashbrown::HashTable;

use super::{Decision, Entry, Found, Place, Ticket, Tombstone};

/// A place in the log as one number: the message, and which item of it.
const INDEX_BITS: u32 = 20;

fn pack_place(sequence: u64, index: u32) -> u64 {
    (sequence << INDEX_BITS) | u64::from(index & ((1 << INDEX_BITS) - 1))
}

fn unpack_place(place: u64) -> (u64, u32) {
    (place >> INDEX_BITS, place as u32 & ((1 << INDEX_BITS) - 1))
}

/// Two words, since a `u128` would be aligned to sixteen bytes.
type PackedKey = [u64; 2];

fn pack_key(key: TaskKey) -> PackedKey {
    [(key.0 >> 64) as u64, key.0 as u64]
}

fn unpack_key([high, low]: PackedKey) -> TaskKey {
    TaskKey(u128::from(high) << 64 | u128::from(low))
}

/// Keys are halves of a cryptographic hash already.
fn hash([_, low]: PackedKey) -> u64 {
    low
}

const EXTERNAL: u8 = 1;
const STUB: u8 = 2;
const CANCEL_REQUESTED: u8 = 4;
const ALONE: u8 = 8;
const OPEN: u8 = 16;

#[derive(Clone, Copy, Debug)]
struct Packed {
    key: PackedKey,
    place: u64,
    due: i64,
    /// When its attempt went out, in monotonic milliseconds: the lower bits of 48.
    out_low: u32,
    queue: u32,
    generation: u32,
    ended: u32,
    tries: u16,
    losses: u16,
    kind: u16,
    out_high: u16,
    phase: Phase,
    deciding: Option<Decision>,
    priority: u8,
    stands: Stands,
    flags: u8,
}

/// [`Place`] without its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    External,
    Waiting,
    Ready,
    Released,
}

const _: () = assert!(size_of::<Packed>() <= 64);

impl Packed {
    fn new(entry: &Entry, generation: u32) -> Self {
        let (stands, out_ms) = match entry.place {
            Place::External => (Stands::External, 0),
            Place::Waiting => (Stands::Waiting, 0),
            Place::Ready => (Stands::Ready, 0),
            Place::Released(at) => (Stands::Released, at),
        };
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let State { phase, ended, tries, losses, external, stub, cancel_requested } = entry.state;
        Self {
            key: pack_key(entry.key),
            place: pack_place(entry.sequence, entry.index),
            due: entry.due.micros(),
            out_low: out_ms as u32,
            queue: entry.queue,
            generation,
            ended,
            tries,
            losses,
            kind: entry.kind,
            out_high: (out_ms >> 32) as u16,
            phase,
            deciding: entry.deciding,
            priority: entry.priority,
            stands,
            flags: OPEN
                | flag(external, EXTERNAL)
                | flag(stub, STUB)
                | flag(cancel_requested, CANCEL_REQUESTED)
                | flag(entry.alone, ALONE),
        }
    }

    fn entry(&self) -> Entry {
        let (sequence, index) = unpack_place(self.place);
        let has = |flag: u8| self.flags & flag != 0;
        Entry {
            key: unpack_key(self.key),
            sequence,
            index,
            state: State {
                phase: self.phase,
                ended: self.ended,
                tries: self.tries,
                losses: self.losses,
                external: has(EXTERNAL),
                stub: has(STUB),
                cancel_requested: has(CANCEL_REQUESTED),
            },
            due: Timestamp::from_micros(self.due),
            place: match self.stands {
                Stands::External => Place::External,
                Stands::Waiting => Place::Waiting,
                Stands::Ready => Place::Ready,
                Stands::Released => {
                    Place::Released(u64::from(self.out_high) << 32 | u64::from(self.out_low))
                }
            },
            deciding: self.deciding,
            priority: self.priority,
            alone: has(ALONE),
            queue: self.queue,
            kind: self.kind,
        }
    }

    fn is_open(&self) -> bool {
        self.flags & OPEN != 0
    }
}

/// The open tasks.
#[derive(Debug, Default)]
pub(super) struct Entries {
    slots: Vec<Packed>,
    free: Vec<u32>,
    index: HashTable<u32>,
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    fn open(&self, ticket: Ticket) -> Option<&Packed> {
        let packed = self.slots.get(ticket.slot as usize)?;
        (packed.is_open() && packed.generation == ticket.generation).then_some(packed)
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<Entry> {
        self.open(ticket).map(Packed::entry)
    }

    pub(super) fn is_open(&self, ticket: Ticket) -> bool {
        self.open(ticket).is_some()
    }

    /// Whether the task could start, at this priority.
    pub(super) fn is_ready(&self, ticket: Ticket, priority: u8) -> bool {
        self.open(ticket).is_some_and(|p| p.stands == Stands::Ready && p.priority == priority)
    }

    /// Whether an attempt of the task is out.
    pub(super) fn is_out(&self, ticket: Ticket) -> bool {
        self.open(ticket).is_some_and(|packed| packed.stands == Stands::Released)
    }

    /// Whether the task waits for its first attempt, and nothing is being decided about it. One that
    /// comes back from an attempt is not judged again, and nothing is judged by it.
    pub(super) fn waits(&self, ticket: Ticket) -> bool {
        self.open(ticket).is_some_and(|packed| {
            matches!(packed.stands, Stands::Waiting | Stands::Ready)
                && packed.ended == 0
                && packed.deciding.is_none()
                && packed.flags & CANCEL_REQUESTED == 0
        })
    }

    /// The open task of a slot.
    pub(super) fn ticket(&self, slot: u32) -> Option<Ticket> {
        let packed = self.slots.get(slot as usize).filter(|packed| packed.is_open())?;
        Some(Ticket { slot, generation: packed.generation })
    }

    pub(super) fn find(&self, key: TaskKey) -> Option<(Ticket, Entry)> {
        let packed_key = pack_key(key);
        let same = |slot: &u32| self.slots.get(*slot as usize).is_some_and(|p| p.key == packed_key);
        let slot = *self.index.find(hash(packed_key), same)?;
        let packed = self.slots.get(slot as usize)?;
        Some((Ticket { slot, generation: packed.generation }, packed.entry()))
    }

    /// Changes a task that is open; its key stays.
    pub(super) fn update(&mut self, ticket: Ticket, change: impl FnOnce(&mut Entry)) {
        let Some(mut entry) = self.get(ticket) else { return };
        change(&mut entry);
        if let Some(packed) = self.slots.get_mut(ticket.slot as usize) {
            *packed = Packed::new(&entry, ticket.generation);
        }
    }

    pub(super) fn insert(&mut self, entry: &Entry) -> Ticket {
        let slot = self.free.pop();
        let generation =
            slot.and_then(|slot| self.slots.get(slot as usize)).map_or(0, |p| p.generation);
        let packed = Packed::new(entry, generation);
        let slot = slot.unwrap_or(self.slots.len() as u32);
        match self.slots.get_mut(slot as usize) {
            Some(place) => *place = packed,
            None => self.slots.push(packed),
        }
        let slots = &self.slots;
        let rehash = |slot: &u32| slots.get(*slot as usize).map_or(0, |p| hash(p.key));
        self.index.insert_unique(hash(packed.key), slot, rehash);
        Ticket { slot, generation }
    }

    /// The task is over.
    pub(super) fn remove(&mut self, ticket: Ticket) {
        let Some(packed) = self.open(ticket) else { return };
        if let Ok(found) = self.index.find_entry(hash(packed.key), |slot| *slot == ticket.slot) {
            found.remove();
        }
        if let Some(packed) = self.slots.get_mut(ticket.slot as usize) {
            packed.flags = 0;
            packed.generation = packed.generation.wrapping_add(1);
        }
        self.free.push(ticket.slot);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Ticket, Entry)> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, packed)| packed.is_open())
            .map(|(slot, packed)| (Ticket { slot, generation: packed.generation }, packed.entry()))
    }
}

#[derive(Clone, Copy, Debug)]
struct PackedEnd {
    key: PackedKey,
    place: u64,
    ended: u64,
    /// How long after its end it was last of use, in messages.
    used_after: u32,
    phase: Phase,
}

const _: () = assert!(size_of::<PackedEnd>() <= 40);

/// The finished tasks that the log still counts.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    slots: Vec<PackedEnd>,
    index: HashTable<u32>,
    /// Where the creation of a task lies that was carried, since its place is that of the carriage.
    created: HashMap<TaskKey, (u64, u32)>,
}

impl Tombstones {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, key: TaskKey) -> Option<u32> {
        let key = pack_key(key);
        let same = |slot: &u32| self.slots.get(*slot as usize).is_some_and(|p| p.key == key);
        self.index.find(hash(key), same).copied()
    }

    pub(super) fn get(&self, key: TaskKey) -> Option<Tombstone> {
        let end = self.slots.get(self.slot(key)? as usize)?;
        Some(self.tombstone(end))
    }

    fn tombstone(&self, end: &PackedEnd) -> Tombstone {
        let (sequence, index) = unpack_place(end.place);
        let created = self.created.get(&unpack_key(end.key)).copied();
        Tombstone {
            sequence,
            index,
            created: created.unwrap_or((sequence, index)),
            ended: end.ended,
            used: end.ended + u64::from(end.used_after),
            phase: end.phase,
        }
    }

    pub(super) fn insert(&mut self, key: TaskKey, end: Tombstone) {
        if end.created != (end.sequence, end.index) {
            self.created.insert(key, end.created);
        }
        let packed = PackedEnd {
            key: pack_key(key),
            place: pack_place(end.sequence, end.index),
            ended: end.ended,
            used_after: u32::try_from(end.used.saturating_sub(end.ended)).unwrap_or(u32::MAX),
            phase: end.phase,
        };
        if let Some(slot) = self.slot(key) {
            if let Some(place) = self.slots.get_mut(slot as usize) {
                *place = packed;
            }
        } else {
            let slot = self.slots.len() as u32;
            self.slots.push(packed);
            index(&mut self.index, &self.slots, slot);
        }
    }

    /// Something in this message of the log would be read otherwise without the tombstone.
    pub(super) fn used(&mut self, key: TaskKey, sequence: u64) {
        if let Some(slot) = self.slot(key)
            && let Some(end) = self.slots.get_mut(slot as usize)
        {
            let after = sequence.saturating_sub(end.ended);
            end.used_after = end.used_after.max(u32::try_from(after).unwrap_or(u32::MAX));
        }
    }

    /// Forgets those that ended before the floor.
    pub(super) fn forget_before(&mut self, floor: u64) {
        let gone = |end: &PackedEnd| end.ended < floor;
        self.slots.retain(|end| {
            if gone(end) && !self.created.is_empty() {
                self.created.remove(&unpack_key(end.key));
            }
            !gone(end)
        });
        self.slots.shrink_to_fit();
        let mut table = HashTable::with_capacity(self.slots.len());
        for slot in 0..self.slots.len() as u32 {
            index(&mut table, &self.slots, slot);
        }
        self.index = table;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskKey, Tombstone)> {
        self.slots.iter().map(|end| (unpack_key(end.key), self.tombstone(end)))
    }
}

fn index(table: &mut HashTable<u32>, slots: &[PackedEnd], slot: u32) {
    let hash_of = |slot: &u32| slots.get(*slot as usize).map_or(0, |end| hash(end.key));
    table.insert_unique(hash_of(&slot), slot, hash_of);
}

/// What the planner knows under a key.
pub(super) fn find(entries: &Entries, over: &Tombstones, key: TaskKey) -> Option<Found> {
    match entries.find(key) {
        Some((ticket, entry)) => Some(Found::Open(ticket, entry)),
        None => over.get(key).map(Found::Over),
    }
}
