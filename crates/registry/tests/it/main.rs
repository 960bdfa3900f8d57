//! The registry as a whole, on a real nats-server.

mod running;
mod service;
mod trimmed;
