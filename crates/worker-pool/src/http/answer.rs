//! **Pure.** What an answer means, and what of it the result carries.

use std::time::{Duration, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{limits, pb, task::http::Statuses, time::Timestamp};
use jetmill_sdk::worker::AttemptError;
use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, SET_COOKIE},
};
use serde_json::{Map, Value, json};

use crate::redact::Redactor;

/// What counts as success when the task does not say it.
const OK: [&str; 1] = ["2xx"];
/// What may be better at another try.
const RETRY: [&str; 4] = ["408", "425", "429", "5xx"];

/// An answer, as far as it was read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// There is more of the body than was read.
    pub(super) cut: bool,
}

/// Whether the task takes this status for success.
pub(super) fn is_ok(http: &pb::Http, status: StatusCode) -> bool {
    Statuses::any(&http.ok_statuses, &OK, status.as_u16())
}

/// What an answer to the request `what` means.
pub(super) fn judge(
    http: &pb::Http,
    answer: &Answer,
    what: &str,
    now: Timestamp,
) -> Option<AttemptError> {
    let status = answer.status;
    if is_ok(http, status) {
        return None;
    }
    let (code, message) =
        (format!("http_{}", status.as_u16()), format!("{what} answered {status}"));
    if !Statuses::any(&http.retry_statuses, &RETRY, status.as_u16()) {
        return Some(AttemptError::permanent(code, message));
    }
    let asks = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let after = answer.headers.get(RETRY_AFTER).filter(|_| asks).and_then(|v| v.to_str().ok());
    let retry_after = after.and_then(|text| retry_after(text, now));
    Some(AttemptError { retry_after, ..AttemptError::retryable(code, message) })
}

/// Reads Retry-After: seconds, or a date.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::default().after(date).since(now))
}

/// The result: `{"status", "headers", "body", "encoding", "truncated"}`.
pub(super) fn result(answer: &Answer, redactor: &Redactor) -> pb::Json {
    let headers = headers(&answer.headers, redactor);
    let bytes = redactor.bytes(&answer.body);
    let made = |encoding: &str, body: Value, notice: Option<String>| {
        let mut value = json!({
            "status": answer.status.as_u16(), "headers": headers,
            "encoding": encoding, "truncated": notice.is_some(),
        });
        if let Value::Object(fields) = &mut value {
            // Not within `json!`, which would copy it.
            fields.insert("body".into(), body);
            fields.extend(notice.map(|notice| ("notice".to_owned(), notice.into())));
        }
        pb::Json::from_value(&value)
    };
    if bytes.is_empty() {
        return made("none", Value::Null, None);
    }
    if let Some(value) = as_json(answer, &bytes, redactor) {
        return made("json", value, None);
    }
    let notice = answer.cut.then(|| {
        let max = limits::HTTP_BODY_BYTES_MAX;
        format!("the body has more than {max} bytes; the rest was not read")
    });
    match text(&bytes) {
        Some(text) => made("text", text.into(), notice),
        None => made("base64", STANDARD.encode(&bytes).into(), notice),
    }
}

/// The whole body as JSON, when it says that it is JSON or says nothing. A large one stays the text
/// that it is: its values would take a hundred times its room in the worker's own process.
fn as_json(answer: &Answer, bytes: &[u8], redactor: &Redactor) -> Option<Value> {
    let said = answer.headers.get(CONTENT_TYPE).map(|v| String::from_utf8_lossy(v.as_bytes()));
    let is_json = said.is_none_or(|said| said.to_ascii_lowercase().contains("json"));
    let is_small = bytes.len() <= limits::RESULT_BYTES_MAX;
    let mut value =
        (is_json && is_small && !answer.cut).then(|| serde_json::from_slice(bytes).ok())??;
    redact(&mut value, redactor);
    Some(value)
}

/// A secret may be written with escapes in JSON, where the bytes do not show it.
fn redact(value: &mut Value, redactor: &Redactor) {
    match value {
        Value::String(text) => *text = redactor.text(text),
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, redactor)),
        Value::Object(fields) => {
            *fields = std::mem::take(fields)
                .into_iter()
                .map(|(name, mut value)| {
                    redact(&mut value, redactor);
                    (redactor.text(&name), value)
                })
                .collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Text, whose last character a cut may have broken.
fn text(bytes: &[u8]) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(bytes.get(..error.valid_up_to())?).ok()
        }
        Err(_) => None,
    }
    .filter(|text| !text.contains('\0'))
}

/// The headers as far as they fit; several of one name are joined. What a server gives a client to be
/// known by is a secret, although it is not one of the task's.
fn headers(headers: &HeaderMap, redactor: &Redactor) -> Map<String, Value> {
    let mut left = limits::HTTP_RESULT_HEADERS_BYTES_MAX;
    let mut kept = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values = values.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        let value = if *name == SET_COOKIE {
            "***".to_owned()
        } else {
            redactor.text(&values.collect::<Vec<_>>().join(", "))
        };
        let Some(rest) = left.checked_sub(name.as_str().len() + value.len()) else { continue };
        left = rest;
        kept.insert(name.as_str().to_owned(), value.into());
    }
    kept
}

#[cfg(test)]
mod tests;
