//! Live views as server streams.

use std::{pin::Pin, sync::Arc};

use bus::{Bus, live};
use common::{
    error::{ApiError, ErrorCode},
    pb,
};
use futures::{Stream, StreamExt as _, future, stream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{grpc::live_service, status::status};

type View<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Opens live views, so many and no more.
pub(crate) struct Live {
    bus: Bus,
    shutdown: CancellationToken,
    views: Arc<Semaphore>,
}

impl Live {
    pub(crate) fn new(bus: Bus, shutdown: CancellationToken, views: Arc<Semaphore>) -> Self {
        Self { bus, shutdown, views }
    }

    /// The view as a stream that ends at shutdown. It is pulled by its client: a slow one slows down
    /// nothing but its own view, and one that leaves drops it.
    fn view<T: Send + 'static>(
        &self,
        events: impl Stream<Item = Result<T, ApiError>> + Send + 'static,
    ) -> Result<Response<View<T>>, Status> {
        let permit = self.views.clone().try_acquire_owned().map_err(|_| {
            let error = ApiError::new(ErrorCode::Exhausted, "too many live views are open");
            status(&error.hint("close one, ask another gateway, or raise gateway.live_views_max"))
        })?;
        let shutdown = self.shutdown.clone();
        let stopped = stream::once(async move {
            let error = ApiError::new(ErrorCode::Unavailable, "the gateway is stopping");
            let error = error.hint("connect again and go on after the last sequence");
            shutdown.is_cancelled().then(|| Err(status(&error)))
        });
        let events = events.map(move |event| {
            // The permit lives as long as the stream that holds it.
            let _held = &permit;
            event.map_err(|error| status(&error))
        });
        let events = events.take_until(self.shutdown.clone().cancelled_owned());
        Ok(Response::new(events.chain(stopped.filter_map(future::ready)).boxed()))
    }
}

#[tonic::async_trait]
impl live_service::Live for Live {
    type WatchStream = View<pb::WatchEvent>;
    type LogsStream = View<pb::LogChunk>;

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.view(live::watch(&self.bus, request.into_inner()))
    }

    async fn logs(
        &self,
        request: Request<pb::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        self.view(live::logs(&self.bus, request.into_inner()))
    }
}
