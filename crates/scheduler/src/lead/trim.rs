//! Keeps the log within its bounds: carries what is open over a cut, cuts, and opens and closes
//! intake.

use anyhow::Context as _;
use bus::{cursors, streams};
use common::{
    event::{Event, Kind, Policy, PolicyEvent, TaskEvent},
    id::{TaskId, TaskKey, Tenant},
    limits, subject,
};

use super::Lead;
use crate::{
    plan::{Found, Pass, Ticket},
    trim::{self, Log, Round, Step, Window},
    verdict::ACTOR,
};

/// How far a cut has come.
#[derive(Debug, Default)]
pub(super) struct Trimmer {
    /// When to look at the log again, in monotonic milliseconds.
    look_at: u64,
    round: Option<Round>,
}

impl Lead {
    /// One step of keeping the log within its bounds. Whatever fails is tried again later: until the
    /// log says that it was cut nothing has happened, and after that the purge may come any time.
    pub(super) async fn trim(&mut self) {
        let now_ms = self.now_ms();
        let looks = self.trimmer.round.is_none() && now_ms >= self.trimmer.look_at;
        let outcome = if looks {
            self.trimmer.look_at = now_ms + limits::TRIM_EVERY.as_millis() as u64;
            self.look().await
        } else {
            self.carry_on().await
        };
        if let Err(error) = outcome {
            tracing::warn!(error = format!("{error:#}"), "the log was not trimmed");
            self.planner.end_cut();
            self.trimmer.round = None;
        }
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        let stream = streams::get(&self.ctx.bus, subject::TASKS).await?;
        let info = stream.cached_info();
        let log = Log {
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            bytes: info.state.bytes,
            bytes_max: u64::try_from(info.config.max_bytes).unwrap_or(0),
        };
        let open = subject::takes_new_work(&info.config.subjects);
        let opens = trim::intake(open, &log, self.planner.open_tasks());
        if opens != open {
            streams::set_intake(&self.ctx.bus, opens).await?;
            let (bytes, backlog) = (log.bytes, self.planner.open_tasks());
            tracing::warn!(bytes, backlog, "intake {}", if opens { "opened" } else { "closed" });
        }
        self.metrics.intake(opens);
        if self.planner.floor() > log.first {
            // The log was cut and the one who did it did not get to the purge.
            bus::trim::purge_below(&self.ctx.bus, self.planner.floor()).await?;
        }
        if log.is_above(limits::LOG_KEPT_PERCENT) && self.saved_at < self.cursor.sequence {
            // What the last snapshot needs must not be what keeps the log full, at the next look.
            self.save();
        }
        let Some(needed) = self.needed().await? else { return Ok(()) };
        let window =
            Window { age: self.config.history_age, finished_max: self.config.finished_tasks_max };
        let planner = &self.planner;
        let now = self.ctx.clock.now();
        let window = trim::window(&log, planner.marks(), window, planner.finished_tasks(), now);
        let current = planner.floor().max(log.first);
        // Near the wall there is no room for carrying: what is open stays where it is.
        let needed = match planner.oldest_open() {
            Some(oldest) if log.is_above(limits::INTAKE_CLOSES_PERCENT) => needed.min(oldest),
            Some(_) | None => needed,
        };
        let Some(floor) = trim::floor(planner.marks(), &log, current, needed, window) else {
            return Ok(());
        };
        let pass = self.planner.begin_cut(floor);
        let carried = pass.open.len() + pass.over.len() + pass.documents.len();
        // A finished task is carried without its submission.
        if trim::is_worth_it(self.planner.marks(), current, floor, pass.open.len()) {
            tracing::info!(floor, last = log.last, carried, "trimming the log");
            self.trimmer.round = Some(Round::new(floor, pass));
        } else {
            self.planner.end_cut();
        }
        Ok(())
    }

    /// The first message that somebody has not stored. `None`: no ledger has ever registered, and so
    /// nobody can tell what it will need.
    async fn needed(&self) -> anyhow::Result<Option<u64>> {
        let readers = cursors::list(&self.ctx.bus).await?;
        let lowest = readers.iter().map(|reader| reader.cursor.sequence).min();
        Ok(lowest.map(|lowest| lowest.min(self.saved_at) + 1))
    }

    async fn carry_on(&mut self) -> anyhow::Result<()> {
        let cursor = self.cursor.sequence;
        let Some(round) = &mut self.trimmer.round else { return Ok(()) };
        match round.step(&mut self.planner, cursor, limits::CARRY_TASKS_MAX) {
            Step::Wait => {}
            Step::Carry(pass) => self.carry(pass).await?,
            Step::Say(trimmed) => {
                // Otherwise something came in meanwhile: it is folded, and looked at again.
                if bus::trim::say(&self.ctx.bus, ACTOR, trimmed).await?.is_some() {
                    round.said();
                }
            }
            Step::Purge(floor) => {
                self.trimmer.round = None;
                let purged = bus::trim::purge_below(&self.ctx.bus, floor).await?;
                tracing::info!(floor, purged, "trimmed the log");
            }
        }
        Ok(())
    }

    /// Appends tasks and documents again.
    async fn carry(&mut self, pass: Pass) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(pass.open.len() + pass.over.len());
        for id in pass.documents {
            let policy = self.planner.carry_document(&id, self.cursor.sequence);
            let event = |policy| Event::Policy(PolicyEvent { actor: ACTOR.into(), policy });
            events.extend(policy.map(event));
        }
        for advanced in pass.schedules {
            let policy = Policy::ScheduleAdvanced(advanced);
            events.push(Event::Policy(PolicyEvent { actor: ACTOR.into(), policy }));
        }
        for ticket in pass.open {
            events.extend(self.carried(ticket).await?);
        }
        for key in pass.over {
            events.extend(self.carried_over(key).await?);
        }
        let sequence = self.publisher.publish_all(events).await?;
        if let Some(round) = &mut self.trimmer.round {
            round.carried(sequence);
        }
        Ok(())
    }

    async fn carried(&mut self, ticket: Ticket) -> anyhow::Result<Option<Event>> {
        let as_of = self.cursor.sequence;
        let Some(entry) = self.planner.entry(ticket) else { return Ok(None) };
        let (names, spec, created_at) = if entry.state.stub {
            let report = self.payloads.report(entry.sequence, entry.index).await?;
            (report.names, None, report.at)
        } else {
            let payload = self.payloads.get(ticket, entry.sequence, entry.index).await?;
            let id = payload.spec.id().context("a submission without an id")?;
            ((payload.spec.tenant(), id), Some(payload.spec), payload.created_at)
        };
        let carried = self.planner.carry(ticket, spec.as_deref(), created_at, as_of);
        Ok(carried.map(|carried| event(names, Kind::Carried(Box::new(carried)))))
    }

    async fn carried_over(&mut self, key: TaskKey) -> anyhow::Result<Option<Event>> {
        let Some(Found::Over(end)) = self.planner.find(key) else { return Ok(None) };
        let names = self.payloads.report(end.sequence, end.index).await?.names;
        let carried = self.planner.carry_over(key, self.cursor.sequence);
        Ok(carried.map(|carried| event(names, Kind::Carried(Box::new(carried)))))
    }
}

fn event((tenant, id): (Tenant, TaskId), kind: Kind) -> Event {
    Event::Task(TaskEvent::new(tenant, id, ACTOR, kind))
}
