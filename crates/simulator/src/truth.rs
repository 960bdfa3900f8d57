//! **Pure.** An onlooker who sees every effect in its true order, and keeps an account of its own.
//!
//! It uses the product's fold only for what a task's state is; what follows from events about
//! attempts, losses and dependencies it counts again by itself.

mod schedules;
mod types;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bus::Message;
use common::{
    event::{Event, Kind, Policy, TaskEvent},
    id::{QueueName, TaskId, TaskKey},
    lifecycle::{self, Cause, Phase, State},
    pb,
    policy::{
        Body, Document, Kind as Of, Policies,
        schedule::{Schedule, tick_of},
    },
    task::{On, TaskSpec},
};
use scheduler::office::Out;

use self::{schedules::Schedules, types::Types};
use crate::invariants::{self, Broken};

/// A task as the onlooker sees it.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its tenant and id, for people.
    pub name: String,
    /// Where its creation lies.
    pub place: (u64, u32),
    /// What was asked for; `None` for a stub.
    pub spec: Option<TaskSpec>,
    /// Its states, each with the message that made it so; `None` once it was forgotten.
    pub states: Vec<(u64, Option<State>)>,
    /// Dependencies that have not ended.
    pub waits: Vec<(TaskKey, On)>,
    /// A dependency ended otherwise than asked for.
    pub doomed: bool,
    /// Attempts that the log has ended.
    pub given_up: BTreeSet<u32>,
    /// Its own count of losses.
    pub losses: u16,
    /// Its own count of tries.
    pub tries: u16,
    /// When and how it ended.
    pub ended: Option<(u64, Phase)>,
    /// The priority that was asked for last.
    pub priority: u8,
    /// The version of its type that it got its executor from, and the message that says so.
    pub resolved: Option<(u64, u64)>,
}

impl Task {
    /// Its state now.
    pub fn state(&self) -> Option<State> {
        self.states.last().and_then(|(_, state)| *state)
    }

    /// Its state after a message.
    pub fn at(&self, sequence: u64) -> Option<State> {
        let upto = self.states.iter().rev().find(|(at, _)| *at <= sequence);
        upto.and_then(|(_, state)| *state)
    }
}

/// The whole account.
#[derive(Debug, Default)]
pub struct Truth {
    /// Every task that the log ever mentioned with effect.
    pub tasks: BTreeMap<TaskKey, Task>,
    dependents: HashMap<TaskKey, Vec<TaskKey>>,
    /// Attempts that were ever put into the work queue.
    pub given_out: BTreeSet<Out>,
    /// How often each attempt was begun.
    pub begun: BTreeMap<Out, u32>,
    /// Attempts that nats-server may deliver a second time without saying so.
    pub excused: BTreeSet<Out>,
    /// Pauses as the log tells them: each with its message, its queue, and whether it began.
    pub pauses: Vec<(u64, Option<QueueName>, bool)>,
    /// Limits, schedules and task types as one knows them who began with the log.
    pub policies: Policies,
    /// Where schedules stand.
    pub schedules: Schedules,
    /// Task types, and who has their places.
    pub types: Types,
}

impl Truth {
    /// Takes in what the log has just stored, and who sent it: the number of a connection.
    pub fn stored(&mut self, message: &Message, lane: u64) -> Result<(), Broken> {
        self.schedules.read(message.at);
        for (index, item) in (0..).zip(&message.items) {
            match item {
                Ok(Event::Task(event)) => self.task((message.sequence, index), event, lane)?,
                Ok(Event::Policy(event)) => self.policy(message.sequence, &event.policy)?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn policy(&mut self, sequence: u64, policy: &Policy) -> Result<(), Broken> {
        let (queue, began) = match policy {
            Policy::Paused(pause) => (&pause.queue, true),
            Policy::Resumed { queue } => (queue, false),
            Policy::Trimmed(trimmed) => {
                self.trimmed(sequence, trimmed.floor);
                return Ok(());
            }
            Policy::Document(document) => {
                self.document(sequence, document);
                return Ok(());
            }
            Policy::ScheduleAdvanced(advanced) => {
                return self.schedules.advanced(sequence, advanced);
            }
        };
        self.pauses.push((sequence, queue.clone(), began));
        Ok(())
    }

    fn document(&mut self, sequence: u64, document: &Document) {
        if !self.policies.fold(sequence, document) {
            return;
        }
        let (name, version) = (document.name.as_str(), document.version);
        match &document.body {
            Body::Schedule(body) => {
                let schedule =
                    Schedule::parse(body).expect("invariant: it was made by the simulator");
                self.schedules.set(sequence, name, Some(schedule));
            }
            Body::Removed(Of::Schedule) => self.schedules.set(sequence, name, None),
            Body::TaskType(body) => self.types.set(sequence, name, Some((version, body))),
            Body::Removed(Of::TaskType) => self.types.set(sequence, name, None),
            Body::Limit(_) | Body::Removed(Of::Limit) => {}
        }
    }

    /// Tasks of a schedule that are open after a message.
    pub fn open_runs(&self, name: &str, sequence: u64) -> usize {
        let is_open = |task: &&Task| {
            let state = task.at(sequence).filter(|_| task.place.0 <= sequence);
            state.is_some_and(|state| !state.phase.is_terminal())
        };
        let of = |task: &&Task| {
            let run = task.spec.as_ref().and_then(tick_of);
            run.is_some_and(|(schedule, _)| schedule == name)
        };
        self.tasks.values().filter(of).filter(is_open).count()
    }

    /// What ended before the floor is forgotten: its id is new.
    fn trimmed(&mut self, sequence: u64, floor: u64) {
        // The versions of what was removed before begin anew.
        self.policies.trimmed(floor);
        self.types.trimmed(floor);
        for (key, task) in &mut self.tasks {
            if task.state().is_some() && task.ended.is_some_and(|(at, _)| at < floor) {
                task.states.push((sequence, None));
                task.ended = None;
                self.given_out.retain(|(other, _)| other != key);
                self.begun.retain(|(other, _), _| other != key);
            }
        }
    }

    /// Whether starts in the queue are held after a message.
    pub fn is_paused(&self, queue: &str, sequence: u64) -> bool {
        let upto = || self.pauses.iter().rev().filter(|(at, ..)| *at <= sequence);
        let last = |name: Option<&str>| {
            let of = upto().find(|(_, q, _)| q.as_ref().map(QueueName::as_str) == name);
            of.is_some_and(|(_, _, began)| *began)
        };
        last(None) || last(Some(queue))
    }

    /// Whether the queue, or everything, is held now.
    pub fn is_held(&self, queue: Option<&QueueName>) -> bool {
        let last = self.pauses.iter().rev().find(|(_, q, _)| q.as_ref() == queue);
        last.is_some_and(|(_, _, began)| *began)
    }

    fn task(&mut self, at: (u64, u32), event: &TaskEvent, lane: u64) -> Result<(), Broken> {
        let key = TaskKey::new(&event.tenant, &event.id);
        let before = self.tasks.get(&key).and_then(Task::state);
        if let Kind::Created(spec) = &event.kind
            && let Some((name, Some(tick))) = tick_of(spec)
        {
            self.schedules.created(at.0, (name, tick), before.is_none())?;
        }
        let Ok(after) = lifecycle::apply(before, &event.kind) else { return Ok(()) };
        if before.is_none() {
            let older = self.tasks.remove(&key);
            self.tasks.insert(key, new_task(at, event, older));
        }
        let task = self.tasks.get_mut(&key).expect("invariant: it was just put there");
        if let Some(state) = before {
            invariants::ends_once(task, state, after)?;
            invariants::only_the_current_attempt_speaks(task, state, after, &event.kind)?;
        }
        task.count(before, &event.kind);
        task.states.push((at.0, Some(after)));
        invariants::losses_are_counted_once(task, after)?;
        if let Kind::Reprioritised(body) = &event.kind {
            task.priority = body.priority as u8;
        }
        if let Kind::Resolved(body) = &event.kind {
            let of = task.spec.as_ref().expect("invariant: a task that is resolved was submitted");
            self.types.resolved((at.0, lane), (task, of.as_pb()), body)?;
            task.spec = Some(body.spec.clone());
            task.priority = body.spec.priority();
            task.resolved = Some((body.version, at.0));
        }
        if let Kind::Created(spec) = &event.kind {
            task.spec = Some(spec.as_ref().clone());
            if before.is_none() {
                self.link(key, spec);
            }
        }
        if after.phase.is_terminal() && !before.is_some_and(|s| s.phase.is_terminal()) {
            self.ended(key, at.0, after.phase);
        }
        Ok(())
    }

    fn link(&mut self, key: TaskKey, spec: &TaskSpec) {
        let (mut waits, mut doomed) = (Vec::new(), false);
        for edge in spec.depends_on() {
            let dependency = TaskKey::new(&spec.tenant(), &edge.id);
            match self.tasks.get(&dependency).and_then(Task::state) {
                Some(state) if state.phase.is_terminal() => doomed |= !asked(edge.on, state.phase),
                _ => {
                    waits.push((dependency, edge.on));
                    self.dependents.entry(dependency).or_default().push(key);
                }
            }
        }
        if let Some(task) = self.tasks.get_mut(&key) {
            (task.waits, task.doomed) = (waits, doomed);
        }
    }

    fn ended(&mut self, key: TaskKey, sequence: u64, phase: Phase) {
        if let Some(task) = self.tasks.get_mut(&key) {
            task.ended = Some((sequence, phase));
        }
        for dependent in self.dependents.remove(&key).unwrap_or_default() {
            let Some(task) = self.tasks.get_mut(&dependent) else { continue };
            for (_, on) in task.waits.iter().filter(|(other, _)| *other == key) {
                task.doomed |= !asked(*on, phase);
            }
            task.waits.retain(|(other, _)| *other != key);
        }
    }

    /// What a task is called, for people.
    pub fn name(&self, key: TaskKey) -> &str {
        self.tasks.get(&key).map_or("?", |task| task.name.as_str())
    }
}

/// Whether a dependency ended as its dependent asked: read off the documentation, not the product.
fn asked(on: On, end: Phase) -> bool {
    match on {
        On::Success => end == Phase::Completed,
        On::Failure => end != Phase::Completed,
        On::End => true,
    }
}

fn new_task(at: (u64, u32), event: &TaskEvent, older: Option<Task>) -> Task {
    let priority = match &event.kind {
        Kind::Created(spec) => spec.priority(),
        _ => common::task::PRIORITY,
    };
    Task {
        name: event.id.to_string(),
        place: at,
        spec: None,
        states: older.map(|task| task.states).unwrap_or_default(),
        waits: Vec::new(),
        doomed: false,
        given_up: BTreeSet::new(),
        losses: 0,
        tries: 0,
        ended: None,
        priority,
        resolved: None,
    }
}

impl Task {
    /// Counts tries and losses as the documentation has it: only errors and timeouts are tries, and
    /// what follows a loss counts nothing.
    fn count(&mut self, before: Option<State>, kind: &Kind) {
        let verdict = before.is_some_and(|s| s.phase == Phase::Verdict);
        match kind {
            Kind::Lost(pb::Lost { attempt, .. }) => {
                self.losses += 1;
                self.given_up.insert(*attempt);
            }
            Kind::Returned(body) => {
                self.given_up.insert(body.attempt);
            }
            Kind::Retrying(body) if !verdict => {
                self.tries += 1;
                self.given_up.insert(body.attempt);
            }
            Kind::Failed(body) if !verdict && body.attempt > 0 => {
                let cause = Cause::from_pb(body.cause());
                if matches!(cause, Cause::Error | Cause::Timeout | Cause::Rejected) {
                    self.tries += 1;
                }
                self.given_up.insert(body.attempt);
            }
            Kind::Completed(body) if body.attempt > 0 => {
                self.given_up.insert(body.attempt);
            }
            Kind::Cancelled(body) if body.attempt > 0 => {
                self.given_up.insert(body.attempt);
            }
            _ => {}
        }
    }
}

/// The id of a submission that has one.
pub fn id_of(spec: &TaskSpec) -> TaskId {
    spec.id().expect("invariant: what is in the log has an id")
}

/// The attempt that an event is about; 0 is none.
pub fn attempt_of(kind: &Kind) -> u32 {
    match kind {
        Kind::Started(body) => body.attempt,
        Kind::Progress(body) => body.attempt,
        Kind::Snapshot(body) => body.attempt,
        Kind::Completed(body) => body.attempt,
        Kind::Failed(body) => body.attempt,
        Kind::Retrying(body) => body.attempt,
        Kind::Lost(body) => body.attempt,
        Kind::Returned(body) => body.attempt,
        Kind::Cancelled(body) => body.attempt,
        _ => 0,
    }
}
