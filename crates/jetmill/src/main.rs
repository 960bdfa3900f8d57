//! The one executable: every service, `jetmill dev`, and the command line.

mod bench;
mod change;
mod chaos;
mod cli;
mod completions;
mod config;
mod connect;
mod dead;
mod demo;
mod dev;
#[cfg(test)]
mod docs;
mod doctor;
mod exit;
mod limit;
mod list;
mod live;
mod log;
mod output;
mod pause;
mod platform;
mod progress;
mod queue;
mod schedule;
mod serve;
mod services;
mod settings;
mod show;
mod stats;
mod submit;
mod table;
mod task;
mod types;
mod wait;
mod worker;

use std::{ffi::OsStr, process::ExitCode, time::Duration};

use clap::Parser as _;

/// Gives freed memory back: the C library keeps what a burst took, for each thread anew. How soon is
/// said in .cargo/config.toml.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The parent of every single command: it must start fast, so it comes before all else.
    match std::env::args_os().nth(1).as_deref().and_then(OsStr::to_str) {
        Some("attend") => return worker_pool::attend::main(),
        Some("become") => return worker_pool::attend::limits::main(),
        Some("lua-run") => return worker_pool::lua::main(),
        _ => {}
    }
    let cli = cli::Cli::parse();
    let json = cli.global.json;
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            // Everything is started from this thread: children are bound to the life of it.
            let ended = runtime.block_on(Box::pin(cli::run(cli)));
            runtime.shutdown_timeout(Duration::from_millis(200));
            ended
        });
    ended.unwrap_or_else(|error| exit::report(&error, json)).into()
}
