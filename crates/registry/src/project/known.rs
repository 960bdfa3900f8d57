//! **Pure.** What the fold knows of tasks without asking the ledger: those that have changes to be
//! written, and as many of the open ones as fit.

use std::collections::{HashMap, HashSet};

use common::{
    id::{TaskId, TaskKey, Tenant},
    limits::LEDGER_KNOWN_BYTES_MAX,
    pb,
    task::TaskSpec,
};
use prost::Message as _;
use uuid::Uuid;

use super::{Counts, count, word};
use crate::{
    change,
    row::{Change, Fixed, Live, Place, Row},
};

/// What a slot takes besides its report and its texts: itself, its key and the table's space.
const SLOT_BYTES: usize = size_of::<(TaskKey, Slot)>() * 2;
/// When the memory is full, one of so many goes.
const SWEEP: u128 = 8;

/// A task.
pub(super) struct Slot {
    pub(super) live: Live,
    /// There while it is not written, or where it was asked for.
    pub(super) fixed: Option<Box<Fixed>>,
    /// The state with which the ledger counts it; `None` where the ledger does not have it.
    pub(super) written: Option<&'static str>,
    /// W3C trace context of its submission.
    pub(super) trace: Box<str>,
    uuid: u128,
    bytes: usize,
    is_described: bool,
    is_changed: bool,
    is_touched: bool,
}

impl Slot {
    /// Takes over what was submitted, by the event at a place.
    pub(super) fn describe(&mut self, tenant: Tenant, id: TaskId, spec: TaskSpec, at: Place) {
        self.live.spec_at = at;
        self.trace = spec.as_pb().traceparent.as_str().into();
        self.fixed = Some(change::describe(&mut self.live, tenant, id, spec));
        self.is_described = true;
    }
}

#[derive(Default)]
pub(super) struct Known {
    slots: HashMap<TaskKey, Slot>,
    bytes: usize,
    /// The slots that changed, or got what creation fixes.
    touched: Vec<TaskKey>,
    /// Forgotten, and not yet written: what the ledger has under these ids is older than that.
    forgotten: HashSet<TaskKey>,
    /// No id of version 7 above this is in the ledger but not here.
    newest: u128,
    sweeps: u128,
}

impl Known {
    /// Begins with the newest id of the ledger.
    pub(super) fn new(newest: Option<&str>) -> Self {
        // An id that is none of version 7 but lies behind them all says nothing about them.
        let newest = newest.map_or(0, |id| uuid(id).unwrap_or(u128::MAX));
        Self { newest, ..Self::default() }
    }

    pub(super) fn get(&self, key: &TaskKey) -> Option<&Slot> {
        self.slots.get(key)
    }

    /// Whether the task that had the id was forgotten since the changes were taken.
    pub(super) fn is_forgotten(&self, key: &TaskKey) -> bool {
        self.forgotten.contains(key)
    }

    /// Whether a task that is not known here cannot be in the ledger either: ids of version 7 grow
    /// with time, and this one is newer than all of them.
    pub(super) fn is_new(&self, id: &TaskId) -> bool {
        uuid(id.as_str()).is_some_and(|uuid| uuid > self.newest)
    }

    /// Takes what the ledger has of a task.
    pub(super) fn load(&mut self, row: Row) {
        let key = row.key();
        if self.forgotten.contains(&key) {
            return;
        }
        let Row { live, fixed } = row;
        if let Some(slot) = self.slots.get_mut(&key) {
            if slot.fixed.is_none() && slot.live.place == live.place {
                slot.fixed = Some(Box::new(fixed));
                touch(&mut self.touched, key, slot);
            }
            return;
        }
        let written = Some(word(&live));
        let uuid = uuid(fixed.id.as_str()).unwrap_or(0);
        let trace = fixed.spec.traceparent.as_str().into();
        self.add(key, Slot { written, trace, fixed: Some(Box::new(fixed)), ..slot(live, uuid) });
    }

    /// A task that the log mentions for the first time.
    pub(super) fn insert(&mut self, key: TaskKey, live: Live, id: &TaskId) -> &mut Slot {
        let uuid = uuid(id.as_str()).unwrap_or(0);
        self.add(key, Slot { is_changed: true, ..slot(live, uuid) })
    }

    fn add(&mut self, key: TaskKey, slot: Slot) -> &mut Slot {
        self.bytes += slot.bytes;
        let slot = self.slots.entry(key).insert_entry(slot).into_mut();
        touch(&mut self.touched, key, slot);
        slot
    }

    /// A task that changes.
    pub(super) fn change(&mut self, key: &TaskKey) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(key)?;
        slot.is_changed = true;
        touch(&mut self.touched, *key, slot);
        Some(slot)
    }

    /// Takes what is to be written, in the order in which it came. What has ended, and what does
    /// not fit, is forgotten.
    pub(super) fn take(&mut self, counts: &mut Counts, changes: &mut Vec<Change>) {
        self.forgotten.clear();
        let touched = std::mem::take(&mut self.touched);
        changes.reserve(touched.len());
        for key in touched {
            changes.extend(self.settle(&key, counts));
        }
        if self.bytes > LEDGER_KNOWN_BYTES_MAX {
            self.sweep();
        }
    }

    /// Forgets what ended before a floor, and takes what is to be written of it: its id is new, and
    /// what comes under it is another task.
    pub(super) fn forget_before(
        &mut self,
        floor: u64,
        counts: &mut Counts,
        changes: &mut Vec<Change>,
    ) {
        // What has ended is here only until it is written.
        let touched = std::mem::take(&mut self.touched);
        for key in touched {
            let ended = self.slots.get(&key).and_then(|slot| slot.live.ended_at);
            if ended.is_some_and(|ended| ended < floor) {
                changes.extend(self.settle(&key, counts));
                self.forgotten.insert(key);
            } else {
                self.touched.push(key);
            }
        }
    }

    /// Takes what is to be written of a task, and forgets one that has ended.
    fn settle(&mut self, key: &TaskKey, counts: &mut Counts) -> Option<Change> {
        let slot = self.slots.get_mut(key)?;
        let mut change = None;
        let fixed = slot.fixed.take();
        let is_changed = std::mem::take(&mut slot.is_changed);
        slot.is_touched = false;
        if is_changed {
            let now = word(&slot.live);
            let before = slot.written.replace(now);
            if before != Some(now) {
                if let Some(before) = before {
                    count(counts, &slot.live.subsystem, before, -1);
                }
                count(counts, &slot.live.subsystem, now, 1);
            }
            let report = slot.live.report.as_deref().map(prost::Message::encode_to_vec);
            let report = report.unwrap_or_default();
            let live = copy(&slot.live);
            let fixed = fixed.filter(|_| std::mem::take(&mut slot.is_described));
            let objects = objects(fixed.as_deref(), slot.live.report.as_deref());
            change = Some(Change { live, report, fixed, is_new: before.is_none(), objects });
        }
        self.bytes -= slot.bytes;
        slot.bytes = bytes(&slot.live);
        self.bytes += slot.bytes;
        if slot.live.life.phase.is_terminal() {
            self.newest = self.newest.max(slot.uuid);
            self.bytes -= slot.bytes;
            self.slots.remove(key);
        }
        change
    }

    /// Forgets one of eight, whichever they are: of tasks that end in the order of their creation
    /// the oldest would be the wrong ones, and of those that wait for long the newest.
    fn sweep(&mut self) {
        let turn = self.sweeps % SWEEP;
        self.sweeps += 1;
        let (bytes, newest) = (&mut self.bytes, &mut self.newest);
        // The key is a hash.
        self.slots.retain(|key, slot| {
            let stays = key.0 % SWEEP != turn;
            if !stays {
                *bytes -= slot.bytes;
                *newest = (*newest).max(slot.uuid);
            }
            stays
        });
    }
}

/// The large values that a task refers to.
fn objects(fixed: Option<&Fixed>, report: Option<&pb::Task>) -> Vec<String> {
    let input = fixed.and_then(|fixed| fixed.spec.input_object.as_ref());
    let result = report.and_then(|report| report.result_object.as_ref());
    input.into_iter().chain(result).map(|object| object.name.clone()).collect()
}

fn slot(live: Live, uuid: u128) -> Slot {
    let bytes = bytes(&live);
    Slot {
        live,
        fixed: None,
        written: None,
        trace: Box::default(),
        uuid,
        bytes,
        is_described: false,
        is_changed: false,
        is_touched: false,
    }
}

fn touch(touched: &mut Vec<TaskKey>, key: TaskKey, slot: &mut Slot) {
    if !slot.is_touched {
        slot.is_touched = true;
        touched.push(key);
    }
}

/// What a slot takes.
fn bytes(live: &Live) -> usize {
    let report = live.report.as_ref().map_or(0, |r| size_of_val(&**r) + r.encoded_len());
    SLOT_BYTES + live.subsystem.len() + live.worker.len() + report
}

/// All but the report.
fn copy(live: &Live) -> Live {
    let (subsystem, worker) = (live.subsystem.clone(), live.worker.clone());
    Live { subsystem, worker, report: None, ..*live }
}

/// The number of an id that is a UUID of version 7 in its usual form, in which the order of the
/// texts is that of the numbers, of a time before 2527.
fn uuid(id: &str) -> Option<u128> {
    let bytes = id.as_bytes();
    let is_usual = bytes.len() == 36
        && bytes.first() == Some(&b'0')
        && bytes.get(14) == Some(&b'7')
        && !bytes.iter().any(u8::is_ascii_uppercase);
    let uuid = is_usual.then(|| Uuid::try_parse(id).ok()).flatten()?;
    (uuid.get_version_num() == 7).then(|| uuid.as_u128())
}
