//! **Pure.** Who waits for whom.

use std::collections::{HashMap, HashSet};

use common::{id::TaskKey, lifecycle::Phase, task::On};

use crate::plan::Ticket;

/// Tasks that a search for a cycle visits, at most; a longer one is not found, and waits for ever
/// unless its dependency timeout ends it.
const CYCLE_SEARCH_MAX: usize = 100_000;

/// One edge: this dependency must end like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The task that must end first.
    pub dependency: TaskKey,
    /// How it must end.
    pub on: On,
}

/// What the end of a dependency means to its dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One reason less to wait.
    Met,
    /// The dependent cannot run any more: it fails.
    Fail,
    /// There is no need for the dependent.
    Skip,
}

/// What the end of a dependency means along one edge.
pub fn judge(on: On, end: Phase) -> Verdict {
    match (on, end) {
        (On::Success, Phase::Skipped) | (On::Failure, Phase::Completed) => Verdict::Skip,
        (On::Success, Phase::Failed(_) | Phase::Cancelled) => Verdict::Fail,
        (On::End, _)
        | (On::Success, Phase::Completed)
        | (On::Failure, Phase::Failed(_) | Phase::Cancelled | Phase::Skipped)
        | (_, Phase::Pending | Phase::Verdict | Phase::Running) => Verdict::Met,
    }
}

/// The edges whose dependency has not ended, in both directions.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    dependents: HashMap<TaskKey, Vec<(Ticket, On)>>,
    waits: HashMap<u32, Vec<Edge>>,
}

impl Graph {
    /// Notes that a task waits along these edges.
    pub fn wait(&mut self, ticket: Ticket, edges: Vec<Edge>) {
        for edge in &edges {
            self.dependents.entry(edge.dependency).or_default().push((ticket, edge.on));
        }
        if !edges.is_empty() {
            self.waits.insert(ticket.slot, edges);
        }
    }

    /// Takes those who wait for a task that has ended.
    pub fn take_dependents(&mut self, key: TaskKey) -> Vec<(Ticket, On)> {
        self.dependents.remove(&key).unwrap_or_default()
    }

    /// One dependency of the task has ended; returns how many are left.
    pub fn met(&mut self, slot: u32, dependency: TaskKey) -> usize {
        let Some(edges) = self.waits.get_mut(&slot) else { return 0 };
        edges.retain(|edge| edge.dependency != dependency);
        let left = edges.len();
        if left == 0 {
            self.waits.remove(&slot);
        }
        left
    }

    /// What the task still waits for.
    pub fn waits(&self, slot: u32) -> &[Edge] {
        self.waits.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// The task waits no more.
    pub fn forget(&mut self, ticket: Ticket) {
        for edge in self.waits.remove(&ticket.slot).unwrap_or_default() {
            if let Some(others) = self.dependents.get_mut(&edge.dependency) {
                others.retain(|(other, _)| *other != ticket);
                if others.is_empty() {
                    self.dependents.remove(&edge.dependency);
                }
            }
        }
    }

    /// Whether somebody waits for the task.
    pub fn is_awaited(&self, key: TaskKey) -> bool {
        self.dependents.contains_key(&key)
    }

    /// Whether one of `edges` leads back to `key` through tasks that wait.
    pub fn closes_cycle(
        &self,
        key: TaskKey,
        edges: &[Edge],
        slot_of: impl Fn(TaskKey) -> Option<u32>,
    ) -> bool {
        // A cycle needs somebody who waits for the new task already.
        if !self.is_awaited(key) {
            return false;
        }
        let mut seen = HashSet::new();
        let mut next = edges.iter().map(|edge| edge.dependency).collect::<Vec<_>>();
        while let Some(dependency) = next.pop() {
            if dependency == key {
                return true;
            }
            if seen.len() < CYCLE_SEARCH_MAX
                && seen.insert(dependency)
                && let Some(slot) = slot_of(dependency)
            {
                next.extend(self.waits(slot).iter().map(|edge| edge.dependency));
            }
        }
        false
    }

    /// Everyone who waits, with their edges.
    pub fn all(&self) -> impl Iterator<Item = (u32, &[Edge])> {
        self.waits.iter().map(|(slot, edges)| (*slot, edges.as_slice()))
    }
}
