//! Breaks a cluster on purpose, under load, and proves from the log and the ledger what survived.
//!
//! A seed decides everything that can be decided beforehand: which work is submitted ([`load`]) and
//! which faults come when ([`plan`]). The faults are done to real processes ([`cluster`], [`act`]) and
//! to the traffic between them ([`proxy`]). When all of it is over and the cluster has come to rest,
//! the checker reads the log from its start and the ledger page by page, believes nobody, and judges
//! ([`judge`]). What user work did is read from a journal of its own, and only to count how often it
//! ran twice.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a match says what is special about a few of twenty kinds of fault"
)]

pub mod act;
pub mod check;
pub mod cluster;
pub mod disk;
pub mod engine;
pub mod journal;
pub mod judge;
pub mod kind;
pub mod load;
pub mod observe;
pub mod plan;
pub mod proxy;
pub mod report;
pub mod scenario;
pub mod storage;
pub mod submit;
mod verdict;
pub mod worker;

pub use engine::{Options, Target, run};
pub use kind::Kind;
pub use report::Report;
