use common::id::{TaskId, Tenant};
use tracing::subscriber::with_default;

use super::*;

const INCOMING: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn key() -> TaskKey {
    TaskKey::new(&Tenant::default(), &TaskId::parse("a").expect("text"))
}

#[test]
fn a_span_continues_the_trace_that_came_in() {
    let tracer = SdkTracerProvider::builder().build().tracer("test");
    let layer =
        tracing_opentelemetry::layer().with_tracer(tracer).with_filter(filter_fn(is_traced));
    with_default(tracing_subscriber::registry().with(layer), || {
        let service = tracing::info_span!(target: "jetmill::supervisor", "service");
        let _entered = service.enter();
        let span = tracing::info_span!("step");
        continue_trace(&span, INCOMING);
        let outgoing = traceparent_of(&span);
        assert_eq!(outgoing.get(..36), INCOMING.get(..36), "the same trace");
        assert_ne!(outgoing, INCOMING, "a span of its own");

        let other = tracing::info_span!("step");
        assert_ne!(traceparent_of(&other).get(..36), INCOMING.get(..36), "its own trace");
        assert!(is_traceparent(&traceparent_of(&other)));
    });
}

#[test]
fn a_task_without_a_trace_has_the_one_of_its_key() {
    let derived = traceparent_for(key(), "");
    assert!(is_traceparent(&derived), "{derived}");
    assert_eq!(derived, traceparent_for(key(), "not a traceparent"));
    assert_eq!(traceparent_for(key(), INCOMING), INCOMING);
}

#[test]
fn without_an_exporter_there_are_no_spans_of_tasks() {
    assert!(task_span("execute", "worker-pool", key(), "a", INCOMING).is_disabled());
    assert_eq!(traceparent_of(&Span::none()), "");
}
