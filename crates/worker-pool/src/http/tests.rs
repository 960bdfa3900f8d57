//! Against real servers on the loopback device.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Path,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Redirect},
    routing::any,
};
use futures::StreamExt as _;
use jetmill_sdk::{SystemClock, worker::decode};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: &str = "s3cret-value";

/// A server that ends with the test.
struct Server {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        Self::at("127.0.0.1:0").await
    }

    async fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router()).await.expect("it serves") });
        Self { address, _tasks: tasks }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// Says what it was asked.
async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let headers = headers.iter().map(|(name, value)| {
        (name.to_string(), Value::from(String::from_utf8_lossy(value.as_bytes())))
    });
    let said = json!({
        "method": method.as_str(), "path": uri.to_string(),
        "headers": headers.collect::<serde_json::Map<_, _>>(),
        "body": String::from_utf8_lossy(&body),
    });
    ([("content-type", "application/json")], said.to_string())
}

async fn status(Path(code): Path<u16>) -> impl IntoResponse {
    let code = StatusCode::from_u16(code).expect("a status");
    (code, [("retry-after", "7")], "what there is")
}

async fn hops(Path(left): Path<u32>) -> Redirect {
    let next = if left == 0 { "/echo".to_owned() } else { format!("/hops/{}", left - 1) };
    Redirect::temporary(&next)
}

/// `/to/<status>/<target>`: the target is the rest of the path.
async fn to(Path((code, target)): Path<(u16, String)>) -> impl IntoResponse {
    (StatusCode::from_u16(code).expect("a status"), [("location", target)])
}

fn endless() -> Body {
    let piece = Bytes::from(vec![b'x'; 64 * 1024]);
    Body::from_stream(futures::stream::repeat(piece).map(Ok::<_, std::io::Error>))
}

fn router() -> Router {
    Router::new()
        .route("/echo", any(echo))
        .route("/status/{code}", any(status))
        .route("/hops/{left}", any(hops))
        .route("/to/{code}/{*target}", any(to))
        .route("/endless", any(async || endless()))
        .route(
            "/stalls",
            any(async || {
                let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from("first"))]);
                Body::from_stream(first.chain(futures::stream::pending()))
            }),
        )
}

fn access(hosts: &[&str], private: &[&str]) -> Access {
    Access {
        hosts: hosts.iter().map(|h| h.parse().expect("a host")).collect(),
        allow_private: private.iter().map(|p| p.parse().expect("a range")).collect(),
    }
}

fn client(access: Access, roots: RootCertStore) -> Http {
    let variables = [("JETMILL_SECRET_TOKEN".to_owned(), SECRET.to_owned())];
    let environment = Environment::new(variables, &[], None);
    Http::new(access, roots, environment, Arc::new(SystemClock)).expect("a client")
}

fn loopback() -> Http {
    client(access(&[], &["127.0.0.1"]), RootCertStore::empty())
}

fn attempt(http: &Value, cancelled: CancellationToken) -> (AttemptContext, pb::Http) {
    let request = json!({ "items": [{
        "task_id": "t 1", "attempt": 2, "queue": "default",
        "spec": { "executor": { "http": http }, "input": { "a": 1 } },
    }] });
    let items = decode(request.to_string().as_bytes()).expect("an execution request");
    let attempt = AttemptContext::detached(items.into_iter().next().expect("one"), cancelled);
    (attempt, serde_json::from_value(http.clone()).expect("a request"))
}

async fn run(client: &Http, http: Value) -> AttemptResult {
    let (attempt, http) = attempt(&http, CancellationToken::new());
    timeout(PATIENCE, client.run(&attempt, &http, None, "00-trace")).await.expect("in time")
}

/// The body of an answer that was a success.
async fn body(client: &Http, http: Value) -> Value {
    let result = run(client, http).await;
    assert_eq!(result.error, None);
    result.result.expect("a result").to_value()["body"].clone()
}

/// The code of an error, and whether another try may help.
async fn code(client: &Http, http: Value) -> (String, bool) {
    let error = run(client, http).await.error.expect("an error");
    (error.code, error.retryable)
}

#[tokio::test]
async fn a_request_has_what_the_task_says_and_tells_whose_it_is() {
    let server = Server::start().await;
    let client = loopback();
    let url = server.url("/echo?q=1#here");
    let asked =
        body(&client, json!({ "method": "post", "url": url, "headers": { "X-A": "b" } })).await;
    assert_eq!((&asked["method"], &asked["path"]), (&json!("POST"), &json!("/echo?q=1")));
    assert_eq!(asked["body"], r#"{"a":1}"#, "the input is the body");
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-a", "b"),
        ("jetmill-task-id", "t 1"),
        ("jetmill-attempt", "2"),
        ("idempotency-key", "default/t 1"),
        ("traceparent", "00-trace"),
    ] {
        assert_eq!(asked["headers"][name], value, "{name}");
    }
    for method in ["GET", "DELETE", "OPTIONS", "PUT", "PATCH"] {
        let asked = body(&client, json!({ "method": method, "url": url })).await;
        assert_eq!(asked["method"], method);
        let has_body = ["PUT", "PATCH"].contains(&method);
        assert_eq!(asked["body"] != "", has_body, "{method}");
    }
    let own = json!({ "method": "PUT", "url": url, "body": "x=y",
        "headers": { "Content-Type": "text/x", "Idempotency-Key": "mine" } });
    let asked = body(&client, own).await;
    assert_eq!(
        (&asked["body"], &asked["headers"]["content-type"]),
        (&json!("x=y"), &json!("text/x"))
    );
    assert_eq!(asked["headers"]["idempotency-key"], "mine");
    let head = run(&client, json!({ "method": "HEAD", "url": url })).await;
    assert_eq!(head.error, None);
    assert_eq!(head.result.expect("a result").to_value()["body"], Value::Null);
}

#[tokio::test]
async fn an_answer_may_be_an_error_and_says_when_to_come_back() {
    let server = Server::start().await;
    let client = loopback();
    for (status, expected) in [(404, ("http_404", false)), (500, ("http_500", true))] {
        let (code, retryable) =
            code(&client, json!({ "url": server.url(&format!("/status/{status}")) })).await;
        assert_eq!((code.as_str(), retryable), expected);
    }
    let busy = run(&client, json!({ "url": server.url("/status/503") })).await;
    let error = busy.error.expect("an error");
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    assert!(error.message.contains("/status/503") && error.message.contains("503"), "{error:?}");
    let result = busy.result.expect("a result").to_value();
    assert_eq!((&result["status"], &result["body"]), (&json!(503), &json!("what there is")));
    let usage = busy.usage.expect("counted");
    assert!(usage.network_rx_mb.expect("known") > 0.0 && usage.cpu_seconds.is_none());
    let fine = json!({ "url": server.url("/status/404"), "ok_statuses": ["2xx", "404"] });
    assert_eq!(run(&client, fine).await.error, None);
    let gone = json!({ "url": "http://127.0.0.1:1/" });
    assert_eq!(code(&client, gone).await, ("connect_failed".into(), true));
    let nobody = json!({ "url": "http://a..b/" });
    assert_eq!(code(&client, nobody).await, ("dns_failed".into(), true));
}

#[tokio::test]
async fn three_redirects_are_followed_and_no_more() {
    let server = Server::start().await;
    let client = loopback();
    let asked = body(&client, json!({ "url": server.url("/hops/2") })).await;
    assert_eq!(asked["path"], "/echo");
    let far = json!({ "url": server.url("/hops/3") });
    assert_eq!(code(&client, far).await, ("too_many_redirects".into(), false));
    let post = |code| json!({ "method": "post", "url": server.url(&format!("/to/{code}//echo")) });
    for (code, method) in [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")] {
        let asked = body(&client, post(code)).await;
        assert_eq!(asked["method"], method, "{code}");
        assert_eq!(asked["body"] != "", method == "POST", "{code}");
    }
    let answer = json!({ "url": server.url("/to/302//echo"), "ok_statuses": ["302"] });
    let result = run(&client, answer).await.result.expect("a result").to_value();
    assert_eq!(result["status"], 302, "a redirect that counts as success is the answer");
}

#[tokio::test]
async fn what_is_for_one_server_does_not_follow_a_redirect_to_another() {
    let (server, other) = (Server::start().await, Server::start().await);
    let client = loopback();
    let request = |target: &str| {
        json!({
            "url": server.url(&format!("/to/307/{target}")),
            "headers": { "Cookie": "own=1", "X-Token": "own=2", "Accept": "text/x" },
            "secrets": { "Authorization": "Bearer env:TOKEN", "X-Api-Key": "env:TOKEN" },
        })
    };
    let there = run(&client, request("/echo")).await.result.expect("a result");
    let asked = there.to_value()["body"]["headers"].clone();
    assert_eq!(asked["authorization"], "Bearer ***", "it arrives, and is not shown");
    assert!(
        asked["x-api-key"] == "***" && asked["cookie"] == "own=1" && !there.text.contains(SECRET)
    );
    let elsewhere = body(&client, request(&other.url("/echo"))).await;
    let asked = &elsewhere["headers"];
    assert_eq!(asked["accept"], "text/x");
    for name in ["authorization", "x-api-key", "x-token", "cookie"] {
        assert_eq!(asked[name], Value::Null, "{name} went to another server");
    }
    let post = |code, target: &str| json!({ "method": "post", "url": server.url(&format!("/to/{code}/{target}")) });
    let with_body = run(&client, post(307, &other.url("/echo"))).await.error.expect("refused");
    assert!(with_body.code == "bad_redirect" && with_body.message.contains("the body"));
    assert_eq!(body(&client, post(303, &other.url("/echo"))).await["body"], "");
    let missing = json!({ "url": server.url("/echo"), "secrets": { "A": "env:HOME" } });
    assert_eq!(code(&client, missing).await, ("secret_not_found".into(), false));
}

#[test]
fn a_redirect_never_gives_encryption_up() {
    let cancelled = CancellationToken::new();
    let asks = json!({ "url": "https://example.com/a", "secrets": { "X-Key": "env:TOKEN" } });
    let (attempt, http) = attempt(&asks, cancelled);
    let variables = [("JETMILL_SECRET_TOKEN".to_owned(), SECRET.to_owned())];
    let environment = Environment::new(variables, &[], None);
    let to = |target: &str| {
        let (mut plan, _) =
            Plan::new(attempt.execution(), &http, &environment, None, "").expect("a request");
        let answer = axum::http::Response::builder().status(302).header("location", target);
        let answer = Response::from(answer.body("").expect("an answer"));
        let turned = plan.redirect(&answer);
        turned.map(|()| (plan.what(), plan.headers().contains_key("x-key")))
    };
    assert_eq!(to("/b"), Ok(("GET https://example.com/b".into(), true)));
    assert_eq!(to("https://example.com:444/b").map(|(_, key)| key), Ok(false));
    assert_eq!(to("https://a.example.com/b").map(|(_, key)| key), Ok(false));
    assert!(to("http://example.com/b").expect_err("plain text").contains("https to http"));
}

#[tokio::test]
async fn no_way_leads_to_an_address_that_is_not_allowed() {
    let server = Server::start().await;
    let port = server.address.port();
    let forbidden = ("forbidden_url".to_owned(), false);
    let public = client(Access::default(), RootCertStore::empty());
    for host in ["127.0.0.1", "localhost", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let direct = json!({ "url": format!("http://{host}:{port}/echo") });
        assert_eq!(code(&public, direct).await, forbidden, "{host}");
    }
    // The server's own address is allowed: what it redirects to must be as well.
    let server = Server::at("127.0.0.2:0").await;
    let near = client(access(&[], &["127.0.0.2"]), RootCertStore::empty());
    for target in [
        format!("http://localhost:{port}/echo"),
        format!("http://127.0.0.1:{port}/echo"),
        format!("http://[::1]:{port}/echo"),
        "http://169.254.169.254/latest/meta-data".into(),
        "http://10.0.0.1/".into(),
        format!("//localhost:{port}/echo"),
    ] {
        let request = json!({ "url": server.url(&format!("/to/302/{target}")) });
        assert_eq!(code(&near, request).await, forbidden, "{target}");
    }
    for target in ["file:///etc/passwd", "gopher://127.0.0.1/", "http://user:pw@127.0.0.1/"] {
        let request = json!({ "url": server.url(&format!("/to/302/{target}")) });
        assert_eq!(code(&near, request).await, ("bad_redirect".into(), false), "{target}");
    }
    // By name, where the name is allowed.
    let named = client(access(&[], &["localhost"]), RootCertStore::empty());
    let request = json!({ "url": format!("http://localhost:{port}/echo") });
    assert_eq!(body(&named, request).await["path"], "/echo");
    let listed = client(access(&["docs.rs"], &["127.0.0.2"]), RootCertStore::empty());
    assert_eq!(code(&listed, json!({ "url": server.url("/echo") })).await, forbidden);
}

#[tokio::test]
async fn an_endless_answer_is_read_up_to_the_cap() {
    let server = Server::start().await;
    let result = run(&loopback(), json!({ "url": server.url("/endless") })).await;
    assert_eq!(result.error, None);
    let json = result.result.expect("a result");
    assert!(json.text.len() <= limits::OBJECT_BYTES_MAX);
    let value = json.to_value();
    assert_eq!(value["truncated"], true);
    assert!(
        value["notice"].as_str().expect("a notice").contains("10000000"),
        "{}",
        value["notice"]
    );
    assert!(result.usage.expect("counted").network_rx_mb.expect("known") < 11.0);
}

#[tokio::test]
async fn a_server_that_stalls_holds_no_attempt_that_must_end() {
    let server = Server::start().await;
    let client = loopback();
    let cancelled = CancellationToken::new();
    let (attempt, http) = attempt(&json!({ "url": server.url("/stalls") }), cancelled.clone());
    let run = client.run(&attempt, &http, None, "");
    cancelled.cancel();
    let result = timeout(PATIENCE, run).await.expect("it ends");
    // No success, should this be heard before the order to stop.
    assert_eq!(result, AttemptResult::given_up());
}

/// A server with a certificate for `localhost` from an authority of its own.
async fn tls_server() -> (SocketAddr, RootCertStore, JoinSet<()>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.expect("a key"))
        .expect("a server's configuration");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, roots, tasks)
}

#[tokio::test]
async fn a_certificate_must_be_trusted_and_for_this_host() {
    let (address, roots, _tasks) = tls_server().await;
    let allowed = || access(&[], &["127.0.0.1", "localhost"]);
    let by_name = json!({ "url": format!("https://localhost:{}/", address.port()) });
    let by_address = json!({ "url": format!("https://{address}/") });
    let stranger = client(allowed(), RootCertStore::empty());
    assert_eq!(code(&stranger, by_name.clone()).await, ("untrusted_certificate".into(), false));
    let friend = client(allowed(), roots);
    assert_eq!(body(&friend, by_name).await, "hi");
    assert_eq!(code(&friend, by_address).await, ("untrusted_certificate".into(), false));
}
