//! What should happen, by the simplest means: a walk over the years minute by minute, with the wall
//! clock in view. Nothing of the product is used here, and no cron library.

use chrono::{DateTime, Datelike as _, NaiveDateTime, TimeDelta, Timelike as _};
use chrono_tz::Tz;

/// Minutes since 1970.
pub(super) type Minute = i64;

pub(super) fn minute(text: &str) -> Minute {
    DateTime::parse_from_rfc3339(text).unwrap().timestamp() / 60
}

/// One field of an expression: which values it has.
struct Field {
    fits: [bool; 60],
    is_star: bool,
}

fn field(text: &str, (low, high): (usize, usize)) -> Field {
    let mut fits = [false; 60];
    for part in text.split(',') {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
            None if range == "*" => (low, high),
            None => (range.parse().unwrap(), range.parse().unwrap()),
        };
        for value in (from..=to).step_by(step.parse().unwrap()) {
            fits[value] = true;
        }
    }
    Field { fits, is_star: text == "*" }
}

/// A five-field expression of numbers, ranges, lists and steps.
pub(super) struct Expression {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
    /// It follows the wall clock through a change.
    repeats: bool,
}

impl Expression {
    pub(super) fn read(text: &str) -> Self {
        let fields = text.split(' ').collect::<Vec<_>>();
        assert_eq!(fields.len(), 5, "{text}");
        Self {
            minute: field(fields[0], (0, 59)),
            hour: field(fields[1], (0, 23)),
            day: field(fields[2], (1, 31)),
            month: field(fields[3], (1, 12)),
            weekday: field(fields[4], (0, 6)),
            repeats: fields[0].starts_with('*') || fields[1].starts_with('*'),
        }
    }

    fn fits(&self, wall: NaiveDateTime) -> bool {
        if !self.minute.fits[wall.minute() as usize] || !self.hour.fits[wall.hour() as usize] {
            return false;
        }
        let day = self.day.fits[wall.day() as usize];
        let weekday = self.weekday.fits[wall.weekday().num_days_from_sunday() as usize];
        let fits = match (self.day.is_star, self.weekday.is_star) {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        fits && self.month.fits[wall.month() as usize]
    }
}

/// What the clock on a wall shows, minute by minute.
pub(super) struct Wall {
    pub(super) from: Minute,
    shows: Vec<NaiveDateTime>,
}

impl Wall {
    pub(super) fn of(zone: Tz, (from, to): (Minute, Minute)) -> Self {
        let shows = |minute: Minute| {
            let at = DateTime::from_timestamp(minute * 60, 0).unwrap();
            at.with_timezone(&zone).naive_local()
        };
        Self { from, shows: (from..to).map(shows).collect() }
    }

    /// The ticks. One that repeats comes whenever the clock shows it. A fixed one comes when the
    /// clock shows it or a later time for the first time.
    pub(super) fn ticks(&self, expression: &Expression) -> Vec<Minute> {
        let mut ticks = Vec::new();
        let mut latest = self.shows[0] - TimeDelta::minutes(1);
        for (minute, wall) in (self.from..).zip(&self.shows) {
            let comes = if expression.repeats {
                expression.fits(*wall)
            } else {
                let mut passed = false;
                while latest < *wall {
                    latest += TimeDelta::minutes(1);
                    passed |= expression.fits(latest);
                }
                passed
            };
            if comes {
                ticks.push(minute);
            }
        }
        ticks
    }
}

/// What to do with a tick while runs are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overlap {
    Skip,
    Queue,
    CancelOlder,
    Allow,
}

/// A policy in minutes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) overlap: Overlap,
    pub(super) runs_max: usize,
    pub(super) window: Minute,
    pub(super) max: usize,
}

/// A run that was created: its tick, when, and when it ended; and how many minutes it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ran {
    pub(super) tick: Minute,
    pub(super) created: Minute,
    pub(super) began: Option<Minute>,
    pub(super) ended: Option<Minute>,
}

/// Minutes that a running run still takes when it is asked to end.
pub(super) const GRACE: Minute = 2;

/// What should have run.
pub(super) fn runs(
    ticks: &[Minute],
    (from, to): (Minute, Minute),
    policy: Policy,
    leads: impl Fn(Minute) -> bool,
    takes: impl Fn(Minute) -> Minute,
) -> Vec<Ran> {
    let (mut all, mut open): (Vec<Ran>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut ends = Vec::<Minute>::new();
    let mut next = ticks.partition_point(|tick| *tick <= from);
    for now in from + 1..to {
        if !open.is_empty() {
            open.retain(|run| {
                let over = all[*run].began.is_some() && ends[*run] <= now;
                if over {
                    all[*run].ended = Some(now);
                }
                !over
            });
            start(&mut all, &mut ends, &open, policy, (now, &takes));
        }
        if next == ticks.len() || ticks[next] > now || !leads(now) {
            continue;
        }
        let due = &ticks[next..next + ticks[next..].partition_point(|tick| *tick <= now)];
        next += due.len();
        let in_time = due.iter().filter(|tick| now - **tick <= policy.window);
        let in_time = in_time.copied().collect::<Vec<_>>();
        for tick in &in_time[in_time.len().saturating_sub(policy.max)..] {
            if open.len() >= policy.runs_max
                || (policy.overlap == Overlap::Skip && !open.is_empty())
            {
                continue;
            }
            if policy.overlap == Overlap::CancelOlder {
                open.retain(|run| {
                    if all[*run].began.is_none() {
                        all[*run].ended = Some(now);
                        return false;
                    }
                    ends[*run] = ends[*run].min(now + GRACE);
                    true
                });
            }
            open.push(all.len());
            all.push(Ran { tick: *tick, created: now, began: None, ended: None });
            ends.push(Minute::MAX);
            start(&mut all, &mut ends, &open, policy, (now, &takes));
        }
    }
    all
}

/// Begins what waits no more.
fn start(
    all: &mut [Ran],
    ends: &mut [Minute],
    open: &[usize],
    policy: Policy,
    (now, takes): (Minute, &impl Fn(Minute) -> Minute),
) {
    let waits = matches!(policy.overlap, Overlap::Queue | Overlap::CancelOlder);
    let ready = if waits { &open[..open.len().min(1)] } else { open };
    for run in ready {
        if all[*run].began.is_none() {
            all[*run].began = Some(now);
            ends[*run] = now + takes(all[*run].tick);
        }
    }
}
