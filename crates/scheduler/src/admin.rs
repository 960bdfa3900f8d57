//! The scheduler's admin API: answered by the leader, which alone knows what is out.
//!
//! A change is asked for, not published: the caller learns what became of it. Its effect is an
//! event of the log, with the actor's name. What only the planner knows is asked of the planner's
//! loop by a [`Command`].

mod obey;
mod pauses;
mod schedules;
mod select;

use std::sync::Arc;

use bus::{Publisher, endpoint::Endpoints, streams};
use common::{
    error::{ApiError, ErrorCode, Violation},
    event::Pause,
    id::{QueueName, TaskId, TaskKey, Tenant},
    limits, pb,
    policy::Document,
    task::TaskSpec,
};
use runtime::Context;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::obey::Asking;
use crate::{
    lease::Lease,
    orders::{self, Change},
    payload,
    plan::Tombstone,
    policies,
    why::{Names, Places},
};

/// Commands that wait for the planner's loop.
const COMMANDS_MAX: usize = 256;

/// Who waits for an answer.
type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// A question to the planner's loop.
pub(crate) enum Command {
    Change {
        tenant: Tenant,
        ids: Vec<TaskId>,
        change: Change,
        actor: String,
        reply: Reply<Vec<Changed>>,
    },
    Pause {
        queue: Option<QueueName>,
        /// `None` ends the pause.
        pause: Option<Pause>,
        actor: String,
        reply: Reply<pb::PauseResponse>,
    },
    /// Where the task's submission lies in the log, and those of tasks that hold it by a limit.
    Place {
        key: TaskKey,
        reply: oneshot::Sender<Option<Places>>,
    },
    Why {
        key: TaskKey,
        about: Box<(TaskSpec, Names)>,
        reply: oneshot::Sender<Option<pb::WhyResponse>>,
    },
    Queues {
        reply: oneshot::Sender<pb::QueuesResponse>,
    },
    ApplyPolicies {
        documents: Vec<Document>,
        actor: String,
        dry_run: bool,
        reply: Reply<pb::ApplyPoliciesResponse>,
    },
    Policies {
        request: pb::PoliciesRequest,
        reply: oneshot::Sender<pb::PoliciesResponse>,
    },
    /// What keeps each of these from being a task of its type.
    Check {
        specs: Vec<TaskSpec>,
        reply: oneshot::Sender<Vec<Vec<Violation>>>,
    },
    Schedules {
        request: pb::SchedulesRequest,
        reply: oneshot::Sender<pb::SchedulesResponse>,
    },
    PauseSchedules {
        request: pb::PauseSchedulesRequest,
        reply: Reply<pb::ApplyPoliciesResponse>,
    },
}

/// What became of one task.
pub(crate) enum Changed {
    /// This.
    Done(pb::Change),
    /// It is over: a retry is a new task.
    Over(TaskId, Tombstone),
}

/// The loop's end of the channel.
pub(crate) struct Commands {
    pub(crate) inbox: mpsc::Receiver<Command>,
    pub(crate) folded: watch::Sender<u64>,
}

/// The doors' end of the channel.
#[derive(Clone)]
pub(crate) struct Asker {
    commands: mpsc::Sender<Command>,
    folded: watch::Receiver<u64>,
}

pub(crate) fn channel() -> (Asker, Commands) {
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let (folded, watched) = watch::channel(0);
    (Asker { commands, folded: watched }, Commands { inbox, folded })
}

/// Answers while this process leads.
pub(crate) async fn serve(
    ctx: Context,
    lease: Lease,
    asker: Asker,
    publisher: Publisher,
) -> anyhow::Result<()> {
    let mut leadership = lease.watch();
    let door = Arc::new(Door { ctx: ctx.clone(), asker, publisher });
    while !ctx.shutdown.is_cancelled() {
        // Cancel-safe: a change that is not returned is seen by the next call.
        let leads = leadership.borrow_and_update().is_some();
        if leads {
            let term = ctx.shutdown.child_token();
            let endpoints = endpoints(&door).serve(&ctx.bus, term.clone());
            tokio::pin!(endpoints);
            let ended = loop {
                tokio::select! {
                    ended = &mut endpoints => break ended,
                    changed = leadership.changed() => {
                        if changed.is_err() || leadership.borrow_and_update().is_none() {
                            term.cancel();
                        }
                    }
                }
            };
            ended?;
        } else {
            tokio::select! {
                () = ctx.shutdown.cancelled() => {}
                changed = leadership.changed() => changed?,
            }
        }
    }
    Ok(())
}

fn endpoints(door: &Arc<Door>) -> Endpoints {
    macro_rules! on {
        ($endpoints:expr, $name:literal, $method:ident) => {{
            let door = door.clone();
            $endpoints.on($name, move |request| {
                let door = door.clone();
                async move { door.$method(request).await }
            })
        }};
    }
    let endpoints = Endpoints::new("scheduler");
    let endpoints = on!(endpoints, "cancel", cancel);
    let endpoints = on!(endpoints, "retry", retry);
    let endpoints = on!(endpoints, "reprioritise", reprioritise);
    let endpoints = on!(endpoints, "pause", pause);
    let endpoints = on!(endpoints, "resume", resume);
    let endpoints = on!(endpoints, "why", why);
    let endpoints = on!(endpoints, "queues", queues);
    let endpoints = on!(endpoints, "check", check);
    let endpoints = on!(endpoints, "apply_policies", apply_policies);
    let endpoints = on!(endpoints, "policies", policies);
    schedules::endpoints(endpoints, door)
}

struct Door {
    ctx: Context,
    asker: Asker,
    publisher: Publisher,
}

impl Door {
    async fn cancel(&self, request: pb::CancelRequest) -> Result<pb::ChangeResponse, ApiError> {
        pauses::check_reason(&request.reason)?;
        let change = Change::Cancel { reason: request.reason };
        self.change(request.selection, change, request.actor, request.dry_run).await
    }

    async fn retry(&self, request: pb::RetryRequest) -> Result<pb::ChangeResponse, ApiError> {
        self.change(request.selection, Change::Retry, request.actor, request.dry_run).await
    }

    async fn reprioritise(
        &self,
        request: pb::ReprioritiseRequest,
    ) -> Result<pb::ChangeResponse, ApiError> {
        let priority = u8::try_from(request.priority).ok().filter(|p| (1..=10).contains(p));
        let Some(priority) = priority else {
            return Err(ApiError::invalid_field(
                "priority",
                "must be 1 to 10, where 10 is the most urgent",
            ));
        };
        let change = Change::Reprioritise { priority };
        self.change(request.selection, change, request.actor, request.dry_run).await
    }

    async fn change(
        &self,
        selection: Option<pb::Selection>,
        change: Change,
        actor: String,
        dry_run: bool,
    ) -> Result<pb::ChangeResponse, ApiError> {
        let selection = selection.unwrap_or_default();
        let tenant = tenant(&selection.tenant)?;
        let ids = select::ids(&self.ctx.bus, &selection, &change).await?;
        let matched = ids.len() as u64;
        let mut changes = Vec::new();
        if !dry_run {
            self.catch_up().await?;
            for chunk in ids.chunks(limits::SUBMIT_TASKS_MAX) {
                let some = self.change_some(&tenant, chunk.to_vec(), &change, &actor).await?;
                let room = limits::SUBMIT_TASKS_MAX.saturating_sub(changes.len());
                changes.extend(some.into_iter().take(room));
            }
        }
        Ok(pb::ChangeResponse { matched, changes })
    }

    async fn change_some(
        &self,
        tenant: &Tenant,
        ids: Vec<TaskId>,
        change: &Change,
        actor: &str,
    ) -> Result<Vec<pb::Change>, ApiError> {
        let changed = self
            .ask(|reply| Command::Change {
                tenant: tenant.clone(),
                ids,
                change: change.clone(),
                actor: actor.to_owned(),
                reply,
            })
            .await??;
        let mut answers = Vec::with_capacity(changed.len());
        for one in changed {
            answers.push(match one {
                Changed::Done(change) => change,
                Changed::Over(id, end) => self.run_again(&id, end).await,
            });
        }
        Ok(answers)
    }

    /// Runs a finished task again: as a new one that says which it repeats.
    async fn run_again(&self, id: &TaskId, end: Tombstone) -> pb::Change {
        let refused = |reason: String| pb::Change {
            task_id: id.to_string(),
            result: "refused".into(),
            reason,
            ..pb::Change::default()
        };
        let spec = match payload::spec_at(&self.ctx.bus, end.sequence, end.index).await {
            Ok(spec) if spec.is_external() => {
                return refused("another system runs it: retry it there".into());
            }
            Ok(spec) => spec.into_pb(),
            Err(error) => return refused(format!("its submission cannot be read: {error:#}")),
        };
        let spec = match orders::again(id, spec) {
            Ok(spec) => spec,
            Err(violations) => return refused(ApiError::invalid(violations).to_string()),
        };
        match bus::submit(&self.ctx.bus, &self.publisher, vec![spec]).await.pop() {
            Some(Ok(submission)) => pb::Change {
                task_id: id.to_string(),
                result: "submitted".into(),
                new_task_id: submission.task_id,
                sequence: submission.sequence,
                reason: String::new(),
            },
            Some(Err(error)) => refused(error.to_string()),
            None => refused("no answer".into()),
        }
    }

    async fn why(&self, request: pb::WhyRequest) -> Result<pb::WhyResponse, ApiError> {
        let tenant = tenant(&request.tenant)?;
        let id = TaskId::parse(&request.task_id)
            .map_err(|e| ApiError::invalid_field("task_id", e.to_string()))?;
        let key = TaskKey::new(&tenant, &id);
        self.catch_up().await?;
        let place = self.ask(|reply| Command::Place { key, reply }).await?;
        let ((sequence, index), holders) = place.ok_or_else(|| ApiError::no_task(id.as_str()))?;
        let spec = if let Ok(spec) = payload::spec_at(&self.ctx.bus, sequence, index).await {
            spec
        } else {
            // Known from reports only: there is no submission to read.
            let stub = pb::TaskSpec { task_id: id.to_string(), ..pb::TaskSpec::default() };
            TaskSpec::parse(stub).map_err(ApiError::invalid)?
        };
        let about = Box::new((spec.with_id(&id), payload::names(&self.ctx.bus, holders).await));
        let answer = self.ask(|reply| Command::Why { key, about, reply }).await?;
        answer.ok_or_else(|| ApiError::no_task(id.as_str()))
    }

    async fn queues(&self, _: pb::QueuesRequest) -> Result<pb::QueuesResponse, ApiError> {
        self.catch_up().await?;
        self.ask(|reply| Command::Queues { reply }).await
    }

    async fn apply_policies(
        &self,
        request: pb::ApplyPoliciesRequest,
    ) -> Result<pb::ApplyPoliciesResponse, ApiError> {
        let pb::ApplyPoliciesRequest { documents, actor, dry_run } = request;
        let documents = policies::parse(documents)?;
        self.change_policies(|reply| {
            let (documents, actor) = (documents.clone(), actor.clone());
            Command::ApplyPolicies { documents, actor, dry_run, reply }
        })
        .await
    }

    /// Says of each submission whether it fits its type, as the types are now. Nothing is submitted.
    async fn check(&self, request: pb::SubmitRequest) -> Result<pb::CheckResponse, ApiError> {
        let (given, max) = (request.tasks.len(), limits::SUBMIT_TASKS_MAX);
        if given > max {
            return Err(ApiError::invalid_field("tasks", format!("must be at most {max}")));
        }
        let specs = request.tasks.into_iter().map(TaskSpec::parse);
        let specs = specs.collect::<Result<_, _>>().map_err(ApiError::invalid)?;
        let found = self.ask(|reply| Command::Check { specs, reply }).await?;
        let checks = found.into_iter().map(|violations| {
            let error = (!violations.is_empty()).then(|| ApiError::invalid(violations).into());
            pb::Check { error }
        });
        Ok(pb::CheckResponse { checks: checks.collect() })
    }

    async fn policies(
        &self,
        request: pb::PoliciesRequest,
    ) -> Result<pb::PoliciesResponse, ApiError> {
        self.catch_up().await?;
        self.ask(|reply| Command::Policies { request, reply }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ApiError> {
        let ended =
            || ApiError::new(ErrorCode::Unavailable, "the scheduler is stopping").hint("ask again");
        let (reply, answer) = oneshot::channel();
        self.asker.commands.send(command(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }

    /// Waits until the planner knows what was in the log when the request came.
    async fn catch_up(&self) -> Result<(), ApiError> {
        let behind = |why: String| {
            ApiError::new(ErrorCode::Unavailable, format!("the scheduler has not caught up: {why}"))
                .hint("ask again")
        };
        let last =
            streams::last_sequence(&self.ctx.bus).await.map_err(|e| behind(format!("{e:#}")))?;
        let mut folded = self.asker.folded.clone();
        let caught_up = folded.wait_for(|sequence| *sequence >= last);
        match tokio::time::timeout(limits::CATCH_UP_WAIT, caught_up).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(behind("it is stopping".into())),
            Err(_) => Err(behind(format!("the log is at {last}"))),
        }
    }
}

fn tenant(text: &str) -> Result<Tenant, ApiError> {
    Tenant::parse_or_default(text).map_err(|e| ApiError::invalid_field("tenant", e.to_string()))
}
