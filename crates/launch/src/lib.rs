//! Servers and programs as child processes that never outlive the process that started them: a
//! nats-server, the programs of PostgreSQL, `jetmill` itself.
//!
//! The tests and `jetmill chaos` start real processes, kill them and start them again. This is what
//! both need for it; what is only for tests is in `testkit`.

mod eventually;
mod nats;
pub mod postgres;
pub mod process;

pub use eventually::{eventually, wait_for};
pub use nats::{NatsServer, NatsServerBuilder};
