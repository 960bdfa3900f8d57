//! JetStream as Jetmill uses it: what the services and the SDK share of NATS.
//!
//! It knows streams, bundles, cursors and endpoints, and nothing of what a task means. There is no
//! in-memory stand-in for it: what decides is pure and tested without a bus, what uses the bus is
//! tested on a real nats-server.

mod connect;
pub mod cursors;
pub mod endpoint;
pub mod heartbeat;
pub mod intake;
pub mod live;
pub mod objects;
mod publish;
mod read;
pub mod streams;
mod submit;
pub mod trim;

pub use connect::{Bus, ConnectOptions, connect};
pub use publish::{PublishError, Publisher};
pub use read::{Cursor, Message, ReadError, Reader, fetch};
pub use submit::{create, submit};
