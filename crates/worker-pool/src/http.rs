//! The executor `http`: a request to a server, whose answer is the result.
//!
//! It trusts neither the task nor the server: which hosts and addresses it reaches is the worker's
//! configuration (`access`), redirects are followed here, one by one, under the same rules, and what
//! a task gives for one server, headers and body, is not sent to another.

pub(crate) mod access;
mod answer;
mod plan;
mod resolve;

use std::{error::Error, io, sync::Arc, time::Duration};

use anyhow::Context as _;
use common::{limits, pb, time::Clock};
use jetmill_sdk::worker::{AttemptContext, AttemptError, AttemptResult};
use reqwest::{Client, Response, redirect::Policy};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::{environment::Environment, redact::Redactor, roles::Role};
use access::{Access, Forbidden, Host};
use answer::Answer;
use plan::Plan;
use resolve::{Resolver, Unresolved};

const MB: f64 = 1024.0 * 1024.0;
/// How long a connection that nobody uses is kept.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Connections to one host that are kept without use.
const IDLE_CONNECTIONS_MAX: usize = 8;

/// Makes requests.
#[derive(Clone)]
pub(crate) struct Http {
    client: Client,
    access: Arc<Access>,
    environment: Environment,
    clock: Arc<dyn Clock>,
}

/// A request, and what hides its secrets.
type Planned = (Plan, Redactor);

/// Bytes of bodies that went out and came in: what else is on the wire is not known here.
struct Traffic<'a> {
    attempt: &'a AttemptContext,
    sent: u64,
    /// A request broke off, and nobody knows how much of its body had left.
    is_unclear: bool,
    received: u64,
}

impl<'a> Traffic<'a> {
    fn of(attempt: &'a AttemptContext) -> Self {
        Self { attempt, sent: 0, is_unclear: false, received: 0 }
    }

    /// Of an exchange that is dropped, what was said last is what is known.
    fn tell(&self) {
        self.attempt.used(self.usage());
    }

    fn usage(&self) -> pb::ResourceUsage {
        pb::ResourceUsage {
            network_tx_mb: (!self.is_unclear).then_some(self.sent as f64 / MB),
            network_rx_mb: Some(self.received as f64 / MB),
            ..pb::ResourceUsage::default()
        }
    }
}

/// The certificate authorities that this machine trusts.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (_, refused) = roots.add_parsable_certificates(found.certs);
    if refused > 0 || !found.errors.is_empty() {
        tracing::debug!(refused, errors = ?found.errors, "some certificates cannot be used");
    }
    roots
}

impl Http {
    /// Requests go where `access` lets them; servers are trusted for `roots`.
    pub(crate) fn new(
        access: Access,
        roots: RootCertStore,
        environment: Environment,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let access = Arc::new(access);
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("failed to set TLS up")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Resolver(access.clone()))
            // A proxy would resolve names by itself, out of sight.
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(limits::HTTP_CONNECT_WAIT)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .user_agent(concat!("jetmill/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("failed to make an HTTP client")?;
        Ok(Self { client, access, environment, clock })
    }

    /// Makes the request of an attempt.
    pub(crate) async fn run(
        &self,
        attempt: &AttemptContext,
        http: &pb::Http,
        role: Option<&Role>,
        traceparent: &str,
    ) -> AttemptResult {
        let hosts = role.map_or(&[][..], |role| &role.hosts);
        let plan = Plan::new(attempt.execution(), http, &self.environment, role, traceparent);
        let (plan, redactor) = match plan {
            Ok(plan) => plan,
            Err(error) => return AttemptResult::failure(error),
        };
        let mut traffic = Traffic::of(attempt);
        // Dropping a request closes its connection and loses its answer, nothing else.
        let exchange = tokio::select! {
            exchange = self.exchange(plan, http, hosts, &mut traffic) => exchange,
            () = attempt.cancellation().cancelled() => return AttemptResult::given_up(),
        };
        let (error, result) = match exchange {
            Ok((what, answer)) => {
                let error = answer::judge(http, &answer, &what, self.clock.now());
                (error, Some(answer::result(&answer, &redactor)))
            }
            Err(error) => (Some(error), None),
        };
        let error = error.map(|e| AttemptError { message: redactor.text(&e.message), ..e });
        AttemptResult { error, result, usage: Some(traffic.usage()) }
    }

    /// Asks, and follows redirects, until there is an answer: what was asked last, and that.
    async fn exchange(
        &self,
        mut plan: Plan,
        http: &pb::Http,
        hosts: &[Host],
        traffic: &mut Traffic<'_>,
    ) -> Result<(String, Answer), AttemptError> {
        let mut redirects = 0;
        loop {
            let what = plan.what();
            let refuse = |why: Forbidden| forbidden(&what, &why);
            self.access.check(&plan.url).map_err(refuse)?;
            access::check_host(hosts, &plan.url, "the task's role").map_err(refuse)?;
            let body = plan.body.clone().unwrap_or_default();
            let length = body.len() as u64;
            let request = self.client.request(plan.method.clone(), plan.url.clone());
            let request = request.headers(plan.headers());
            let request = if plan.body.is_some() { request.body(body) } else { request };
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) => {
                    traffic.is_unclear = length > 0 && !error.is_connect();
                    return Err(failure(&what, &error));
                }
            };
            traffic.sent += length;
            traffic.tell();
            if answer::is_ok(http, response.status()) || !plan::is_redirect(&response) {
                return read(response, &what, traffic).await.map(|answer| (what, answer));
            }
            if redirects == limits::HTTP_REDIRECTS_MAX {
                let message = format!("{what} redirects again, after {redirects} redirects");
                return Err(AttemptError::permanent("too_many_redirects", message));
            }
            redirects += 1;
            plan.redirect(&response).map_err(|why| {
                AttemptError::permanent("bad_redirect", format!("{what} redirects badly: {why}"))
            })?;
        }
    }
}

/// Reads the answer up to the cap.
async fn read(
    mut response: Response,
    what: &str,
    traffic: &mut Traffic<'_>,
) -> Result<Answer, AttemptError> {
    let (status, headers) = (response.status(), response.headers().clone());
    let (mut body, mut cut) = (Vec::new(), false);
    while let Some(chunk) = response.chunk().await.map_err(|e| failure(what, &e))? {
        traffic.received += chunk.len() as u64;
        traffic.tell();
        let room = limits::HTTP_BODY_BYTES_MAX - body.len();
        body.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
        if chunk.len() > room {
            cut = true;
            break;
        }
    }
    Ok(Answer { status, headers, body, cut })
}

fn forbidden(what: &str, why: &Forbidden) -> AttemptError {
    AttemptError::permanent("forbidden_url", format!("{what} is not allowed: {why}"))
}

/// Why, and why that, down to the root.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// What TLS says. An error within an `io::Error` is not among its sources.
fn tls_fault<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref::<rustls::Error>().or_else(|| {
        let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
        tls_fault(inner)
    })
}

/// What went wrong below HTTP.
fn failure(what: &str, error: &reqwest::Error) -> AttemptError {
    let find = |cause: &(dyn Error + 'static)| {
        if let Some(why) = cause.downcast_ref::<Forbidden>() {
            Some(forbidden(what, why))
        } else if let Some(why) = cause.downcast_ref::<Unresolved>() {
            Some(AttemptError::retryable("dns_failed", format!("{what} failed: {why}")))
        } else {
            match tls_fault(cause) {
                Some(rustls::Error::InvalidCertificate(why)) => {
                    let message = format!(
                        "{what} failed: the server's certificate is not trusted ({why}); add its authority to the worker's, as with SSL_CERT_FILE"
                    );
                    Some(AttemptError::permanent("untrusted_certificate", message))
                }
                _ => None,
            }
        }
    };
    causes(error).find_map(find).unwrap_or_else(|| {
        let code = if error.is_connect() { "connect_failed" } else { "request_failed" };
        let why = causes(error).last().map_or_else(|| error.to_string(), ToString::to_string);
        AttemptError::retryable(code, format!("{what} failed: {why}"))
    })
}

#[cfg(test)]
mod tests;
