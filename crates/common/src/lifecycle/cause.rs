//! **Pure.** Why tasks fail.

use crate::pb;

/// Why a task failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its last try ended in an error.
    Error,
    /// Its last try, or the task as a whole, took too long.
    Timeout,
    /// Its workers vanished too often.
    Lost,
    /// It could never have run, or its error must not be retried.
    Rejected,
    /// A task that it depends on did not end as it should.
    Dependency,
    /// It waited too long to start.
    Expired,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 6] =
        [Self::Error, Self::Timeout, Self::Lost, Self::Rejected, Self::Dependency, Self::Expired];

    /// The word that people and the ledger use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::Rejected => "rejected",
            Self::Dependency => "dependency",
            Self::Expired => "expired",
        }
    }

    /// From the wire, where an unset cause is a plain error.
    pub fn from_pb(cause: pb::Cause) -> Self {
        match cause {
            pb::Cause::Unspecified | pb::Cause::Error => Self::Error,
            pb::Cause::Timeout => Self::Timeout,
            pb::Cause::Lost => Self::Lost,
            pb::Cause::Rejected => Self::Rejected,
            pb::Cause::Dependency => Self::Dependency,
            pb::Cause::Expired => Self::Expired,
        }
    }

    /// To the wire.
    pub fn to_pb(self) -> pb::Cause {
        match self {
            Self::Error => pb::Cause::Error,
            Self::Timeout => pb::Cause::Timeout,
            Self::Lost => pb::Cause::Lost,
            Self::Rejected => pb::Cause::Rejected,
            Self::Dependency => pb::Cause::Dependency,
            Self::Expired => pb::Cause::Expired,
        }
    }
}

impl From<Option<Cause>> for pb::Cause {
    /// What has not failed has no cause.
    fn from(cause: Option<Cause>) -> Self {
        cause.map_or(Self::Unspecified, Cause::to_pb)
    }
}
