//! **Pure.** How a leader cuts the log: carries what is open over the floor, says the cut, purges.
//! What is carried and said, and which step comes next, is the product's to say.

use common::{
    event::{Event, Kind, Policy, PolicyEvent, TaskEvent},
    id::{TaskId, Tenant},
    time::Timestamp,
};
use scheduler::{
    plan::{Found, Pass, Ticket},
    trim::{Round, Step},
};

use super::{Scheduler, Stage};
use crate::{
    invariants::{self, Broken},
    log::Publish,
    net::What,
    world::World,
};

const LOOK_EVERY_MS: u64 = 4_000;
/// What only just ended is kept: who still works on it is to hear that it is over.
const KEPT_US: i64 = 15_000_000;

/// How far a cut has come.
#[derive(Debug, Default)]
pub(super) struct Trimmer {
    look_at: u64,
    round: Option<Round>,
}

impl Trimmer {
    /// What was sent is in the log.
    pub(super) fn stored(&mut self, sequence: u64, says: bool) {
        if let Some(round) = &mut self.round {
            if says {
                round.said();
            } else {
                round.carried(sequence);
            }
        }
    }

    /// It is not known to be there.
    pub(super) fn give_up(&mut self) {
        self.round = None;
    }
}

impl Scheduler {
    pub(super) fn trim(&mut self, world: &mut World) -> Result<(), Broken> {
        let now_ms = self.now_ms(world);
        if self.trimmer.round.is_some() {
            return self.carry_on(world);
        }
        if now_ms < self.trimmer.look_at || !world.setup.trims {
            return Ok(());
        }
        self.trimmer.look_at = now_ms + LOOK_EVERY_MS;
        if self.planner.floor() > world.log.first {
            self.purge(world, self.planner.floor())?;
        }
        let needed = world.ledger.registered.min(self.saved_at) + 1;
        // The history window, days long in life, is longer than any attempt of a task that is over
        // lies about: an id is not new while its work queue, its worker or its network has the old.
        let about = world.about().filter_map(|key| world.truth.tasks.get(&key)?.ended);
        let about = about.map(|(sequence, _)| sequence).min().unwrap_or(u64::MAX);
        let old = world.log.old(needed.min(about), world.now_us - KEPT_US);
        let marks = self.planner.marks();
        let current = self.planner.floor().max(world.log.first).max(marks.cut_at());
        let floor = marks.at_or_before(old);
        if let Some(floor) = floor.filter(|floor| *floor > current) {
            world.note(|_| format!("{} begins to cut the log at {floor}", self.name()));
            let pass = self.planner.begin_cut(floor);
            self.trimmer.round = Some(Round::new(floor, pass));
        }
        Ok(())
    }

    fn purge(&self, world: &mut World, floor: u64) -> Result<(), Broken> {
        world.note(|_| format!("{} purges below {floor}", self.name()));
        world.log.purge(floor);
        invariants::nobody_is_cut_off(world.ledger.cursor, world.log.first, "the ledger")
    }

    fn carry_on(&mut self, world: &mut World) -> Result<(), Broken> {
        let most = 1 + world.random.below(6);
        let Some(round) = &mut self.trimmer.round else { return Ok(()) };
        match round.step(&mut self.planner, self.cursor, most) {
            Step::Wait => Ok(()),
            Step::Carry(pass) => self.carry(world, pass),
            Step::Say(trimmed) => {
                let policy = Policy::Trimmed(trimmed);
                let event = Event::Policy(PolicyEvent { actor: "scheduler".into(), policy });
                self.send_trim(world, &[event], true);
                Ok(())
            }
            Step::Purge(floor) => {
                self.trimmer.round = None;
                self.purge(world, floor)
            }
        }
    }

    fn carry(&mut self, world: &mut World, pass: Pass) -> Result<(), Broken> {
        let mut events = Vec::new();
        for id in pass.documents {
            let policy = self.planner.carry_document(&id, self.cursor);
            let event = |policy| Event::Policy(PolicyEvent { actor: "scheduler".into(), policy });
            events.extend(policy.map(event));
        }
        for advanced in pass.schedules {
            let policy = Policy::ScheduleAdvanced(advanced);
            events.push(Event::Policy(PolicyEvent { actor: "scheduler".into(), policy }));
        }
        for ticket in pass.open {
            events.extend(self.carried(world, ticket)?);
        }
        for key in pass.over {
            let Some(Found::Over(end)) = self.planner.find(key) else { continue };
            let at = (end.sequence, end.index);
            let Some((names, _)) = report(world, at) else {
                if self.planner.floor() < world.log.first {
                    continue;
                }
                return invariants::payloads_stay(world.truth.name(key), None, at);
            };
            let carried = self.planner.carry_over(key, self.cursor);
            events.extend(carried.map(|c| event(names, Kind::Carried(Box::new(c)))));
        }
        if !events.is_empty() {
            self.send_trim(world, &events, false);
        }
        Ok(())
    }

    fn carried(&self, world: &World, ticket: Ticket) -> Result<Option<Event>, Broken> {
        let Some(entry) = self.planner.entry(ticket) else { return Ok(None) };
        let at = (entry.sequence, entry.index);
        let (names, spec, created_at) = if entry.state.stub {
            let Some((names, created_at)) = report(world, at) else {
                if self.planner.floor() < world.log.first {
                    return Ok(None);
                }
                return invariants::payloads_stay("a stub", None, at).map(|()| None);
            };
            (names, None, created_at)
        } else {
            let Some((spec, created_at)) = self.payload(world, &entry)? else { return Ok(None) };
            let Some(id) = spec.id() else { return Ok(None) };
            ((spec.tenant(), id), Some(spec), created_at)
        };
        let carried = self.planner.carry(ticket, spec.as_ref(), created_at, self.cursor);
        Ok(carried.map(|carried| event(names, Kind::Carried(Box::new(carried)))))
    }

    fn send_trim(&mut self, world: &mut World, events: &[Event], says: bool) {
        let mut publish = Publish::of(events);
        publish.after = says.then_some(self.cursor);
        let token = world.send(self.life, What::Log(publish));
        self.stage = Stage::Trimming { token, says, since_us: world.now_us };
    }
}

fn report(world: &World, (sequence, index): (u64, u32)) -> Option<((Tenant, TaskId), Timestamp)> {
    let message = world.log.get(sequence)?;
    match message.items.get(index as usize)? {
        Ok(Event::Task(event)) => Some(((event.tenant.clone(), event.id.clone()), message.at)),
        _ => None,
    }
}

fn event((tenant, id): (Tenant, TaskId), kind: Kind) -> Event {
    Event::Task(TaskEvent::new(tenant, id, "scheduler", kind))
}
