//! Which services answer, for the health service of gRPC.

use std::time::Duration;

use bus::{Bus, endpoint};
use common::error::ErrorCode;
use futures::future;
use runtime::Context;
use tonic_health::{ServingStatus, server::HealthReporter};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A service and a method of it that is cheap to ask with an empty request.
struct Probe {
    service: &'static str,
    method: &'static str,
    names: &'static [&'static str],
}

/// The empty name stands for the gateway as a whole; without a registry it is of little use.
const PROBES: [Probe; 3] = [
    Probe {
        service: "registry",
        method: "get",
        names: &["", "jetmill.v1.Registry", "jetmill.v1.Live"],
    },
    Probe { service: "scheduler", method: "why", names: &["jetmill.v1.Scheduler"] },
    Probe { service: "worker_pool", method: "list_workers", names: &["jetmill.v1.WorkerPool"] },
];

/// Keeps the health service up to date until shutdown.
pub(crate) async fn report(ctx: Context, reporter: HealthReporter) -> anyhow::Result<()> {
    withdraw(&reporter).await;
    loop {
        future::join_all(PROBES.iter().map(|probe| look(&ctx.bus, &reporter, probe))).await;
        // Both arms are cancel-safe.
        tokio::select! {
            () = ctx.shutdown.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    withdraw(&reporter).await;
    Ok(())
}

/// Nobody was seen yet, or nobody is looked for any more.
async fn withdraw(reporter: &HealthReporter) {
    for name in PROBES.iter().flat_map(|probe| probe.names) {
        reporter.set_service_status(*name, ServingStatus::NotServing).await;
    }
}

async fn look(bus: &Bus, reporter: &HealthReporter, probe: &Probe) {
    // An empty request names no task and changes nothing: to be refused is an answer too.
    let answer = endpoint::request::<(), ()>(bus, probe.service, probe.method, &()).await;
    let absent = answer.is_err_and(|error| error.code == ErrorCode::Unavailable);
    let status = if absent { ServingStatus::NotServing } else { ServingStatus::Serving };
    for name in probe.names {
        reporter.set_service_status(*name, status).await;
    }
}
