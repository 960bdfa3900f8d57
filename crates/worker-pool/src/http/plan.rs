//! One request: what is sent where, and what of it follows a redirect.

use std::fmt::Write as _;

use common::{pb, task::http};
use jetmill_sdk::worker::{AttemptError, Execution};
use reqwest::{
    Method, Response, StatusCode,
    header::{
        ACCEPT, ACCEPT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
        LOCATION, USER_AGENT,
    },
};
use url::Url;

use super::Planned;
use crate::{environment::Environment, redact::Redactor, roles::Role};

/// Headers of a task that say nothing of it: every server may see them.
const OPEN: [HeaderName; 4] = [ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, USER_AGENT];

/// A request that is about to be made.
pub(super) struct Plan {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) body: Option<String>,
    /// What every server may see.
    open: HeaderMap,
    /// What the task gives: for the server that it names, and no other.
    bound: HeaderMap,
}

impl Plan {
    pub(super) fn new(
        execution: &Execution,
        http: &pb::Http,
        environment: &Environment,
        role: Option<&Role>,
        traceparent: &str,
    ) -> Result<Planned, AttemptError> {
        let bad = |what: String| AttemptError::permanent("bad_request", what);
        let method = http::method(&http.method).and_then(|m| Method::from_bytes(m.as_bytes()).ok());
        let method = method.ok_or_else(|| bad(format!("{:?} is no method", http.method)))?;
        let url = http::url(&http.url).map_err(|why| bad(format!("the URL {why}")))?;
        let mut open = own_headers(execution, traceparent);
        let mut bound = HeaderMap::new();
        for (name, value) in &http.headers {
            let (name, value) = header(name, value).ok_or_else(|| bad(header_fault(name)))?;
            open.remove(&name);
            if OPEN.contains(&name) { &mut open } else { &mut bound }.insert(name, value);
        }
        let mut hidden = Vec::new();
        for (name, text) in &http.secrets {
            let (before, reference) =
                http::secret(text).ok_or_else(|| bad(format!("{text:?} is no reference")))?;
            let secret = environment.secret(reference, role)?;
            let value = header(name, &format!("{before}{secret}"));
            let (name, mut value) = value.ok_or_else(|| bad(header_fault(name)))?;
            value.set_sensitive(true);
            open.remove(&name);
            bound.insert(name, value);
            // "Bearer abc" is also a secret where only abc is said.
            hidden.extend(secret.split_whitespace().last().map(str::to_owned));
            hidden.push(secret);
        }
        let takes_body = matches!(method, Method::POST | Method::PUT | Method::PATCH);
        let input = execution.spec.as_pb().input.as_ref().filter(|_| takes_body);
        let body = match (&http.body, input) {
            (Some(body), _) => Some(body.clone()),
            (None, Some(json)) => {
                open.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
                Some(json.text.clone())
            }
            (None, None) => None,
        };
        let redactor = Redactor::new(hidden.iter().map(String::as_str));
        Ok((Self { method, url, body, open, bound }, redactor))
    }

    /// What is asked, for messages: no query, since that may hold anything.
    pub(super) fn what(&self) -> String {
        let mut what = format!("{} {}://", self.method, self.url.scheme());
        what.push_str(self.url.host_str().unwrap_or_default());
        if let Some(port) = self.url.port() {
            let _ = write!(what, ":{port}");
        }
        what.push_str(self.url.path());
        what
    }

    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = self.open.clone();
        headers.extend(self.bound.clone());
        headers
    }

    /// Turns to where the answer points.
    pub(super) fn redirect(&mut self, response: &Response) -> Result<(), String> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or("its Location is no text")?;
        let target = self.url.join(location).map_err(|e| format!("its Location: {e}"))?;
        let target = http::url(target.as_str()).map_err(|why| format!("its Location {why}"))?;
        if self.url.scheme() == "https" && target.scheme() != "https" {
            return Err("it leads from https to http".into());
        }
        let to_get = match response.status() {
            StatusCode::SEE_OTHER => self.method != Method::HEAD,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            _ => false,
        };
        if to_get {
            self.method = Method::GET;
            self.body = None;
            for name in [CONTENT_TYPE, CONTENT_LENGTH] {
                self.open.remove(name);
            }
        }
        if target.origin() != self.url.origin() {
            if self.body.is_some() {
                return Err(format!(
                    "it leads to another server ({}), which would get the body: name that server in the task",
                    target.origin().ascii_serialization()
                ));
            }
            self.bound.clear();
        }
        self.url = target;
        Ok(())
    }
}

/// Whether an answer sends the request elsewhere.
pub(super) fn is_redirect(response: &Response) -> bool {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
        && response.headers().contains_key(LOCATION)
}

/// What tells the server whose request it is, and that a repeat is a repeat.
fn own_headers(execution: &Execution, traceparent: &str) -> HeaderMap {
    let key = format!("{}/{}", execution.tenant, execution.id);
    let attempt = execution.attempt.to_string();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("jetmill-task-id", execution.id.as_str()),
        ("jetmill-attempt", &attempt),
        ("idempotency-key", &key),
        ("traceparent", traceparent),
    ] {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes())
            && !value.is_empty()
        {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    http::header_name(name).ok()?;
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
}

fn header_fault(name: &str) -> String {
    format!("the header {name:?} cannot be sent: its value has characters that no header may have")
}
