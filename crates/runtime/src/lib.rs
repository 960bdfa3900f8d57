//! The shared plumbing of services, so that each of them is only about its own question.
//!
//! This is the one crate with process-wide effects: signals, the log and metrics of the process, its
//! environment and clock. It knows no task and no event. A service gets a [`Context`], spawns its
//! work under a [`Supervisor`] and says through [`Health`] when it is ready.

mod chain;
pub mod clock;
pub mod config;
mod context;
mod health;
pub mod http;
pub mod process;
mod supervisor;
pub mod telemetry;

pub use chain::chain;
pub use context::Context;
pub use health::{Health, Readiness};
pub use supervisor::Supervisor;
