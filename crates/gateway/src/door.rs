//! Unary methods, handed on to the services that answer them.

mod submit;

use bus::{Bus, endpoint};
use common::{error::ApiError, limits, pb};
use opentelemetry::{KeyValue, global, metrics::Counter};
use prost::Message;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};

use crate::{
    grpc::{registry_service, scheduler_service, worker_pool_service},
    status::status,
};

/// The door to every service.
#[derive(Clone)]
pub(crate) struct Door {
    bus: Bus,
    requests: Counter<u64>,
}

impl Door {
    pub(crate) fn new(bus: Bus) -> Self {
        let requests = global::meter("jetmill")
            .u64_counter("jetmill_gateway_requests")
            .with_description("Requests by method and outcome")
            .build();
        Self { bus, requests }
    }

    async fn forward<Req, Resp>(
        &self,
        service: &'static str,
        method: &'static str,
        request: Request<Req>,
    ) -> Result<Response<Resp>, Status>
    where
        Req: Message,
        Resp: Message + Default,
    {
        let answer = match fits(request.get_ref()) {
            Ok(()) => endpoint::request(&self.bus, service, method, request.get_ref()).await,
            Err(error) => Err(error),
        };
        self.answer(service, method, answer)
    }

    fn answer<Resp>(
        &self,
        service: &'static str,
        method: &'static str,
        answer: Result<Resp, ApiError>,
    ) -> Result<Response<Resp>, Status> {
        let answer = answer.map_err(|error| status(&error));
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        let labels = [
            KeyValue::new("service", service),
            KeyValue::new("method", method),
            KeyValue::new("code", format!("{code:?}")),
        ];
        self.requests.add(1, &labels);
        answer.map(Response::new)
    }
}

/// What does not fit into one NATS message cannot be handed on.
fn fits(request: &impl Message) -> Result<(), ApiError> {
    let bytes = request.encoded_len();
    if bytes <= limits::REQUEST_BYTES_MAX {
        return Ok(());
    }
    let limit = limits::REQUEST_BYTES_MAX;
    Err(ApiError::invalid_field(
        "request",
        format!("has {bytes} bytes, and at most {limit} are allowed"),
    ))
}

/// The W3C trace context of a request; empty when there is none.
fn traceparent(metadata: &MetadataMap) -> &str {
    metadata.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default()
}

macro_rules! forward {
    ($service:literal, $server:path { $($method:ident($request:ident) -> $response:ident;)* } $($own:tt)*) => {
        #[tonic::async_trait]
        impl $server for Door {
            $(
                async fn $method(
                    &self,
                    request: Request<pb::$request>,
                ) -> Result<Response<pb::$response>, Status> {
                    self.forward($service, stringify!($method), request).await
                }
            )*
            $($own)*
        }
    };
}

forward! {
    "registry", registry_service::Registry {
        get(GetRequest) -> Task;
        result(GetRequest) -> Outcome;
        list(ListRequest) -> ListResponse;
        history(GetRequest) -> HistoryResponse;
        stats(StatsRequest) -> StatsResponse;
        count_types(CountTypesRequest) -> CountTypesResponse;
        list_dead(ListDeadRequest) -> ListDeadResponse;
        get_dead(GetDeadRequest) -> DeadLetter;
        replay_dead(ReplayDeadRequest) -> ReplayDeadResponse;
    }

    async fn submit(
        &self,
        request: Request<pb::SubmitRequest>,
    ) -> Result<Response<pb::SubmitResponse>, Status> {
        let traceparent = traceparent(request.metadata()).to_owned();
        let answer = submit::submit(&self.bus, request.into_inner(), &traceparent).await;
        self.answer("registry", "submit", answer)
    }
}

forward! {
    "scheduler", scheduler_service::Scheduler {
        cancel(CancelRequest) -> ChangeResponse;
        retry(RetryRequest) -> ChangeResponse;
        reprioritise(ReprioritiseRequest) -> ChangeResponse;
        pause(PauseRequest) -> PauseResponse;
        resume(ResumeRequest) -> PauseResponse;
        why(WhyRequest) -> WhyResponse;
        queues(QueuesRequest) -> QueuesResponse;
        check(SubmitRequest) -> CheckResponse;
        apply_policies(ApplyPoliciesRequest) -> ApplyPoliciesResponse;
        policies(PoliciesRequest) -> PoliciesResponse;
        schedules(SchedulesRequest) -> SchedulesResponse;
        next_fires(NextFiresRequest) -> NextFiresResponse;
        run_schedule(RunScheduleRequest) -> RunScheduleResponse;
        pause_schedules(PauseSchedulesRequest) -> ApplyPoliciesResponse;
    }
}

forward! {
    "worker_pool", worker_pool_service::WorkerPool {
        list_workers(ListWorkersRequest) -> ListWorkersResponse;
        drain(DrainRequest) -> DrainResponse;
    }
}
