//! **Pure.** What is known about one key of one limit: how much of it is out, and from when on more
//! may go.

use std::collections::BTreeSet;

use common::policy::limit::{Limit, Rate};

use super::{UNKNOWN, arrivals::Arrivals, lane::Rank};

/// How far virtual time moves for one release of weight 1.
pub(super) const STEP: u64 = 1 << 24;
/// How far a key may stay behind in virtual time, so that it catches up later.
const CREDIT: u64 = 16 * STEP;

/// Why a key may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// As many are out as may be.
    Full {
        /// So many are out.
        out: u32,
        /// So many may be.
        max: u32,
    },
    /// The next start is due then, in microseconds.
    Rate(i64),
    /// More submissions are waited for until then.
    Debounce(i64),
    /// The key is not known yet.
    Unknown,
}

impl Hold {
    /// When it ends by itself.
    pub fn until(self) -> Option<i64> {
        match self {
            Self::Full { .. } | Self::Unknown => None,
            Self::Rate(at) | Self::Debounce(at) => Some(at),
        }
    }
}

/// One key of one limit.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// Place of its limit.
    pub(super) limit: usize,
    pub(super) key: Box<str>,
    /// Attempts that are out.
    pub(super) out: u32,
    /// Tasks that are ready.
    pub(super) ready: u64,
    /// Tasks that wait for something else.
    pub(super) waiting: u64,
    /// Lanes that share it.
    pub(super) lanes: u32,
    /// When the next start would be due if there were no burst, in microseconds.
    pub(super) next: i64,
    /// Where the key is in virtual time.
    pub(super) pass: u64,
    /// Lanes that may not go on because of it, the first to go on first.
    pub(super) parked: BTreeSet<Rank>,
    pub(super) arrivals: Option<Box<Arrivals>>,
}

impl Bucket {
    pub(super) fn new(limit: usize, key: &str) -> Self {
        Self {
            limit,
            key: key.into(),
            out: 0,
            ready: 0,
            waiting: 0,
            lanes: 0,
            next: i64::MIN,
            pass: 0,
            parked: BTreeSet::new(),
            arrivals: None,
        }
    }

    /// Whether it stands for keys that are not known yet.
    pub(super) fn is_unknown(&self) -> bool {
        *self.key == *UNKNOWN
    }

    /// Why nothing of this key may start now.
    pub(super) fn hold(&self, limit: &Limit, now: i64, hidden: i64) -> Option<Hold> {
        if self.is_unknown() {
            return Some(Hold::Unknown);
        }
        if let Some(max) = limit.out_max().filter(|max| self.out >= *max) {
            return Some(Hold::Full { out: self.out, max });
        }
        let held = self.arrivals.as_ref().map(|arrivals| arrivals.held_until());
        if let Some(until) = held.filter(|until| *until > now) {
            return Some(Hold::Debounce(until));
        }
        let due = limit.rate.map(|rate| earliest(rate, self.next.max(used_up(rate, hidden))));
        due.filter(|due| *due > now).map(Hold::Rate)
    }

    /// A start takes its place in the rate.
    pub(super) fn charge(&mut self, limit: &Limit, at: i64, hidden: i64) {
        if let Some(rate) = limit.rate {
            let next = self.next.max(used_up(rate, hidden));
            self.next = next.max(at).saturating_add(interval(rate));
        }
    }

    /// Another rate holds from now on: all of its burst may be used up, and no more.
    pub(super) fn new_rate(&mut self, rate: Rate, now: i64) {
        self.next = self.next.min(used_up(rate, now));
    }

    /// A key that had nothing to do begins where the others are: idle time is not saved up.
    pub(super) fn wake(&mut self, now: u64) {
        self.pass = self.pass.max(now);
    }

    /// The same for one that was held: it was not idle, and may catch up a little.
    pub(super) fn catch_up(&mut self, now: u64) {
        self.pass = self.pass.max(now.saturating_sub(CREDIT));
    }

    /// From when on nothing is lost when it is forgotten, if nobody uses it.
    pub(super) fn idle_from(&self) -> i64 {
        let held = self.arrivals.as_ref().map_or(i64::MIN, |arrivals| arrivals.held_until());
        self.next.max(held)
    }
}

/// Microseconds between two starts that are evenly spaced; rounded up, so that never too many start.
pub(super) fn interval(rate: Rate) -> i64 {
    let count = i64::from(rate.count.max(1));
    (per(rate) + count - 1) / count
}

fn per(rate: Rate) -> i64 {
    i64::try_from(rate.per.as_micros()).unwrap_or(i64::MAX / 4)
}

/// The generic cell rate algorithm: a start may come before its due time by the burst.
fn earliest(rate: Rate, next: i64) -> i64 {
    next.saturating_sub(interval(rate).saturating_mul(i64::from(rate.burst) - 1))
}

/// What is the most that may be used up of a rate after a start at that time.
pub(super) fn used_up(rate: Rate, at: i64) -> i64 {
    at.saturating_add(interval(rate).saturating_mul(i64::from(rate.burst)))
}
