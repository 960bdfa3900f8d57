//! What is asked about schedules and cannot be said by a document alone.

use std::sync::Arc;

use bus::endpoint::Endpoints;
use common::{
    error::{ApiError, ErrorCode},
    limits, pb,
    policy::{
        Body, Document, Kind,
        schedule::{Schedule, before},
        task_type,
    },
    time::Timestamp,
};
use prost::Message as _;

use super::{
    Command, Door, Reply,
    pauses::{check_reason, end},
};
use crate::{lead::Lead, plan::Planner, schedule::pattern};

/// Ticks of each schedule in a list, at most.
const NEXT_IN_LIST_MAX: usize = 100;
/// Ticks in one answer, at most, and how many there are when nobody says.
const NEXT_MAX: u32 = 1_000;
const NEXT: u32 = 10;
/// How often a change of policy is tried that meets another one.
const CHANGE_TRIES: usize = 5;

pub(super) fn endpoints(endpoints: Endpoints, door: &Arc<Door>) -> Endpoints {
    let (first, second, third, fourth) = (door.clone(), door.clone(), door.clone(), door.clone());
    endpoints
        .on("schedules", move |request| {
            let door = first.clone();
            async move { door.schedules(request).await }
        })
        .on("next_fires", move |request| {
            let door = second.clone();
            async move { door.next_fires(request).await }
        })
        .on("run_schedule", move |request| {
            let door = third.clone();
            async move { door.run_schedule(request).await }
        })
        .on("pause_schedules", move |request| {
            let door = fourth.clone();
            async move { door.pause_schedules(request).await }
        })
}

impl Door {
    async fn schedules(
        &self,
        request: pb::SchedulesRequest,
    ) -> Result<pb::SchedulesResponse, ApiError> {
        self.catch_up().await?;
        self.ask(|reply| Command::Schedules { request, reply }).await
    }

    async fn next_fires(
        &self,
        request: pb::NextFiresRequest,
    ) -> Result<pb::NextFiresResponse, ApiError> {
        let count = match request.count {
            0 => NEXT,
            count if count <= NEXT_MAX => count,
            _ => return Err(ApiError::invalid_field("count", "must be at most 1000")),
        };
        let schedule = match &request.schedule {
            Some(body) => Schedule::parse(body).map_err(ApiError::invalid)?,
            None => self.schedule(&request.name).await?,
        };
        let now = self.ctx.clock.now();
        let after = request.after.map_or(now, Timestamp::from);
        Ok(pb::NextFiresResponse {
            fires: fires(&schedule, &request.name, after, count as usize),
            paused: schedule.is_paused() || self.rests(&schedule).await?,
            paused_until: schedule.paused_until().filter(|end| *end > now).map(Into::into),
        })
    }

    async fn run_schedule(
        &self,
        request: pb::RunScheduleRequest,
    ) -> Result<pb::RunScheduleResponse, ApiError> {
        let schedule = self.schedule(&request.name).await?;
        let run = schedule.run_now(&request.name, &request.idempotency_key);
        let run = run.map_err(ApiError::invalid)?;
        tracing::info!(schedule = request.name, actor = request.actor, "a run was asked for");
        let mut answers = bus::submit(&self.ctx.bus, &self.publisher, vec![run]).await;
        let none = || Err(ApiError::new(ErrorCode::Internal, "no answer"));
        let pb::Submission { tenant, task_id, sequence, existing, .. } =
            answers.pop().unwrap_or_else(none)?;
        Ok(pb::RunScheduleResponse { tenant, task_id, sequence, existing })
    }

    async fn pause_schedules(
        &self,
        request: pb::PauseSchedulesRequest,
    ) -> Result<pb::ApplyPoliciesResponse, ApiError> {
        if request.pattern.is_empty() {
            return Err(ApiError::invalid_field("pattern", "must not be empty: `*` is all"));
        }
        check_reason(&request.reason)?;
        let until = end(request.until, request.duration, self.ctx.clock.now())?;
        if until.is_some() && !request.paused {
            return Err(ApiError::invalid_field("until", "is for a pause"));
        }
        let request = pb::PauseSchedulesRequest { until: until.map(Into::into), ..request };
        self.change_policies(|reply| Command::PauseSchedules { request: request.clone(), reply })
            .await
    }

    /// Asks for a change of policy, again when it meets another one.
    pub(super) async fn change_policies(
        &self,
        command: impl Fn(Reply<pb::ApplyPoliciesResponse>) -> Command,
    ) -> Result<pb::ApplyPoliciesResponse, ApiError> {
        let mut tries = 0;
        loop {
            self.catch_up().await?;
            let answer = self.ask(&command).await?;
            tries += 1;
            match answer {
                // Somebody else's change came in between, and is to be read first.
                Err(error) if error.code == ErrorCode::Unavailable && tries < CHANGE_TRIES => {}
                answer => return answer,
            }
        }
    }

    /// The schedule of this name.
    async fn schedule(&self, name: &str) -> Result<Schedule, ApiError> {
        match self.document(pb::DocumentKind::Schedule, name).await? {
            Some(pb::document::Body::Schedule(body)) => {
                Schedule::parse(&body).map_err(ApiError::invalid)
            }
            _ => Err(no_schedule(name)),
        }
    }

    /// Whether it has no runs since their type is disabled.
    async fn rests(&self, schedule: &Schedule) -> Result<bool, ApiError> {
        let Some(name) = schedule.type_of_runs() else { return Ok(false) };
        let of = self.document(pb::DocumentKind::TaskType, name).await?;
        Ok(matches!(of, Some(pb::document::Body::TaskType(of)) if of.enabled == Some(false)))
    }

    async fn document(
        &self,
        kind: pb::DocumentKind,
        name: &str,
    ) -> Result<Option<pb::document::Body>, ApiError> {
        if name.is_empty() {
            return Ok(None);
        }
        let request = pb::PoliciesRequest {
            kind: kind.into(),
            name: name.to_owned(),
            page_token: String::new(),
        };
        let found = self.policies(request).await?.documents.into_iter().next();
        Ok(found.and_then(|document| document.body))
    }
}

fn no_schedule(pattern: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no schedule {pattern:?}"))
        .hint("`jetmill schedule ls` shows the schedules there are")
}

/// The ticks after an instant, and when each has its run.
fn fires(schedule: &Schedule, name: &str, after: Timestamp, count: usize) -> Vec<pb::Fire> {
    // One before it may have its run after it.
    let from = Timestamp::from_micros(after.micros() - schedule.jitter().as_micros() as i64);
    let fire = |tick| (tick, schedule.fires_at(name, tick));
    let fires = schedule.ticks(before(from)).map(fire).filter(|(_, at)| *at > after).take(count);
    fires.map(|(tick, at)| pb::Fire { tick: Some(tick.into()), at: Some(at.into()) }).collect()
}

impl Lead {
    pub(super) fn schedules(&self, request: &pb::SchedulesRequest) -> pb::SchedulesResponse {
        let now = self.ctx.clock.now();
        let mut response = pb::SchedulesResponse::default();
        let mut bytes = 0;
        let all = documents(&self.planner, &request.pattern);
        for document in all.filter(|d| d.name.as_str() > request.page_token.as_str()) {
            if bytes > limits::ANSWER_BYTES_MAX {
                let last = response.schedules.last().map(|last| last.name.clone());
                response.next_page_token = last.unwrap_or_default();
                break;
            }
            let count = (request.next as usize).min(NEXT_IN_LIST_MAX);
            let one = state(&self.planner, document, now, count);
            bytes += one.encoded_len();
            response.schedules.push(one);
        }
        response
    }

    pub(super) async fn pause_schedules(
        &mut self,
        request: pb::PauseSchedulesRequest,
        reply: Reply<pb::ApplyPoliciesResponse>,
    ) {
        let matching = documents(&self.planner, &request.pattern).cloned().collect::<Vec<_>>();
        if matching.is_empty() {
            let _ = reply.send(Err(no_schedule(&request.pattern)));
            return;
        }
        let planner = &self.planner;
        let change = |mut document: Document| {
            // One that rests with its type is woken by that alone.
            if let Body::Schedule(body) = &mut document.body
                && (request.paused || !rests_with_its_type(planner, body, document.name.as_str()))
                && (body.paused, body.paused_until) != (request.paused, request.until)
            {
                (body.paused, body.paused_until) = (request.paused, request.until);
                let reason = if request.paused { request.reason.as_str() } else { "" };
                reason.clone_into(&mut body.pause_reason);
            }
            document
        };
        let changed = matching.into_iter().map(change).collect();
        self.apply_policies(changed, &request.actor, request.dry_run, reply).await;
    }
}

/// The schedules whose names fit, by name.
fn documents<'a>(planner: &'a Planner, names: &'a str) -> impl Iterator<Item = &'a Document> {
    let all = planner.policies().of(Some(Kind::Schedule)).map(|known| &known.document);
    all.filter(move |document| pattern::fits(names, document.name.as_str()))
}

/// Whether it is paused since the type is disabled that brought it: it goes on when that is enabled.
fn rests_with_its_type(planner: &Planner, body: &pb::Schedule, name: &str) -> bool {
    body.pause_reason == task_type::DISABLED
        && task_type::is_own(body, name)
        && Schedule::parse(body).is_ok_and(|schedule| planner.schedules().rests(&schedule))
}

fn state(
    planner: &Planner,
    document: &Document,
    now: Timestamp,
    count: usize,
) -> pb::ScheduleState {
    let name = document.name.as_str();
    let known = planner.schedules().get(name);
    let schedule = known.and_then(|known| known.schedule.as_ref());
    let rests = schedule.is_some_and(|schedule| planner.schedules().rests(schedule));
    let body = match &document.body {
        // Nobody paused it, but it has no runs as if somebody had.
        Body::Schedule(body) if rests && !body.paused => Some(pb::Schedule {
            paused: true,
            pause_reason: task_type::DISABLED.into(),
            ..(**body).clone()
        }),
        Body::Schedule(body) => Some(body.as_ref().clone()),
        Body::Limit(_) | Body::TaskType(_) | Body::Removed(_) => None,
    };
    let schedule = schedule.filter(|schedule| !rests && !schedule.is_paused());
    let next = schedule.map(|schedule| fires(schedule, name, now, count)).unwrap_or_default();
    pb::ScheduleState {
        name: name.to_owned(),
        version: document.version,
        schedule: body,
        last: known.and_then(|known| known.last).map(Into::into),
        decided: known.and_then(|known| known.decided).map(Into::into),
        next,
        open_runs: known.map_or_else(Vec::new, |known| {
            known.runs.iter().map(|run| run.id.to_string()).collect()
        }),
    }
}
