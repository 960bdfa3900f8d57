//! Submits work, waits for it, and asks about it.
//!
//! Submissions go straight to the log; everything else is a request to the service that knows.

use std::{sync::Arc, time::Duration};

use bus::{Bus, ConnectOptions, Publisher, endpoint};
use common::{
    error::{ApiError, ErrorCode},
    event::Event,
    id::{TaskId, Tenant},
    limits, pb,
    task::TaskSpec,
    wire,
};
use futures::{StreamExt as _, future};
use prost::Message as _;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

/// Time between two looks at the ledger by one who waits.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A program's door to Jetmill. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    bus: Bus,
    publisher: Publisher,
    _pump: Arc<JoinSet<()>>,
}

impl Client {
    /// Connects to NATS at `nats://host:port`, or several of these separated by commas.
    pub async fn connect(url: &str) -> Result<Self, ApiError> {
        let options =
            ConnectOptions { url: url.into(), name: "jetmill-sdk".into(), credentials: None };
        Ok(Self::new(bus::connect(&options).await?))
    }

    /// A client on a connection that is there already. Must be called within a tokio runtime.
    pub fn new(bus: Bus) -> Self {
        let (publisher, pump) = Publisher::new(&bus);
        let mut tasks = JoinSet::new();
        tasks.spawn(pump);
        Self { bus, publisher, _pump: Arc::new(tasks) }
    }

    /// The connection, for a [`crate::Worker`] beside the client.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Submits a task. With an id or a key of the caller's, a repeat gives the same task.
    pub async fn submit(&self, spec: TaskSpec) -> Result<pb::Submission, ApiError> {
        let mut answers = bus::submit(&self.bus, &self.publisher, vec![spec]).await;
        answers.pop().unwrap_or_else(|| Err(ApiError::new(ErrorCode::Internal, "no answer")))
    }

    /// Submits many tasks and answers in their order. A refused one does not touch the others.
    pub async fn submit_all(&self, specs: Vec<TaskSpec>) -> Vec<Result<pb::Submission, ApiError>> {
        let mut answers = Vec::with_capacity(specs.len());
        let mut specs = specs.into_iter().peekable();
        while specs.peek().is_some() {
            let chunk = specs.by_ref().take(limits::SUBMIT_TASKS_MAX).collect();
            answers.extend(bus::submit(&self.bus, &self.publisher, chunk).await);
        }
        answers
    }

    /// Submits a task and waits for its end; hears of it as soon as it is durable.
    pub async fn submit_and_wait(
        &self,
        spec: TaskSpec,
        timeout: Duration,
    ) -> Result<pb::Outcome, ApiError> {
        let deadline = Instant::now() + timeout;
        let inbox = self.bus.client().new_inbox();
        // Before the submission, so that the outcome cannot come sooner than the listener.
        let mut outcomes = self.bus.client().subscribe(inbox.clone()).await.map_err(|e| {
            ApiError::new(ErrorCode::Unavailable, format!("cannot listen for the outcome: {e}"))
        })?;
        let mut spec = spec.into_pb();
        spec.notify = inbox;
        let spec = TaskSpec::submitted(spec).map_err(ApiError::invalid)?;
        let submission = self.submit(spec).await?;
        let (tenant, id) = names(&submission)?;
        // A task that was there already tells whom its first submitter named.
        let first_look = if submission.existing { Duration::ZERO } else { LOOK_EVERY };
        let heard = async {
            while let Some(message) = outcomes.next().await {
                match read_outcome(&message.payload) {
                    Ok(outcome) if outcome.task_id == submission.task_id => return outcome,
                    Ok(_) => {}
                    Err(error) => tracing::warn!(error, "an unreadable outcome"),
                }
            }
            future::pending().await
        };
        let looked = self.look(&tenant, &id, first_look);
        let ended = async {
            tokio::select! {
                outcome = heard => Ok(outcome),
                outcome = looked => outcome,
            }
        };
        let outcome = timeout_at(deadline, ended).await.unwrap_or_else(|_| Err(still_open(&id)))?;
        self.whole(outcome).await
    }

    /// Waits for a task's end by asking for it.
    pub async fn wait(
        &self,
        tenant: &Tenant,
        id: &TaskId,
        timeout: Duration,
    ) -> Result<pb::Outcome, ApiError> {
        let looked = self.look(tenant, id, Duration::ZERO);
        let ended = timeout_at(Instant::now() + timeout, looked).await;
        self.whole(ended.unwrap_or_else(|_| Err(still_open(id)))?).await
    }

    /// Asks for the result until there is one, or until asking makes no sense.
    async fn look(
        &self,
        tenant: &Tenant,
        id: &TaskId,
        first: Duration,
    ) -> Result<pb::Outcome, ApiError> {
        sleep(first).await;
        loop {
            match self.outcome(tenant, id).await {
                Ok(outcome) if is_end(outcome.state()) => return Ok(outcome),
                Err(error) if is_final(error.code) => return Err(error),
                Ok(_) | Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    pub(crate) async fn publish(&self, event: Event) -> Result<(), ApiError> {
        self.publisher.publish(event).await?;
        Ok(())
    }
}

/// Workers in other languages say it in JSON.
fn read_outcome(payload: &[u8]) -> Result<pb::Outcome, String> {
    if wire::is_json(None, payload) {
        serde_json::from_slice(payload).map_err(|e| e.to_string())
    } else {
        pb::Outcome::decode(payload).map_err(|e| e.to_string())
    }
}

fn names(submission: &pb::Submission) -> Result<(Tenant, TaskId), ApiError> {
    let wrong = |e| ApiError::new(ErrorCode::Internal, format!("the submission's name {e}"));
    let tenant = Tenant::parse_or_default(&submission.tenant).map_err(wrong)?;
    Ok((tenant, TaskId::parse(&submission.task_id).map_err(wrong)?))
}

fn still_open(id: &TaskId) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, format!("task {:?} did not end in time", id.as_str()))
        .hint(format!("it goes on: wait longer, or see `jetmill why {id}`"))
}

fn is_end(state: pb::TaskState) -> bool {
    match state {
        pb::TaskState::Unspecified | pb::TaskState::Pending | pb::TaskState::Running => false,
        pb::TaskState::Completed
        | pb::TaskState::Failed
        | pb::TaskState::Cancelled
        | pb::TaskState::Skipped => true,
    }
}

/// Whether asking again would give the same answer. A task may be on its way into the ledger.
fn is_final(code: ErrorCode) -> bool {
    match code {
        ErrorCode::InvalidArgument | ErrorCode::Conflict | ErrorCode::Internal => true,
        ErrorCode::NotFound
        | ErrorCode::Exhausted
        | ErrorCode::Unavailable
        | ErrorCode::FailedPrecondition => false,
    }
}

fn get_request(tenant: &Tenant, id: &TaskId) -> pb::GetRequest {
    pb::GetRequest { tenant: tenant.to_string(), task_id: id.to_string(), min_sequence: 0 }
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident($service:literal, $method:literal, $request:ident) -> $response:ident;)*) => {
        /// The admin API.
        impl Client {
            $($(#[$doc])*
            pub async fn $name(&self, request: &pb::$request) -> Result<pb::$response, ApiError> {
                endpoint::request(&self.bus, $service, $method, request).await
            })*
        }
    };
}

requests! {
    /// Tasks that fit a filter, by pages.
    list("registry", "list", ListRequest) -> ListResponse;
    /// Counts of everything.
    stats("registry", "stats", StatsRequest) -> StatsResponse;
    /// How many tasks of each type are in each state.
    count_types("registry", "count_types", CountTypesRequest) -> CountTypesResponse;
    /// What could not be read or did not end well.
    list_dead("registry", "list_dead", ListDeadRequest) -> ListDeadResponse;
    /// One dead letter.
    get_dead("registry", "get_dead", GetDeadRequest) -> DeadLetter;
    /// Submits dead tasks again, as new tasks.
    replay_dead("registry", "replay_dead", ReplayDeadRequest) -> ReplayDeadResponse;
    /// Ends tasks.
    cancel("scheduler", "cancel", CancelRequest) -> ChangeResponse;
    /// Runs finished tasks again as new ones, and waiting ones now.
    retry("scheduler", "retry", RetryRequest) -> ChangeResponse;
    /// Changes the priority of tasks that have not ended.
    reprioritise("scheduler", "reprioritise", ReprioritiseRequest) -> ChangeResponse;
    /// Stops new starts in a queue, or in all.
    pause("scheduler", "pause", PauseRequest) -> PauseResponse;
    /// Lets a queue start work again.
    resume("scheduler", "resume", ResumeRequest) -> PauseResponse;
    /// Why a task is not running.
    why("scheduler", "why", WhyRequest) -> WhyResponse;
    /// The queues and their depths.
    queues("scheduler", "queues", QueuesRequest) -> QueuesResponse;
    /// Whether submissions fit their types, without submitting them.
    check("scheduler", "check", SubmitRequest) -> CheckResponse;
    /// Changes limits, schedules and task types; what is wrong with one of them refuses all.
    apply_policies("scheduler", "apply_policies", ApplyPoliciesRequest) -> ApplyPoliciesResponse;
    /// The limits, schedules and task types.
    policies("scheduler", "policies", PoliciesRequest) -> PoliciesResponse;
    /// The schedules, where each stands and what comes next.
    schedules("scheduler", "schedules", SchedulesRequest) -> SchedulesResponse;
    /// What would come when.
    next_fires("scheduler", "next_fires", NextFiresRequest) -> NextFiresResponse;
    /// Creates a task of a schedule now.
    run_schedule("scheduler", "run_schedule", RunScheduleRequest) -> RunScheduleResponse;
    /// Pauses or resumes schedules by a pattern.
    pause_schedules("scheduler", "pause_schedules", PauseSchedulesRequest) -> ApplyPoliciesResponse;
    /// The living workers.
    list_workers("worker_pool", "list_workers", ListWorkersRequest) -> ListWorkersResponse;
    /// Tells a worker to hand back what it holds and leave.
    drain("worker_pool", "drain", DrainRequest) -> DrainResponse;
}

/// Questions about one task.
impl Client {
    /// A task as the ledger shows it; of a large input or result only the place.
    pub async fn get(&self, tenant: &Tenant, id: &TaskId) -> Result<pb::Task, ApiError> {
        endpoint::request(&self.bus, "registry", "get", &get_request(tenant, id)).await
    }

    /// What became of a task, with its result whole.
    pub async fn result(&self, tenant: &Tenant, id: &TaskId) -> Result<pb::Outcome, ApiError> {
        self.whole(self.outcome(tenant, id).await?).await
    }

    /// What became of a task; of a large result only the place.
    pub async fn outcome(&self, tenant: &Tenant, id: &TaskId) -> Result<pb::Outcome, ApiError> {
        endpoint::request(&self.bus, "registry", "result", &get_request(tenant, id)).await
    }

    /// The outcome with its result, fetched from its place where it is large.
    pub async fn whole(&self, mut outcome: pb::Outcome) -> Result<pb::Outcome, ApiError> {
        if let Some(place) = &outcome.result_object {
            let what = format!("the result of task {:?}", outcome.task_id);
            outcome.result = Some(Box::pin(self.fetch(&what, place)).await?);
        }
        Ok(outcome)
    }

    /// A value from its place in the object store; `what` it is, for the error.
    pub async fn fetch(&self, what: &str, place: &pb::Object) -> Result<pb::Json, ApiError> {
        bus::objects::get(&self.bus, place).await.map_err(|error| {
            let error = ApiError::from(error);
            ApiError { message: format!("{what}: {}", error.message), ..error }
        })
    }

    /// Every event of a task.
    pub async fn history(
        &self,
        tenant: &Tenant,
        id: &TaskId,
    ) -> Result<pb::HistoryResponse, ApiError> {
        endpoint::request(&self.bus, "registry", "history", &get_request(tenant, id)).await
    }
}
