//! **Pure.** The stream `EXECUTIONS` as nats-server keeps it: a work queue with one message a
//! subject, a fence that releases expect, deliveries that are counted, and the last instant before a kill,
//! which it forgets.

use std::collections::BTreeMap;

use common::subject;
use scheduler::{office::Out, outgoing};

/// One message of the work queue.
#[derive(Clone, Debug)]
pub struct Work {
    /// Its subject.
    pub subject: String,
    /// Its body.
    pub body: Vec<u8>,
    /// The attempts in it.
    pub out: Vec<Out>,
    /// How often it was delivered.
    pub delivered: i64,
    /// Until when its delivery lasts, in true microseconds; `None` when nobody has it.
    pub held_until: Option<i64>,
    delivered_at: i64,
}

/// Why a release was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The last fence is not the one that the publisher expects.
    FencedOff,
    /// The subject has a message.
    AlreadyThere,
}

/// The work queue.
#[derive(Debug, Default)]
pub struct WorkQueue {
    /// The last sequence that was given out.
    pub sequence: u64,
    /// What is in it.
    pub messages: BTreeMap<u64, Work>,
    fence: Option<u64>,
}

impl WorkQueue {
    /// Stores a release. nats-server checks what is expected first, then the subject.
    pub fn publish(&mut self, message: &(String, Vec<u8>), expects: u64) -> Result<u64, Refusal> {
        if expects != self.fence.unwrap_or(0) {
            return Err(Refusal::FencedOff);
        }
        if self.messages.values().any(|work| work.subject == message.0) {
            return Err(Refusal::AlreadyThere);
        }
        self.sequence += 1;
        let work = Work {
            subject: message.0.clone(),
            body: message.1.clone(),
            out: outgoing::attempts(&message.1),
            delivered: 0,
            held_until: None,
            delivered_at: 0,
        };
        self.messages.insert(self.sequence, work);
        Ok(self.sequence)
    }

    /// Takes the fence away.
    pub fn purge_fence(&mut self) {
        self.fence = None;
    }

    /// Puts a fence; `None` when there is one.
    pub fn publish_fence(&mut self) -> Option<u64> {
        if self.fence.is_some() {
            return None;
        }
        self.sequence += 1;
        self.fence = Some(self.sequence);
        Some(self.sequence)
    }

    /// Every attempt that lies there.
    pub fn out(&self) -> Vec<Out> {
        self.messages.values().flat_map(|work| work.out.iter().copied()).collect()
    }

    /// What a worker of the queue may be given now.
    pub fn free(&self, queue: &str, now_us: i64) -> Vec<u64> {
        let head = format!("{}.{queue}.", subject::EXECUTIONS_ALL.trim_end_matches(".>"));
        let free = |work: &Work| work.held_until.is_none_or(|until| until <= now_us);
        let mine = self.messages.iter().filter(|(_, w)| free(w) && w.subject.starts_with(&head));
        mine.map(|(sequence, _)| *sequence).collect()
    }

    /// Gives a message to a worker.
    pub fn deliver(&mut self, sequence: u64, now_us: i64, ack_wait_us: i64) -> Option<Work> {
        let work = self.messages.get_mut(&sequence)?;
        work.delivered += 1;
        work.delivered_at = now_us;
        work.held_until = Some(now_us + ack_wait_us);
        Some(work.clone())
    }

    /// A worker says that it still works on it.
    pub fn progress(&mut self, sequence: u64, until_us: i64) {
        if let Some(work) = self.messages.get_mut(&sequence) {
            work.held_until = Some(until_us);
        }
    }

    /// A worker ends a message, or the scheduler takes it out.
    pub fn end(&mut self, sequence: u64) -> Option<Work> {
        self.messages.remove(&sequence)
    }

    /// The sequence of the message with this subject.
    pub fn find(&self, subject: &str) -> Option<u64> {
        self.messages.iter().find(|(_, w)| w.subject == subject).map(|(sequence, _)| *sequence)
    }

    /// nats-server is killed: what it delivered in its last instant comes back unmarked. Returns the
    /// attempts that this is true of.
    pub fn forget_last_instant(&mut self, now_us: i64) -> Vec<Out> {
        let mut forgotten = Vec::new();
        for work in self.messages.values_mut() {
            if work.held_until.is_some() && now_us - work.delivered_at <= 100_000 {
                work.delivered -= 1;
                work.held_until = None;
                forgotten.extend(&work.out);
            }
        }
        forgotten
    }
}
