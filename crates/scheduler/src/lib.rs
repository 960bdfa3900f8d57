//! The scheduler answers one question: **what runs next?**
//!
//! It folds the log into the backlog and the graph of waiting tasks, and releases work to
//! `EXECUTIONS` in an order that it can explain. One leader decides; standbys fold all the time, so
//! that they know everything when they take over.
//!
//! What decides is pure: [`plan`] with [`queue`], [`flow`], [`graph`], [`workers`], [`verdict`],
//! [`office`], [`outgoing`], [`orders`], [`intake`], [`schedule`] and [`why`]. The shell around it
//! fetches, calls it and applies. The scheduler has no database, never runs user work, and ends no
//! attempt that a worker still holds.

mod admin;
mod dispatch;
pub mod flow;
pub mod graph;
pub mod intake;
mod lead;
mod lease;
mod metrics;
pub mod office;
pub mod orders;
pub mod outgoing;
mod payload;
pub mod plan;
pub mod policies;
pub mod queue;
pub mod schedule;
mod snapshot;
pub mod trim;
pub mod verdict;
pub mod why;
pub mod workers;

use std::time::Duration;

use common::limits;
use runtime::Context;

/// What an operator may choose about the scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// Messages of the log after which the state is stored again.
    pub snapshot_every_messages: u64,
    /// Released-but-unfinished tasks of one queue, at most.
    pub window_max: u32,
    /// How long the log keeps what is over, while its size allows.
    pub history_age: Duration,
    /// Finished tasks that are remembered, at most; above it the log is trimmed.
    pub finished_tasks_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            snapshot_every_messages: 20_000,
            window_max: limits::WINDOW_MAX,
            history_age: limits::HISTORY_AGE,
            finished_tasks_max: limits::FINISHED_TASKS_MAX,
        }
    }
}

/// Runs until shutdown is requested; returns once every task that it started has ended.
pub async fn run(ctx: Context, config: Config) -> anyhow::Result<()> {
    let mut tasks = ctx.supervisor();
    let lease = lease::Lease::new(ctx.instance.clone());
    let (publisher, pump) = bus::Publisher::new(&ctx.bus);
    let (admin, commands) = admin::channel();
    tasks.spawn_once("publisher", async move {
        pump.await;
        Ok(())
    });
    tasks.spawn("lease", lease::keep(ctx.clone(), lease.clone()));
    tasks.spawn("admin", admin::serve(ctx.clone(), lease.clone(), admin, publisher.clone()));
    tasks.spawn("planner", lead::run(ctx, config, lease, publisher, commands));
    tasks.join().await
}
