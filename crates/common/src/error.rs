//! How an error looks at every door: a stable code, what is wrong, and what to do next.

use std::fmt;

use crate::pb;

/// The stable words of the API's errors. Clients match on these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The request can never succeed as it is.
    InvalidArgument,
    /// There is no such thing.
    NotFound,
    /// The key is taken by another body.
    Conflict,
    /// Intake is closed for now; try later.
    Exhausted,
    /// A part of the system does not answer; try again.
    Unavailable,
    /// The thing is not in a state that allows this.
    FailedPrecondition,
    /// A defect of Jetmill.
    Internal,
}

impl ErrorCode {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Exhausted => "exhausted",
            Self::Unavailable => "unavailable",
            Self::FailedPrecondition => "failed_precondition",
            Self::Internal => "internal",
        }
    }

    /// Reads the word; an unknown one is a newer service's and counts as internal.
    pub fn parse(word: &str) -> Self {
        match word {
            "invalid_argument" => Self::InvalidArgument,
            "not_found" => Self::NotFound,
            "conflict" => Self::Conflict,
            "exhausted" => Self::Exhausted,
            "unavailable" => Self::Unavailable,
            "failed_precondition" => Self::FailedPrecondition,
            _ => Self::Internal,
        }
    }

    /// The status that HTTP and NATS micro use for it.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidArgument => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::FailedPrecondition => 412,
            Self::Exhausted => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

/// One thing that is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, as a path: `retry.max_attempts`.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

/// An error of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// What kind of error it is.
    pub code: ErrorCode,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
    /// The fields at fault.
    pub violations: Vec<Violation>,
}

impl ApiError {
    /// An error with a code and a message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new(), violations: Vec::new() }
    }

    /// The same with advice on what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Everything that is wrong with a submission or a request.
    pub fn invalid(violations: Vec<Violation>) -> Self {
        Self { violations, ..Self::new(ErrorCode::InvalidArgument, "the request is not valid") }
    }

    /// One field that is wrong.
    pub fn invalid_field(field: &str, problem: impl Into<String>) -> Self {
        Self::invalid(vec![Violation { field: field.into(), problem: problem.into() }])
    }

    /// There is no such task.
    pub fn no_task(id: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no task {id:?}"))
            .hint("`jetmill ls` shows the tasks there are")
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for (n, Violation { field, problem }) in self.violations.iter().enumerate() {
            let separator = if n == 0 { ": " } else { "; " };
            write!(f, "{separator}{field} {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ApiError {}

impl From<ApiError> for pb::ErrorDetail {
    fn from(error: ApiError) -> Self {
        Self {
            code: error.code.as_str().into(),
            message: error.message,
            hint: error.hint,
            violations: error
                .violations
                .into_iter()
                .map(|v| pb::FieldViolation { field: v.field, problem: v.problem })
                .collect(),
        }
    }
}

impl From<pb::ErrorDetail> for ApiError {
    fn from(detail: pb::ErrorDetail) -> Self {
        Self {
            code: ErrorCode::parse(&detail.code),
            message: detail.message,
            hint: detail.hint,
            violations: detail
                .violations
                .into_iter()
                .map(|v| Violation { field: v.field, problem: v.problem })
                .collect(),
        }
    }
}
