//! **Pure.** An error of the API as a gRPC status with the details of `google.rpc`.

use std::{collections::HashMap, time::Duration};

use common::error::{ApiError, ErrorCode};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// Whose reasons these are, in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "jetmill";
/// Details travel in a header, and clients take headers of 8 KiB.
const TEXT_BYTES_MAX: usize = 1024;
const VIOLATIONS_MAX: usize = 8;
const VIOLATION_BYTES_MAX: usize = 256;

/// The status that says the same.
pub(crate) fn status(error: &ApiError) -> Status {
    let mut details = ErrorDetails::new();
    let hint = cut(&error.hint, TEXT_BYTES_MAX);
    let metadata = match hint {
        "" => HashMap::new(),
        hint => HashMap::from([("hint".to_owned(), hint.to_owned())]),
    };
    details.set_error_info(error.code.as_str(), DOMAIN, metadata);
    if !hint.is_empty() {
        details.set_localized_message("en", hint);
    }
    if !error.violations.is_empty() {
        let violation = |v: &common::error::Violation| {
            FieldViolation::new(
                cut(&v.field, VIOLATION_BYTES_MAX),
                cut(&v.problem, VIOLATION_BYTES_MAX),
            )
        };
        let first = error.violations.iter().take(VIOLATIONS_MAX);
        details.set_bad_request(first.map(violation).collect::<Vec<_>>());
    }
    if let Some(delay) = retry_after(error.code) {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code(error.code), cut(&error.to_string(), TEXT_BYTES_MAX), details)
}

fn code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InvalidArgument => Code::InvalidArgument,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::Conflict => Code::AlreadyExists,
        ErrorCode::Exhausted => Code::ResourceExhausted,
        ErrorCode::Unavailable => Code::Unavailable,
        ErrorCode::FailedPrecondition => Code::FailedPrecondition,
        ErrorCode::Internal => Code::Internal,
    }
}

/// When it is worth trying the same again.
fn retry_after(code: ErrorCode) -> Option<Duration> {
    match code {
        ErrorCode::Exhausted => Some(Duration::from_secs(5)),
        ErrorCode::Unavailable => Some(Duration::from_secs(1)),
        ErrorCode::InvalidArgument
        | ErrorCode::NotFound
        | ErrorCode::Conflict
        | ErrorCode::FailedPrecondition
        | ErrorCode::Internal => None,
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use common::error::Violation;

    use super::*;

    #[test]
    fn a_status_says_what_is_wrong_with_which_field_and_what_to_do() {
        let error = ApiError::invalid_field("priority", "must be 1 to 10").hint("leave it out");
        let status = status(&error);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "the request is not valid: priority must be 1 to 10");
        let details = status.get_error_details();
        let info = details.error_info().expect("error info");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("invalid_argument", "jetmill"));
        assert_eq!(info.metadata.get("hint").map(String::as_str), Some("leave it out"));
        let request = details.bad_request().expect("a bad request");
        assert_eq!(request.field_violations[0].field, "priority");
        assert!(details.retry_info().is_none());
    }

    #[test]
    fn what_may_pass_says_when_to_try_again() {
        let status = status(&ApiError::new(ErrorCode::Exhausted, "intake is closed"));
        assert_eq!(status.code(), Code::ResourceExhausted);
        let retry = status.get_error_details().retry_info().cloned().expect("retry info");
        assert_eq!(retry.retry_delay, Some(Duration::from_secs(5)));
    }

    #[test]
    fn the_details_of_a_hopeless_request_fit_into_a_header() {
        let violation = Violation { field: "ä".repeat(5_000), problem: "ö".repeat(5_000) };
        let status = status(&ApiError::invalid(vec![violation; 100]).hint("h".repeat(5_000)));
        let bytes = status.message().len() + status.details().len() * 4 / 3;
        assert!(bytes < 16 * 1024, "{bytes}");
    }
}
