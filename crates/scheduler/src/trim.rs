//! **Pure.** Where the log can be cut, and whether it is to take new work.
//!
//! What has to be carried over a cut is the planner's to say, see `plan/carry.rs`.

mod round;

use std::time::Duration;

use common::{limits, time::Timestamp};

pub use round::{Round, Step};

/// Marks that are kept, at most: then every second one goes.
const MARKS_MAX: usize = 4_096;
/// Messages between two marks, to begin with.
const STRIDE_MIN: u64 = 16;

/// How the log grew: a mark every so many messages.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Marks {
    #[prost(uint64, tag = "1")]
    created: u64,
    #[prost(uint64, tag = "2")]
    ended: u64,
    #[prost(uint64, tag = "3")]
    stride: u64,
    #[prost(message, repeated, tag = "4")]
    list: Vec<Mark>,
    #[prost(uint64, tag = "5")]
    cut_at: u64,
}

/// What had been read before a message.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Mark {
    /// The message.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// The log's time there, in microseconds.
    #[prost(int64, tag = "2")]
    pub at: i64,
    /// Tasks that had been created.
    #[prost(uint64, tag = "3")]
    pub created: u64,
    /// Tasks that had ended.
    #[prost(uint64, tag = "4")]
    pub ended: u64,
}

impl Marks {
    /// A message is being read.
    pub fn read(&mut self, sequence: u64, at: Timestamp) {
        self.stride = self.stride.max(STRIDE_MIN);
        if self.list.last().is_some_and(|last| sequence < last.sequence + self.stride) {
            return;
        }
        if self.list.len() >= MARKS_MAX {
            let mut keep = false;
            self.list.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride *= 2;
        }
        let (created, ended) = (self.created, self.ended);
        self.list.push(Mark { sequence, at: at.micros(), created, ended });
    }

    /// The log says here that it was cut.
    pub fn cut(&mut self, sequence: u64) {
        self.cut_at = self.cut_at.max(sequence);
    }

    /// Where the log says that it was last cut. What lies before was read with tasks in mind that
    /// are forgotten since, so that nobody may begin there any more.
    pub fn cut_at(&self) -> u64 {
        self.cut_at
    }

    /// A task was created.
    pub fn created(&mut self) {
        self.created += 1;
    }

    /// A task ended.
    pub fn ended(&mut self) {
        self.ended += 1;
    }

    /// Tasks that were created from `from` on and before `to`, as far as is known.
    pub fn created_between(&self, from: u64, to: u64) -> u64 {
        self.before(to).map_or(0, |mark| mark.created)
            - self.before(from).map_or(0, |mark| mark.created)
    }

    /// The log's time at a message, as far as is known: never later.
    pub fn clock_at(&self, sequence: u64) -> Timestamp {
        Timestamp::from_micros(self.before(sequence).map_or(0, |mark| mark.at))
    }

    /// The newest marked message at or before one: its time is known exactly.
    pub fn at_or_before(&self, sequence: u64) -> Option<u64> {
        self.before(sequence).map(|mark| mark.sequence)
    }

    /// The oldest mark after a message.
    fn after(&self, sequence: u64) -> Option<&Mark> {
        self.list.get(self.list.partition_point(|mark| mark.sequence <= sequence))
    }

    /// The newest mark at or before a message.
    fn before(&self, sequence: u64) -> Option<&Mark> {
        let after = self.list.partition_point(|mark| mark.sequence <= sequence);
        self.list.get(after.checked_sub(1)?)
    }
}

/// The log as its server describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Its first message.
    pub first: u64,
    /// Its last message.
    pub last: u64,
    /// Its size.
    pub bytes: u64,
    /// Its byte limit; 0 is none.
    pub bytes_max: u64,
}

impl Log {
    /// Whether more than so many percent of its limit are taken.
    pub fn is_above(&self, percent: u64) -> bool {
        self.bytes_max > 0 && self.bytes > self.bytes_max / 100 * percent
    }
}

/// What is to be kept of what is over.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// So long, while the other bounds allow.
    pub age: Duration,
    /// So many finished tasks, at most.
    pub finished_max: usize,
}

/// The first message that the window keeps.
pub fn window(log: &Log, marks: &Marks, window: Window, finished: usize, now: Timestamp) -> u64 {
    let old = now.micros().saturating_sub(window.age.as_micros() as i64);
    let by_age = marks.list.iter().rev().find(|mark| mark.at <= old).map(|mark| mark.sequence);
    // To half of the bound, so that a cut is worth its work.
    let by_count = (finished > window.finished_max).then(|| {
        let keep = window.finished_max as u64 / 2;
        let mut newest_first = marks.list.iter().rev();
        newest_first.find(|mark| mark.ended + keep <= marks.ended).map(|mark| mark.sequence)
    });
    let by_bytes = log.is_above(limits::LOG_KEPT_PERCENT).then(|| {
        let keep = log.bytes_max / 100 * limits::LOG_KEPT_PERCENT * 3 / 4;
        let share = log.bytes.saturating_sub(keep) as f64 / log.bytes as f64;
        let messages = log.last.saturating_sub(log.first) as f64;
        log.first + (messages * share) as u64
    });
    let floors = [by_age, by_count.flatten(), by_bytes];
    floors.into_iter().flatten().max().unwrap_or(0)
}

/// Where to cut: below what anybody still needs and below the window, at a mark, whose time is
/// known. `None` while that is not worth it.
///
/// No cut goes back to before the last one was said, so that one which the window asks for may take
/// more than that. Of a small log a small part is worth it too.
pub fn floor(marks: &Marks, log: &Log, current: u64, needed: u64, window: u64) -> Option<u64> {
    let worth = limits::TRIM_MESSAGES_MIN.min(log.last.saturating_sub(current) / 8 + 1);
    let from = current.saturating_add(worth);
    if window < from {
        return None;
    }
    let wanted = window.max(marks.after(marks.cut_at)?.sequence);
    let floor = marks.before(needed.min(wanted))?.sequence;
    (floor >= from && floor > marks.cut_at).then_some(floor)
}

/// Whether a cut frees more than it appends again: not where most of what lies below it is still to
/// be done. `carried` counts submissions.
pub fn is_worth_it(marks: &Marks, current: u64, floor: u64, carried: usize) -> bool {
    carried as u64 * 2 <= marks.created_between(current, floor)
        || carried <= limits::CARRY_TASKS_MAX
}

/// Whether the log is to take new work, when it does or does not now.
pub fn intake(open: bool, log: &Log, backlog: usize) -> bool {
    let (percent, tasks) = if open {
        (limits::INTAKE_CLOSES_PERCENT, limits::BACKLOG_TASKS_MAX)
    } else {
        (limits::INTAKE_OPENS_PERCENT, limits::BACKLOG_TASKS_MAX / 10 * 9)
    };
    !log.is_above(percent) && backlog <= tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of one task a message and a second each, all ended at once.
    fn marks(messages: u64) -> Marks {
        let mut marks = Marks::default();
        for sequence in 1..=messages {
            marks.read(sequence, Timestamp::from_micros(sequence as i64 * 1_000_000));
            marks.created();
            marks.ended();
        }
        marks
    }

    fn log(bytes: u64) -> Log {
        Log { first: 1, last: 100_000, bytes, bytes_max: 1_000_000 }
    }

    const KEEP: Window = Window { age: Duration::from_secs(24 * 3600), finished_max: 1_000_000 };

    #[test]
    fn the_window_is_the_strictest_of_age_count_and_size() {
        let (marks, now) = (marks(100_000), Timestamp::from_micros(100_000_000_000));
        assert!(window(&log(100), &marks, KEEP, 100_000, now) <= 100_000 - 86_400);
        let small = Window { finished_max: 10_000, ..KEEP };
        let by_count = window(&log(100), &marks, small, 100_000, now);
        assert!((94_000..=95_000).contains(&by_count), "{by_count}");
        let by_bytes = window(&log(750_000), &marks, KEEP, 100_000, now);
        assert!((49_000..=51_000).contains(&by_bytes), "{by_bytes}");
        let young = window(&log(100), &marks, KEEP, 100_000, Timestamp::from_micros(0));
        assert_eq!(young, 0, "nothing is old enough");
    }

    #[test]
    fn nobody_is_cut_off_and_small_cuts_wait() {
        let marks = marks(10_000);
        let near =
            |floor: Option<u64>| floor.is_some_and(|f| (5_000 - STRIDE_MIN..=5_000).contains(&f));
        assert!(near(floor(&marks, &log(0), 1, 5_000, 9_000)), "a reader that is behind");
        assert!(near(floor(&marks, &log(0), 1, 9_000, 5_000)), "the window");
        assert_eq!(floor(&marks, &log(0), 4_500, 5_000, 9_000), None);
        let mut cut = marks.clone();
        cut.cut(6_000);
        assert_eq!(floor(&cut, &log(0), 1, 5_000, 9_000), None, "before the last cut was said");
    }

    #[test]
    fn a_log_of_work_that_is_still_to_be_done_is_not_carried_over_and_over() {
        let marks = marks(100_000);
        assert!(is_worth_it(&marks, 1, 50_000, 20_000));
        assert!(!is_worth_it(&marks, 1, 50_000, 40_000));
    }

    #[test]
    fn intake_closes_near_the_wall_and_opens_well_below_it() {
        assert!(intake(true, &log(790_000), 0));
        assert!(!intake(true, &log(810_000), 0));
        assert!(!intake(false, &log(790_000), 0));
        assert!(intake(false, &log(690_000), 0));
        assert!(!intake(true, &log(0), limits::BACKLOG_TASKS_MAX + 1));
        let endless = Log { bytes_max: 0, ..log(u64::MAX / 2) };
        assert!(intake(true, &endless, 0));
    }

    #[test]
    fn marks_are_bounded_and_count() {
        let marks = marks(3_000_000);
        assert!(marks.list.len() <= MARKS_MAX);
        let between = marks.created_between(1_000_000, 2_000_000);
        assert!((990_000..=1_010_000).contains(&between), "{between}");
    }
}
