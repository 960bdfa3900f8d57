//! Real servers for tests: a `nats-server`, a PostgreSQL, a Docker engine, the `jetmill` program itself.
//!
//! Services are tested against what they run on, since an imitation of JetStream would model the
//! easy part and be wrong about redelivery. Each test has its own server or database, on a port or
//! socket of its own, so tests run in parallel. A program that is missing is a failure that names
//! `make tools`; nothing is skipped, but the tests of containers where no engine can be started. Whatever is started here ends with the test that started it,
//! also when that test is killed.
//!
//! This is for `dev-dependencies` only. It may use `launch`, and no service.

mod docker;
mod jetmill;
mod postgres;

pub use bollard;
pub use docker::DockerEngine;
pub use jetmill::{Addresses, Dev, DevBuilder, Jetmill, Output};
pub use launch::{NatsServer, NatsServerBuilder, eventually};
pub use postgres::Postgres;

#[cfg(test)]
mod tests;
