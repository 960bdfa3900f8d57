//! What may start, by counting: every task with its key, and when it started before.

use std::collections::BTreeMap;

use common::{
    id::TaskKey,
    policy::limit::{Limit, Rate, Singleton},
};
use scheduler::{flow::Refusal, plan::Decision};

use crate::invariants::Broken;

/// The limits that a run may have, in the order of their names.
pub(super) const NAMES: [&str; 8] =
    ["all", "calm", "depth", "each", "each-rate", "old", "one", "rate"];

pub(super) fn broken(invariant: &'static str, detail: impl Into<String>) -> Broken {
    Broken { invariant, detail: detail.into() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Waiting,
    Out,
    Over,
}

#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) id: String,
    pub(super) key: TaskKey,
    pub(super) customer: &'static str,
    pub(super) priority: u8,
    pub(super) place: Place,
    pub(super) attempt: u32,
    pub(super) began: bool,
    number: u64,
    pub(super) created: i64,
    /// Not before this time.
    due: i64,
    /// It started before, if only for a moment: no new arrival.
    tried: bool,
    /// An attempt of it ended.
    came_back: bool,
}

struct Known {
    limit: Limit,
    /// Since when its numbers hold: tasks and starts that came before.
    since: (u64, u64),
    /// The tasks that came before there was a limit of this name.
    set: u64,
}

struct Start {
    id: String,
    customer: &'static str,
    at: i64,
    number: u64,
}

#[derive(Default)]
pub(super) struct Model {
    tasks: BTreeMap<String, Task>,
    ids: BTreeMap<TaskKey, String>,
    limits: BTreeMap<&'static str, Known>,
    starts: Vec<Start>,
    number: u64,
    started: u64,
    /// Nothing starts before.
    pub(super) paused_until: i64,
}

impl Model {
    pub(super) fn created(&mut self, id: &str, (customer, priority): (&'static str, u8), now: i64) {
        self.number += 1;
        let task = Task {
            id: id.into(),
            key: super::key(id),
            customer,
            priority,
            place: Place::Waiting,
            attempt: 0,
            began: false,
            number: self.number,
            created: now,
            due: now,
            tried: false,
            came_back: false,
        };
        self.ids.insert(task.key, id.into());
        self.tasks.insert(id.into(), task);
    }

    pub(super) fn task(&self, id: &str) -> &Task {
        &self.tasks[id]
    }

    pub(super) fn by_key(&self, key: TaskKey) -> &Task {
        &self.tasks[&self.ids[&key]]
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values().filter(|task| task.place != Place::Over)
    }

    pub(super) fn out(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values().filter(|task| task.place == Place::Out)
    }

    pub(super) fn over(&mut self, id: &str) {
        let task = self.tasks.remove(id).expect("it is known");
        self.ids.remove(&task.key);
    }

    pub(super) fn began(&mut self, id: &str) {
        self.tasks.get_mut(id).expect("it is known").began = true;
    }

    pub(super) fn back(&mut self, id: &str, due: i64) {
        let task = self.tasks.get_mut(id).expect("it is known");
        (task.place, task.due, task.began) = (Place::Waiting, due, false);
        (task.tried, task.came_back) = (true, true);
    }

    pub(super) fn starts(&mut self, id: &str, attempt: u32, now: i64) {
        let task = self.tasks.get_mut(id).expect("it is known");
        (task.place, task.attempt, task.tried) = (Place::Out, attempt, true);
        self.started += 1;
        let (id, customer) = (task.id.clone(), task.customer);
        self.starts.push(Start { id, customer, at: now, number: self.started });
        let old = now - 10_000_000;
        self.starts.retain(|start| start.at > old);
    }

    /// Its release was refused: it never started.
    pub(super) fn refused(&mut self, id: &str) {
        self.tasks.get_mut(id).expect("it is known").place = Place::Waiting;
        let place = self.starts.iter().rposition(|start| start.id == id);
        self.starts.remove(place.expect("it was released"));
    }

    pub(super) fn set_limit(&mut self, name: &'static str, limit: Option<Limit>) {
        match limit {
            Some(limit) => {
                let set = self.limits.get(name).map_or(self.number, |known| known.set);
                let since = (self.number, self.started);
                self.limits.insert(name, Known { limit, since, set });
            }
            None => {
                self.limits.remove(name);
            }
        }
    }

    fn in_force(&self) -> impl Iterator<Item = (&&'static str, &Known)> {
        self.limits.iter()
    }

    /// Why a task may not start now.
    fn held(&self, task: &Task, now: i64) -> Option<String> {
        if task.due > now {
            return Some("it is not due".into());
        }
        if self.paused_until > now {
            return Some("the queue is paused".into());
        }
        self.in_force().find_map(|(name, known)| self.held_by(name, known, task, now))
    }

    fn held_by(&self, name: &str, known: &Known, task: &Task, now: i64) -> Option<String> {
        let limit = &known.limit;
        let same = |customer: &str| limit.key.is_none() || customer == task.customer;
        let out = self.out().filter(|other| same(other.customer)).count();
        if limit.out_max().is_some_and(|max| out >= max as usize) {
            return Some(format!("limit {name}: {out} are out"));
        }
        if let Some(Rate { count, per, burst }) = limit.rate {
            let begin = now - per.as_micros() as i64;
            let counts = |s: &&Start| s.at > begin && s.number > known.since.1 && same(s.customer);
            let starts = self.starts.iter().filter(counts).count();
            if starts >= (count + burst - 1) as usize {
                return Some(format!("limit {name}: {starts} started in {per:?}"));
            }
        }
        if limit.debounce.is_some() && !task.tried && task.number > known.since.0 {
            let newer =
                self.open().find(|o| same(o.customer) && !o.tried && o.number > task.number);
            if let Some(newer) = newer {
                return Some(format!("limit {name}: {} is newer", newer.id));
            }
        }
        None
    }

    /// The planner releases it: no limit is exceeded, and nothing that counts more could have gone.
    pub(super) fn may_start(
        &self,
        id: &str,
        now: i64,
        known: impl Fn(&Task) -> bool,
    ) -> Result<(), Broken> {
        let task = self.task(id);
        if let Some(why) = self.held(task, now) {
            return Err(broken(
                "no_limit_is_exceeded",
                format!("{id} of {}: {why}", task.customer),
            ));
        }
        // A rate may be used up by what was refused, and by what was said later: only the planner
        // knows. Ages are the planner's as well.
        let exact = |known: &Known| {
            known.limit.rate.is_none()
                && known.limit.ageing.is_none()
                && known.limit.debounce.is_none()
        };
        if !self.in_force().all(|(_, known)| exact(known)) {
            return Ok(());
        }
        let first = self.open().find(|other| {
            other.place == Place::Waiting
                && other.priority > task.priority
                && known(other)
                && self.held(other, now).is_none()
        });
        match first {
            Some(first) => Err(broken(
                "priorities_hold_within_limits",
                format!("{id} ({}) went before {} ({})", task.priority, first.id, first.priority),
            )),
            None => Ok(()),
        }
    }

    /// The planner wants to end it: there is a reason.
    pub(super) fn may_end(&self, id: &str, decision: Decision, now: i64) -> Result<(), Broken> {
        let task = self.task(id);
        let others = || self.open().filter(|o| o.customer == task.customer && o.id != task.id);
        let waits = |other: &&Task| other.place == Place::Waiting;
        let limit = |name: &str| self.limits.get(name).map(|known| &known.limit);
        // Only what came after this version of its limit is judged, and only when it comes.
        let judged = match decision {
            Decision::Refused(Refusal::Superseded) => Some("calm"),
            Decision::Refused(Refusal::Duplicate) => Some("one"),
            Decision::Refused(Refusal::TooMany) => Some("depth"),
            _ => None,
        };
        let since = |name| self.limits.get(name).map_or(0, |known| known.since.0);
        let may = judged.is_none_or(|name| !task.came_back && task.number > since(name));
        let fits = may
            && task.place == Place::Waiting
            && match decision {
                Decision::Refused(Refusal::Superseded) => {
                    limit("calm").is_some() && others().any(|other| other.number > task.number)
                }
                Decision::Refused(Refusal::Duplicate) => {
                    limit("one").is_some() && others().filter(waits).count() > 0
                }
                Decision::Refused(Refusal::TooMany) => {
                    let depth = limit("depth").and_then(|limit| limit.depth);
                    let waiting = self.open().filter(waits).count() as u64;
                    depth.is_some_and(|depth| waiting > depth)
                }
                Decision::Expired => limit("depth").is_some_and(|limit| {
                    let ttl = limit.ttl.map_or(0, |ttl| ttl.as_micros() as i64);
                    now - task.due.max(task.created) >= ttl
                }),
                _ => false,
            };
        let detail = || {
            let others = others().map(|o| format!("{} {:?} {}", o.id, o.place, o.tried));
            let limits = self.limits.keys().copied().collect::<Vec<_>>().join(" ");
            let others = others.collect::<Vec<_>>().join(", ");
            let waiting = self.open().filter(waits).count();
            format!(
                "{id} {:?}: {decision:?}; {limits}; {waiting} wait; of its key {others}",
                task.place
            )
        };
        fits.then_some(()).ok_or_else(|| broken("refusals_have_a_reason", detail()))
    }

    /// After every decision no more wait than may.
    pub(super) fn enough_wait(&self) -> Result<(), Broken> {
        let fresh = |known: &Known, task: &Task| {
            task.place == Place::Waiting && !task.tried && task.number > known.since.0
        };
        for (name, known) in self.in_force() {
            let all = self.open().filter(|task| fresh(known, task)).collect::<Vec<_>>();
            if known.limit.depth.is_some_and(|depth| all.len() as u64 > depth) {
                return Err(broken("no_limit_is_exceeded", format!("{name}: {} wait", all.len())));
            }
            let one =
                known.limit.debounce.is_some() || known.limit.singleton == Some(Singleton::Waiting);
            for (place, task) in all.iter().enumerate() {
                let twin = all.iter().skip(place + 1).find(|o| o.customer == task.customer);
                if let Some(twin) = twin.filter(|_| one) {
                    let detail = format!("{name}: {} and {} wait", task.id, twin.id);
                    return Err(broken("no_limit_is_exceeded", detail));
                }
            }
        }
        Ok(())
    }
}
