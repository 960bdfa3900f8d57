//! **Pure.** What is to be decided about one schedule now: which of its ticks has a run, which none.

use std::{collections::VecDeque, time::Duration};

use common::{
    error::{ApiError, ErrorCode},
    pb,
    policy::schedule::{Advanced, Overlap, Schedule, before},
    time::Timestamp,
};

/// What is known about a schedule when it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Every tick up to here was decided.
    pub decided: Timestamp,
    /// Its runs that are open.
    pub open: usize,
    /// The time.
    pub now: Timestamp,
}

/// One decision. What follows from it in the log comes before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The tick has a run.
    Run {
        /// The tick.
        tick: Timestamp,
        /// What becomes of the runs that are open.
        beside: Beside,
    },
    /// No tick up to here has a run any more.
    Skip {
        /// The last instant that is skipped.
        through: Timestamp,
        /// Why.
        why: Why,
    },
}

/// What becomes of the runs that are open when another begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Nothing: both go on.
    Nothing,
    /// They go on, and the new one waits for their end.
    Waits,
    /// They are asked to end, and the new one waits for that.
    Cancels,
}

/// Why a tick has no run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is later than may be caught up, or others that are newer are.
    Late,
    /// An earlier run is open.
    Overlap,
    /// Too many runs are open.
    Full,
    /// Its id is that of another task, or of a run that was there already.
    Taken,
    /// The type of its runs is disabled.
    Disabled,
}

impl Why {
    /// The word in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Overlap => "overlap",
            Self::Full => "full",
            Self::Taken => "taken",
            Self::Disabled => "disabled",
        }
    }
}

/// The next decision, if one is due.
pub fn step(schedule: &Schedule, name: &str, facts: Facts) -> Option<Step> {
    let Facts { decided, open, now } = facts;
    if schedule.is_paused() {
        return None;
    }
    let first = schedule.next(decided)?;
    let horizon = horizon(schedule, name, decided, now);
    if first > horizon {
        return None;
    }
    let late = |through| Some(Step::Skip { through, why: Why::Late });
    let is_alone = schedule.next(first).is_none_or(|second| second > horizon);
    let in_time = schedule.fires_at(name, first) >= earlier(now, schedule.catch_up.window);
    let oldest = if is_alone {
        Some(first).filter(|_| in_time)
    } else {
        oldest_to_run(schedule, name, (decided, horizon), now)
    };
    let tick = match oldest {
        None => return late(horizon),
        Some(tick) if tick > first => return late(before(tick)),
        Some(tick) => tick,
    };
    let beside = match schedule.overlap {
        _ if open >= schedule.runs_max => {
            return Some(Step::Skip { through: tick, why: Why::Full });
        }
        Overlap::Skip if open > 0 => {
            return Some(Step::Skip { through: tick, why: Why::Overlap });
        }
        Overlap::Queue => Beside::Waits,
        Overlap::CancelOlder => Beside::Cancels,
        Overlap::Skip | Overlap::Allow => Beside::Nothing,
    };
    Some(Step::Run { tick, beside })
}

/// What the log is to say of a tick for whose run was asked, where the run itself may not say it. One
/// that was there already may have been read before this version of the schedule was set: then nobody
/// hears of it again, and the schedule would wait for it for ever.
pub fn taken(
    name: &str,
    (tick, last): (Timestamp, Option<Timestamp>),
    answer: &Result<pb::Submission, ApiError>,
) -> Option<Advanced> {
    let last = match answer {
        Ok(run) if run.existing => Some(tick),
        Err(error) if error.code == ErrorCode::Conflict => last,
        Ok(_) | Err(_) => return None,
    };
    Some(Advanced { name: name.into(), through: tick, last, why: Why::Taken.word().to_owned() })
}

/// When the next decision is due.
pub fn alarm(schedule: &Schedule, name: &str, decided: Timestamp) -> Option<Timestamp> {
    let next = schedule.next(decided).filter(|_| !schedule.is_paused())?;
    Some(schedule.fires_at(name, next))
}

/// Every tick after the last that was decided and up to here is due. Ticks are decided in their
/// order, so that one with a long jitter holds up those after it.
fn horizon(schedule: &Schedule, name: &str, decided: Timestamp, now: Timestamp) -> Timestamp {
    let mut horizon = decided.max(earlier(now, schedule.jitter()));
    while let Some(tick) = schedule.next(horizon)
        && schedule.fires_at(name, tick) <= now
    {
        horizon = tick;
    }
    horizon
}

/// Of the due ticks that are not too late, the newest few have a run: the oldest of these.
///
/// An outage may have lasted for years, so the newest are looked for from their end.
fn oldest_to_run(
    schedule: &Schedule,
    name: &str,
    (decided, horizon): (Timestamp, Timestamp),
    now: Timestamp,
) -> Option<Timestamp> {
    let catch_up = schedule.catch_up;
    let oldest = earlier(now, catch_up.window);
    let begin = decided.max(before(earlier(oldest, schedule.jitter())));
    let mut back = Duration::from_secs(1);
    loop {
        let from = earlier(horizon, back).max(begin);
        let due = schedule.ticks(from).take_while(|tick| *tick <= horizon);
        let mut newest = VecDeque::with_capacity(catch_up.max.min(16));
        for tick in due.filter(|tick| schedule.fires_at(name, *tick) >= oldest) {
            if newest.len() == catch_up.max {
                newest.pop_front();
            }
            newest.push_back(tick);
        }
        if newest.len() == catch_up.max || from == begin {
            return newest.front().copied();
        }
        back = back.saturating_mul(2);
    }
}

fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(at.micros().saturating_sub(micros))
}
