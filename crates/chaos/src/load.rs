//! **Pure.** The work that is submitted, and how each task must end by itself: the same for the
//! same seed.

use std::{collections::BTreeMap, time::Duration};

use common::pb::{self, dependency::On, executor::Kind as Executor};
use serde_json::json;

use crate::plan::Dice;

/// The queue of the handlers.
pub const QUEUE: &str = "chaos";
/// The handler that does what its input says.
pub const HANDLER: &str = "chaos";
/// By which the tasks of all runs are found.
pub const SUBSYSTEM: &str = "chaos";
/// The variable of a shell task that names its journal.
pub const JOURNAL: &str = "CHAOS_JOURNAL";
/// The variable by which the processes of a run are found.
pub const MARK: &str = "CHAOS_MARK";

/// The way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// With an id of its own, on a subject that takes one message.
    Keyed,
    /// Without an id, in a bundle with others.
    Fresh,
    /// With an id of its own in a bundle, where only the fold knows a repeat.
    Bundled,
}

/// How a task ends when nothing comes between and its dependencies let it run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// It completes after so many errors.
    Completes(u16),
    /// It fails after so many errors.
    Fails(u16),
    /// It takes too long, once.
    TimesOut,
    /// Somebody cancels it, which may come too late.
    Cancelled,
}

/// One task of the load.
#[derive(Clone, Debug)]
pub struct Item {
    /// The way in.
    pub door: Door,
    /// What is submitted.
    pub spec: pb::TaskSpec,
    /// How it ends.
    pub own: Own,
}

/// What the load is made of.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Decides everything else.
    pub seed: u64,
    /// How many tasks.
    pub tasks: usize,
    /// Which run this is: the beginning of every id.
    pub run: String,
    /// The journal of shell tasks; without one there are none.
    pub shell_journal: Option<String>,
}

struct Builder {
    dice: Dice,
    mix: Mix,
    items: Vec<Item>,
}

/// Draws the load.
pub fn draw(mix: Mix) -> Vec<Item> {
    let mut builder = Builder { dice: Dice::new(mix.seed, 2), items: Vec::new(), mix };
    while builder.items.len() < builder.mix.tasks {
        builder.group();
    }
    // A group that was cut has lost dependents only: these come last.
    builder.items.truncate(builder.mix.tasks);
    builder.items
}

/// What one task does.
#[derive(Clone, Copy, Default)]
struct Does {
    millis: u64,
    fails: u16,
}

impl Builder {
    fn group(&mut self) {
        match self.dice.below(100) {
            0..=37 => {
                self.single(Does::default(), Own::Completes(0));
            }
            38..=47 => self.chain(),
            48..=54 => self.diamond(),
            55..=61 => self.failing_branch(),
            62..=69 => {
                let fails = self.dice.between(1, 3) as u16;
                self.single(Does { millis: 0, fails }, Own::Completes(fails));
            }
            70..=75 => {
                let n = self.single(Does::default(), Own::Completes(0));
                let delay = Duration::from_millis(self.dice.between(500, 8_000));
                self.change(n, |spec| spec.delay = Some(delay.into()));
            }
            76..=84 => {
                let millis = self.dice.between(500, 4_000);
                self.single(Does { millis, fails: 0 }, Own::Completes(0));
            }
            85..=86 => {
                let millis = self.dice.between(5_000, 10_000);
                self.single(Does { millis, fails: 0 }, Own::Completes(0));
            }
            87..=94 => self.shell(),
            95..=96 => {
                let n = self.single(Does { millis: 6_000, fails: 0 }, Own::TimesOut);
                self.change(n, |spec| {
                    let run = Some(Duration::from_secs(1).into());
                    spec.timeouts = Some(pb::Timeouts { run, ..pb::Timeouts::default() });
                    spec.retry.get_or_insert_default().max_attempts = Some(1);
                });
            }
            _ => {
                self.keyed(Does { millis: 8_000, fails: 0 }, Own::Cancelled, &[]);
            }
        }
    }

    fn id(&self, n: usize) -> String {
        format!("{}-{n}", self.mix.run)
    }

    fn change(&mut self, n: usize, change: impl FnOnce(&mut pb::TaskSpec)) {
        if let Some(item) = self.items.get_mut(n) {
            change(&mut item.spec);
        }
    }

    /// Adds a task by any door, on which nobody depends.
    fn single(&mut self, does: Does, own: Own) -> usize {
        let n = self.keyed(does, own, &[]);
        let door = match self.dice.below(10) {
            0..=4 => Door::Keyed,
            5..=7 => Door::Fresh,
            _ => Door::Bundled,
        };
        if let Some(item) = self.items.get_mut(n) {
            item.door = door;
            if door == Door::Fresh {
                item.spec.task_id.clear();
            }
        }
        n
    }

    /// Adds a task with an id of its own.
    fn keyed(&mut self, does: Does, own: Own, depends_on: &[(usize, On)]) -> usize {
        let n = self.items.len();
        let tries = match own {
            Own::Completes(errors) => errors + 2,
            Own::Fails(errors) => errors,
            Own::TimesOut | Own::Cancelled => 1,
        };
        let input = json!({ "ms": does.millis, "fails": does.fails });
        let executor = Executor::Worker(pb::Worker { handler: HANDLER.into() });
        let spec = pb::TaskSpec {
            task_id: self.id(n),
            subsystem: SUBSYSTEM.into(),
            title: format!("{} {n}", self.mix.run),
            created_by: "jetmill chaos".into(),
            priority: Some(self.dice.between(1, 10) as i32),
            queue: QUEUE.into(),
            executor: Some(pb::Executor { kind: Some(executor) }),
            input: Some(pb::Json::from_value(&input)),
            depends_on: depends_on
                .iter()
                .map(|(other, on)| pb::Dependency { task_id: self.id(*other), on: (*on).into() })
                .collect(),
            retry: Some(pb::Retry {
                max_attempts: Some(tries.into()),
                backoff: Some(Duration::from_millis(200).into()),
                backoff_max: Some(Duration::from_secs(1).into()),
                ..pb::Retry::default()
            }),
            ..pb::TaskSpec::default()
        };
        self.items.push(Item { door: Door::Keyed, spec, own });
        n
    }

    fn chain(&mut self) {
        let mut last = self.keyed(Does::default(), Own::Completes(0), &[]);
        for _ in 0..self.dice.between(2, 4) {
            let fails = u16::from(self.dice.percent(20));
            let does = Does { millis: self.dice.below(3) * 100, fails };
            last = self.keyed(does, Own::Completes(fails), &[(last, On::Success)]);
        }
    }

    fn diamond(&mut self) {
        let top = self.keyed(Does::default(), Own::Completes(0), &[]);
        let sides = [300, 900].map(|millis| {
            self.keyed(Does { millis, fails: 0 }, Own::Completes(0), &[(top, On::Success)])
        });
        let edges = sides.map(|side| (side, On::Success));
        self.keyed(Does::default(), Own::Completes(0), &edges);
    }

    fn failing_branch(&mut self) {
        let tries = self.dice.between(1, 2) as u16;
        let bad = self.keyed(Does { millis: 0, fails: u16::MAX }, Own::Fails(tries), &[]);
        for on in [On::Success, On::Failure, On::End] {
            let next = self.keyed(Does::default(), Own::Completes(0), &[(bad, on)]);
            if self.dice.percent(30) {
                self.keyed(Does::default(), Own::Completes(0), &[(next, On::Success)]);
            }
        }
    }

    fn shell(&mut self) {
        let Some(journal) = self.mix.shell_journal.clone() else {
            self.single(Does { millis: 200, fails: 0 }, Own::Completes(0));
            return;
        };
        // What is long is a group of processes, all of which must end with the attempt.
        let work = match self.dice.below(4) {
            0 => format!("sleep {} & wait", self.dice.between(1, 4)),
            _ => "true".to_owned(),
        };
        let note = |what: &str| {
            format!(
                "printf '{{\"task\":\"%s\",\"attempt\":%s,\"worker\":\"shell\",\"what\":\"{what}\"}}\\n' \
                 \"$JETMILL_TASK_ID\" \"$JETMILL_ATTEMPT\" >> \"${JOURNAL}\""
            )
        };
        let script = format!("{}\n{work}\n{}", note("start"), note("end"));
        let env = BTreeMap::from([
            (JOURNAL.to_owned(), journal),
            (MARK.to_owned(), self.mix.run.clone()),
        ]);
        let shell = pb::Shell { script, env: env.into_iter().collect(), ..pb::Shell::default() };
        let n = self.single(Does::default(), Own::Completes(0));
        self.change(n, |spec| {
            spec.queue.clear();
            spec.input = None;
            spec.executor = Some(pb::Executor { kind: Some(Executor::Shell(shell)) });
        });
    }
}

/// The place of a task in the load, from its title.
pub fn place(run: &str, title: &str) -> Option<usize> {
    title.strip_prefix(run)?.strip_prefix(' ')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(seed: u64) -> Mix {
        Mix { seed, tasks: 500, run: "run".into(), shell_journal: Some("/j".into()) }
    }

    #[test]
    fn a_seed_is_a_load_of_valid_tasks() {
        let items = draw(mix(1));
        assert_eq!(items.len(), 500);
        let text = |items: &[Item]| format!("{items:?}");
        assert_eq!(text(&items), text(&draw(mix(1))));
        assert_ne!(text(&items), text(&draw(mix(2))));
        for (n, item) in items.iter().enumerate() {
            common::task::TaskSpec::parse(item.spec.clone()).expect("a valid task");
            assert_eq!(place("run", &item.spec.title), Some(n));
        }
    }

    #[test]
    fn dependencies_come_first_and_have_ids() {
        let items = draw(mix(3));
        for (n, item) in items.iter().enumerate() {
            for edge in &item.spec.depends_on {
                let other = items.iter().position(|i| i.spec.task_id == edge.task_id);
                assert!(other.expect("it is there") < n);
            }
        }
        assert!(items.iter().any(|item| item.door == Door::Fresh));
    }
}
