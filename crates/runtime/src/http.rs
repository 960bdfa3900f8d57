//! The probes and metrics of a process: `/livez`, `/readyz`, `/metrics`.
//!
//! It trusts nobody: connections are few, short and have small heads, so that whoever holds them open
//! takes nothing from the services of the process.

use std::time::Duration;

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use common::limits;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus::TextEncoder;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{Health, Readiness};

const HEADERS_TIMEOUT: Duration = Duration::from_secs(3);

/// Answers on the listener until shutdown.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let app = TowerToHyperService::new(router(health));
    let mut connections = JoinSet::new();
    loop {
        // All arms are cancel-safe: `accept` takes a connection only when it returns it.
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits::PROBE_CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, app.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    // Out of file descriptors, most likely: to try at once would spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, app: TowerToHyperService<Router>) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_buf_size(limits::PROBE_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), app);
    if let Ok(Err(error)) = tokio::time::timeout(limits::PROBE_CONNECTION_LIFETIME, serving).await {
        tracing::debug!(%error, "a probe's connection broke");
    }
}

/// The routes, for a server that has others as well.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(async move || ready(&health)))
        .route("/metrics", get(async || metrics()))
}

/// One line of JSON for each service.
fn ready(health: &Health) -> impl IntoResponse + use<> {
    let mut lines = String::new();
    let mut status = StatusCode::OK;
    for (service, readiness) in health.snapshot() {
        let line = match readiness {
            Readiness::Ready => serde_json::json!({ "service": service, "ready": true }),
            Readiness::NotReady(reason) => {
                status = StatusCode::SERVICE_UNAVAILABLE;
                serde_json::json!({ "service": service, "ready": false, "reason": reason })
            }
        };
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    (status, [(header::CONTENT_TYPE, "application/jsonl")], lines)
}

fn metrics() -> impl IntoResponse {
    match TextEncoder::new().encode_to_string(&prometheus::gather()) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text),
        Err(error) => {
            let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                kind,
                format!("failed to encode metrics: {error}\n"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a listener");
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn probes_say_what_is_missing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (health, shutdown) = (Health::new("registry"), CancellationToken::new());
        health.not_ready("the ledger is behind");
        let mut server = JoinSet::new();
        server.spawn(serve(listener, health.clone(), shutdown.clone()));

        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/metrics").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/secrets").await.starts_with("HTTP/1.1 404"));
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains(r#""reason":"the ledger is behind""#), "{answer}");
        health.ready();
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));

        shutdown.cancel();
        server.join_next().await.expect("one task").expect("no panic").expect("a clean end");
    }
}
