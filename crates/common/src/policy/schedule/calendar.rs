//! **Pure.** Cron expressions on the wall clocks of the world.
//!
//! The expression says wall times; this says which instants they are. Where clocks change, the
//! convention of cron holds:
//!
//! * Fixed times: one that the clock jumps over comes at the first instant after the jump, one that
//!   the clock shows twice comes the first time only.
//! * Repeating times, those whose seconds, minutes or hours begin with `*`: they come whenever the
//!   clock shows them, so that `*/15` goes on every quarter of an hour through both changes.

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, Offset as _, TimeDelta, TimeZone as _};
use chrono_tz::{GapInfo, Tz};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};

use crate::{error::Violation, time::Timestamp};

const ALIASES: [&str; 6] = ["@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@annually"];

/// A cron expression in its time zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendar {
    cron: Cron,
    zone: Tz,
    /// It follows the wall clock through a change instead of making up for it.
    repeats: bool,
}

impl Calendar {
    /// Reads an expression and the name of a time zone, which may be empty for UTC.
    pub(super) fn parse(cron: &str, time_zone: &str) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let parsed = parse_cron(cron);
        let zone = match time_zone {
            "" => Ok(Tz::UTC),
            name => name.parse::<Tz>(),
        };
        if let Err(problem) = &parsed {
            violations.push(Violation { field: "cron".into(), problem: problem.clone() });
        }
        if zone.is_err() {
            let problem = "must be the name of an IANA time zone, such as \"Europe/Berlin\"".into();
            violations.push(Violation { field: "time_zone".into(), problem });
        }
        match (parsed, zone) {
            (Ok((cron, repeats)), Ok(zone)) => Ok(Self { cron, zone, repeats }),
            _ => Err(violations),
        }
    }

    /// The first instant after this one.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = DateTime::from_timestamp(after.micros().div_euclid(1_000_000), 0)?
            .with_timezone(&self.zone);
        let next = self.next_in_order(&after)?;
        let again = self.repeats.then(|| self.next_of_second_pass(&after)).flatten();
        let next = again.map_or(next, |again| again.min(next));
        Some(Timestamp::from_unix(next.timestamp(), 0))
    }

    /// Goes on along the wall clock.
    fn next_in_order(&self, after: &DateTime<Tz>) -> Option<DateTime<Tz>> {
        let mut wall = after.naive_local();
        loop {
            wall = self.cron.find_next_occurrence(&wall, false).ok()?;
            let comes = match self.zone.from_local_datetime(&wall) {
                MappedLocalTime::Single(at) => Some(at),
                MappedLocalTime::Ambiguous(first, _) if first > *after => Some(first),
                MappedLocalTime::Ambiguous(_, second) => Some(second).filter(|_| self.repeats),
                MappedLocalTime::None if self.repeats => None,
                MappedLocalTime::None => GapInfo::new(&wall, &self.zone)?.end,
            };
            if let Some(at) = comes.filter(|at| at > after) {
                return Some(at);
            }
        }
    }

    /// During the first pass of wall times that come twice: the first one of the second pass.
    fn next_of_second_pass(&self, after: &DateTime<Tz>) -> Option<DateTime<Tz>> {
        let MappedLocalTime::Ambiguous(first, second) =
            self.zone.from_local_datetime(&after.naive_local())
        else {
            return None;
        };
        if second <= *after {
            return None;
        }
        let begins = clock_goes_back(first, second.signed_duration_since(first).num_seconds());
        let before: NaiveDateTime = begins.naive_local() - TimeDelta::seconds(1);
        let wall = self.cron.find_next_occurrence(&before, false).ok()?;
        match self.zone.from_local_datetime(&wall) {
            MappedLocalTime::Ambiguous(_, second) => Some(second),
            MappedLocalTime::Single(_) | MappedLocalTime::None => None,
        }
    }
}

/// The instant of the change, which is at most so many seconds after one of the first pass.
fn clock_goes_back(first: DateTime<Tz>, seconds: i64) -> DateTime<Tz> {
    let offset = |at: DateTime<Tz>| at.offset().fix().local_minus_utc();
    let at = |seconds: i64| first + TimeDelta::seconds(seconds);
    let (mut before, mut after) = (0, seconds);
    while after - before > 1 {
        let middle = before + (after - before) / 2;
        if offset(at(middle)) == offset(first) { before = middle } else { after = middle }
    }
    at(after)
}

/// The expression, and whether it repeats.
fn parse_cron(text: &str) -> Result<(Cron, bool), String> {
    let wrong = |why: &dyn std::fmt::Display| {
        format!("must be five fields (minute hour day month weekday) or six (second first): {why}")
    };
    let fields = text.split_whitespace().collect::<Vec<_>>();
    let alias = ALIASES.iter().find(|alias| text.trim().eq_ignore_ascii_case(alias));
    if alias.is_none() && (!(5..=6).contains(&fields.len()) || text.contains('@')) {
        return Err(wrong(&format_args!("{text:?} is neither, nor one of {}", ALIASES.join(" "))));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed);
    let cron = parser.build().parse(text).map_err(|error| wrong(&error))?;
    let never = || String::from("never comes: there is no such day");
    let beginning = DateTime::UNIX_EPOCH.naive_utc();
    cron.find_next_occurrence(&beginning, true).map_err(|_| never())?;
    let clock = fields.len().saturating_sub(3);
    let starred = fields.iter().take(clock).any(|field| field.starts_with('*'));
    Ok((cron, starred || alias.is_some_and(|alias| *alias == "@hourly")))
}
