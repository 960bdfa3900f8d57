//! The worker: takes attempts off the queues, runs each on a slot, and publishes how it ended.
//!
//! What it promises, and `docs/reference/worker-protocol.md` says for every language: an attempt
//! that was delivered a second time is not run; a message is acknowledged only after the log has
//! the outcomes of all its attempts; never more messages are taken than slots are free; whatever
//! runs is listed in the heartbeat and stops when it is told to.
//!
//! It does not decide what follows an attempt: `lifecycle::after` does, by way of `attempt`.

pub mod attempt;
mod builder;
mod context;
mod control;
pub mod delivery;
mod engine;
mod execution;
mod executor;
mod handler;
mod large;
mod output;
mod queue;
mod report;
mod run;
mod running;

pub use builder::{Worker, WorkerBuilder};
pub use context::AttemptContext;
pub use engine::{Observe, Observed, Options, run};
pub use execution::{Execution, Unreadable, decode};
pub use executor::{AttemptError, AttemptResult, Executor};
pub use handler::{HandlerContext, HandlerError, Handlers};
pub use output::OutputStream;

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod tests;
