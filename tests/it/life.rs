//! A task's life, from outside: what ends it and how, what delays it, who runs it, what is left.
//!
//! Each test runs a `jetmill dev` of its own and several scenarios on it at once, in queues of
//! their own. What has to be exact (who runs when) runs on workers in the test's own process.

mod cancel;
mod containers;
mod executors;
mod graph;
mod hostile;
mod hostile_containers;
mod limits;
mod order;
mod retry;
mod select;
mod shell;
mod timeouts;
mod workers;
