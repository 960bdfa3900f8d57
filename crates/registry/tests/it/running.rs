//! A registry that runs, and the connection of who asks it.

use std::{sync::Arc, time::Duration};

use bus::{Bus, ConnectOptions, endpoint};
use common::{error::ApiError, pb};
use runtime::{Context, Health, clock::SystemClock};
use testkit::NatsServer;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// A connection to a server whose streams are there.
pub(crate) async fn connect(server: &NatsServer) -> Bus {
    let options = ConnectOptions { url: server.url(), name: "test".into(), credentials: None };
    let bus = bus::connect(&options).await.expect("a connection");
    bus::streams::ensure(&bus, bus::streams::StreamOptions::default()).await.expect("streams");
    bus
}

pub(crate) fn about(id: &str, min_sequence: u64) -> pb::GetRequest {
    pb::GetRequest { tenant: String::new(), task_id: id.into(), min_sequence }
}

pub(crate) struct Running {
    pub(crate) bus: Bus,
    pub(crate) health: Health,
    shutdown: CancellationToken,
    service: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub(crate) fn begin(bus: &Bus, ledger_url: &str) -> Self {
        let shutdown = CancellationToken::new();
        let ctx = Context::new(bus.clone(), Arc::new(SystemClock), shutdown.clone(), "test")
            .named("registry");
        let health = ctx.health.clone();
        let config = registry::Config { ledger_url: ledger_url.into(), ..Default::default() };
        #[expect(clippy::disallowed_methods, reason = "the test joins it")]
        let service = tokio::spawn(registry::run(ctx, config));
        Self { bus: bus.clone(), health, shutdown, service }
    }

    pub(crate) async fn start(bus: &Bus, ledger_url: &str) -> Self {
        let it = Self::begin(bus, ledger_url);
        timeout(Duration::from_secs(20), it.health.wait_ready()).await.expect("ready in time");
        it
    }

    /// Why it ended by itself, and what its readiness says.
    pub(crate) async fn refusal(self) -> (String, String) {
        let ended = timeout(Duration::from_secs(10), self.service).await;
        let error = ended.expect("it ends").expect("no panic").expect_err("it refuses");
        (runtime::chain(&error), format!("{:?}", self.health.snapshot()))
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let ended = timeout(Duration::from_secs(5), self.service).await;
        ended.expect("ends in time").expect("no panic").expect("no error");
    }

    pub(crate) async fn ask<Resp: prost::Message + Default>(
        &self,
        method: &str,
        request: impl prost::Message,
    ) -> Result<Resp, ApiError> {
        endpoint::request(&self.bus, "registry", method, &request).await
    }

    pub(crate) async fn get(&self, id: &str, min_sequence: u64) -> Result<pb::Task, ApiError> {
        self.ask("get", about(id, min_sequence)).await
    }

    /// The task, which is there.
    pub(crate) async fn task(&self, id: &str, min_sequence: u64) -> pb::Task {
        self.get(id, min_sequence).await.expect("the task")
    }
}
