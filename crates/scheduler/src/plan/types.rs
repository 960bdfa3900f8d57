//! **Pure.** Task types: what a submission without an executor gets, what a disabled type holds, and
//! who has the place of a key and a period.
//!
//! A submission gets what its type said before it came, however late that is decided: the type is kept
//! with the task until `task.resolved` is in the log. From there on the log has the whole task.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use catalog::Compiled;
use common::{
    error::Violation,
    event::Resolved,
    id::{TaskId, TaskKey},
    pb,
    policy::{Body, Document, Kind},
    task::TaskSpec,
    time::Timestamp,
};

use super::{
    Decision, Entry, Place, Planner, Ticket,
    fold::Folded,
    store::{StoredClaim, StoredResolving, StoredTypes, key, stored_key},
};

/// Claims that are kept before those that are past are looked for.
const CLAIMS_MIN: usize = 1_024;

/// A version of a type.
#[derive(Debug)]
pub struct Known {
    /// Which version.
    pub version: u64,
    /// What it says.
    pub task_type: pb::TaskType,
    compiled: OnceLock<Result<Compiled, Vec<Violation>>>,
}

impl Known {
    fn new(version: u64, task_type: pb::TaskType) -> Arc<Self> {
        Arc::new(Self { version, task_type, compiled: OnceLock::new() })
    }

    /// What a submission becomes, or everything that is wrong with it.
    pub fn resolve(&self, spec: &TaskSpec, created: Timestamp) -> Result<Resolved, Vec<Violation>> {
        let compiled = self.compiled.get_or_init(|| Compiled::new(&self.task_type));
        let resolved = compiled.as_ref().map_err(Clone::clone)?;
        let catalog::Resolved { spec, unique } = resolved.resolve(spec.as_pb().clone(), created)?;
        let unique = unique.map(|id| (id, self.period_end(created)));
        let spec = TaskSpec::parse(spec)?;
        Ok(Resolved { spec, version: self.version, created_at: created, unique })
    }

    fn period_end(&self, created: Timestamp) -> Timestamp {
        let period = self.task_type.unique.as_ref().and_then(|unique| unique.period);
        let period = period.and_then(common::wire::time::Duration::to_std).unwrap_or_default();
        let micros = i64::try_from(period.as_micros()).unwrap_or(i64::MAX).max(1);
        let into = Duration::from_micros(created.micros().rem_euclid(micros) as u64);
        created.after(period.saturating_sub(into))
    }
}

/// A task that has the place of a key and a period.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    holder: TaskKey,
    /// Its id, for people.
    name: Box<str>,
    /// Where the log said so; 0 while it is on its way into the log.
    sequence: u64,
    until: Timestamp,
}

/// What is known of task types.
#[derive(Debug, Default)]
pub(super) struct Types {
    known: HashMap<Box<str>, Arc<Known>>,
    /// Disabled types, as kinds of tasks.
    disabled: HashSet<u16>,
    /// By slot: the type as it was when the task came.
    resolving: HashMap<u32, Arc<Known>>,
    /// By slot: tasks that run although their type is disabled.
    by_hand: HashSet<u32>,
    claims: HashMap<TaskKey, Claim>,
    look_at: usize,
    /// By task: the place that it was given and that is not in the log yet.
    unsaid: HashMap<TaskKey, TaskKey>,
}

impl Types {
    /// The task of this slot is over. A place that it was to get and never got is free again.
    pub(super) fn forget(&mut self, slot: u32, key: TaskKey) {
        self.resolving.remove(&slot);
        self.by_hand.remove(&slot);
        if !self.unsaid.is_empty()
            && let Some(place) = self.unsaid.remove(&key)
            && self.claims.get(&place).is_some_and(|c| c.sequence == 0 && c.holder == key)
        {
            self.claims.remove(&place);
        }
    }

    /// The log was cut: who begins at the floor does not know what was claimed before it.
    pub(super) fn forget_before(&mut self, floor: u64) {
        self.claims.retain(|_, claim| claim.sequence >= floor || claim.sequence == 0);
    }

    fn claim(&mut self, unique: TaskKey, claim: Claim, now: Timestamp) {
        if self.claims.len() >= self.look_at.max(CLAIMS_MIN) {
            self.claims.retain(|_, claim| claim.until > now);
            self.look_at = 2 * self.claims.len();
        }
        // Whoever has it has it in the same period: that is part of the name.
        if self.claims.get(&unique).is_none_or(|standing| standing.sequence == 0) {
            self.claims.insert(unique, claim);
        }
    }
}

impl Planner {
    /// The log told of a document.
    pub(super) fn document_changed(&mut self, body: &Body, version: u64, name: &str) {
        match body {
            Body::TaskType(body) => self.set_type(name, version, Some((**body).clone())),
            Body::Removed(Kind::TaskType) => self.set_type(name, version, None),
            Body::Limit(_) | Body::Schedule(_) | Body::Removed(Kind::Limit | Kind::Schedule) => {}
        }
    }

    /// The documents are there that were stored or carried; what they hold is settled after that.
    pub(super) fn documents_known(&mut self) {
        let of_types = self.policies.of(Some(Kind::TaskType));
        let documents = of_types.map(|known| known.document.clone()).collect::<Vec<_>>();
        for Document { name, version, body, .. } in documents {
            if let Body::TaskType(body) = body {
                self.learn_type(name.as_str(), version, Some(*body));
            }
        }
    }

    /// A type was applied, or removed.
    fn set_type(&mut self, name: &str, version: u64, task_type: Option<pb::TaskType>) {
        let kind = self.kind_id(name);
        if self.learn_type(name, version, task_type) {
            self.hold_or_let_go(kind);
        }
    }

    /// Whether what it holds is to be looked at anew.
    fn learn_type(&mut self, name: &str, version: u64, task_type: Option<pb::TaskType>) -> bool {
        let kind = self.kind_id(name);
        let own = self.kinds.contains_key(name);
        let enabled = task_type.as_ref().is_none_or(|of| of.enabled.unwrap_or(true));
        self.schedules.turned(name, !enabled);
        match task_type {
            Some(of) => self.types.known.insert(name.into(), Known::new(version, of)),
            None => self.types.known.remove(name),
        };
        // Types beyond those that are told apart share a kind, and hold nothing.
        if enabled {
            self.types.disabled.remove(&kind)
        } else {
            own && self.types.disabled.insert(kind)
        }
    }

    fn hold_or_let_go(&mut self, kind: u16) {
        let tickets = self.entries.iter().filter(|(_, entry)| entry.kind == kind);
        let age = |(ticket, entry): (Ticket, Entry)| {
            let carried = self.carried.get(&ticket.slot);
            (carried.map_or((entry.sequence, entry.index), |of| of.created), ticket)
        };
        let mut tickets = tickets.map(age).collect::<Vec<_>>();
        // They go in the order in which they came, and have waited since then.
        tickets.sort_unstable();
        self.restoring(true);
        for (_, ticket) in tickets {
            let Some(entry) = self.entry(ticket) else { continue };
            if entry.place == Place::Ready && self.type_holds(ticket, &entry) {
                self.place(ticket, Place::Waiting);
            }
            self.settle(ticket);
        }
        self.restoring(false);
    }

    /// Whether the task waits for its type to be enabled.
    pub fn type_holds(&self, ticket: Ticket, entry: &Entry) -> bool {
        self.types.disabled.contains(&entry.kind) && !self.types.by_hand.contains(&ticket.slot)
    }

    /// A task that is run by hand, although its type is disabled, is not held.
    pub(super) fn by_hand(&mut self, ticket: Ticket, spec: &TaskSpec) {
        if spec.as_pb().by_hand {
            self.types.by_hand.insert(ticket.slot);
        }
    }

    /// A task without an executor came: if its type has one, that is decided next.
    pub(super) fn ask_type(&mut self, ticket: Ticket, spec: &TaskSpec) -> Folded {
        if spec.as_pb().executor.is_some() {
            return Folded::default();
        }
        let Some(known) = self.types.known.get(spec.as_pb().task_type.as_str()) else {
            return Folded::default();
        };
        self.types.resolving.insert(ticket.slot, known.clone());
        self.by_hand(ticket, spec);
        self.decide(ticket, Decision::Resolve);
        Folded { created: Some(ticket), ..Folded::default() }
    }

    /// Whether there is any type.
    pub fn has_types(&self) -> bool {
        !self.types.known.is_empty()
    }

    /// Everything that keeps a submission from being a task of its type, as that is now.
    pub fn misfits(&self, spec: &TaskSpec) -> Vec<Violation> {
        if spec.as_pb().executor.is_some() {
            return Vec::new();
        }
        let known = self.types.known.get(spec.as_pb().task_type.as_str());
        let resolved = known.map(|known| known.resolve(spec, self.clock));
        resolved.and_then(Result::err).unwrap_or_default()
    }

    /// The type that a task gets its executor from, as it was when the task came.
    pub fn type_of(&self, ticket: Ticket) -> Option<&Arc<Known>> {
        self.types.resolving.get(&ticket.slot)
    }

    /// Takes the place of a key and a period for a task; or the id of the task that has it.
    pub fn take_place(
        &mut self,
        (unique, until): (&TaskId, Timestamp),
        spec: &TaskSpec,
    ) -> Result<(), String> {
        let (tenant, Some(id)) = (spec.tenant(), spec.id()) else { return Ok(()) };
        let (place, holder) = (TaskKey::new(&tenant, unique), TaskKey::new(&tenant, &id));
        let now = self.log_clock;
        match self.types.claims.get(&place) {
            // Not by the time: nats-server's clock may have been ahead when another task came.
            Some(claim) if claim.holder != holder => Err(claim.name.to_string()),
            _ => {
                let claim = Claim { holder, name: id.as_str().into(), sequence: 0, until };
                self.types.unsaid.insert(holder, place);
                self.types.claim(place, claim, now);
                Ok(())
            }
        }
    }

    /// What its type made of a task is in the log: from now on it is dispatched.
    pub(super) fn resolved(
        &mut self,
        ticket: Ticket,
        before: &Entry,
        at: (u64, u32),
        body: &Resolved,
    ) -> Folded {
        self.types.resolving.remove(&ticket.slot);
        self.types.unsaid.remove(&before.key);
        self.described(ticket, before, at);
        let spec = &body.spec;
        let queue = self.queue_id(&spec.queue());
        let due = spec.not_before(body.created_at).unwrap_or_default();
        self.entries.update(ticket, |entry| {
            (entry.queue, entry.priority, entry.due) = (queue, spec.priority(), due);
        });
        if let Some((unique, until)) = &body.unique {
            let place = TaskKey::new(&spec.tenant(), unique);
            let name = spec.as_pb().task_id.as_str().into();
            let claim = Claim { holder: before.key, name, sequence: at.0, until: *until };
            self.types.claim(place, claim, self.log_clock);
        }
        self.place(ticket, Place::Waiting);
        if before.state.cancel_requested {
            self.cancel_requested(ticket);
            self.decide(ticket, Decision::Cancel);
        }
        self.begin(ticket, spec, at.0, body.created_at);
        Folded { created: Some(ticket), ..Folded::default() }
    }

    pub(super) fn store_types(&self) -> StoredTypes {
        let open = |slot: u32| self.entry(self.ticket(slot)?).map(|entry| stored_key(entry.key));
        let resolving = self.types.resolving.iter().filter_map(|(slot, known)| {
            let (version, task_type) = (known.version, known.task_type.clone());
            Some(StoredResolving { key: open(*slot)?, version, task_type })
        });
        let claims = self.types.claims.iter().filter(|(_, claim)| claim.sequence > 0);
        let claims = claims.map(|(unique, claim)| StoredClaim {
            unique: stored_key(*unique),
            holder: stored_key(claim.holder),
            sequence: claim.sequence,
            until: claim.until.micros(),
            name: claim.name.to_string(),
        });
        StoredTypes {
            resolving: resolving.collect(),
            by_hand: self.types.by_hand.iter().filter_map(|slot| open(*slot)).collect(),
            claims: claims.collect(),
        }
    }

    pub(super) fn restore_types(&mut self, stored: StoredTypes) {
        // Many tasks may wait for the same version: it is kept once.
        let mut versions = HashMap::<(String, u64), Arc<Known>>::new();
        for StoredResolving { key: of, version, task_type } in stored.resolving {
            let Some((ticket, _)) = self.entries.find(key(of)) else { continue };
            let name = (task_type.name.clone(), version);
            let known = versions.entry(name).or_insert_with(|| Known::new(version, task_type));
            self.types.resolving.insert(ticket.slot, known.clone());
        }
        for of in stored.by_hand {
            if let Some((ticket, _)) = self.entries.find(key(of)) {
                self.types.by_hand.insert(ticket.slot);
            }
        }
        for claim in stored.claims {
            let standing = Claim {
                holder: key(claim.holder),
                name: claim.name.into(),
                sequence: claim.sequence,
                until: Timestamp::from_micros(claim.until),
            };
            self.types.claims.insert(key(claim.unique), standing);
        }
    }
}

#[cfg(test)]
mod tests;
