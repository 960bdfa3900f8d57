//! **Pure.** The kinds of fault, by name.

use std::{fmt, time::Duration};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9` of the scheduler that leads.
    KillLeader,
    /// `kill -9` of the scheduler that stands by.
    KillStandby,
    /// `kill -9` of the registry.
    KillRegistry,
    /// `kill -9` of a worker of handlers.
    KillWorker,
    /// `kill -9` of a worker-pool.
    KillWorkerPool,
    /// `kill -9` of nats-server.
    KillNats,
    /// `kill -9` of PostgreSQL.
    KillPostgres,
    /// Two or three of these at one instant.
    KillTogether,
    /// The leader is stopped for longer than its lease, and goes on.
    StopLeader,
    /// A worker is cut off from NATS for longer than it takes to be given up, and comes back.
    Zombie,
    /// Messages of the log are published again.
    DuplicateEvents,
    /// Work that a worker has is delivered to another one, marked as a redelivery.
    Redelivery,
    /// Work is delivered twice without a mark.
    DuplicateDelivery,
    /// The traffic of a process is held for seconds.
    Delay,
    /// Submissions are sent again.
    RepeatSubmission,
    /// The disk of nats-server is full.
    FullDiskNats,
    /// The disk of the ledger is full.
    FullDiskLedger,
    /// The ledger is replaced by an older copy of itself.
    LedgerRestored,
    /// The same, and the log no longer has what comes next: it must be refused.
    LedgerBehindLog,
    /// The stream of the log is made anew: it must be noticed.
    StreamRecreated,
    /// A command of the user's, by its place in the list.
    Custom(u16),
}

impl Kind {
    /// Every kind but the user's own.
    pub const ALL: [Self; 20] = [
        Self::KillLeader,
        Self::KillStandby,
        Self::KillRegistry,
        Self::KillWorker,
        Self::KillWorkerPool,
        Self::KillNats,
        Self::KillPostgres,
        Self::KillTogether,
        Self::StopLeader,
        Self::Zombie,
        Self::DuplicateEvents,
        Self::Redelivery,
        Self::DuplicateDelivery,
        Self::Delay,
        Self::RepeatSubmission,
        Self::FullDiskNats,
        Self::FullDiskLedger,
        Self::LedgerRestored,
        Self::LedgerBehindLog,
        Self::StreamRecreated,
    ];
    /// What can be done to a cluster of which only NATS is known.
    pub const FROM_OUTSIDE: [Self; 7] = [
        Self::KillWorker,
        Self::Zombie,
        Self::DuplicateEvents,
        Self::Redelivery,
        Self::DuplicateDelivery,
        Self::Delay,
        Self::RepeatSubmission,
    ];

    /// The word of the command line and the report.
    pub fn word(self) -> &'static str {
        match self {
            Self::KillLeader => "kill-leader",
            Self::KillStandby => "kill-standby",
            Self::KillRegistry => "kill-registry",
            Self::KillWorker => "kill-worker",
            Self::KillWorkerPool => "kill-worker-pool",
            Self::KillNats => "kill-nats",
            Self::KillPostgres => "kill-postgres",
            Self::KillTogether => "kill-together",
            Self::StopLeader => "stop-leader",
            Self::Zombie => "zombie",
            Self::DuplicateEvents => "duplicate-events",
            Self::Redelivery => "redelivery",
            Self::DuplicateDelivery => "duplicate-delivery",
            Self::Delay => "delay",
            Self::RepeatSubmission => "repeat-submission",
            Self::FullDiskNats => "full-disk-nats",
            Self::FullDiskLedger => "full-disk-ledger",
            Self::LedgerRestored => "ledger-restored",
            Self::LedgerBehindLog => "ledger-behind-log",
            Self::StreamRecreated => "stream-recreated",
            Self::Custom(_) => "custom",
        }
    }

    /// Reads a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Whether the cluster's life ends with it, so that it comes after everything else.
    pub fn is_last(self) -> bool {
        matches!(self, Self::LedgerBehindLog | Self::StreamRecreated)
    }

    /// How long it lasts, at least and at most, in milliseconds.
    pub fn lasts(self) -> (u64, u64) {
        match self {
            // A process is started again at once, or only after a lease and a heartbeat's time.
            Self::KillLeader | Self::KillStandby => (200, 6_000),
            Self::KillRegistry | Self::KillWorker | Self::KillWorkerPool => (200, 4_000),
            Self::KillNats | Self::KillPostgres | Self::KillTogether => (200, 2_500),
            Self::StopLeader => (5_000, 8_000),
            // A worker is given up after 10 s, what it had is delivered again after 30 s.
            Self::Zombie => (12_000, 16_000),
            Self::Delay => (2_000, 6_000),
            Self::FullDiskNats | Self::FullDiskLedger => (2_000, 4_000),
            Self::LedgerRestored => (4_000, 8_000),
            // Until it is seen to have happened.
            Self::Redelivery | Self::DuplicateDelivery => (800, 1_500),
            Self::DuplicateEvents
            | Self::RepeatSubmission
            | Self::LedgerBehindLog
            | Self::StreamRecreated
            | Self::Custom(_) => (0, 0),
        }
    }

    /// How long the cluster may need to be itself again after its end.
    pub fn settles_in(self) -> Duration {
        match self {
            Self::KillLeader
            | Self::StopLeader
            | Self::KillNats
            | Self::KillTogether
            | Self::FullDiskNats => Duration::from_secs(15),
            _ => Duration::from_secs(10),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.word()), Some(kind));
        }
        assert_eq!(Kind::parse("rain"), None);
    }
}
