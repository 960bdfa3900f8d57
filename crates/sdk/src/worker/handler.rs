//! Handlers: functions of a program that tasks of executor `worker` call by name.

use std::{collections::BTreeMap, fmt, sync::Arc};

use common::{
    pb,
    task::{Executor as How, TaskSpec},
};
use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    context::AttemptContext,
    execution::Execution,
    executor::{AttemptError, AttemptResult, Executor},
    output::OutputStream,
};

type Handler =
    Arc<dyn Fn(HandlerContext) -> BoxFuture<'static, Result<Value, HandlerError>> + Send + Sync>;

/// Handlers by name.
#[derive(Clone, Default)]
pub struct Handlers {
    by_name: BTreeMap<String, Handler>,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

impl Handlers {
    /// Adds a handler; one of the same name is replaced.
    pub fn add<F, Fut, R>(&mut self, name: &str, handler: F)
    where
        F: Fn(HandlerContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: Serialize,
    {
        let erased: Handler = Arc::new(move |context| {
            let work = handler(context);
            Box::pin(async move {
                serde_json::to_value(work.await?).map_err(|e| {
                    HandlerError::permanent("bad_result", format!("the result is no JSON: {e}"))
                })
            })
        });
        self.by_name.insert(name.to_owned(), erased);
    }

    /// The names of the handlers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

impl Executor for Handlers {
    async fn run(&self, attempt: AttemptContext) -> AttemptResult {
        let name = match attempt.execution().spec.executor() {
            How::Worker(worker) => worker.handler.clone(),
            other @ (How::Shell(_)
            | How::Nats(_)
            | How::Http(_)
            | How::Lua(_)
            | How::Docker(_)
            | How::External) => {
                return AttemptResult::failure(AttemptError::retryable(
                    "no_handler",
                    format!("this worker runs handlers, not {}; name another queue", other.word()),
                ));
            }
        };
        let Some(handler) = self.by_name.get(&name) else {
            let has = self.names().collect::<Vec<_>>().join(", ");
            return AttemptResult::failure(AttemptError::retryable(
                "no_handler",
                format!("this worker has no handler {name:?}; it has {has}"),
            ));
        };
        match handler(HandlerContext { attempt }).await {
            Ok(value) => AttemptResult::success(pb::Json::from_value(&value)),
            Err(HandlerError(error)) => AttemptResult::failure(error),
        }
    }
}

/// What a handler sees of the attempt that it runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HandlerContext {
    attempt: AttemptContext,
}

impl HandlerContext {
    /// The task's input; an absent one reads as null.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T, HandlerError> {
        let text = self.spec().as_pb().input.as_ref().map_or("null", |json| json.text.as_str());
        serde_json::from_str(text).map_err(|e| {
            HandlerError::permanent("bad_input", format!("the input does not fit the handler: {e}"))
        })
    }

    /// The task as it was submitted.
    pub fn spec(&self) -> &TaskSpec {
        &self.execution().spec
    }

    /// The attempt: ids, number, tries so far.
    pub fn execution(&self) -> &Execution {
        self.attempt.execution()
    }

    /// Says how far the handler is, from 0 to 1; a sign of life.
    pub fn progress(&self, fraction: f64, message: &str) {
        self.attempt.progress(Some(fraction), message);
    }

    /// Says that the handler lives, for tasks with a heartbeat timeout.
    pub fn alive(&self) {
        self.attempt.alive();
    }

    /// Adds a line to the task's output.
    pub fn log(&self, text: impl fmt::Display) {
        self.attempt.log(OutputStream::Log, format!("{text}\n").as_bytes());
    }

    /// Ends when the attempt must end: cancelled, out of time, or the worker leaves.
    pub async fn cancelled(&self) {
        self.attempt.cancellation().cancelled().await;
    }

    /// The same as a token, to pass on.
    pub fn cancellation(&self) -> &CancellationToken {
        self.attempt.cancellation()
    }
}

/// Why a handler failed, and whether trying again may help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerError(AttemptError);

impl HandlerError {
    /// An error after which the task is tried again, as its retry policy says.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self(AttemptError::retryable(code, message))
    }

    /// An error that ends the task at once.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self(AttemptError::permanent(code, message))
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

/// Any other error is retryable, with the code `handler_error`; so `?` works in handlers.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retryable("handler_error", error.to_string())
    }
}
