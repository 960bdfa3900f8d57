//! Inputs and results of any size, as streams of pieces.

use std::{pin::Pin, sync::Arc};

use bus::{Bus, endpoint, objects};
use common::{
    error::{ApiError, ErrorCode},
    limits,
    pb::{self, read_request::Part},
    task::json_problem,
};
use futures::{Stream, StreamExt as _, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{grpc::objects_service, status::status};

type Pieces = Pin<Box<dyn Stream<Item = Result<pb::ObjectChunk, Status>> + Send>>;

/// Takes and gives out large values, so many at once and no more: each is held whole, since its
/// digest is known at its end.
pub(crate) struct Objects {
    bus: Bus,
    transfers: Arc<Semaphore>,
}

impl Objects {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, transfers: Arc::new(Semaphore::new(limits::OBJECT_TRANSFERS_MAX)) }
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let waited = timeout(limits::REQUEST_TIMEOUT, self.transfers.clone().acquire_owned());
        if let Ok(Ok(permit)) = waited.await {
            return Ok(permit);
        }
        let told = ApiError::new(ErrorCode::Exhausted, "too many large values are under way");
        Err(told.hint("try again, or ask another gateway"))
    }

    async fn take(&self, mut pieces: Streaming<pb::ObjectChunk>) -> Result<pb::Object, ApiError> {
        let _permit = self.permit().await?;
        let max = limits::OBJECT_BYTES_MAX;
        let mut bytes = Vec::new();
        loop {
            let piece = timeout(limits::OBJECT_PIECE_WAIT, pieces.message()).await;
            let broken = |why: String| ApiError::new(ErrorCode::Unavailable, why);
            let piece = piece.map_err(|_| broken("the next piece did not come in time".into()))?;
            let Some(pb::ObjectChunk { data }) =
                piece.map_err(|e| broken(format!("the stream broke off: {}", e.message())))?
            else {
                break;
            };
            if bytes.len() + data.len() > max {
                return Err(ApiError::invalid_field("data", format!("has more than {max} bytes")));
            }
            bytes.extend(data);
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| ApiError::invalid_field("data", "is no UTF-8 text"))?;
        if let Some(problem) = json_problem(&text, max) {
            return Err(ApiError::invalid_field("data", problem));
        }
        Ok(objects::put(&self.bus, &text).await?)
    }

    async fn give(
        &self,
        request: pb::ReadRequest,
    ) -> Result<(String, OwnedSemaphorePermit), ApiError> {
        let permit = self.permit().await?;
        let (part, id) = (request.part(), request.task_id.clone());
        let get =
            pb::GetRequest { tenant: request.tenant, task_id: request.task_id, min_sequence: 0 };
        let (what, value, place) = match part {
            Part::Input => {
                let task: pb::Task = endpoint::request(&self.bus, "registry", "get", &get).await?;
                let spec = task.spec.unwrap_or_default();
                ("input", spec.input, task.input_object)
            }
            Part::Result => {
                let outcome: pb::Outcome =
                    endpoint::request(&self.bus, "registry", "result", &get).await?;
                ("result", outcome.result, outcome.result_object)
            }
            Part::Unspecified => {
                let problem = "must be PART_INPUT or PART_RESULT";
                return Err(ApiError::invalid_field("part", problem));
            }
        };
        let value = match (value, place) {
            (_, Some(place)) => objects::get(&self.bus, &place).await.map_err(|error| {
                let error = ApiError::from(error);
                let message = format!("the {what} of task {id:?}: {}", error.message);
                ApiError { message, ..error }
            })?,
            (Some(value), None) => value,
            (None, None) => {
                let message = format!("task {id:?} has no {what}");
                return Err(ApiError::new(ErrorCode::NotFound, message));
            }
        };
        Ok((value.text, permit))
    }
}

#[tonic::async_trait]
impl objects_service::Objects for Objects {
    type ReadStream = Pieces;

    async fn put(
        &self,
        request: Request<Streaming<pb::ObjectChunk>>,
    ) -> Result<Response<pb::Object>, Status> {
        self.take(request.into_inner()).await.map(Response::new).map_err(|error| status(&error))
    }

    async fn read(
        &self,
        request: Request<pb::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let (text, permit) = self.give(request.into_inner()).await.map_err(|e| status(&e))?;
        Ok(Response::new(pieces(text, permit).boxed()))
    }
}

/// The text in pieces. The permit lives as long as they do.
fn pieces(
    text: String,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<pb::ObjectChunk, Status>> {
    let mut rest = bytes::Bytes::from(text);
    stream::iter(std::iter::from_fn(move || {
        let _held = &permit;
        let size = rest.len().min(limits::OBJECT_CHUNK_BYTES_MAX);
        (size > 0).then(|| Ok(pb::ObjectChunk { data: rest.split_to(size).to_vec() }))
    }))
}
