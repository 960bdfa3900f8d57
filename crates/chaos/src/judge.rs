//! **Pure.** The verdict: what the log, the ledger and the other streams say when all is at rest,
//! against what was submitted. It believes no service, and knows the scheduler's rules by itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use common::{
    lifecycle::{Cause, Phase, State},
    limits,
    pb::{self, dependency::On},
    time::Timestamp,
};

use crate::{
    load::{Door, Item, Own},
    observe::Listed,
};

/// What a heartbeat may be late beyond its own rhythm.
const LATE_MAX: Duration = Duration::from_millis(500);

/// One event of a task, as the log has it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the log.
    pub place: (u64, u32),
    /// When the log took it.
    pub at: Timestamp,
    /// The word of its kind.
    pub kind: &'static str,
    /// The attempt that it is about; 0 is none.
    pub attempt: u32,
    /// Why the fold ignored it; empty when it took effect.
    pub ignored: &'static str,
    /// Who said it, and why.
    pub note: String,
}

/// One task, as the log has it.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// What was submitted.
    pub spec: pb::TaskSpec,
    /// Its place in the load.
    pub item: Option<usize>,
    /// Everything that the log says about it.
    pub entries: Vec<Entry>,
    /// The state to which that folds.
    pub state: Option<State>,
}

impl Life {
    /// The event that ended it.
    pub fn end(&self) -> Option<&Entry> {
        let terminal = ["completed", "failed", "cancelled", "skipped"];
        self.entries.iter().find(|e| e.ignored.is_empty() && terminal.contains(&e.kind))
    }

    /// Its history, for people.
    pub fn story(&self) -> String {
        let line = |e: &Entry| {
            let ignored = if e.ignored.is_empty() {
                String::new()
            } else {
                format!(" [ignored: {}]", e.ignored)
            };
            format!(
                "    {:>6}.{} {} {} attempt {} {}{ignored}\n",
                e.place.0, e.place.1, e.at, e.kind, e.attempt, e.note
            )
        };
        self.entries.iter().map(line).collect()
    }
}

/// A time in which the cluster was disturbed, and in which it may have been late.
pub type Window = (Timestamp, Timestamp);

/// Everything that is judged.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The tasks that the log has, by id.
    pub lives: BTreeMap<String, Life>,
    /// The tasks that the ledger has, by id.
    pub rows: HashMap<String, pb::Task>,
    /// Dead letters of tasks: how many, by id.
    pub letters: HashMap<String, u32>,
    /// The ids under which the submitter was told that its items are accepted.
    pub accepted: HashMap<usize, Vec<String>>,
    /// How often it was told nothing.
    pub unsure: HashMap<usize, u32>,
    /// Messages of the load that are left in the work queue.
    pub left_over: Vec<String>,
    /// What heartbeats listed.
    pub listed: Vec<Listed>,
    /// When the cluster was disturbed.
    pub windows: Vec<Window>,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The task, where it is about one.
    pub task: String,
    /// What is wrong.
    pub what: String,
}

struct Judge<'a> {
    items: &'a [Item],
    evidence: &'a Evidence,
    problems: Vec<Problem>,
}

/// Judges; no problems is what it should say.
pub fn judge(items: &[Item], evidence: &Evidence) -> Vec<Problem> {
    let mut judge = Judge { items, evidence, problems: Vec::new() };
    judge.submissions();
    for (id, life) in &evidence.lives {
        judge.life(id, life);
        judge.row(id, life);
        judge.dead(id, life);
    }
    for id in evidence.rows.keys().filter(|id| !evidence.lives.contains_key(*id)) {
        judge.say(id, "the ledger has it, and the log does not");
    }
    for id in evidence.letters.keys().filter(|id| !evidence.lives.contains_key(*id)) {
        judge.say(id, "DEAD has it, and the log does not");
    }
    for subject in &evidence.left_over {
        judge.say("", format!("still in the work queue: {subject}"));
    }
    judge.still_running();
    judge.problems
}

impl Judge<'_> {
    fn say(&mut self, task: &str, what: impl Into<String>) {
        self.problems.push(Problem { task: task.to_owned(), what: what.into() });
    }

    /// Everything that was accepted is known, and nothing else is.
    fn submissions(&mut self) {
        let mut in_log: HashMap<usize, BTreeSet<&str>> = HashMap::new();
        for (id, life) in &self.evidence.lives {
            match life.item {
                Some(n) if n < self.items.len() => {
                    in_log.entry(n).or_default().insert(id);
                }
                _ => self.say(id, "nobody submitted it"),
            }
        }
        for (n, item) in self.items.iter().enumerate() {
            let told = self.evidence.accepted.get(&n).cloned().unwrap_or_default();
            let found = in_log.remove(&n).unwrap_or_default();
            for id in &told {
                if !found.contains(id.as_str()) {
                    self.say(id, "it was accepted, and the log does not have it");
                }
            }
            if told.is_empty() && self.evidence.unsure.get(&n).is_none_or(|unsure| *unsure == 0) {
                self.say(&item.spec.task_id, format!("task {n} was neither accepted nor unsure"));
            }
            let most = match item.door {
                Door::Keyed | Door::Bundled => 1,
                Door::Fresh => told.len() + self.evidence.unsure.get(&n).map_or(0, |u| *u as usize),
            };
            if found.len() > most {
                self.say(&item.spec.task_id, format!("task {n} is there {} times", found.len()));
            }
        }
    }

    /// One end, and the right one.
    fn life(&mut self, id: &str, life: &Life) {
        let Some(state) = life.state else {
            return self.say(id, "the log knows it from reports only");
        };
        let over = |e: &&Entry| {
            e.ignored.is_empty()
                && ["completed", "failed", "cancelled", "skipped"].contains(&e.kind)
        };
        let ends = life.entries.iter().filter(over).count();
        if ends != 1 || !state.phase.is_terminal() {
            return self.say(id, format!("{ends} ends, and it is {:?}", state.phase));
        }
        let Some(item) = life.item.and_then(|n| self.items.get(n)) else { return };
        let allowed = self.allowed(item, state);
        if !allowed.contains(&state.phase) {
            self.say(
                id,
                format!("it ended {:?}, and may have ended {allowed:?} only", state.phase),
            );
        }
        let tries = match (item.own, state.phase) {
            (Own::Completes(errors), Phase::Completed)
            | (Own::Fails(errors), Phase::Failed(Cause::Error)) => Some(errors),
            (Own::TimesOut, Phase::Failed(Cause::Timeout)) => Some(1),
            _ => None,
        };
        if let Some(tries) = tries.filter(|tries| *tries != state.tries) {
            self.say(id, format!("{} errors count, and {tries} were made", state.tries));
        }
        self.in_order(id, life);
    }

    /// How it may have ended, given how its dependencies did.
    fn allowed(&self, item: &Item, state: State) -> Vec<Phase> {
        let mut allowed = Vec::new();
        for edge in &item.spec.depends_on {
            let end = self.evidence.lives.get(&edge.task_id).and_then(|life| life.state);
            match (edge.on(), end.map(|state| state.phase)) {
                (On::Success | On::Unspecified, Some(Phase::Failed(_) | Phase::Cancelled)) => {
                    allowed.push(Phase::Failed(Cause::Dependency));
                }
                (On::Success | On::Unspecified, Some(Phase::Skipped))
                | (On::Failure, Some(Phase::Completed)) => allowed.push(Phase::Skipped),
                _ => {}
            }
        }
        if allowed.is_empty() {
            match item.own {
                Own::Completes(_) => allowed.push(Phase::Completed),
                Own::Fails(_) => allowed.push(Phase::Failed(Cause::Error)),
                Own::TimesOut => allowed.push(Phase::Failed(Cause::Timeout)),
                Own::Cancelled => allowed.extend([Phase::Cancelled, Phase::Completed]),
            }
            if state.losses > limits::LOSSES_MAX {
                allowed.push(Phase::Failed(Cause::Lost));
            }
        }
        allowed
    }

    /// No attempt before its time: after the ends of all dependencies, after the delay.
    fn in_order(&mut self, id: &str, life: &Life) {
        let Some(first) = life.entries.iter().find(|e| e.ignored.is_empty() && e.attempt > 0)
        else {
            return;
        };
        for edge in &life.spec.depends_on {
            let end = self.evidence.lives.get(&edge.task_id).and_then(Life::end);
            if end.is_none_or(|end| end.place > first.place) {
                self.say(id, format!("it ran before {} ended", edge.task_id));
            }
        }
        let delay = life.spec.delay.and_then(common::wire::time::Duration::to_std);
        let created = life.entries.first().map(|e| e.at).unwrap_or_default();
        if let Some(delay) = delay
            && first.at < created.after(delay)
        {
            self.say(id, format!("it ran after {:?}, before its delay", first.at.since(created)));
        }
    }

    /// The ledger says what the log folds to.
    fn row(&mut self, id: &str, life: &Life) {
        let (Some(state), row) = (life.state, self.evidence.rows.get(id)) else { return };
        let Some(row) = row else { return self.say(id, "the ledger does not have it") };
        let cause = pb::Cause::from(state.phase.cause());
        let folded = (state.phase.state(), cause, state.ended, u32::from(state.tries));
        let written = (row.state(), row.cause(), row.attempts, row.tries);
        if folded != written {
            self.say(id, format!("the log says {folded:?}, the ledger {written:?}"));
        }
    }

    /// A letter for each task that failed by itself, and for no other.
    fn dead(&mut self, id: &str, life: &Life) {
        let by_itself = match life.state.map(|state| state.phase) {
            Some(Phase::Failed(cause)) => !matches!(cause, Cause::Dependency | Cause::Expired),
            _ => false,
        };
        let letters = self.evidence.letters.get(id).copied().unwrap_or_default();
        if letters != u32::from(by_itself) {
            let right = u32::from(by_itself);
            self.say(id, format!("DEAD has {letters} letters about it, and should have {right}"));
        }
    }

    /// Within one heartbeat after its end no attempt of a task is listed any more, unless the
    /// cluster was disturbed just then.
    fn still_running(&mut self) {
        let mut latest: BTreeMap<(&str, u32), &Listed> = BTreeMap::new();
        for listed in &self.evidence.listed {
            let newest = latest.entry((&listed.task, listed.attempt)).or_insert(listed);
            if newest.at < listed.at {
                *newest = listed;
            }
        }
        for ((id, attempt), listed) in latest {
            let Some(end) = self.evidence.lives.get(id).and_then(Life::end).map(|end| end.at)
            else {
                continue;
            };
            let disturbed = self.evidence.windows.iter();
            let until = disturbed
                .filter(|(begin, until)| *begin <= listed.at && *until >= end)
                .map(|(_, until)| *until)
                .max()
                .unwrap_or(end);
            if listed.at > until.max(end).after(limits::HEARTBEAT_EVERY + LATE_MAX) {
                let late = listed.at.since(end);
                let worker = &listed.worker;
                self.say(
                    id,
                    format!("{worker} still ran attempt {attempt} {late:?} after its end"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
