//! **Pure.** The schedules in the planner: what the log says about them, and what is kept of that.

use common::{
    event::Carried,
    id::{DocumentName, TaskId, TaskKey},
    policy::{
        Body, Document, Kind,
        schedule::{Schedule, tick_of},
    },
    task::TaskSpec,
    time::Timestamp,
};

use super::{
    Planner,
    store::{StoredRun, StoredSchedule, key, stored_key},
};
use crate::schedule::{Known, Order, Run, Schedules};

impl Planner {
    /// The schedules, and where each stands.
    pub fn schedules(&self) -> &Schedules {
        &self.schedules
    }

    /// What is to be decided about schedules now, if this process leads: at most `max`.
    pub fn schedule_orders(&mut self, max: usize) -> Vec<Order> {
        if self.leading_since.is_none() {
            return Vec::new();
        }
        self.schedules.orders(self.clock, max)
    }

    /// What was decided about a schedule did not get into the log: it is decided again later.
    pub fn put_back_order(&mut self, name: &str, again: Timestamp) {
        self.schedules.put_back(name, again);
    }

    /// A document of the log holds from now on.
    pub(super) fn schedule_changed(&mut self, document: &Document) {
        let name = document.name.as_str();
        match &document.body {
            Body::Schedule(body) => {
                if let Ok(schedule) = Schedule::parse(body) {
                    self.schedules.set(name, schedule, self.log_clock);
                }
            }
            Body::Removed(Kind::Schedule) => self.schedules.remove(name),
            Body::Limit(_) | Body::TaskType(_) | Body::Removed(Kind::Limit | Kind::TaskType) => {}
        }
    }

    /// The documents that were stored or carried are there.
    pub(super) fn learn_schedules(&mut self) {
        for known in self.policies.of(Some(Kind::Schedule)) {
            if let Body::Schedule(body) = &known.document.body
                && let Ok(schedule) = Schedule::parse(body)
            {
                self.schedules.learn(known.document.name.as_str(), schedule);
            }
        }
    }

    /// A run is open.
    pub(super) fn run_opened(&mut self, key: TaskKey, spec: &TaskSpec) {
        if let Some(((name, _), id)) = tick_of(spec).zip(spec.id()) {
            self.schedules.opened(name, Run { key, id });
        }
    }

    /// A run that is open was carried.
    pub(super) fn run_carried(&mut self, key: TaskKey, carried: &Carried) {
        if let Some(spec) = &carried.spec {
            self.run_opened(key, spec);
        }
    }

    pub(super) fn store_schedules(&self) -> Vec<StoredSchedule> {
        let store = |(name, known): (&str, &Known)| StoredSchedule {
            name: name.to_owned(),
            decided: known.decided.map(Timestamp::micros),
            stated: known.stated,
            since: known.since.micros(),
            last: known.last.map(Timestamp::micros),
            runs: known
                .runs
                .iter()
                .map(|run| StoredRun { key: stored_key(run.key), id: run.id.to_string() })
                .collect(),
        };
        self.schedules.iter().map(store).collect()
    }

    pub(super) fn restore_schedules(&mut self, stored: Vec<StoredSchedule>) -> Option<()> {
        for schedule in stored {
            let run =
                |run: StoredRun| Some(Run { key: key(run.key), id: TaskId::parse(&run.id).ok()? });
            let known = Known {
                decided: schedule.decided.map(Timestamp::from_micros),
                stated: schedule.stated,
                since: Timestamp::from_micros(schedule.since),
                last: schedule.last.map(Timestamp::from_micros),
                runs: schedule.runs.into_iter().map(run).collect::<Option<_>>()?,
                ..Known::default()
            };
            let name = DocumentName::parse(&schedule.name).ok()?;
            self.schedules.restore(name.as_str(), known);
        }
        self.learn_schedules();
        Some(())
    }
}
