//! **Pure.** What a limit has to say about a task when it arrives: that it comes too close after
//! another, or that enough wait already.
//!
//! It is said by who leads, about what waits then: one that follows does not know what is out.

use std::collections::{HashMap, VecDeque};

use common::policy::limit::{Debounce, Limit, Singleton};

use crate::plan::Ticket;

/// Arrivals of tasks that have moved on that a key keeps before it looks for them.
const STALE_MAX: usize = 64;

/// Why an arrival is not to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A newer submission of its key replaces it.
    Superseded,
    /// Another of its key waits already.
    Duplicate,
    /// Enough wait already.
    TooMany,
}

/// What is refused at one time.
#[derive(Debug, Default)]
pub(super) struct Refused(HashMap<Ticket, Refusal>);

impl Refused {
    fn add(&mut self, ticket: Ticket, refusal: Refusal) {
        self.0.entry(ticket).or_insert(refusal);
    }

    pub(super) fn has(&self, ticket: Ticket) -> bool {
        self.0.contains_key(&ticket)
    }

    /// The same facts give the same order.
    pub(super) fn sorted(self) -> Vec<(Ticket, Refusal)> {
        let mut refused = self.0.into_iter().collect::<Vec<_>>();
        refused.sort_unstable_by_key(|(ticket, _)| *ticket);
        refused
    }
}

/// A task that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The task.
    pub ticket: Ticket,
    /// When it came, in microseconds.
    pub at: i64,
    /// Its place among all submissions: the newest has the highest.
    pub order: u64,
    /// It came just now; otherwise it was judged by an earlier leader and comes back from what was
    /// stored.
    pub is_new: bool,
}

/// An order is the number of a message in the log, and which of its items.
pub const ORDER_BITS: u32 = 20;

impl Arrival {
    /// Nobody judged it before, and it came after this version of the limit, which the message `since`
    /// set: whoever leads, the same tasks are exempt.
    fn may_be_refused(&self, since: u64) -> bool {
        self.is_new && self.order >> ORDER_BITS >= since
    }
}

/// The newest tasks of one key.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    /// Not judged yet.
    new: VecDeque<Arrival>,
    /// The one that stands.
    kept: Option<Arrival>,
    /// When the first of the burst came, in microseconds.
    first: i64,
    held_until: i64,
}

impl Arrivals {
    pub(super) fn new() -> Self {
        Self { new: VecDeque::new(), kept: None, first: i64::MIN, held_until: i64::MIN }
    }

    /// Nothing of the key starts before.
    pub(super) fn held_until(&self) -> i64 {
        self.held_until
    }

    /// A task came; one that follows knows here already when the burst began: of what was replaced in
    /// between nothing is left when it judges.
    pub(super) fn push(&mut self, arrival: Arrival, waits: impl Fn(Ticket) -> bool) {
        let last = self.new.back().or(self.kept.as_ref());
        let goes_on = last.is_some_and(|last| waits(last.ticket));
        let is_known = !arrival.is_new && self.first > i64::MIN;
        if !goes_on && !is_known {
            self.first = arrival.at;
        }
        self.new.push_back(arrival);
    }

    /// When the burst began and until when it is waited for, to be stored.
    pub(super) fn burst(&self) -> (i64, i64) {
        (self.first, self.held_until)
    }

    pub(super) fn restore(&mut self, (first, held_until): (i64, i64)) {
        (self.first, self.held_until) = (first, held_until);
    }

    /// Forgets those that have moved on, when they have become many.
    pub(super) fn prune(&mut self, waiting: u64, waits: impl Fn(Ticket) -> bool) {
        if self.new.len() as u64 > 2 * waiting + STALE_MAX as u64 {
            self.new.retain(|arrival| waits(arrival.ticket));
        }
    }

    /// The one that stands, and what is not judged.
    pub(super) fn list(&self) -> impl Iterator<Item = Arrival> {
        let kept = self.kept.map(|kept| Arrival { is_new: false, ..kept });
        kept.into_iter().chain(self.new.iter().copied())
    }

    /// Refuses the newest where more than may wait do; `waiting` tasks of the key wait in all.
    pub(super) fn cap(
        &mut self,
        (limit, since): (&Limit, u64),
        mut waiting: u64,
        waits: impl Fn(Ticket, &Refused) -> bool,
        refused: &mut Refused,
    ) {
        let Some(depth) = limit.depth else { return };
        // What another limit refused does not wait any more.
        let gone = self.new.iter().filter(|arrival| refused.has(arrival.ticket)).count();
        waiting = waiting.saturating_sub(gone as u64);
        for arrival in self.new.iter().rev().filter(|arrival| arrival.may_be_refused(since)) {
            if waiting <= depth {
                return;
            }
            if waits(arrival.ticket, refused) {
                refused.add(arrival.ticket, Refusal::TooMany);
                waiting -= 1;
            }
        }
    }

    /// Judges what is new, by the limit that was set with that message of the log.
    pub(super) fn judge(
        &mut self,
        (limit, since): (&Limit, u64),
        waits: impl Fn(Ticket, &Refused) -> bool,
        refused: &mut Refused,
    ) {
        while let Some(arrival) = self.new.pop_front() {
            if !waits(arrival.ticket, refused) {
                continue;
            }
            let stands =
                |kept: &Arrival| kept.ticket != arrival.ticket && waits(kept.ticket, refused);
            let kept = self.kept.filter(stands);
            if let Some(debounce) = limit.debounce {
                self.calm(arrival, kept, (debounce, since), refused);
            } else if limit.singleton == Some(Singleton::Waiting)
                && kept.is_some()
                && arrival.may_be_refused(since)
            {
                refused.add(arrival.ticket, Refusal::Duplicate);
            } else if kept.is_none_or(|kept| kept.order < arrival.order) {
                // What comes back from what was stored has no order; one that is exempt is older.
                self.kept = Some(arrival);
            }
        }
    }

    /// Of those that wait the newest stands.
    fn calm(
        &mut self,
        arrival: Arrival,
        kept: Option<Arrival>,
        (debounce, since): (Debounce, u64),
        refused: &mut Refused,
    ) {
        match kept {
            Some(kept) if kept.order > arrival.order => {
                if arrival.may_be_refused(since) {
                    refused.add(arrival.ticket, Refusal::Superseded);
                }
                return;
            }
            // Of two that were judged before, both may run.
            Some(kept) if arrival.is_new && kept.order >> ORDER_BITS >= since => {
                refused.add(kept.ticket, Refusal::Superseded);
            }
            Some(_) | None => {}
        }
        // What comes back from what was stored is waited for as before.
        if arrival.is_new || self.held_until == i64::MIN {
            let quiet = arrival.at.saturating_add(debounce.quiet.as_micros() as i64);
            let longest = self.first.saturating_add(debounce.longest.as_micros() as i64);
            self.held_until = quiet.min(longest);
        }
        self.kept = Some(arrival);
    }
}
