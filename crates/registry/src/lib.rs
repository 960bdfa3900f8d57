//! What work is there, and what became of it?
//!
//! The registry folds the log into the ledger, a SQL database that only it knows, and answers
//! questions from there. It is the only one that publishes dead letters: what nobody will deal with
//! unless somebody is told. It decides nothing about what runs.
//!
//! Rows, history and cursor are written in one transaction, so it reads the log without
//! acknowledging anything and goes on where the ledger is after any crash.

mod admin;
mod change;
mod cursor;
mod dead;
#[cfg(test)]
mod fixtures;
pub mod ledger;
pub mod project;
mod projector;
mod raw;
pub mod row;
mod sweep;
mod view;

use std::time::Duration;

use bus::Publisher;
use common::limits;
use runtime::Context;

/// What an operator may choose about the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the ledger is: `sqlite:<path>` or `postgres://<user>@<host>/<database>`.
    pub ledger_url: String,
    /// How long large inputs and results are kept after their task has ended.
    pub objects_kept: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ledger_url: "sqlite:jetmill-data/ledger.db".into(),
            objects_kept: limits::OBJECTS_KEPT,
        }
    }
}

/// Runs until shutdown is requested; returns once every task it started has ended.
pub async fn run(ctx: Context, config: Config) -> anyhow::Result<()> {
    let Some(ledger) = projector::open(&ctx, &config.ledger_url).await? else { return Ok(()) };
    let (publisher, pump) = Publisher::new(&ctx.bus);
    let projector = projector::Projector::new(ctx.clone(), ledger.clone());
    let committed = projector.committed();
    let mut tasks = ctx.supervisor();
    // It ends when the endpoints, its only users, have ended.
    tasks.spawn_once("publish", async {
        pump.await;
        Ok(())
    });
    tasks.spawn("project", projector.run());
    tasks.spawn("cursor", cursor::keep(ctx.clone(), ledger.clone()));
    let swept = sweep::keep(ctx.clone(), ledger.clone(), committed.clone(), config.objects_kept);
    tasks.spawn("sweep", swept);
    tasks.spawn("endpoints", admin::serve(admin::Admin { ctx, ledger, publisher, committed }));
    tasks.join().await
}
