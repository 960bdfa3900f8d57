//! **Pure.** A leader's releases: written, sent, under way while the log is read on, and answered.

use scheduler::{
    office::Released,
    outgoing::{self, Outgoing},
    plan::{Release, Ticket},
};

use super::{After, Flight, Point, Scheduler, Stage, trim};
use crate::{
    invariants::{self, Broken},
    net::{Answer, What},
    world::World,
};

/// How long the answer to a release may take.
const RELEASE_WAIT_US: i64 = 5_000_000;
/// Releases that are under way at once.
const FLIGHTS_MAX: usize = 4;

impl Scheduler {
    /// Writes the next releases; says whether there are any.
    pub(super) fn compose(&mut self, world: &mut World) -> Result<bool, Broken> {
        if self.flights.len() >= FLIGHTS_MAX || self.doubts.is_unsure() {
            return Ok(false);
        }
        let now_ms = self.now_ms(world);
        let max = if world.random.one_in(2) { 512 } else { 2 };
        let releases = self.planner.release(now_ms, world.setup.window_max, max);
        for release in &releases {
            invariants::pauses_hold(&world.truth, release.queue.as_str(), self.cursor)?;
            for ticket in &release.tickets {
                invariants::priorities_hold(&world.truth, &self.planner, *ticket)?;
                if let Some(entry) = self.planner.entry(*ticket) {
                    invariants::disabled_types_hold(&world.truth, entry.key, self.cursor)?;
                    let (truth, lies) = (&world.truth, world.queue.out());
                    invariants::no_limit_is_exceeded(truth, &self.planner, entry.key, &lies)?;
                }
            }
        }
        if releases.is_empty() {
            return Ok(false);
        }
        if !self.is_held(world) {
            self.take_back(releases.into_iter().map(|release| release.tickets).collect());
            return Ok(false);
        }
        let mut messages = Vec::new();
        for release in releases {
            let message = self.outgoing(world, &release)?;
            messages.push((message, release.tickets));
        }
        if messages.iter().any(|(message, _)| message.is_none()) {
            self.take_back(messages.into_iter().map(|(_, tickets)| tickets).collect());
            return Ok(false);
        }
        let messages =
            messages.into_iter().filter_map(|(message, t)| Some((message?, t))).collect();
        self.stage = Stage::Composed(messages);
        Ok(true)
    }

    fn outgoing(&self, world: &World, release: &Release) -> Result<Option<Outgoing>, Broken> {
        let mut items = Vec::new();
        for ticket in &release.tickets {
            let Some(entry) = self.planner.entry(*ticket) else { continue };
            let Some((spec, created_at)) = self.payload(world, &entry)? else { return Ok(None) };
            items.push(outgoing::item(&entry, &release.queue, &spec, String::new(), created_at));
        }
        Ok(Outgoing::new(&release.queue, items, release.json))
    }

    fn take_back(&mut self, groups: Vec<Vec<Ticket>>) {
        for ticket in groups.into_iter().flatten().rev() {
            self.planner.unrelease(ticket);
        }
    }

    /// Sends what was written, and does not wait for the answers.
    pub(super) fn send(
        &mut self,
        world: &mut World,
        messages: Vec<(Outgoing, Vec<Ticket>)>,
    ) -> Result<(), Broken> {
        let mut sent = Vec::new();
        self.released += messages.len();
        for (message, tickets) in messages {
            let what = What::Release {
                message: (message.subject, message.body),
                expects: self.guard.fence(),
                taken_over: self.taken_over,
            };
            sent.push((world.send(self.life, what), self.planner.attempts(&tickets)));
        }
        self.flights.push(Flight { sent, since_us: world.now_us });
        self.go_on(world, Point::Release)
    }

    /// Looks at the answers of one flight, if all are there or late; says whether there was one.
    pub(super) fn land(&mut self, world: &mut World) -> bool {
        let landed = self.flights.iter().position(|flight| {
            world.now_us - flight.since_us >= RELEASE_WAIT_US
                || flight.sent.iter().all(|(token, _)| world.answers.contains_key(token))
        });
        let Some(place) = landed else { return false };
        let mut refused: Vec<Vec<_>> = Vec::new();
        for (token, tickets) in self.flights.remove(place).sent {
            let outcome = match world.answers.remove(&token) {
                Some(Answer::Stored(_) | Answer::AlreadyThere) => Released::Out,
                Some(Answer::Refused) => Released::FencedOff,
                None => Released::Unknown,
            };
            if outcome != Released::Out {
                let what = tickets.iter().filter_map(|(ticket, _)| self.planner.entry(*ticket));
                let names = what.map(|e| world.truth.name(e.key).to_owned()).collect::<Vec<_>>();
                world.note(|_| format!("{}: release of {names:?}: {outcome:?}", self.name()));
            }
            match outcome {
                Released::Out => {}
                Released::Refused => refused.push(tickets),
                Released::FencedOff => {
                    self.office.fenced_off(&mut self.planner);
                    refused.push(tickets);
                }
                Released::Unknown => self.doubts.unsure(tickets),
            }
        }
        for (ticket, attempt) in refused.into_iter().flatten().rev() {
            self.planner.never_left(ticket, attempt);
        }
        true
    }

    /// Waits until nothing is under way to the work queue.
    pub(super) fn landing(&mut self, world: &mut World, after: After) -> Result<(), Broken> {
        while self.land(world) {}
        if !self.flights.is_empty() {
            self.stage = Stage::Landing(after);
            return Ok(());
        }
        match after {
            After::Term => self.term(world),
            After::Steps(goal) => {
                self.begin(goal);
                Ok(())
            }
        }
    }

    /// The lease came or went: what this process believed of the work queue it finds out anew.
    pub(super) fn term(&mut self, world: &mut World) -> Result<(), Broken> {
        self.trimmer = trim::Trimmer::default();
        self.office.lease(self.told.is_some(), &mut self.planner);
        world.note(|_| format!("{} hears of the lease: {:?}", self.name(), self.told));
        if self.office.must_take_over() {
            self.begin(super::Goal::TakeOver);
            return Ok(());
        }
        self.act(world)
    }
}
