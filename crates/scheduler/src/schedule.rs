//! **Pure.** The schedules as the log tells them, and what is to be decided about them.
//!
//! Two things are known about each: up to where its ticks were decided, and which of its runs are
//! open. Both follow from the log alone: a run is a `task.created` that names its tick, and ticks
//! without a run are passed over by a `policy.schedule_advanced`. So whoever reads the log goes on
//! where the last leader was, and a tick that two leaders decide has one id and one task.

pub mod fire;
pub mod pattern;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use common::{
    id::{TaskId, TaskKey, Tenant},
    policy::schedule::{Advanced, Schedule, before, tick_of},
    task::TaskSpec,
    time::Timestamp,
};

use self::fire::{Beside, Facts, Step, Why};

/// A run that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its identity.
    pub key: TaskKey,
    /// Its id.
    pub id: TaskId,
}

/// What the log says about one schedule.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Its newest version; `None` when it was removed.
    pub schedule: Option<Schedule>,
    /// Every tick up to here was decided; `None` when nothing of it was read yet.
    pub decided: Option<Timestamp>,
    /// The message that says so, also to who begins after the version was set.
    pub stated: u64,
    /// When its version was set, by the log's time.
    pub since: Timestamp,
    /// The last tick that had a run.
    pub last: Option<Timestamp>,
    /// Its open runs, by their ids.
    pub runs: Vec<Run>,
    /// Decided up to here, and on its way into the log.
    pub(crate) asked: Option<Timestamp>,
    pub(crate) alarm: Option<Timestamp>,
}

/// What follows from a decision about a schedule.
#[derive(Clone, Debug)]
pub enum Order {
    /// A task is to be created.
    Create {
        /// Whose run it is.
        name: Box<str>,
        /// Its tick.
        tick: Timestamp,
        /// The task.
        spec: Box<TaskSpec>,
        /// These are asked to end first.
        cancel: Vec<TaskId>,
    },
    /// Ticks have no run.
    Advance(Advanced),
}

/// All schedules.
#[derive(Debug, Default)]
pub struct Schedules {
    known: BTreeMap<Box<str>, Known>,
    /// Whose run an open task is.
    runs: HashMap<TaskKey, Box<str>>,
    /// When each is to be decided next; a follower keeps none, so that it folds fast.
    alarms: BTreeSet<(Timestamp, Box<str>)>,
    /// Task types whose tasks would wait: there are none for ticks.
    disabled: HashSet<Box<str>>,
    /// Where schedules stood when the log was cut: what one needs to know who reads up to there.
    stood: HashMap<Box<str>, Timestamp>,
    leads: bool,
}

impl Schedules {
    /// What is known about a schedule.
    pub fn get(&self, name: &str) -> Option<&Known> {
        self.known.get(name)
    }

    /// Every schedule.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Known)> {
        self.known.iter().map(|(name, known)| (name.as_ref(), known))
    }

    /// A version was set at that time. Its ticks begin then, unless it has
    /// those of the version before: nothing that lies before a change follows from it, and nothing
    /// that was missed in a pause.
    pub fn set(&mut self, name: &str, schedule: Schedule, at: Timestamp) {
        let known = self.known.entry(name.into()).or_default();
        let old = known.schedule.as_ref();
        let old = old.filter(|old| !old.is_paused_at(at) && old.has_ticks_of(&schedule));
        let through = match old {
            // Of one whose pause ended by itself, all before that end is decided.
            Some(old) if known.decided.is_some() => old.paused_until().map(before),
            Some(_) | None => Some(at),
        };
        known.schedule = Some(schedule);
        if let Some(through) = through {
            // Who does not know the version before, since the log was cut between the two, cannot know
            // whether this one goes on with its ticks. The cut says it.
            known.decide(self.stood.get(name).map_or(through, |stood| through.min(*stood)), 0);
        }
        // Who begins where the log was cut may learn the schedule here, and from a message of its own
        // where it stands.
        (known.stated, known.since) = (0, at);
        self.wake(name);
    }

    /// This is its version; where it stands is said elsewhere.
    pub fn learn(&mut self, name: &str, schedule: Schedule) {
        self.known.entry(name.into()).or_default().schedule = Some(schedule);
        self.wake(name);
    }

    /// It is no more. Its open runs go on.
    pub fn remove(&mut self, name: &str) {
        if let Some(known) = self.known.get_mut(name) {
            (known.schedule, known.decided, known.last, known.stated) = (None, None, None, 0);
        }
        self.wake(name);
        self.drop_if_nothing_is_left(name);
    }

    /// A task type was disabled, or is not any more.
    pub fn turned(&mut self, task_type: &str, is_disabled: bool) {
        if is_disabled {
            self.disabled.insert(task_type.into());
        } else {
            self.disabled.remove(task_type);
        }
    }

    /// Whether a schedule has no runs since their type is disabled.
    pub fn rests(&self, schedule: &Schedule) -> bool {
        rests(schedule, &self.disabled)
    }

    /// The log has a submission, for the first time or again: its tick is decided.
    pub fn created(&mut self, spec: &TaskSpec, sequence: u64) {
        if let Some((name, Some(tick))) = tick_of(spec)
            && let Some(known) = self.set_one(name)
            && known.schedule.as_ref().is_some_and(|of| of.tenant() == spec.tenant())
        {
            known.decide(tick, sequence);
            known.last = known.last.max(Some(tick));
            self.wake(name);
        }
    }

    /// The schedule of this name, unless it was removed.
    fn set_one(&mut self, name: &str) -> Option<&mut Known> {
        self.known.get_mut(name).filter(|known| known.schedule.is_some())
    }

    /// A run is open.
    pub fn opened(&mut self, name: &str, run: Run) {
        if self.runs.insert(run.key, name.into()).is_none() {
            let runs = &mut self.known.entry(name.into()).or_default().runs;
            // The same order, however it was learned: that of the ticks.
            runs.insert(runs.partition_point(|other| other.id < run.id), run);
        }
    }

    /// A task is over.
    pub fn ended(&mut self, key: TaskKey) {
        let Some(name) = self.runs.remove(&key) else { return };
        if let Some(known) = self.known.get_mut(&name) {
            known.runs.retain(|run| run.key != key);
        }
        self.drop_if_nothing_is_left(&name);
    }

    /// The log says that ticks have no run, or up to where all is decided.
    pub fn advanced(&mut self, advanced: &Advanced, sequence: u64) {
        let Some(known) = self.set_one(&advanced.name) else { return };
        known.decide(advanced.through, sequence);
        if advanced.why.is_empty() && known.decided == Some(advanced.through) {
            known.stated = known.stated.max(sequence);
        }
        known.last = known.last.max(advanced.last);
        self.wake(&advanced.name);
    }

    /// Takes in where a schedule stood when the log was cut, before the log is read up to there.
    pub fn preload(&mut self, advanced: &Advanced) {
        if advanced.why.is_empty() {
            let stood = self.stood.entry(advanced.name.as_str().into()).or_default();
            *stood = advanced.through.max(*stood);
        }
    }

    /// Where the log was cut is read.
    pub fn trimmed(&mut self) {
        self.stood.clear();
    }

    /// Puts back what was stored.
    pub fn restore(&mut self, name: &str, known: Known) {
        for run in &known.runs {
            self.runs.insert(run.key, name.into());
        }
        self.known.insert(name.into(), known);
        self.wake(name);
    }

    /// Begins to decide. What was on its way is seen in the log, or is decided anew; a schedule of
    /// which the log tells nothing begins now.
    pub fn lead(&mut self, clock: Timestamp) {
        self.leads = true;
        for name in self.known.keys().cloned().collect::<Vec<_>>() {
            if let Some(known) = self.known.get_mut(&name) {
                known.asked = None;
                if known.schedule.is_some() {
                    known.decided.get_or_insert(clock);
                }
            }
            self.wake(&name);
        }
    }

    /// Stops deciding.
    pub fn follow(&mut self) {
        self.leads = false;
        self.alarms.clear();
        for known in self.known.values_mut() {
            known.alarm = None;
        }
    }

    /// When the next decision is due.
    pub fn next_alarm(&self) -> Option<Timestamp> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// What is to be decided now: of each schedule one thing, until the log has it.
    pub fn orders(&mut self, now: Timestamp, max: usize) -> Vec<Order> {
        let mut orders = Vec::new();
        while orders.len() < max
            && let Some((at, _)) = self.alarms.first()
            && *at <= now
            && let Some((_, name)) = self.alarms.pop_first()
        {
            let Some(known) = self.known.get_mut(&name) else { continue };
            known.alarm = None;
            if let Some((order, through)) = known.order(&name, now, &self.disabled) {
                known.asked = Some(through);
                orders.push(order);
            }
        }
        orders
    }

    /// What was decided did not get into the log: it is decided again then.
    pub fn put_back(&mut self, name: &str, again: Timestamp) {
        let Some(known) = self.known.get_mut(name) else { return };
        known.asked = None;
        let again = known.schedule.as_ref().map(|_| again).filter(|_| self.leads);
        self.ring(name, again);
    }

    /// Up to where each is decided, of those of which a log that begins at `floor` would not tell.
    pub fn to_state(&self, floor: u64) -> Vec<Advanced> {
        let unsaid = self.known.iter().filter(|(_, known)| {
            known.schedule.is_some() && known.stated < floor && known.decided.is_some()
        });
        let said = unsaid.filter_map(|(name, known)| {
            Some(Advanced {
                name: name.to_string(),
                through: known.decided?,
                last: known.last,
                why: String::new(),
            })
        });
        said.collect()
    }

    /// Sets the alarm of a schedule anew.
    fn wake(&mut self, name: &str) {
        if !self.leads {
            return;
        }
        let at = self.known.get(name).and_then(|known| {
            let schedule = known.schedule.as_ref().filter(|_| known.asked.is_none())?;
            fire::alarm(schedule, name, known.decided?)
        });
        self.ring(name, at);
    }

    fn ring(&mut self, name: &str, at: Option<Timestamp>) {
        let Some(known) = self.known.get_mut(name) else { return };
        if let Some(before) = std::mem::replace(&mut known.alarm, at) {
            self.alarms.remove(&(before, name.into()));
        }
        if let Some(at) = at {
            self.alarms.insert((at, name.into()));
        }
    }

    fn drop_if_nothing_is_left(&mut self, name: &str) {
        if self.known.get(name).is_some_and(|k| k.schedule.is_none() && k.runs.is_empty()) {
            self.known.remove(name);
        }
    }
}

fn rests(schedule: &Schedule, disabled: &HashSet<Box<str>>) -> bool {
    schedule.type_of_runs().is_some_and(|name| disabled.contains(name))
}

impl Known {
    /// Every tick up to here is decided: the message says so.
    fn decide(&mut self, through: Timestamp, sequence: u64) {
        if self.decided.is_none_or(|decided| decided <= through) {
            self.decided = Some(through);
            // Whoever learns the version and not the one before takes it to stand at least there.
            if through >= self.since {
                self.stated = self.stated.max(sequence);
            }
        }
        if self.asked <= self.decided {
            self.asked = None;
        }
    }

    /// The open runs of a tenant.
    pub fn runs_of(&self, tenant: &Tenant) -> Vec<TaskId> {
        let same = |run: &&Run| run.key == TaskKey::new(tenant, &run.id);
        self.runs.iter().filter(same).map(|run| run.id.clone()).collect()
    }

    /// The next decision, and up to where it decides.
    fn order(
        &self,
        name: &str,
        now: Timestamp,
        disabled: &HashSet<Box<str>>,
    ) -> Option<(Order, Timestamp)> {
        let schedule = self.schedule.as_ref()?;
        let open = self.runs_of(&schedule.tenant());
        let facts = Facts { decided: self.decided?, open: open.len(), now };
        let skip = |through, why: Why| {
            let (name, why) = (name.to_owned(), why.word().to_owned());
            // The last run's tick as well: the cut may take away what says it.
            let last = self.last;
            (Order::Advance(Advanced { name, through, last, why }), through)
        };
        let (tick, beside) = match fire::step(schedule, name, facts)? {
            Step::Skip { through, why } => return Some(skip(through, why)),
            Step::Run { tick, .. } if rests(schedule, disabled) => {
                return Some(skip(tick, Why::Disabled));
            }
            Step::Run { tick, beside } => (tick, beside),
        };
        let waits_for = match beside {
            Beside::Nothing => &[],
            Beside::Waits | Beside::Cancels => open.as_slice(),
        };
        let Ok(spec) = schedule.run(name, tick, waits_for) else {
            // The door has tried it; a document that came another way is not worth a stop.
            return Some(skip(tick, Why::Taken));
        };
        let cancel = if beside == Beside::Cancels { open } else { Vec::new() };
        Some((Order::Create { name: name.into(), tick, spec: Box::new(spec), cancel }, tick))
    }
}

#[cfg(test)]
mod tests;
