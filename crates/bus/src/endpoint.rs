//! Request and reply: each service's admin API as NATS micro endpoints.
//!
//! A request in JSON (or an empty one) is answered in JSON, one in protobuf in protobuf; so
//! `nats req admin.registry.get '{"task_id": "…"}'` works for anyone. An error is an
//! [`pb::ErrorDetail`] with the headers that the micro protocol asks for.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use anyhow::Context as _;
use async_nats::{
    HeaderMap, RequestErrorKind,
    service::{Request, ServiceExt as _},
};
use bytes::Bytes;
use common::{
    error::{ApiError, ErrorCode},
    limits, pb, subject, wire,
};
use futures::{StreamExt as _, stream};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Bus;

/// Requests of one service that are answered at once; others wait in the subscription.
const CONCURRENT_MAX: usize = 64;

type Answer = Pin<Box<dyn Future<Output = (Format, Result<Vec<u8>, ApiError>)> + Send>>;
type Handler = Arc<dyn Fn(Bytes, Option<HeaderMap>) -> Answer + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Protobuf,
}

/// The endpoints of one service.
pub struct Endpoints {
    service: &'static str,
    handlers: Vec<(&'static str, Handler)>,
}

impl Endpoints {
    /// No endpoints yet, of the service by this name.
    pub fn new(service: &'static str) -> Self {
        Self { service, handlers: Vec::new() }
    }

    /// Answers `admin.<service>.<method>` with the handler.
    #[must_use]
    pub fn on<Req, Resp, F, Fut>(mut self, method: &'static str, handler: F) -> Self
    where
        Req: Message + Default + DeserializeOwned,
        Resp: Message + Serialize,
        F: Fn(Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Resp, ApiError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let erased: Handler = Arc::new(move |body, headers| {
            let format = format_of(&body, headers.as_ref());
            let handler = handler.clone();
            Box::pin(async move {
                let answer = match decode::<Req>(&body, format) {
                    Ok(request) => handler(request).await,
                    Err(error) => Err(error),
                };
                (format, answer.map(|response| encode(&response, format)))
            })
        });
        self.handlers.push((method, erased));
        self
    }

    /// Answers until shutdown is asked for; requests under way are answered before it returns.
    pub async fn serve(self, bus: &Bus, shutdown: CancellationToken) -> anyhow::Result<()> {
        let service = bus
            .client()
            .service_builder()
            .description(format!("Jetmill {}", self.service))
            .metadata(HashMap::from([("jetmill.version".into(), env!("CARGO_PKG_VERSION").into())]))
            .start(format!("jetmill-{}", self.service.replace('_', "-")), env!("CARGO_PKG_VERSION"))
            .await
            .map_err(|e| anyhow::anyhow!(e))
            .with_context(|| format!("failed to start the endpoints of {}", self.service))?;
        let mut requests = stream::SelectAll::new();
        for (method, handler) in self.handlers {
            let endpoint = service
                .endpoint_builder()
                .name(method)
                .add(subject::admin(self.service, method))
                .await
                .map_err(|e| anyhow::anyhow!(e))
                .with_context(|| format!("failed to add endpoint {method}"))?;
            requests.push(endpoint.map(move |request| (request, handler.clone())).boxed());
        }
        let mut running = JoinSet::new();
        loop {
            // All arms are cancel-safe: nothing is taken from what is not ready.
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = running.join_next() => {}
                Some((request, handler)) = requests.next(), if running.len() < CONCURRENT_MAX => {
                    let client = bus.client().clone();
                    running.spawn(async move {
                        answer(&client, request, &handler).await;
                    });
                }
            }
        }
        while running.join_next().await.is_some() {}
        let stopped = service.stop().await;
        stopped.map_err(|e| anyhow::anyhow!(e)).context("failed to stop endpoints")
    }
}

async fn answer(client: &async_nats::Client, request: Request, handler: &Handler) {
    let message = request.message.clone();
    let (format, outcome) = handler(message.payload, message.headers).await;
    let sent = match outcome.and_then(fitting) {
        Ok(body) => request.respond(Ok(body.into())).await.map_err(|e| e.to_string()),
        Err(error) => match message.reply {
            Some(reply) => respond_error(client, reply, error, format).await,
            None => Ok(()),
        },
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "failed to answer a request");
    }
}

/// An answer that no message can carry is an error that arrives.
fn fitting(body: Vec<u8>) -> Result<Vec<u8>, ApiError> {
    if body.len() <= limits::REQUEST_BYTES_MAX {
        return Ok(body);
    }
    Err(ApiError::new(ErrorCode::Exhausted, "the answer is larger than a message may be")
        .hint("ask for less at once"))
}

async fn respond_error(
    client: &async_nats::Client,
    reply: async_nats::Subject,
    error: ApiError,
    format: Format,
) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Service-Error", error.to_string().replace(['\r', '\n'], " "));
    headers.insert("Nats-Service-Error-Code", error.code.status().to_string());
    let body = encode(&pb::ErrorDetail::from(error), format);
    client.publish_with_headers(reply, headers, body.into()).await.map_err(|e| e.to_string())
}

fn format_of(body: &[u8], headers: Option<&HeaderMap>) -> Format {
    let content_type =
        headers.and_then(|h| h.get("Content-Type")).map(async_nats::HeaderValue::as_str);
    match content_type {
        Some("application/protobuf") => Format::Protobuf,
        kind if wire::is_json(kind, body) || (kind.is_none() && body.is_empty()) => Format::Json,
        _ => Format::Protobuf,
    }
}

fn decode<Req: Message + Default + DeserializeOwned>(
    body: &[u8],
    format: Format,
) -> Result<Req, ApiError> {
    match format {
        Format::Json if body.is_empty() => Ok(Req::default()),
        Format::Json => serde_json::from_slice(body)
            .map_err(|e| ApiError::invalid_field("request", format!("cannot be read: {e}"))),
        Format::Protobuf => Req::decode(body)
            .map_err(|e| ApiError::invalid_field("request", format!("cannot be read: {e}"))),
    }
}

fn encode<Resp: Message + Serialize>(response: &Resp, format: Format) -> Vec<u8> {
    match format {
        Format::Protobuf => response.encode_to_vec(),
        Format::Json => serde_json::to_vec(response).unwrap_or_default(),
    }
}

/// Asks a service; `service` and `method` as in `admin.<service>.<method>`.
pub async fn request<Req, Resp>(
    bus: &Bus,
    service: &str,
    method: &str,
    request: &Req,
) -> Result<Resp, ApiError>
where
    Req: Message,
    Resp: Message + Default,
{
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/protobuf");
    let asked = bus.client().request_with_headers(
        subject::admin(service, method),
        headers,
        request.encode_to_vec().into(),
    );
    let unavailable = |why: &str| {
        let word = service.replace('_', "-");
        ApiError::new(ErrorCode::Unavailable, format!("the {word} {why}")).hint(format!(
            "start one with `jetmill serve {word}`, or everything with `jetmill dev`"
        ))
    };
    let reply = match tokio::time::timeout(limits::REQUEST_TIMEOUT, asked).await {
        Err(_) => return Err(unavailable("did not answer in time")),
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            return Err(unavailable("is not running"));
        }
        Ok(Err(error)) => return Err(unavailable(&format!("cannot be asked: {error}"))),
        Ok(Ok(reply)) => reply,
    };
    let failed = reply.headers.as_ref().is_some_and(|h| h.get("Nats-Service-Error-Code").is_some());
    let garbled = |e: prost::DecodeError| {
        ApiError::new(ErrorCode::Internal, format!("unreadable answer of {service}.{method}: {e}"))
    };
    if failed {
        let detail = pb::ErrorDetail::decode(reply.payload).map_err(garbled)?;
        return Err(detail.into());
    }
    Resp::decode(reply.payload).map_err(garbled)
}
