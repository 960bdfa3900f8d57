//! What should fire, by the simplest means: a walk back minute by minute. No cron library is used.

use std::collections::BTreeMap;

use common::time::Timestamp;

const MINUTE: i64 = 60_000_000;
/// How late a tick may be: a day, where a schedule says nothing.
const WINDOW: i64 = 24 * 60;

/// A schedule as the catalog has it.
pub(super) struct Known {
    cron: &'static str,
    /// Every tick up to this minute is decided; `None` while it rests.
    decided: Option<i64>,
}

/// All schedules, and up to where each has fired.
#[derive(Default)]
pub(super) struct Oracle {
    known: BTreeMap<&'static str, Known>,
}

/// A run: the tick in minutes since 1970, and whose it is.
pub(super) type Fire = (i64, &'static str);

pub(super) fn minute(at: Timestamp) -> i64 {
    at.micros().div_euclid(MINUTE)
}

pub(super) fn at(minute: i64) -> Timestamp {
    Timestamp::from_micros(minute * MINUTE)
}

/// Whether a field of numbers, `*` and `*/n` has the value.
fn fits(field: &str, value: i64) -> bool {
    match field.strip_prefix("*/").map(str::parse::<i64>) {
        Some(step) => value % step.expect("a number") == 0,
        None => field == "*" || field.parse() == Ok(value),
    }
}

/// Whether the minute is a tick: in UTC, and 1970 began on a Thursday.
fn is_tick(cron: &str, minute: i64) -> bool {
    let fields = cron.split(' ').collect::<Vec<_>>();
    let [of_hour, of_day, "*", "*", weekday] = fields[..] else { unreachable!("{cron}") };
    let (hours, days) = (minute.div_euclid(60), minute.div_euclid(24 * 60));
    fits(of_hour, minute.rem_euclid(60))
        && fits(of_day, hours.rem_euclid(24))
        && fits(weekday, (days + 4).rem_euclid(7))
}

impl Oracle {
    /// From here on the schedule fires.
    pub(super) fn wakes(&mut self, name: &'static str, cron: &'static str, from: Timestamp) {
        self.known.insert(name, Known { cron, decided: Some(minute(from)) });
    }

    /// It is there, and does not fire.
    pub(super) fn rests(&mut self, name: &'static str, cron: &'static str) {
        self.known.insert(name, Known { cron, decided: None });
    }

    /// What the jump of the clock to a minute fires: of each schedule the newest tick, if it is not too
    /// late.
    pub(super) fn jump(&mut self, to: i64) -> Vec<Fire> {
        let mut fires = Vec::new();
        for (name, known) in &mut self.known {
            let Some(decided) = known.decided else { continue };
            let newest = (decided + 1..=to).rev().find(|minute| is_tick(known.cron, *minute));
            if let Some(newest) = newest {
                known.decided = Some(newest);
                fires.extend((to - newest <= WINDOW).then_some((newest, *name)));
            }
        }
        fires
    }

    /// The next tick of each that does not rest.
    pub(super) fn next(&self, after: i64) -> BTreeMap<&'static str, i64> {
        let year = after + 1..after + 366 * WINDOW;
        let next = |known: &Known| year.clone().find(|minute| is_tick(known.cron, *minute));
        let awake = self.known.iter().filter(|(_, known)| known.decided.is_some());
        awake.filter_map(|(name, known)| Some((*name, next(known)?))).collect()
    }
}
