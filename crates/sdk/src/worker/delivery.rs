//! **Pure.** What a worker does with a message that was delivered to it, and when it may end it.

/// What to do with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Run its attempts.
    Run,
    /// Leave it alone: its first delivery goes on here, and ends the message.
    Leave,
    /// Report its attempt as lost: somebody had it before and vanished, perhaps in the middle.
    Lost,
    /// Hand its attempts back unrun, for this reason.
    Return(&'static str),
}

/// What to do with a delivery of so many attempts.
///
/// `deliveries` counts this one; `held` is whether this worker holds one of its attempts.
pub fn on_delivery(deliveries: i64, attempts: usize, held: bool, draining: bool) -> Delivery {
    match (held, deliveries, attempts) {
        // Our own progress acks were late; or nats-server was killed and forgot that we have it.
        (true, ..) => Delivery::Leave,
        (false, ..=1, _) if draining => Delivery::Return("the worker leaves"),
        (false, ..=1, _) => Delivery::Run,
        (false, _, 1) => Delivery::Lost,
        (false, ..) => Delivery::Return("its group was delivered again"),
    }
}

/// What became of an attempt's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The log has it.
    Stored,
    /// Nobody wants to hear it: the attempt was over before.
    Unwanted,
    /// The log may not have it.
    Unknown,
}

/// Whether a message may be ended: only when the log has the outcomes of all its attempts. One that
/// is not ended comes again, and is reported as lost.
pub fn may_end(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| match outcome {
        Outcome::Stored | Outcome::Unwanted => true,
        Outcome::Unknown => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_first_delivery_is_run() {
        assert_eq!(on_delivery(1, 1, false, false), Delivery::Run);
        assert_eq!(on_delivery(2, 1, false, false), Delivery::Lost);
        assert_eq!(on_delivery(2, 1, true, true), Delivery::Leave);
        let forgotten = on_delivery(1, 1, true, false);
        assert_eq!(forgotten, Delivery::Leave, "a killed nats-server does not mark it");
        assert!(matches!(on_delivery(3, 2, false, false), Delivery::Return(_)));
        assert!(matches!(on_delivery(1, 1, false, true), Delivery::Return(_)));
    }

    #[test]
    fn a_message_waits_for_the_outcomes_of_all_its_attempts() {
        assert!(may_end(&[Outcome::Stored, Outcome::Unwanted]));
        assert!(!may_end(&[Outcome::Stored, Outcome::Unknown]));
    }
}
