//! **Pure.** The ready tasks that share every limit: as long as the first may not start, none may.

use std::{cmp::Reverse, collections::VecDeque};

use crate::plan::Ticket;

/// The highest priority.
const TOP: u8 = 10;

/// Where a lane stands among the others: the smallest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// The priority that its first task counts as.
    pub(super) class: Reverse<u8>,
    /// Where its key is in virtual time.
    pub(super) pass: u64,
    /// Since when its first task is ready.
    pub(super) since: i64,
    pub(super) lane: u32,
}

/// Where a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// It has nothing that is ready.
    Idle,
    /// Among those that may go on.
    Eligible(Rank),
    /// With a bucket that holds it.
    Parked(u32, Rank),
}

/// A ready task, and since when it is, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) ticket: Ticket,
    pub(super) since: i64,
}

/// The first task of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) priority: u8,
    pub(super) class: u8,
    pub(super) item: Item,
}

/// Ready tasks with the same keys.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// A bucket for each limit.
    pub(super) buckets: Box<[u32]>,
    /// One of these, if it stands for a key that is not known.
    pub(super) unknown: Option<u32>,
    /// Open tasks that belong to it, ready or not.
    pub(super) tasks: u64,
    pub(super) at: At,
    /// When its first task comes to count as more, in microseconds.
    pub(super) promotion: Option<i64>,
    /// By priority, the highest first; the oldest first in each.
    ready: Vec<(u8, VecDeque<Item>)>,
}

impl Lane {
    pub(super) fn new(buckets: Box<[u32]>, unknown: Option<u32>) -> Self {
        Self { buckets, unknown, tasks: 0, at: At::Idle, promotion: None, ready: Vec::new() }
    }

    fn queue(&mut self, priority: u8) -> &mut VecDeque<Item> {
        let place = self.ready.partition_point(|(other, _)| *other > priority);
        if self.ready.get(place).is_none_or(|(other, _)| *other != priority) {
            self.ready.insert(place, (priority, VecDeque::new()));
        }
        &mut self.ready.get_mut(place).expect("invariant: it was just put there").1
    }

    /// Puts a task behind those that are ready for longer.
    pub(super) fn push(&mut self, priority: u8, item: Item) {
        let queue = self.queue(priority);
        match queue.back() {
            Some(last) if last.since > item.since => {
                let place = queue.partition_point(|other| other.since <= item.since);
                queue.insert(place, item);
            }
            _ => queue.push_back(item),
        }
    }

    /// Puts a task back to where it was taken from.
    pub(super) fn push_front(&mut self, priority: u8, mut item: Item) {
        let queue = self.queue(priority);
        // It keeps its age; the next one of its lane may have been ready for as long.
        item.since = queue.front().map_or(item.since, |first| item.since.min(first.since - 1));
        queue.push_front(item);
    }

    /// The first task, by what each counts as now.
    pub(super) fn head(&self, now: i64, ageing: Option<i64>) -> Option<Head> {
        let heads = self.ready.iter().filter_map(|(priority, queue)| {
            let item = *queue.front()?;
            Some(Head { priority: *priority, class: class(*priority, item, now, ageing), item })
        });
        heads.min_by_key(|head| (Reverse(head.class), head.item.since))
    }

    /// When the order of its first tasks may change.
    pub(super) fn next_promotion(&self, now: i64, ageing: Option<i64>) -> Option<i64> {
        let ageing = ageing?;
        let heads = self.ready.iter().filter_map(|(p, queue)| Some((*p, *queue.front()?)));
        let below = heads.filter(|(p, item)| class(*p, *item, now, Some(ageing)) < TOP);
        below.map(|(_, item)| item.since + (steps(item, now, ageing) + 1) * ageing).min()
    }

    /// Takes the first task of a priority.
    pub(super) fn pop(&mut self, priority: u8) {
        if let Some(place) = self.ready.iter().position(|(other, _)| *other == priority)
            && let Some((_, queue)) = self.ready.get_mut(place)
        {
            queue.pop_front();
            if queue.is_empty() {
                self.ready.remove(place);
            }
        }
    }

    /// Takes off the first tickets whose task has moved on.
    pub(super) fn drop_stale(&mut self, is_ready: impl Fn(Ticket, u8) -> bool) {
        for (priority, queue) in &mut self.ready {
            while queue.front().is_some_and(|item| !is_ready(item.ticket, *priority)) {
                queue.pop_front();
            }
        }
        self.ready.retain(|(_, queue)| !queue.is_empty());
    }

    pub(super) fn len(&self) -> usize {
        self.ready.iter().map(|(_, queue)| queue.len()).sum()
    }

    /// Keeps what is still ready at its priority.
    pub(super) fn retain(&mut self, is_ready: impl Fn(Ticket, u8) -> bool) {
        for (priority, queue) in &mut self.ready {
            queue.retain(|item| is_ready(item.ticket, *priority));
        }
        self.ready.retain(|(_, queue)| !queue.is_empty());
    }

    /// Takes the first of it off, at most `max`.
    pub(super) fn take_up_to(&mut self, max: usize) -> Vec<(u8, Item)> {
        let mut taken = Vec::new();
        for (priority, queue) in &mut self.ready {
            let some = queue.len().min(max - taken.len());
            taken.extend(queue.drain(..some).map(|item| (*priority, item)));
        }
        self.ready.retain(|(_, queue)| !queue.is_empty());
        taken
    }

    /// All of it, in order.
    pub(super) fn items(&self) -> impl Iterator<Item = (u8, Item)> {
        self.ready.iter().flat_map(|(p, queue)| queue.iter().map(move |item| (*p, *item)))
    }
}

fn steps(item: Item, now: i64, ageing: i64) -> i64 {
    now.saturating_sub(item.since).max(0) / ageing.max(1)
}

/// The priority that a task has by its age.
pub(super) fn class(priority: u8, item: Item, now: i64, ageing: Option<i64>) -> u8 {
    let older = ageing.map_or(0, |ageing| steps(item, now, ageing));
    u8::try_from(older).map_or(TOP, |older| priority.saturating_add(older).min(TOP))
}
