//! What the planner's loop does with each command.

use common::{
    error::{ApiError, ErrorCode},
    event::{Event, Kind, Policy, PolicyEvent, TaskEvent},
    id::{TaskId, TaskKey, Tenant},
    lifecycle::Phase,
    pb,
    policy::Document,
    subject,
};

use super::{Changed, Command, Reply};
use crate::{
    lead::Lead,
    orders::{self, Change, Step, Then},
    plan::{Found, Stopping},
    policies::{self, Asked},
    verdict, why,
    workers::Held,
};

/// A change of policy that is in the log and was not folded yet, and who waits for that.
pub(crate) struct Asking {
    asked: Asked,
    answer: pb::ApplyPoliciesResponse,
    reply: Reply<pb::ApplyPoliciesResponse>,
}

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
            Command::Pause { queue, pause, actor, reply } => {
                let _ = reply.send(self.pause(queue, pause, actor).await);
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
                self.apply_policies(documents, &actor, dry_run, reply).await;
            }
            Command::Policies { request, reply } => {
                let _ = reply.send(policies::page(self.planner.policies(), &request));
            }
            Command::Check { specs, reply } => {
                let _ = reply.send(specs.iter().map(|spec| self.planner.misfits(spec)).collect());
            }
            Command::Schedules { request, reply } => {
                let _ = reply.send(self.schedules(&request));
            }
            Command::PauseSchedules { request, reply } => {
                self.pause_schedules(request, reply).await;
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

    /// The answer comes when the change was folded: only then is it known to hold.
    pub(super) async fn apply_policies(
        &mut self,
        documents: Vec<Document>,
        actor: &str,
        dry_run: bool,
        reply: Reply<pb::ApplyPoliciesResponse>,
    ) {
        match self.publish_policies(documents, actor, dry_run).await {
            Ok((answer, Some(asked))) => self.asked = Some(Asking { asked, answer, reply }),
            Ok((answer, None)) => {
                let _ = reply.send(Ok(answer));
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    async fn publish_policies(
        &self,
        documents: Vec<Document>,
        actor: &str,
        dry_run: bool,
    ) -> Result<(pb::ApplyPoliciesResponse, Option<Asked>), ApiError> {
        // Versions are counted from what was folded.
        if self.asked.is_some() {
            let message = "another change of policy is on its way";
            return Err(ApiError::new(ErrorCode::Unavailable, message).hint("ask again"));
        }
        let changes = policies::changes(self.planner.policies(), documents)?;
        let (answers, documents): (Vec<_>, Vec<_>) =
            changes.into_iter().map(|change| (change.answer, change.document)).unzip();
        let mut answer = pb::ApplyPoliciesResponse { changes: answers, sequence: 0 };
        let documents = documents.into_iter().flatten().collect::<Vec<_>>();
        if dry_run || documents.is_empty() {
            return Ok((answer, None));
        }
        let asked = Asked::new(&documents);
        let event = |document| {
            let policy = Policy::Document(Box::new(document));
            Event::Policy(PolicyEvent { actor: actor.to_owned(), policy })
        };
        answer.sequence =
            self.publisher.publish_all(documents.into_iter().map(event).collect()).await?;
        Ok((answer, Some(asked)))
    }

    /// The log has said a document.
    pub(crate) fn document_folded(&mut self, document: &Document) {
        if let Some(asking) = &mut self.asked {
            asking.asked.folded(document);
        }
    }

    /// Answers who asked for a change of policy, once what was published for it was folded.
    pub(crate) fn answer_asked(&mut self) {
        let Some(asking) = &mut self.asked else { return };
        if asking.asked.outcome().is_none() && self.cursor.sequence >= asking.answer.sequence {
            asking.asked.read();
        }
        if let Some(outcome) = asking.asked.outcome()
            && let Some(Asking { answer, reply, .. }) = self.asked.take()
        {
            let _ = reply.send(outcome.map(|()| answer));
        }
    }

    fn queues(&self) -> pb::QueuesResponse {
        let queues = self.planner.queues().into_iter().map(|(name, queue, service)| {
            let pause = self.planner.pause_of(&queue);
            pb::Queue {
                window: self.planner.window(&name, &queue, self.config.window_max).into(),
                name,
                queued: queue.queued,
                waiting: queue.waiting,
                outstanding: queue.outstanding.into(),
                workers: service.workers,
                slots: service.slots,
                paused: pause.is_some(),
                pause_reason: pause.map(|pause| pause.reason.clone()).unwrap_or_default(),
                paused_until: pause.and_then(|pause| pause.until).map(Into::into),
            }
        });
        let all = self.planner.pause_of_all();
        pb::QueuesResponse {
            queues: queues.collect(),
            paused: all.is_some(),
            pause_reason: all.map(|pause| pause.reason.clone()).unwrap_or_default(),
            paused_until: all.and_then(|pause| pause.until).map(Into::into),
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
