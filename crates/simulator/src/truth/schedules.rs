//! **Pure.** The onlooker's account of schedules: where each stands by what the log says, and which
//! ticks have had a task, for ever.

use std::collections::BTreeMap;

use common::{
    policy::schedule::{Advanced, Schedule, before},
    time::Timestamp,
};

use crate::invariants::{self, Broken};

/// What is known about a schedule after a message.
#[derive(Clone, Debug, Default)]
pub struct Stand {
    /// Its version; `None` when there is none.
    pub schedule: Option<Schedule>,
    /// Every tick up to here is decided.
    pub decided: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Account {
    /// How it stood after each message that changed that.
    history: Vec<(u64, Stand)>,
    /// Ticks that have had a task, and the message that says so.
    fired: BTreeMap<Timestamp, u64>,
}

/// The accounts of all schedules.
#[derive(Debug, Default)]
pub struct Schedules {
    known: BTreeMap<String, Account>,
    clock: Timestamp,
}

impl Schedules {
    /// The log's time goes on.
    pub(super) fn read(&mut self, at: Timestamp) {
        self.clock = self.clock.max(at);
    }

    /// How a schedule stood after a message.
    pub fn at(&self, name: &str, sequence: u64) -> Stand {
        let account = self.known.get(name);
        let upto = account.and_then(|a| a.history.iter().rev().find(|(at, _)| *at <= sequence));
        upto.map(|(_, stand)| stand.clone()).unwrap_or_default()
    }

    /// Whether a tick has had its task after a message.
    pub fn has_fired(&self, name: &str, tick: Timestamp, sequence: u64) -> bool {
        let fired = self.known.get(name).and_then(|account| account.fired.get(&tick));
        fired.is_some_and(|at| *at <= sequence)
    }

    /// Every schedule that there is, as it stands now.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Schedule, Timestamp)> {
        self.known.iter().filter_map(|(name, account)| {
            let (_, Stand { schedule, decided }) = account.history.last()?;
            Some((name.as_str(), schedule.as_ref()?, (*decided)?))
        })
    }

    /// A version of it was set, or it was removed. Ticks begin then, unless they are those of the
    /// version before.
    pub(super) fn set(&mut self, sequence: u64, name: &str, schedule: Option<Schedule>) {
        let clock = self.clock;
        let stand = self.at(name, u64::MAX);
        let account = self.known.entry(name.to_owned()).or_default();
        let decided = match (&stand.schedule, &schedule) {
            (_, None) => {
                // A schedule of this name is another one from here on.
                account.fired.clear();
                None
            }
            (Some(old), Some(new)) if !old.is_paused_at(clock) && old.has_ticks_of(new) => {
                stand.decided
            }
            (_, Some(_)) => stand.decided.max(Some(clock)),
        };
        account.history.push((sequence, Stand { schedule, decided }));
    }

    /// The log has a tick's task: as a new task, or once more.
    pub(super) fn created(
        &mut self,
        sequence: u64,
        (name, tick): (&str, Timestamp),
        is_new: bool,
    ) -> Result<(), Broken> {
        let Stand { schedule, decided } = self.at(name, u64::MAX);
        let account = self.known.entry(name.to_owned()).or_default();
        if is_new && account.fired.insert(tick, sequence).is_some() {
            return invariants::broken("a_tick_fires_once", format!("{name} at {tick}"));
        }
        let (Some(current), Some(stood)) = (&schedule, decided) else { return Ok(()) };
        // One of an older version may come late.
        let is_tick = current.next(before(tick)) == Some(tick) && !current.is_paused_at(self.clock);
        if is_tick && tick > stood && current.next(stood) != Some(tick) {
            let detail = format!("{name} is decided up to {stood}, and now has the task of {tick}");
            return invariants::broken("no_tick_is_passed_over", detail);
        }
        let decided = Some(stood.max(tick));
        account.history.push((sequence, Stand { schedule, decided }));
        Ok(())
    }

    /// The log says that ticks have no task, or only where the schedule stands.
    pub(super) fn advanced(&mut self, sequence: u64, advanced: &Advanced) -> Result<(), Broken> {
        let Advanced { name, through, why, .. } = advanced;
        let Stand { schedule, decided } = self.at(name, u64::MAX);
        let (Some(current), Some(stood)) = (&schedule, decided) else { return Ok(()) };
        if why.is_empty() && current.next(stood).is_some_and(|next| next <= *through) {
            let detail = format!("{name} is decided up to {stood}, and is carried at {through}");
            return invariants::broken("no_tick_is_passed_over", detail);
        }
        let decided = Some(stood.max(*through));
        if let Some(account) = self.known.get_mut(name) {
            account.history.push((sequence, Stand { schedule, decided }));
        }
        Ok(())
    }
}
