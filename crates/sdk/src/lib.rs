//! Jetmill for programs: submit work and wait for it, report work that runs elsewhere, run handlers.
//!
//! * [`Client`] submits and asks; [`Task`] builds what is submitted.
//! * [`TaskReporter`] tells Jetmill about work that another system runs.
//! * [`Worker`] runs handlers written in Rust. Its engine, [`worker`], is also what the service
//!   worker-pool runs its executors on: there is one implementation of the worker protocol
//!   (`docs/reference/worker-protocol.md`) in Rust.
//!
//! It speaks to NATS only and holds no policy of its own: ids, retries and what an attempt's end
//! means are `common`'s.

mod client;
mod clock;
mod reporter;
mod task;
pub mod worker;

pub use client::Client;
pub use clock::SystemClock;
pub use common::{
    error::ApiError,
    id::{QueueName, TaskId, Tenant, WorkerName},
    pb,
    task::TaskSpec,
};
pub use reporter::TaskReporter;
pub use task::Task;
pub use worker::{HandlerContext, HandlerError, Worker, WorkerBuilder};
