//! Points in time, and who tells them.

use std::{fmt, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};

/// A point in time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The end of the year 9999: no later instant is accepted at a door.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From seconds and nanoseconds since the epoch; what is below a microsecond is cut.
    pub const fn from_unix(seconds: i64, nanos: i32) -> Self {
        Self(seconds.saturating_mul(1_000_000).saturating_add(nanos as i64 / 1_000))
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This instant and a duration, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros)).min(Self::MAX)
    }

    /// Reads RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        let time = DateTime::parse_from_rfc3339(text).ok()?;
        Some(Self(time.timestamp_micros()))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, to the microsecond.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

/// Reads a duration as people write it: `250ms`, `1.5s`, `5m`, `1h30m`, `2d`, or seconds as a bare number.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit.trim() {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail.trim_start();
    }
    (!text.is_empty()).then_some(total)
}

/// Tells the time; passed in, so that a test can hold it still.
pub trait Clock: Send + Sync + 'static {
    /// Now, as the wall shows it.
    fn now(&self) -> Timestamp;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let check = |text, millis: u64| {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        };
        check("250ms", 250);
        check("1.5s", 1_500);
        check("90", 90_000);
        check("1h30m", 5_400_000);
        check("2d", 172_800_000);
        for bad in ["", "s", "1 fortnight", "-3s", "1.2.3s", "NaN", "5m x"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn timestamps_print_as_they_are_read() {
        let text = "2026-11-21T02:41:21.123456Z";
        assert_eq!(Timestamp::parse(text).map(|t| t.to_string()).as_deref(), Some(text));
    }
}
