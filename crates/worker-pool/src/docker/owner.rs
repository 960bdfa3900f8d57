//! **Pure.** Whose container it is, and when nobody runs it any more.
//!
//! An engine is shared: with people, with other programs, with other Jetmills. A container is touched
//! only when its labels say that it is of this log, and that its attempt is over or its worker gone.

use std::collections::{BTreeSet, HashMap};

use common::id::TaskKey;
use jetmill_sdk::worker::Execution;

const LOG: &str = "jetmill.log";
const WORKER: &str = "jetmill.worker";
const TENANT: &str = "jetmill.tenant";
const TASK: &str = "jetmill.task";
const ATTEMPT: &str = "jetmill.attempt";
/// Of a log's identity in the name of a container.
const LOG_CHARS: usize = 8;

/// The attempt that a container belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// The identity of the log: another Jetmill has another one.
    pub(super) log: String,
    pub(super) worker: String,
    pub(super) tenant: String,
    pub(super) task: String,
    pub(super) attempt: u32,
}

/// A container that the engine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: String,
    pub(super) owner: Owner,
    /// What its owner calls it.
    pub(super) name: String,
}

impl Owner {
    pub(super) fn of(log: &str, worker: &str, execution: &Execution) -> Self {
        Self {
            log: log.to_owned(),
            worker: worker.to_owned(),
            tenant: execution.tenant.to_string(),
            task: execution.id.to_string(),
            attempt: execution.attempt,
        }
    }

    /// The name of a container of this attempt, the same whoever runs it.
    pub(super) fn name(log: &str, key: TaskKey, attempt: u32) -> String {
        let log = log.chars().take(LOG_CHARS).collect::<String>();
        format!("jetmill-{log}-{:032x}-{attempt}", key.0)
    }

    pub(super) fn labels(&self) -> HashMap<String, String> {
        let attempt = self.attempt.to_string();
        let labels = [
            (LOG, &self.log),
            (WORKER, &self.worker),
            (TENANT, &self.tenant),
            (TASK, &self.task),
            (ATTEMPT, &attempt),
        ];
        labels.map(|(name, value)| (name.to_owned(), value.clone())).into()
    }

    /// What the labels of a container say; `None` when it is none of Jetmill's.
    pub(super) fn read(labels: &HashMap<String, String>) -> Option<Self> {
        let text = |name: &str| labels.get(name).cloned();
        Some(Self {
            log: text(LOG)?,
            worker: text(WORKER)?,
            tenant: text(TENANT)?,
            task: text(TASK)?,
            attempt: text(ATTEMPT)?.parse().ok()?,
        })
    }

    pub(super) fn is_same_task(&self, other: &Self) -> bool {
        (&self.log, &self.tenant, &self.task) == (&other.log, &other.tenant, &other.task)
    }

    /// A filter for the containers of the same task.
    pub(super) fn filter_task(&self) -> HashMap<String, Vec<String>> {
        let labels = [(LOG, &self.log), (TENANT, &self.tenant), (TASK, &self.task)];
        filter(&labels)
    }
}

/// A filter for the containers of a log.
pub(super) fn filter_log(log: &str) -> HashMap<String, Vec<String>> {
    filter(&[(LOG, &log.to_owned())])
}

fn filter(labels: &[(&str, &String)]) -> HashMap<String, Vec<String>> {
    let labels = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    HashMap::from([("label".to_owned(), labels)])
}

/// Who looks for orphans, and what it has seen before.
#[derive(Debug)]
pub(super) struct Lookout {
    log: String,
    worker: String,
    /// Workers that were not among the living at the last look.
    absent: BTreeSet<String>,
}

impl Lookout {
    pub(super) fn new(log: &str, worker: &str) -> Self {
        Self { log: log.to_owned(), worker: worker.to_owned(), absent: BTreeSet::new() }
    }

    pub(super) fn log(&self) -> &str {
        &self.log
    }

    /// Whether the living must be known to judge these.
    pub(super) fn needs_the_living(&self, found: &[Found]) -> bool {
        found.iter().any(|c| c.owner.log == self.log && c.owner.worker != self.worker)
    }

    /// The containers that nobody runs. `running` are the names of those that this worker runs, as
    /// known after `found`; `living` are the workers with a heartbeat.
    ///
    /// A worker that this one does not see twice in a row is gone: by then the scheduler has given
    /// its attempts up. Who does not find itself among the living is cut off, and judges nobody.
    pub(super) fn orphans<'a>(
        &mut self,
        found: &'a [Found],
        running: &BTreeSet<String>,
        living: Option<&BTreeSet<String>>,
    ) -> Vec<&'a Found> {
        let living = living.filter(|living| living.contains(&self.worker));
        let absent = match living {
            Some(living) => {
                let workers = found.iter().map(|container| container.owner.worker.clone());
                workers.filter(|worker| !living.contains(worker)).collect()
            }
            None => BTreeSet::new(),
        };
        let before = std::mem::replace(&mut self.absent, absent);
        let is_orphan = |container: &&Found| {
            let owner = &container.owner;
            if owner.log != self.log {
                false
            } else if owner.worker == self.worker {
                !running.contains(&container.name)
            } else {
                before.contains(&owner.worker) && self.absent.contains(&owner.worker)
            }
        };
        found.iter().filter(is_orphan).collect()
    }
}

#[cfg(test)]
mod tests {
    use common::id::{TaskId, Tenant};

    use super::*;

    fn found(log: &str, worker: &str, name: &str) -> Found {
        let owner = Owner {
            log: log.into(),
            worker: worker.into(),
            tenant: "default".into(),
            task: "a=b \" ü".into(),
            attempt: 3,
        };
        Found { id: format!("id-{name}"), owner, name: name.into() }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn labels_say_whose_it_is() {
        let owner = found("log", "me", "a").owner;
        assert_eq!(Owner::read(&owner.labels()), Some(owner.clone()));
        let mut labels = owner.labels();
        labels.insert(ATTEMPT.into(), "x".into());
        assert_eq!(Owner::read(&labels), None);
        assert_eq!(Owner::read(&HashMap::new()), None);
        let other = Owner { attempt: 4, worker: "you".into(), ..owner.clone() };
        assert!(owner.is_same_task(&other));
        assert!(!owner.is_same_task(&Owner { log: "other".into(), ..owner.clone() }));
    }

    #[test]
    fn names_differ_by_log_task_and_attempt() {
        let key = |id: &str| TaskKey::new(&Tenant::default(), &TaskId::parse(id).expect("an id"));
        let names = [
            Owner::name("0123456789", key("a"), 1),
            Owner::name("0123456789", key("a"), 2),
            Owner::name("0123456789", key("b"), 1),
            Owner::name("9876543210", key("a"), 1),
        ];
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(names[0].starts_with("jetmill-01234567-") && names[0].len() < 64, "{}", names[0]);
    }

    #[test]
    fn what_this_worker_does_not_run_is_an_orphan_of_its_own() {
        let mut lookout = Lookout::new("log", "me");
        let all = [
            found("log", "me", "runs"),
            found("log", "me", "left"),
            found("other", "me", "theirs"),
        ];
        assert!(!lookout.needs_the_living(&all));
        let orphans = lookout.orphans(&all, &set(&["runs"]), None);
        assert_eq!(orphans, [&all[1]]);
    }

    #[test]
    fn a_worker_is_gone_when_it_was_missed_twice_in_a_row() {
        let mut lookout = Lookout::new("log", "me");
        let all = [found("log", "you", "a")];
        assert!(lookout.needs_the_living(&all));
        let mut judge = |living: Option<&[&str]>| {
            lookout.orphans(&all, &set(&[]), living.map(set).as_ref()).len()
        };
        assert_eq!(judge(Some(&["me", "you"])), 0);
        assert_eq!(judge(Some(&["me"])), 0, "missed once");
        assert_eq!(judge(Some(&["me", "you"])), 0, "and back");
        assert_eq!(judge(Some(&["me"])), 0);
        assert_eq!(judge(None), 0, "nobody knows");
        assert_eq!(judge(Some(&["me"])), 0, "so it counts anew");
        assert_eq!(judge(Some(&[])), 0, "this one is cut off itself");
        assert_eq!(judge(Some(&["me"])), 0);
        assert_eq!(judge(Some(&["me"])), 1);
    }
}
