//! **Pure.** A leader's steps on the work queue: it makes it its own, moves its fence, reads what lies
//! there, calls back what nobody takes.

use common::event::Event;
use scheduler::{
    office::{self, Sight, Step},
    plan::Ticket,
    verdict,
};

use super::{After, Goal, Point, Scheduler, Stage, act::PUBLISH_WAIT_US};
use crate::{
    invariants::{self, Broken},
    net::Answer,
    world::World,
};

/// A message that is to be called back, and the tasks whose attempts in it are given up.
type Recall = (u64, Vec<Ticket>);

impl Scheduler {
    /// Begins to find out where released attempts are, or to move the fence: when nothing is under
    /// way to the work queue any more.
    pub(super) fn begin(&mut self, goal: Goal) {
        self.stage = if self.flights.is_empty() {
            Stage::Steps { goal, at: 0, purged: false, sight: Sight::default() }
        } else {
            Stage::Landing(After::Steps(goal))
        };
    }

    /// Takes one step on the work queue.
    pub(super) fn take(
        &mut self,
        world: &mut World,
        goal: Goal,
        at: usize,
        purged: bool,
        mut sight: Sight,
    ) -> Result<(), Broken> {
        let steps: &[Step] = match goal {
            Goal::TakeOver | Goal::FindOut => &office::TAKE_OVER,
            Goal::Compare(_) => &office::COMPARE,
            Goal::MoveFence => &[Step::Fence],
            Goal::Recall(_) => &[],
        };
        let Some(step) = steps.get(at) else { return self.taken(world, &goal, sight) };
        if world.fault(world.setup.refusals, 12) {
            world.note(|_| format!("{}: the work queue does not answer ({step:?})", self.name()));
            return self.not_taken(world, &goal);
        }
        match step {
            Step::Fence if !purged => {
                world.queue.purge_fence();
                self.stage = Stage::Steps { goal, at, purged: true, sight };
                return Ok(());
            }
            Step::Fence => {
                let Some(sequence) = world.queue.publish_fence() else {
                    return self.not_taken(world, &goal);
                };
                if world.fault(world.setup.lost_answers, 20) {
                    world.note(|_| {
                        format!("{}: its fence at {sequence} is not answered", self.name())
                    });
                    return self.not_taken(world, &goal);
                }
                self.guard.fenced(sequence);
                world.note(|_| format!("{} puts the fence at {sequence}", self.name()));
            }
            Step::ReadBack => sight.out = world.queue.out(),
            Step::ReadEnd => sight.last = world.log.last(),
        }
        if at == 0 {
            // From the first step on nobody else may release.
            self.taken_over = match goal {
                Goal::TakeOver | Goal::FindOut => world.log.last(),
                Goal::Compare(_) | Goal::MoveFence | Goal::Recall(_) => self.taken_over,
            };
        }
        self.stage = Stage::Steps { goal, at: at + 1, purged: false, sight };
        Ok(())
    }

    fn taken(&mut self, world: &mut World, goal: &Goal, sight: Sight) -> Result<(), Broken> {
        match goal {
            Goal::TakeOver => {
                self.office.took_over(sight, &mut self.doubts);
                Ok(())
            }
            Goal::FindOut => {
                world.note(|_| format!("{} finds out: {:?}", self.name(), sight.out.len()));
                self.doubts.found_out(&self.planner, &sight);
                self.go_on(world, Point::Compare)
            }
            Goal::Compare(suspects) => {
                self.doubts.compared(suspects.clone(), &sight);
                self.go_on(world, Point::Recall)
            }
            Goal::MoveFence => {
                self.released = 0;
                self.go_on(world, Point::FindOut)
            }
            Goal::Recall(unserved) => {
                let lying = world.queue.messages.iter().map(|(at, work)| (*at, work.out.clone()));
                let rest = office::recall(&self.planner, unserved, lying.collect());
                self.recall(world, rest)
            }
        }
    }

    fn not_taken(&mut self, world: &mut World, goal: &Goal) -> Result<(), Broken> {
        match goal {
            Goal::TakeOver => Ok(()),
            Goal::FindOut => self.go_on(world, Point::Compare),
            Goal::Compare(_) => self.go_on(world, Point::Recall),
            Goal::Recall(_) => self.go_on(world, Point::Settle),
            Goal::MoveFence => {
                self.office.fenced_off(&mut self.planner);
                self.go_on(world, Point::FindOut)
            }
        }
    }

    /// Says in the log that the attempts of the next message are over.
    fn recall(&mut self, world: &mut World, mut rest: Vec<Recall>) -> Result<(), Broken> {
        let Some((sequence, tickets)) = rest.pop() else { return self.go_on(world, Point::Settle) };
        let mut events = Vec::new();
        for ticket in tickets {
            let Some(entry) = self.planner.entry(ticket) else { continue };
            let Some((spec, _)) = self.payload(world, &entry)? else {
                return self.go_on(world, Point::Settle);
            };
            events.extend(verdict::called_back(&entry, &spec).map(Event::Task));
        }
        world.note(|_| format!("{} calls work {sequence} back", self.name()));
        let token = world.publish(self.life, &events);
        self.stage = Stage::Recalling { sequence, rest, token, since_us: world.now_us };
        Ok(())
    }

    /// Takes the message away once the log has it that its attempts are over.
    pub(super) fn recalled(
        &mut self,
        world: &mut World,
        (sequence, rest): (u64, Vec<Recall>),
        token: u64,
        since_us: i64,
    ) -> Result<(), Broken> {
        match world.answers.remove(&token) {
            Some(Answer::Stored(_)) => {}
            None if world.now_us - since_us < PUBLISH_WAIT_US => {
                self.stage = Stage::Recalling { sequence, rest, token, since_us };
                return Ok(());
            }
            Some(_) | None => return self.go_on(world, Point::Settle),
        }
        if world.fault(world.setup.refusals, 12) {
            return self.go_on(world, Point::Settle);
        }
        if let Some(work) = world.queue.end(sequence) {
            invariants::outcomes_come_before_acks(&world.truth, &work.out)?;
        }
        self.recall(world, rest)
    }
}
