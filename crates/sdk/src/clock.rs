//! The wall clock of a program that uses the SDK and so has no service context to take one from.

use std::time::UNIX_EPOCH;

use common::time::{Clock, Timestamp};

/// Tells the time as the machine shows it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the clock that the others are passed"
        )]
        let now = std::time::SystemTime::now();
        let micros = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}
