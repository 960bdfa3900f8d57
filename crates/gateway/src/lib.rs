//! How do people and programs outside reach Jetmill? For now: by gRPC.
//!
//! It is a door and owns no decision. Each unary method is handed on, as it is, to the service that
//! answers `admin.<service>.<method>` on NATS; live views are read from the log itself, and large
//! inputs and results from the object store. It keeps no
//! state and depends on no service's address, so any number of gateways may run.

mod door;
mod grpc;
mod live;
mod objects;
mod serving;
mod status;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use common::limits;
use runtime::Context;
use tokio::{net::TcpListener, sync::Semaphore};
use tonic::transport::server::TcpIncoming;
use tonic_health::{
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

pub use grpc::client;

const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that open streams have to end at shutdown: those of health and reflection never do.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);

/// How the gateway serves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Live views that may be open at once; each of them reads the log by itself.
    pub live_views_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { live_views_max: limits::LIVE_VIEWS_MAX }
    }
}

/// Serves gRPC on the listener until shutdown is requested.
pub async fn run(ctx: Context, listener: TcpListener, config: Config) -> anyhow::Result<()> {
    let mut tasks = ctx.supervisor();
    let reporter = HealthReporter::new();
    let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    tasks.spawn("serving", serving::report(ctx.clone(), reporter));
    tasks.spawn("grpc", serve(ctx.clone(), listener, config, health));
    tasks.join().await
}

async fn serve(
    ctx: Context,
    listener: TcpListener,
    config: Config,
    health: HealthServer<HealthService>,
) -> anyhow::Result<()> {
    let door = door::Door::new(ctx.bus.clone());
    let views = Arc::new(Semaphore::new(config.live_views_max));
    let live = live::Live::new(ctx.bus.clone(), ctx.shutdown.clone(), views);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(common::pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(limits::CONNECTION_STREAMS_MAX)
        .add_service(health)
        .add_service(reflection().build_v1().context("failed to describe the gRPC services")?)
        .add_service(reflection().build_v1alpha().context("failed to describe the gRPC services")?)
        .add_service(grpc::registry(door.clone()))
        .add_service(grpc::scheduler(door.clone()))
        .add_service(grpc::worker_pool(door))
        .add_service(grpc::live(live))
        .add_service(grpc::objects(objects::Objects::new(ctx.bus.clone())));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    ctx.health.ready();
    let closed = async {
        ctx.shutdown.cancelled().await;
        ctx.health.not_ready("it is stopping");
        tokio::time::sleep(CLOSE_WITHIN).await;
    };
    // Dropping the server at the deadline is meant: it closes what is still open.
    tokio::select! {
        ended = server.serve_with_incoming_shutdown(incoming, ctx.shutdown.cancelled()) => {
            ended.context("failed to serve gRPC")
        }
        () = closed => Ok(()),
    }
}
