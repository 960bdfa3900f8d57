//! One trace follows a task through every service, to a collector that speaks OTLP.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use gateway::client::RegistryClient;
use jetmill_sdk::{Task, TaskId, pb};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use testkit::{Jetmill, eventually};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::support::{ended, grpc, nats};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps every span that it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let groups = request.into_inner().resource_spans.into_iter();
        let spans = groups.flat_map(|group| group.scope_spans).flat_map(|scope| scope.spans);
        self.0.lock().map_err(|_| Status::internal("poisoned"))?.extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    let Value::StringValue(text) = found.value.as_ref()?.value.as_ref()? else { return None };
    Some(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|n| char::from_digit(n.into(), 16))
        .collect()
}

impl Collector {
    /// The spans of the trace, by service.
    fn by_service(&self) -> BTreeMap<String, Vec<Span>> {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        let Ok(spans) = self.0.lock() else { return found };
        for span in spans.iter().filter(|span| hex(&span.trace_id) == TRACE) {
            let service = text(&span.attributes, "jetmill.service").unwrap_or("nobody");
            found.entry(service.to_owned()).or_default().push(span.clone());
        }
        found
    }
}

/// Starts a collector; it ends with the set.
async fn collector(servers: &mut JoinSet<()>) -> anyhow::Result<(Collector, String)> {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let service = TraceServiceServer::new(collector.clone());
    let server = tonic::transport::Server::builder().add_service(service);
    servers.spawn(async move {
        // The test ends it.
        let _ = server.serve_with_incoming(TcpIncoming::from(listener)).await;
    });
    Ok((collector, endpoint))
}

#[tokio::test]
async fn one_trace_follows_a_task_through_every_service() -> anyhow::Result<()> {
    let mut servers = JoinSet::new();
    let (collector, endpoint) = collector(&mut servers).await?;
    let dev = Jetmill::dev()
        .env("JETMILL_TELEMETRY__OTLP_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start()
        .await?;
    let id = TaskId::parse("traced")?;
    let spec = Task::script("echo $TRACEPARENT").id(&id).build()?.into_pb();
    let mut request = Request::new(pb::SubmitRequest { tasks: vec![spec] });
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{PARENT}-01").parse()?);
    RegistryClient::new(grpc(&dev).await?).submit(request).await?;

    // The command itself can go on with the trace.
    let task = ended(&nats(&dev).await?, "traced").await?;
    let seen = task["result"]["stdout"].as_str().unwrap_or_default();
    ensure!(seen.starts_with(&format!("00-{TRACE}-")), "TRACEPARENT was {seen:?}: {task}");

    let wanted = BTreeSet::from(["gateway", "registry", "scheduler", "worker-pool"]);
    let complete = eventually("spans of every service", PATIENCE, async || {
        let found = collector.by_service();
        wanted.iter().all(|service| found.contains_key(*service)).then_some(())
    });
    let complete = complete.await;
    let found = collector.by_service();
    complete.with_context(|| format!("there are only {:?}", found.keys()))?;
    for service in wanted.iter().filter(|service| **service != "gateway") {
        let spans = found.get(*service).context("no spans")?;
        let about = |span: &Span| text(&span.attributes, "task.id") == Some("traced");
        ensure!(
            spans.iter().all(about),
            "{service} has spans that do not name the task: {spans:?}"
        );
    }
    // Nobody begins a trace of its own: the door's span has the caller's parent, and all others
    // hang below a span of the trace.
    let door =
        found.get("gateway").and_then(|spans| spans.first()).context("no span of the door")?;
    ensure!(hex(&door.parent_span_id) == PARENT, "{door:?}");
    ensure!(found.values().flatten().all(|span| !span.parent_span_id.is_empty()), "{found:?}");
    Ok(())
}
