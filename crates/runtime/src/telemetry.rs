//! Logs, traces and metrics of the process.
//!
//! Logs go to stderr. Metrics are read by Prometheus (see `http`). Traces go to an OTLP endpoint when
//! one is configured; otherwise [`task_span`] makes no spans, so that the hot paths pay nothing, and
//! the trace context that came in is handed on unchanged.

use std::{
    collections::HashMap,
    io::IsTerminal as _,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use common::id::TaskKey;
use opentelemetry::{
    Context as TraceContext, global,
    propagation::TextMapPropagator as _,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    metrics::{Aggregation, Instrument, InstrumentKind, SdkMeterProvider, Stream},
    propagation::TraceContextPropagator,
    trace::SdkTracerProvider,
};
use tracing::{Level, Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// What is logged when nobody chooses.
pub const DEFAULT_FILTER: &str = "info,async_nats=warn,opentelemetry=warn";
/// Time that the last spans have to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Boundaries of the histograms of durations.
const SECONDS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

static EXPORTING: AtomicBool = AtomicBool::new(false);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Several lines an event, for eyes.
    Pretty,
    /// One line an event, for eyes.
    #[default]
    Compact,
    /// One JSON object an event, for machines.
    Json,
}

impl Format {
    /// The words of the formats.
    pub const WORDS: [&str; 3] = ["pretty", "compact", "json"];

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "pretty" => Some(Self::Pretty),
            "compact" => Some(Self::Compact),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// What the process tells about itself, and to whom.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// Which log lines appear, in the syntax of `RUST_LOG`.
    pub filter: String,
    /// How they look.
    pub format: Format,
    /// Where traces go, as `http://host:4317`.
    pub otlp_endpoint: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { filter: DEFAULT_FILTER.into(), format: Format::default(), otlp_endpoint: None }
    }
}

/// Holds the telemetry of the process; what is left goes out when it is dropped.
#[must_use = "traces and metrics end when this is dropped"]
pub struct Guard {
    tracer: SdkTracerProvider,
    // Keeps the instruments alive; nothing is pushed, so there is nothing to flush.
    _meter: SdkMeterProvider,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.tracer.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::debug!(%error, "the last spans were lost");
        }
    }
}

/// Installs logs, traces and metrics for the whole process, once. Needs a tokio runtime.
pub fn init(config: &TelemetryConfig) -> anyhow::Result<Guard> {
    let filter = EnvFilter::try_new(&config.filter).with_context(|| {
        format!("{:?} is no log filter; write for example `info,bus=debug`", config.filter)
    })?;
    let resource = Resource::builder().with_service_name("jetmill").build();
    let tracer = tracer_provider(config.otlp_endpoint.as_deref(), resource.clone())?;
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer.tracer("jetmill"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(is_traced));
    tracing_subscriber::registry()
        .with(spans)
        .with(logs(config.format).with_filter(filter))
        .try_init()
        .context("failed to install the log of the process")?;
    let meter = meter_provider(resource)?;
    global::set_meter_provider(meter.clone());
    EXPORTING.store(config.otlp_endpoint.is_some(), Ordering::Relaxed);
    Ok(Guard { tracer, _meter: meter })
}

/// Spans of one task's way belong into traces; log lines and the spans of services do not.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
        && *metadata.level() <= Level::INFO
        && metadata.target() != "jetmill::supervisor"
}

fn tracer_provider(
    endpoint: Option<&str>,
    resource: Resource,
) -> anyhow::Result<SdkTracerProvider> {
    let provider = SdkTracerProvider::builder().with_resource(resource);
    let Some(endpoint) = endpoint else { return Ok(provider.build()) };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .with_context(|| format!("failed to make the exporter of traces to {endpoint:?}"))?;
    Ok(provider.with_batch_exporter(exporter).build())
}

fn meter_provider(resource: Resource) -> anyhow::Result<SdkMeterProvider> {
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(prometheus::default_registry().clone())
        .scope_info_enabled(false)
        .without_target_info()
        .build()
        .context("failed to make the exporter of metrics")?;
    let provider = SdkMeterProvider::builder().with_reader(reader).with_view(in_seconds);
    Ok(provider.with_resource(resource).build())
}

/// Durations have the boundaries of seconds; those by default are for milliseconds.
fn in_seconds(instrument: &Instrument) -> Option<Stream> {
    let is_duration = instrument.kind() == InstrumentKind::Histogram && instrument.unit() == "s";
    let aggregation = Aggregation::ExplicitBucketHistogram {
        boundaries: SECONDS.to_vec(),
        record_min_max: false,
    };
    is_duration.then(|| Stream::builder().with_aggregation(aggregation).build().ok()).flatten()
}

fn logs<S>(format: Format) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !no_color);
    match format {
        Format::Pretty => layer.pretty().boxed(),
        Format::Compact => layer.compact().boxed(),
        Format::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    }
}

/// Whether traces are exported. Where they are not, spans of single tasks are not worth making.
pub fn exporting() -> bool {
    EXPORTING.load(Ordering::Relaxed)
}

/// The span of one step of one task's way, in the trace of the task; disabled when nothing exports.
///
/// A task whose submitter sent no trace context has the trace that its key names, so that every
/// service puts its steps into the same trace without having to agree on one.
pub fn task_span(
    name: &'static str,
    service: &'static str,
    key: TaskKey,
    task_id: &str,
    traceparent: &str,
) -> Span {
    if !exporting() {
        return Span::none();
    }
    let span = tracing::info_span!(
        target: "jetmill", parent: None, "task",
        otel.name = name, jetmill.service = service, task.id = task_id
    );
    continue_trace(&span, &traceparent_for(key, traceparent));
    span
}

/// The trace context of a task: what its submitter sent, or else what its key names.
pub fn traceparent_for(key: TaskKey, traceparent: &str) -> String {
    if is_traceparent(traceparent) {
        return traceparent.to_owned();
    }
    // A key is a hash, so neither half is zero, which the format forbids.
    format!("00-{:032x}-{:016x}-01", key.0, key.0 as u64)
}

/// Whether the text is a valid W3C `traceparent`.
pub fn is_traceparent(text: &str) -> bool {
    remote(text).span().span_context().is_valid()
}

/// Puts a span that was not entered yet into the trace of a W3C `traceparent`; an empty or invalid
/// one leaves it as it is.
pub fn continue_trace(span: &Span, traceparent: &str) {
    let parent = remote(traceparent);
    if parent.span().span_context().is_valid() {
        // It fails where no telemetry is installed, as in tests: then there is nothing to continue.
        let _ = span.set_parent(parent);
    }
}

/// The W3C `traceparent` of a span; empty when it belongs to no trace.
pub fn traceparent_of(span: &Span) -> String {
    let context = span.context();
    let span = context.span();
    let id = span.span_context();
    if !id.is_valid() {
        return String::new();
    }
    format!("00-{}-{}-{:02x}", id.trace_id(), id.span_id(), id.trace_flags())
}

/// The W3C `traceparent` of the current span; empty when it belongs to no trace.
pub fn traceparent_of_current_span() -> String {
    traceparent_of(&Span::current())
}

fn remote(traceparent: &str) -> TraceContext {
    let headers = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract_with_context(&TraceContext::new(), &headers)
}

#[cfg(test)]
mod tests;
