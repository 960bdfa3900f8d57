//! **Pure.** What is under way to nats-server, and how it arrives: late, twice, out of order, or not at
//! all.

use common::{event::Event, id::TaskKey};

use crate::{
    invariants::{self, Broken},
    log::Publish,
    world::World,
};

/// What is under way to nats-server.
#[derive(Clone, Debug)]
pub struct Flight {
    /// The process that sent it, or a number of its own when it has left that process's connection.
    pub lane: u64,
    /// Under which its answer is found.
    pub token: u64,
    /// What it is.
    pub what: What,
}

/// What may be under way.
#[derive(Clone, Debug)]
pub enum What {
    /// To the log.
    Log(Publish),
    /// To the work queue.
    Release {
        /// Subject and body.
        message: (String, Vec<u8>),
        /// The sequence that the last fence must have.
        expects: u64,
        /// The end of the log when its leader took the work queue over.
        taken_over: u64,
    },
}

/// An answer of nats-server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Stored there.
    Stored(u64),
    /// The subject has a message already.
    AlreadyThere,
    /// Refused.
    Refused,
}

impl World {
    /// Something arrives at nats-server.
    pub fn land(&mut self) -> Result<(), Broken> {
        if self.net.is_empty() {
            return Ok(());
        }
        let drawn = self.random.below(self.net.len());
        let lane = self.net[drawn].lane;
        // One connection keeps its order; what is sent again after a lost answer does not.
        let again = self.fault(self.setup.late, 12);
        let place = if again {
            drawn
        } else {
            self.net.iter().position(|flight| flight.lane == lane).unwrap_or(drawn)
        };
        let flight = self.net.remove(place);
        let lost = self.fault(self.setup.lost_answers, 25);
        let (token, answer) = match &flight.what {
            What::Log(publish) => {
                let answer = self.store(publish, flight.lane)?;
                if lost {
                    // The publisher sends it again.
                    self.note(|_| "its answer is lost: it is sent again".to_owned());
                    let lane = if again { self.fresh() } else { lane };
                    self.net.push(Flight { lane, ..flight });
                    return Ok(());
                }
                (flight.token, answer)
            }
            What::Release { message, expects, taken_over } => {
                if self.fault(self.setup.late, 30) {
                    // The connection broke: it may arrive much later, or never.
                    self.note(|_| format!("{} is held up", message.0));
                    if !self.random.one_in(3) {
                        let lane = self.fresh();
                        self.net.push(Flight { lane, ..flight });
                    }
                    return Ok(());
                }
                let answer = self.release(message, *expects, *taken_over)?;
                if lost {
                    self.note(|_| "its answer is lost".to_owned());
                    return Ok(());
                }
                (flight.token, answer)
            }
        };
        self.answers.insert(token, answer);
        Ok(())
    }

    fn store(&mut self, publish: &Publish, from: u64) -> Result<Answer, Broken> {
        let Some(sequence) = self.log.append(publish, self.now_us) else {
            self.note(|_| format!("{} is refused by the log", publish.subject));
            return Ok(Answer::AlreadyThere);
        };
        let message = self.log.get(sequence).expect("invariant: it was just stored");
        self.truth.stored(message, from)?;
        self.note(|world| format!("log {sequence}: {}", describe(world, sequence)));
        Ok(Answer::Stored(sequence))
    }

    fn release(
        &mut self,
        message: &(String, Vec<u8>),
        expects: u64,
        taken_over: u64,
    ) -> Result<Answer, Broken> {
        match self.queue.publish(message, expects) {
            Ok(sequence) => {
                self.note(|_| format!("work {sequence}: {}", message.0));
                invariants::the_queue_has_no_twins(&self.truth, &self.queue.out())?;
                let out = self.queue.messages.get(&sequence).map(|w| w.out.clone());
                for out in out.unwrap_or_default() {
                    invariants::an_attempt_goes_out_once(&self.truth, out)?;
                    invariants::dependencies_come_first(&self.truth, out.0)?;
                    invariants::a_leader_catches_up_first(&self.truth, out, taken_over)?;
                    self.truth.given_out.insert(out);
                }
                Ok(Answer::Stored(sequence))
            }
            Err(refusal) => {
                self.note(|_| format!("{} is refused: {refusal:?}", message.0));
                Ok(match refusal {
                    crate::queue::Refusal::AlreadyThere => Answer::AlreadyThere,
                    crate::queue::Refusal::FencedOff => Answer::Refused,
                })
            }
        }
    }
}

/// A message of the log in a line.
fn describe(world: &World, sequence: u64) -> String {
    let Some(message) = world.log.get(sequence) else { return "gone".to_owned() };
    let item = |item: &Result<Event, _>| match item {
        Ok(Event::Task(event)) => {
            let attempt = crate::truth::attempt_of(&event.kind);
            let attempt = if attempt > 0 { format!("({attempt})") } else { String::new() };
            let state = world.truth.tasks.get(&TaskKey::new(&event.tenant, &event.id));
            let phase = state.and_then(crate::truth::Task::state).map(|s| s.phase);
            format!("{} {}{attempt} by {} -> {phase:?}", event.id, event.kind.word(), event.actor)
        }
        Ok(Event::Policy(event)) => format!("{:?}", event.policy),
        Err(error) => format!("{error}"),
    };
    message.items.iter().map(item).collect::<Vec<_>>().join("; ")
}
