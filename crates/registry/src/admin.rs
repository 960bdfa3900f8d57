//! The registry's side of the admin API: questions to the ledger, submissions to the log.

use std::sync::Arc;

use bus::{Publisher, endpoint::Endpoints};
use common::{
    error::{ApiError, ErrorCode},
    filter,
    id::{TaskId, Tenant},
    limits, pb,
    task::TaskSpec,
};
use prost::Message as _;
use runtime::Context;
use tokio::sync::watch;

use crate::{
    dead::{self, Dead},
    ledger::{Later, Ledger, LedgerError, within},
    row::{Place, Row},
    view,
};

/// What JSON may take of a small task beyond its protobuf: the names of its fields.
const JSON_NAMES_BYTES: usize = 256;

/// Answers the service `Registry` of the admin API.
pub(crate) struct Admin {
    pub(crate) ctx: Context,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) publisher: Publisher,
    /// The sequence up to which the ledger has the log.
    pub(crate) committed: watch::Receiver<u64>,
}

macro_rules! endpoints {
    ($admin:ident: $($method:ident),*) => {
        Endpoints::new("registry")$(.on(stringify!($method), {
            let admin = $admin.clone();
            move |request| {
                let admin = admin.clone();
                async move { admin.$method(request).await }
            }
        }))*
    };
}

/// Answers until the shutdown.
pub(crate) async fn serve(admin: Admin) -> anyhow::Result<()> {
    let (bus, shutdown) = (admin.ctx.bus.clone(), admin.ctx.shutdown.clone());
    let admin = Arc::new(admin);
    endpoints!(admin: submit, get, result, list, history, stats, list_dead, get_dead, replay_dead)
        .serve(&bus, shutdown)
        .await
}

impl Admin {
    async fn submit(&self, request: pb::SubmitRequest) -> Result<pb::SubmitResponse, ApiError> {
        let (given, max) = (request.tasks.len(), limits::SUBMIT_TASKS_MAX);
        if given == 0 || given > max {
            return Err(ApiError::invalid_field(
                "tasks",
                format!("must be 1 to {max}; there are {given}"),
            ));
        }
        let specs =
            request.tasks.into_iter().map(|s| TaskSpec::submitted(s).map_err(ApiError::invalid));
        let submissions = dead::submit(&self.ctx.bus, &self.publisher, specs.collect()).await;
        match submissions.as_slice() {
            // The refusal of the only task is the answer, so that its caller cannot overlook it.
            [pb::Submission { error: Some(error), .. }] => Err(error.clone().into()),
            _ => Ok(pb::SubmitResponse { submissions }),
        }
    }

    async fn get(&self, request: pb::GetRequest) -> Result<pb::Task, ApiError> {
        self.find(&request).await.map(view::task)
    }

    async fn result(&self, request: pb::GetRequest) -> Result<pb::Outcome, ApiError> {
        let row = self.find(&request).await?;
        if !row.live.life.phase.is_terminal() {
            let message = format!("task {:?} has not ended", request.task_id);
            return Err(ApiError::new(ErrorCode::FailedPrecondition, message).hint(
                "`jetmill result --wait` waits for it; `jetmill why` says what it waits for",
            ));
        }
        Ok(view::outcome(row))
    }

    async fn list(&self, request: pb::ListRequest) -> Result<pb::ListResponse, ApiError> {
        let filter = filter::parse(&request.filter, self.ctx.clock.now())?;
        let limit = page_size(request.page_size)?;
        let before = page_token::<i64>(&request.page_token)?.map(Place::from_number);
        self.reach(request.min_sequence).await?;
        let sequence = *self.committed.borrow();
        let page = answered(self.ledger.list(filter.as_ref(), before, limit)).await?;
        let mut response = pb::ListResponse { sequence, ..pb::ListResponse::default() };
        let (mut bytes, mut more, mut end) = (0, page.more, None);
        for row in page.rows {
            let place = row.live.place;
            let task = view::summary(row);
            bytes += task.encoded_len() + JSON_NAMES_BYTES;
            if bytes > limits::ANSWER_BYTES_MAX && end.is_some() {
                more = true;
                break;
            }
            end = Some(place);
            response.tasks.push(task);
        }
        if let (true, Some(end)) = (more, end) {
            response.next_page_token = end.number().to_string();
        }
        if request.count {
            response.total = Some(answered(self.ledger.count(filter.as_ref())).await?);
        }
        Ok(response)
    }

    async fn history(&self, request: pb::GetRequest) -> Result<pb::HistoryResponse, ApiError> {
        let row = self.find(&request).await?;
        let entries =
            answered(self.ledger.history(row.live.place, limits::HISTORY_ENTRIES_MAX)).await?;
        let mut bytes = 0;
        let mut entries: Vec<_> = entries
            .into_iter()
            .rev()
            .map(|entry| {
                bytes += entry.event.len() + JSON_NAMES_BYTES;
                // What would not fit is left out, the newest last.
                let fits = bytes <= limits::ANSWER_BYTES_MAX;
                pb::HistoryEntry {
                    sequence: entry.place.sequence,
                    index: entry.place.index,
                    at: Some(entry.at.into()),
                    kind: entry.kind.into_owned(),
                    event: fits.then(|| pb::Event::decode(entry.event.as_ref()).ok()).flatten(),
                    ignored: entry.ignored.into_owned(),
                }
            })
            .collect();
        entries.reverse();
        Ok(pb::HistoryResponse { entries })
    }

    async fn stats(&self, request: pb::StatsRequest) -> Result<pb::StatsResponse, ApiError> {
        self.reach(request.min_sequence).await?;
        let last = bus::streams::last_sequence(&self.ctx.bus).await.map_err(dead::away)?;
        let sequence = *self.committed.borrow();
        let stats = answered(self.ledger.stats()).await?;
        Ok(pb::StatsResponse {
            total: stats.by_state.iter().map(|(_, count)| count).sum(),
            by_state: stats.by_state.into_iter().collect(),
            by_subsystem: stats.by_subsystem.into_iter().collect(),
            sequence,
            lag: last.saturating_sub(sequence),
        })
    }

    async fn list_dead(
        &self,
        request: pb::ListDeadRequest,
    ) -> Result<pb::ListDeadResponse, ApiError> {
        let limit = page_size(request.page_size)?;
        let before = page_token(&request.page_token)?;
        Dead::open(&self.ctx.bus).await?.list(before, limit).await
    }

    async fn get_dead(&self, request: pb::GetDeadRequest) -> Result<pb::DeadLetter, ApiError> {
        let letter = Dead::open(&self.ctx.bus).await?.get(request.id).await?;
        letter.ok_or_else(|| dead::no_letter(request.id))
    }

    async fn replay_dead(
        &self,
        request: pb::ReplayDeadRequest,
    ) -> Result<pb::ReplayDeadResponse, ApiError> {
        let max = limits::SUBMIT_TASKS_MAX;
        if request.all != request.ids.is_empty() {
            return Err(ApiError::invalid_field("ids", "must be given, or else `all`; never both"));
        }
        if request.ids.len() > max {
            return Err(ApiError::invalid_field("ids", format!("must be at most {max}")));
        }
        let answer = Dead::open(&self.ctx.bus)
            .await?
            .replay(&self.ctx.bus, &self.publisher, &request)
            .await?;
        let (matched, dry_run) = (answer.matched, request.dry_run);
        tracing::info!(actor = request.actor, matched, dry_run, "dead letters replayed");
        Ok(answer)
    }

    /// The task of a request. That there is none is said only after the ledger has what was in the
    /// log when the request came.
    async fn find(&self, request: &pb::GetRequest) -> Result<Row, ApiError> {
        let tenant = Tenant::parse_or_default(&request.tenant)
            .map_err(|e| ApiError::invalid_field("tenant", e.to_string()))?;
        let id = TaskId::parse(&request.task_id)
            .map_err(|e| ApiError::invalid_field("task_id", e.to_string()))?;
        self.reach(request.min_sequence).await?;
        if let Some(row) = answered(self.ledger.find(&tenant, &id)).await? {
            return Ok(row);
        }
        let last = bus::streams::last_sequence(&self.ctx.bus).await.map_err(dead::away)?;
        self.reach(last).await?;
        let row = answered(self.ledger.find(&tenant, &id)).await?;
        row.ok_or_else(|| ApiError::no_task(&request.task_id))
    }

    /// Waits until the ledger has the log up to a sequence.
    async fn reach(&self, sequence: u64) -> Result<(), ApiError> {
        let mut committed = self.committed.clone();
        let reached = committed.wait_for(|committed| *committed >= sequence);
        if let Ok(Ok(_)) = tokio::time::timeout(limits::CATCH_UP_WAIT, reached).await {
            return Ok(());
        }
        let has = *self.committed.borrow();
        let message = format!("the ledger has the log up to {has}, not yet up to {sequence}");
        Err(ApiError::new(ErrorCode::Unavailable, message)
            .hint("try again; `jetmill doctor` says why it lags when that does not help"))
    }
}

async fn answered<T>(answer: Later<'_, T>) -> Result<T, ApiError> {
    within(answer).await.map_err(|error| {
        let code = match error {
            LedgerError::Superseded | LedgerError::Away(_) => ErrorCode::Unavailable,
            LedgerError::Broken(_) => ErrorCode::Internal,
        };
        let message = runtime::chain(&error.into());
        tracing::warn!(error = message, "a question to the ledger failed");
        ApiError::new(code, message)
            .hint("try again; look at the ledger's database when that does not help")
    })
}

fn page_size(given: i32) -> Result<usize, ApiError> {
    match given {
        0 => Ok(limits::PAGE_SIZE as usize),
        1..=limits::PAGE_SIZE_MAX => Ok(given as usize),
        _ => {
            let problem = format!("must be 1 to {}", limits::PAGE_SIZE_MAX);
            Err(ApiError::invalid_field("page_size", problem))
        }
    }
}

fn page_token<T: std::str::FromStr>(token: &str) -> Result<Option<T>, ApiError> {
    if token.is_empty() {
        return Ok(None);
    }
    let invalid =
        || ApiError::invalid_field("page_token", "must be the next_page_token of an answer");
    token.parse().map(Some).map_err(|_| invalid())
}
