//! Events as they enter the log.

use std::{collections::VecDeque, time::Duration};

use common::{
    error::ApiError,
    event::Event,
    id::Tenant,
    lifecycle::{self, State},
    limits, pb, subject, wire,
};
use futures::{Stream, TryStreamExt as _, stream};
use tokio::time::{Instant, sleep};

use super::{Subject, parse_tenant, unavailable, unreadable};
use crate::{Bus, Cursor, Message, ReadError, Reader, streams};

/// Messages that are decoded ahead of the viewer.
const AHEAD_MAX: usize = 16;
/// Time between two attempts to open the log again.
const REOPEN_EVERY: Duration = Duration::from_millis(500);

/// The events of the log, from a position on or from now on.
///
/// With an id, only that task's from its creation on, ending with the event that ends the task.
/// Without one, every tenant's unless the request names a tenant.
pub fn watch(
    bus: &Bus,
    request: pb::WatchRequest,
) -> impl Stream<Item = Result<pb::WatchEvent, ApiError>> + Send + use<> {
    let bus = bus.clone();
    stream::once(async move { Watch::open(bus, request).await })
        .map_ok(|watch| {
            stream::try_unfold(watch, async |mut watch| {
                let event = watch.next().await?;
                Ok::<_, ApiError>(event.map(|event| (event, watch)))
            })
        })
        .try_flatten()
}

/// Which events are shown.
enum Shown {
    All,
    Tenant(Tenant),
    Task(Subject),
}

struct Watch {
    bus: Bus,
    reader: Reader,
    cursor: Cursor,
    shown: Shown,
    after: u64,
    waiting: VecDeque<pb::WatchEvent>,
    state: Option<State>,
}

impl Watch {
    async fn open(bus: Bus, request: pb::WatchRequest) -> Result<Self, ApiError> {
        let after = request.after_sequence;
        let tasks = streams::get(&bus, subject::TASKS).await.map_err(|e| unavailable(&e))?;
        let info = tasks.cached_info();
        let stream = streams::identity_of(&info.config.metadata).map_err(|e| unavailable(&e))?;
        let (shown, sequence) = if request.task_id.is_empty() {
            let shown = match request.tenant.as_str() {
                "" => Shown::All,
                tenant => Shown::Tenant(parse_tenant(tenant)?),
            };
            (shown, if after == 0 { info.state.last_sequence } else { after })
        } else {
            // Only who has seen all of a task knows when it ends, so what lies before `after` is
            // read as well and not shown.
            let task = Subject::parse(&request.tenant, &request.task_id)?;
            let created = task.look_up(&bus).await?.sequence;
            (Shown::Task(task), created.saturating_sub(1))
        };
        let cursor = Cursor { stream, sequence };
        let reader = Reader::open(&bus, Some(cursor)).await.map_err(unreadable)?;
        Ok(Self { bus, reader, cursor, shown, after, waiting: VecDeque::new(), state: None })
    }

    /// The next event; `None` after the end of the task.
    async fn next(&mut self) -> Result<Option<pb::WatchEvent>, ApiError> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            if self.has_ended() {
                return Ok(None);
            }
            match self.reader.next(AHEAD_MAX).await {
                Ok(messages) => messages.into_iter().for_each(|message| self.take(message)),
                Err(error) => self.reopen(error).await?,
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.state.is_some_and(|state| state.phase.is_terminal())
    }

    fn take(&mut self, message: Message) {
        self.cursor.sequence = message.sequence;
        for (index, item) in (0..).zip(message.items) {
            let Ok(event) = item else { continue };
            if self.has_ended() || !self.shows(&event) {
                continue;
            }
            if let (Shown::Task(_), Event::Task(event)) = (&self.shown, &event) {
                self.state = lifecycle::apply(self.state, &event.kind).ok().or(self.state);
            }
            if message.sequence <= self.after {
                continue;
            }
            let kind = match &event {
                Event::Task(event) => event.kind.word(),
                Event::Policy(event) => event.policy.word(),
            };
            self.waiting.push_back(pb::WatchEvent {
                sequence: message.sequence,
                index,
                at: Some(message.at.into()),
                kind: kind.to_owned(),
                event: Some(wire::to_pb(&event)),
            });
        }
    }

    fn shows(&self, event: &Event) -> bool {
        match (&self.shown, event) {
            (Shown::All, _) => true,
            (Shown::Tenant(tenant), Event::Task(event)) => event.tenant == *tenant,
            (Shown::Task(task), Event::Task(event)) => {
                event.tenant == task.tenant && event.id == task.id
            }
            (Shown::Tenant(_) | Shown::Task(_), Event::Policy(_)) => false,
        }
    }

    /// Goes on where it was after trouble with NATS, or gives up when that lasts.
    async fn reopen(&mut self, mut error: ReadError) -> Result<(), ApiError> {
        let deadline = Instant::now() + limits::PUBLISH_RETRY;
        while error.is_transient() && Instant::now() < deadline {
            sleep(REOPEN_EVERY).await;
            match Reader::open(&self.bus, Some(self.cursor)).await {
                Ok(reader) => {
                    self.reader = reader;
                    return Ok(());
                }
                Err(again) => error = again,
            }
        }
        Err(unreadable(error))
    }
}
