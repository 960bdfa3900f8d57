//! What the planner's loop does with each command.

use common::{
    error::{ApiError, ErrorCode},
    event::{Event, Kind, Policy, PolicyEvent, TaskEvent},
    id::{QueueName, TaskId, TaskKey, Tenant},
    lifecycle::Phase,
    pb,
    policy::Document,
    subject,
};

use super::{Changed, Command};
use crate::{
    lead::Lead,
    orders::{self, Change, Step, Then},
    plan::{Found, Stopping},
    policies, verdict, why,
    workers::Held,
};

impl Lead {
    pub(crate) async fn obey(&mut self, command: Command) {
        // A caller that went away does not want to know.
        match command {
            Command::Change { reply, .. } if !self.decides() => {
                let _ = reply.send(Err(taking_over()));
            }
            Command::Pause { reply, .. } if !self.decides() => {
                let _ = reply.send(Err(taking_over()));
            }
            Command::ApplyPolicies { reply, .. } | Command::PauseSchedules { reply, .. }
                if !self.decides() =>
            {
                let _ = reply.send(Err(taking_over()));
            }
            Command::Change { tenant, ids, change, actor, reply } => {
                let _ = reply.send(self.change(&tenant, ids, &change, &actor).await);
            }
            Command::Pause { queue, reason, actor, reply } => {
                let _ = reply.send(self.pause(queue, reason, actor).await);
            }
            Command::Place { key, reply } => {
                let place = self.planner.find(key).map(|found| match found {
                    Found::Open(_, entry) => (entry.sequence, entry.index),
                    Found::Over(end) => (end.sequence, end.index),
                });
                let _ = reply.send(place.map(|place| (place, why::holders(&self.planner, key))));
            }
            Command::Why { key, about, reply } => {
                let (window_max, (spec, names)) = (self.config.window_max, &*about);
                let _ = reply.send(why::why(&self.planner, key, spec, window_max, names));
            }
            Command::Queues { reply } => {
                let _ = reply.send(self.queues());
            }
            Command::ApplyPolicies { documents, actor, dry_run, reply } => {
                let _ = reply.send(self.apply_policies(documents, &actor, dry_run).await);
            }
            Command::Policies { request, reply } => {
                let _ = reply.send(self.policies(&request));
            }
            Command::Schedules { request, reply } => {
                let _ = reply.send(self.schedules(&request));
            }
            Command::PauseSchedules { request, reply } => {
                let _ = reply.send(self.pause_schedules(request).await);
            }
        }
    }

    pub(crate) async fn change(
        &mut self,
        tenant: &Tenant,
        ids: Vec<TaskId>,
        change: &Change,
        actor: &str,
    ) -> Result<Vec<Changed>, ApiError> {
        let (mut answers, mut events, mut thens) = (Vec::new(), Vec::new(), Vec::new());
        for id in ids {
            match orders::step(&self.planner, TaskKey::new(tenant, &id), change) {
                Step::Answer(result, reason) => answers.push(done(&id, result, &reason)),
                Step::Over(end) => answers.push(Changed::Over(id, end)),
                Step::Publish { kind, result, then } => {
                    let before = match then {
                        Then::Hold(ticket) => self.planner.hold(ticket),
                        Then::Nothing | Then::Stop(_) => None,
                    };
                    answers.push(done(&id, result, ""));
                    thens.push((answers.len() - 1, then, before));
                    events.push(TaskEvent::new(tenant.clone(), id, actor, kind));
                }
            }
        }
        let published =
            self.publisher.publish_all(events.iter().cloned().map(Event::Task).collect()).await;
        let sequence = match published {
            Ok(sequence) => sequence,
            Err(error) => {
                for (_, then, before) in thens {
                    if let Then::Hold(ticket) = then {
                        self.planner.unhold(ticket, before);
                    }
                }
                return Err(error.into());
            }
        };
        for ((place, then, _), event) in thens.into_iter().zip(&events) {
            if let Some(Changed::Done(change)) = answers.get_mut(place) {
                change.sequence = sequence;
            }
            self.follow_up(then, event).await;
        }
        Ok(answers)
    }

    async fn follow_up(&mut self, then: Then, event: &TaskEvent) {
        match then {
            Then::Nothing => {}
            Then::Hold(ticket) => {
                let Some(outcome) = verdict::outcome(event) else { return };
                let Some(entry) = self.planner.entry(ticket) else { return };
                if let Ok(payload) = self.payloads.get(ticket, entry.sequence, entry.index).await {
                    let notify = payload.spec.as_pb().notify.clone();
                    if !notify.is_empty() {
                        self.notify(notify, &outcome).await;
                    }
                }
            }
            Then::Stop(ticket) => {
                let Some(entry) = self.planner.entry(ticket) else { return };
                let attempt = entry.state.attempt();
                let held = Held {
                    tenant: event.tenant.to_string(),
                    task_id: event.id.to_string(),
                    attempt,
                };
                let why = if let Kind::CancelRequested(body) = &event.kind
                    && !body.reason.is_empty()
                {
                    body.reason.as_str()
                } else {
                    "the task is to be cancelled"
                };
                self.stop(vec![Stopping { held, stale: false }], why).await;
                if entry.state.phase != Phase::Running {
                    let (queue, _) = self.planner.queue_of(&entry);
                    let subject = subject::execution(queue, &event.tenant, &event.id, attempt);
                    if let Err(error) = self.dispatcher.withdraw(&subject).await {
                        tracing::warn!(error = format!("{error:#}"), task.id = %event.id, "not withdrawn");
                    }
                }
            }
        }
    }

    async fn pause(
        &mut self,
        queue: Option<QueueName>,
        reason: Option<String>,
        actor: String,
    ) -> Result<pb::PauseResponse, ApiError> {
        let (queues, all) = self.planner.pauses();
        let paused = match &queue {
            None => all.is_some(),
            Some(name) => queues.iter().any(|(known, paused)| known == name && *paused),
        };
        if queue.is_some() && all.is_some() {
            return Err(ApiError::new(ErrorCode::FailedPrecondition, "everything is paused")
                .hint("`jetmill resume --all` first"));
        }
        if paused == reason.is_some() {
            return Ok(pb::PauseResponse { changed: false, sequence: 0 });
        }
        let policy = match reason {
            Some(reason) => Policy::Paused { queue, reason },
            None => Policy::Resumed { queue },
        };
        let event = Event::Policy(PolicyEvent { actor, policy });
        let sequence = self.publisher.publish(event).await?;
        Ok(pb::PauseResponse { changed: true, sequence })
    }

    pub(super) async fn apply_policies(
        &mut self,
        documents: Vec<Document>,
        actor: &str,
        dry_run: bool,
    ) -> Result<pb::ApplyPoliciesResponse, ApiError> {
        // Versions are counted from what was folded.
        if self.cursor.sequence < self.policies_at {
            let message = "another change of policy is on its way";
            return Err(ApiError::new(ErrorCode::Unavailable, message).hint("ask again"));
        }
        let changes = policies::changes(self.planner.policies(), documents)?;
        let (answers, documents): (Vec<_>, Vec<_>) =
            changes.into_iter().map(|change| (change.answer, change.document)).unzip();
        let event = |document| {
            let policy = Policy::Document(Box::new(document));
            Event::Policy(PolicyEvent { actor: actor.to_owned(), policy })
        };
        let events = documents.into_iter().flatten().map(event).collect::<Vec<_>>();
        let mut sequence = 0;
        if !dry_run && !events.is_empty() {
            sequence = self.publisher.publish_all(events).await?;
            self.policies_at = sequence;
        }
        Ok(pb::ApplyPoliciesResponse { changes: answers, sequence })
    }

    fn policies(&self, request: &pb::PoliciesRequest) -> pb::PoliciesResponse {
        let fits = |document: &Document| {
            let kind = pb::DocumentKind::from(document.body.kind());
            [kind, pb::DocumentKind::Unspecified].contains(&request.kind())
                && (request.name.is_empty() || request.name == document.name.as_str())
        };
        let known = self.planner.policies().of(None).map(|known| &known.document);
        pb::PoliciesResponse {
            documents: known.filter(|d| fits(d)).map(pb::Document::from).collect(),
        }
    }

    fn queues(&self) -> pb::QueuesResponse {
        let queues = self.planner.queues();
        pb::QueuesResponse {
            queues: queues
                .into_iter()
                .map(|(name, queue, service)| pb::Queue {
                    window: self.planner.window(&name, &queue, self.config.window_max).into(),
                    name,
                    queued: queue.queued,
                    waiting: queue.waiting,
                    outstanding: queue.outstanding.into(),
                    workers: service.workers,
                    slots: service.slots,
                    paused: queue.paused.is_some(),
                    pause_reason: queue.paused.unwrap_or_default(),
                })
                .collect(),
            paused: self.planner.pauses().1.is_some(),
        }
    }
}

/// What is out is known only to one that leads: others would change what they do not see.
fn taking_over() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "a scheduler is just taking over").hint("ask again")
}

fn done(id: &TaskId, result: &str, reason: &str) -> Changed {
    Changed::Done(pb::Change {
        task_id: id.to_string(),
        result: result.into(),
        reason: reason.into(),
        ..pb::Change::default()
    })
}
