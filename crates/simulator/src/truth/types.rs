//! **Pure.** The onlooker's account of task types: their versions, and who has the place of a key and
//! a period.

use std::collections::BTreeMap;

use common::{event::Resolved, id::TaskKey, pb, time::Timestamp};

use super::Task;
use crate::invariants::{self, Broken};

/// A version of a type, from a message on.
#[derive(Clone, Copy, Debug)]
struct Version {
    since: u64,
    /// `None` when the type was removed.
    number: Option<u64>,
    enabled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    holder: TaskKey,
    sequence: u64,
    until: Timestamp,
    lane: u64,
}

/// All types.
#[derive(Debug, Default)]
pub struct Types {
    versions: BTreeMap<String, Vec<Version>>,
    claims: BTreeMap<TaskKey, Claim>,
}

impl Types {
    pub(super) fn set(&mut self, since: u64, name: &str, of: Option<(u64, &pb::TaskType)>) {
        let enabled = of.is_none_or(|(_, body)| body.enabled.unwrap_or(true));
        let version = Version { since, number: of.map(|(number, _)| number), enabled };
        self.versions.entry(name.to_owned()).or_default().push(version);
    }

    fn at(&self, name: &str, sequence: u64) -> Option<&Version> {
        let versions = self.versions.get(name)?;
        versions.iter().rev().find(|version| version.since <= sequence)
    }

    /// The version of a type after a message.
    pub fn version(&self, name: &str, sequence: u64) -> Option<u64> {
        self.at(name, sequence)?.number
    }

    /// Whether a type was disabled after a message.
    pub fn is_disabled(&self, name: &str, sequence: u64) -> bool {
        self.at(name, sequence).is_some_and(|version| !version.enabled)
    }

    /// Who has a place that the log had given after a message, and still has now.
    pub fn holder(&self, place: TaskKey, sequence: u64) -> Option<TaskKey> {
        let claim = self.claims.get(&place).filter(|claim| claim.sequence <= sequence);
        claim.map(|claim| claim.holder)
    }

    /// What a type made of a task took effect. Who sent it, and this is `lane`, knew what it had sent before.
    pub(super) fn resolved(
        &mut self,
        (sequence, lane): (u64, u64),
        (task, spec): (&Task, &pb::TaskSpec),
        body: &Resolved,
    ) -> Result<(), Broken> {
        let expected = self.version(&spec.task_type, task.place.0);
        if expected != Some(body.version) {
            let name = &task.name;
            let detail = format!("{name} got version {}, {expected:?} held", body.version);
            return invariants::broken("versions_stay", detail);
        }
        let Some((unique, until)) = &body.unique else { return Ok(()) };
        let place = TaskKey::new(&body.spec.tenant(), unique);
        let holder = TaskKey::new(&body.spec.tenant(), &super::id_of(&body.spec));
        let claim = Claim { holder, sequence, until: *until, lane };
        match self.claims.get(&place) {
            Some(standing) if standing.holder != holder && standing.lane == lane => {
                let name = &task.name;
                let detail = format!("{name} got a place that is taken until {}", standing.until);
                invariants::broken("one_for_each_key_and_period", detail)
            }
            // Another leader, which could not know of it.
            Some(standing) if standing.holder != holder => Ok(()),
            _ => {
                self.claims.insert(place, claim);
                Ok(())
            }
        }
    }

    /// A place is forgotten with the part of the log that gave it.
    pub(super) fn trimmed(&mut self, floor: u64) {
        self.claims.retain(|_, claim| claim.sequence >= floor);
    }
}
