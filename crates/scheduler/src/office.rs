//! **Pure.** Whether this process decides: it follows, takes over, catches up, leads.
//!
//! The shell takes the steps and says what it saw. A new leader makes the work queue its own, reads
//! what is out, and *then* how far the log goes; only when it has folded that far does the planner
//! hear what is out, and decide.

use std::collections::HashMap;

use common::{id::TaskKey, limits, time::Timestamp};

use crate::plan::{Found, Planner, Ticket};

/// An attempt that lies in the work queue.
pub type Out = (TaskKey, u32);

/// One step of finding out where released attempts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put a mark into the work queue: releases that expect an older one fail from here on.
    Fence,
    /// Read the attempts that lie in the work queue, in flight or not.
    ReadBack,
    /// Read how far the log goes.
    ReadEnd,
}

/// How the work queue becomes a leader's. The log's end is read last: whatever has left the work
/// queue by then has its outcome before that end.
pub const TAKE_OVER: [Step; 3] = [Step::Fence, Step::ReadBack, Step::ReadEnd];

/// How a leader compares its own work queue with what it knows.
pub const COMPARE: [Step; 2] = [Step::ReadBack, Step::ReadEnd];

/// What the steps have shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// The attempts that lay in the work queue.
    pub out: Vec<Out>,
    /// The last message of the log then.
    pub last: u64,
}

/// Where this process stands.
#[derive(Clone, Debug, Default)]
enum Stage {
    /// Somebody else leads, or nobody.
    #[default]
    Follows,
    /// The lease is its own; the work queue is not yet.
    Elected,
    /// The work queue is its own too; the log is to be folded.
    CatchesUp(Sight),
    /// It decides.
    Leads,
}

/// Whether this process decides.
#[derive(Clone, Debug, Default)]
pub struct Office(Stage);

impl Office {
    /// The lease came or went: whatever was, begins anew.
    pub fn lease(&mut self, held: bool, planner: &mut Planner) {
        self.0 = if held { Stage::Elected } else { Stage::Follows };
        planner.follow();
    }

    /// Whether the steps of [`TAKE_OVER`] are to be taken.
    pub fn must_take_over(&self) -> bool {
        matches!(self.0, Stage::Elected)
    }

    /// All steps of [`TAKE_OVER`] were taken. They settle what was in doubt before: kept, it would be
    /// taken back when it has been released anew.
    pub fn took_over(&mut self, sight: Sight, doubts: &mut Doubts) {
        if self.must_take_over() {
            *doubts = Doubts::default();
            self.0 = Stage::CatchesUp(sight);
        }
    }

    /// The log is folded up to the cursor: says whether this process leads from now on.
    pub fn caught_up(
        &mut self,
        cursor: u64,
        planner: &mut Planner,
        now: Timestamp,
        now_ms: u64,
    ) -> bool {
        match &self.0 {
            Stage::CatchesUp(sight) if cursor >= sight.last => {
                planner.only_these_are_out(&sight.out, now_ms);
                planner.lead(now, now_ms);
                self.0 = Stage::Leads;
                true
            }
            Stage::Follows | Stage::Elected | Stage::CatchesUp(_) | Stage::Leads => false,
        }
    }

    /// Another fence was put although the lease is this process's: it takes over anew.
    pub fn fenced_off(&mut self, planner: &mut Planner) {
        if self.leads() {
            self.lease(true, planner);
        }
    }

    /// Whether this process has caught up. It decides only while its lease is fresh, too.
    pub fn leads(&self) -> bool {
        matches!(self.0, Stage::Leads)
    }
}

/// Whether a leader may still act on its lease: half of it is left by its own monotonic clock.
pub fn is_fresh(renewed_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(renewed_ms) <= limits::LEASE.as_millis() as u64 / 2
}

/// Whether a standby may take a lease that it has seen unchanged since then, by its own monotonic
/// clock.
pub fn has_lapsed(seen_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(seen_ms) > limits::LEASE.as_millis() as u64
}

/// The fence behind which a leader releases: a release is stored only while it is the last one.
///
/// It is the fence's own sequence that is expected, not the work queue's end: of releases that were
/// sent together, a later one expects an end that another leader's fence may just have made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard(u64);

impl Guard {
    /// The sequence that the last fence must have; 0, before the first, is none at all.
    pub fn fence(self) -> u64 {
        self.0
    }

    /// This leader's fence was stored there.
    pub fn fenced(&mut self, sequence: u64) {
        self.0 = sequence;
    }
}

/// What became of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// It lies in the work queue, now or since an earlier time.
    Out,
    /// It does not; try again.
    Refused,
    /// It does not: another fence was put, behind which this leader does not know what is out.
    FencedOff,
    /// Nobody answered: it may lie there, or turn up later.
    Unknown,
}

/// The messages to call back, each with the tasks whose attempts in it are given up: only whole ones,
/// so that nothing is taken away from who may yet run it.
pub fn recall(
    planner: &Planner,
    unserved: &[(Ticket, TaskKey, u32)],
    lying: Vec<(u64, Vec<Out>)>,
) -> Vec<(u64, Vec<Ticket>)> {
    let unserved = unserved.iter().map(|(ticket, key, attempt)| ((*key, *attempt), *ticket));
    let unserved = unserved.collect::<HashMap<_, _>>();
    let is_over = |(key, attempt): &Out| match planner.find(*key) {
        Some(Found::Open(_, entry)) => entry.state.ended >= *attempt,
        Some(Found::Over(_)) | None => true,
    };
    let given_up = |out: &Out| unserved.contains_key(out) || is_over(out);
    let whole = lying.into_iter().filter(|(_, out)| out.iter().all(given_up));
    let tickets = whole.map(|(sequence, out)| {
        (sequence, out.iter().filter_map(|out| unserved.get(out).copied()).collect::<Vec<_>>())
    });
    tickets.filter(|(_, tickets)| !tickets.is_empty()).collect()
}

/// Attempts of which the leader is not sure where they are.
#[derive(Clone, Debug, Default)]
pub struct Doubts {
    /// Releases whose answer never came.
    unsure: Vec<(Ticket, u32)>,
    /// Of those, the ones that are not in the work queue.
    absent: Option<Missing>,
    /// Attempts that have been out for long, of which nobody speaks, and that are not there.
    missing: Option<Missing>,
}

/// Attempts that were not in the work queue when the log ended there.
#[derive(Clone, Debug)]
struct Missing {
    attempts: Vec<(Ticket, u32)>,
    last: u64,
}

impl Doubts {
    /// Nobody answered when these attempts were released.
    pub fn unsure(&mut self, attempts: impl IntoIterator<Item = (Ticket, u32)>) {
        self.unsure.extend(attempts);
    }

    /// Whether there are releases whose answer never came.
    pub fn is_unsure(&self) -> bool {
        !self.unsure.is_empty()
    }

    /// Whether the steps of [`TAKE_OVER`] are to be taken again: a new fence turns away what may
    /// still be under way, and then the work queue says which attempts it has.
    pub fn must_find_out(&self) -> bool {
        self.is_unsure() && self.absent.is_none()
    }

    /// The steps of [`TAKE_OVER`] were taken again.
    pub fn found_out(&mut self, planner: &Planner, sight: &Sight) {
        let mut attempts = std::mem::take(&mut self.unsure);
        // A task that has moved on since has another attempt, of which nobody is unsure.
        attempts.retain(|(ticket, attempt)| {
            planner.entry(*ticket).is_some_and(|entry| {
                entry.state.attempt() == *attempt && !sight.out.contains(&(entry.key, *attempt))
            })
        });
        self.absent = Some(Missing { attempts, last: sight.last });
    }

    /// The steps of [`COMPARE`] were taken for those suspects.
    pub fn compared(&mut self, suspects: Vec<(Ticket, TaskKey, u32)>, sight: &Sight) {
        let missing =
            suspects.into_iter().filter(|(_, key, attempt)| !sight.out.contains(&(*key, *attempt)));
        let attempts = missing.map(|(ticket, _, attempt)| (ticket, attempt)).collect();
        self.missing = Some(Missing { attempts, last: sight.last });
    }

    /// Gives up the missing attempts that have no end in what was the log when they were missed.
    /// One that ran meanwhile has its end there.
    pub fn settle(&mut self, planner: &mut Planner, cursor: u64) {
        if let Some(absent) = self.absent.take_if(|absent| absent.last <= cursor) {
            for (ticket, attempt) in absent.attempts.into_iter().rev() {
                planner.never_left(ticket, attempt);
            }
        }
        if let Some(missing) = self.missing.take_if(|missing| missing.last <= cursor) {
            for (ticket, attempt) in missing.attempts {
                planner.vanished(ticket, attempt);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use common::{
        event::{Event, Kind, TaskEvent},
        id::{TaskId, Tenant},
        pb,
        task::TaskSpec,
    };

    use super::*;

    fn elected() -> (Office, Planner) {
        let (mut office, mut planner) = (Office::default(), Planner::default());
        office.lease(true, &mut planner);
        (office, planner)
    }

    #[test]
    fn a_leader_decides_only_after_it_has_folded_what_was_the_log() {
        let (mut office, mut planner) = elected();
        let now = Timestamp::default();
        assert!(office.must_take_over() && !office.caught_up(9, &mut planner, now, 0));
        office.took_over(Sight { out: Vec::new(), last: 7 }, &mut Doubts::default());
        assert!(!office.caught_up(6, &mut planner, now, 0) && !office.leads());
        assert!(office.caught_up(7, &mut planner, now, 0) && office.leads());
        assert!(!office.caught_up(8, &mut planner, now, 0), "it is said once");
    }

    #[test]
    fn doubts_are_about_an_attempt_and_not_about_the_next_one() {
        let (_, mut planner) = elected();
        let event = |kind| Event::Task(TaskEvent::new(Tenant::default(), id(), "test", kind));
        let worker = pb::Worker { handler: "h".into() };
        let kind = Some(pb::executor::Kind::Worker(worker));
        let executor = Some(pb::Executor { kind });
        let spec = pb::TaskSpec { task_id: "a".into(), executor, ..pb::TaskSpec::default() };
        let spec = Box::new(TaskSpec::parse(spec).unwrap());
        let now = Timestamp::default();
        planner.lead(now, 0);
        planner.fold((1, 0), now, &event(Kind::Created(spec)), 0);
        planner.heard(
            pb::Heartbeat {
                worker: "w".into(),
                queues: [("handlers".to_owned(), 1)].into(),
                ..pb::Heartbeat::default()
            },
            0,
        );
        let released = planner.release(0, 16, 1);
        let mut doubts = Doubts::default();
        let attempts = planner.attempts(&released[0].tickets);
        // It did arrive, came back, and its next attempt goes out before anybody knows of a doubt.
        let returned = pb::Returned { attempt: 1, ..pb::Returned::default() };
        planner.fold((2, 0), now, &event(Kind::Returned(returned)), 0);
        assert_eq!(planner.release(0, 16, 1).len(), 1);
        doubts.unsure(attempts);
        doubts.found_out(&planner, &Sight { out: Vec::new(), last: 2 });
        doubts.settle(&mut planner, 2);
        assert!(planner.release(0, 16, 1).is_empty(), "the second attempt is out");
    }

    fn id() -> TaskId {
        TaskId::parse("a").unwrap()
    }

    #[test]
    fn who_lost_the_lease_begins_anew() {
        let (mut office, mut planner) = elected();
        office.lease(false, &mut planner);
        office.took_over(Sight::default(), &mut Doubts::default());
        assert!(!office.caught_up(1, &mut planner, Timestamp::default(), 0));
        assert!(!office.must_take_over() && !office.leads());
    }

    #[test]
    fn a_lease_is_left_well_before_another_takes_it() {
        let lease = limits::LEASE.as_millis() as u64;
        assert!(is_fresh(10, 10 + lease / 2) && !is_fresh(10, 11 + lease / 2));
        assert!(!has_lapsed(10, 10 + lease) && has_lapsed(10, 11 + lease));
    }

    /// Its answer came late, and what it had made of that was settled in the next term, in which the
    /// task was out: it went out twice.
    #[test]
    fn a_new_term_knows_no_doubts_of_the_last_one() {
        let (mut office, mut planner) = elected();
        let mut doubts = Doubts::default();
        doubts.found_out(&planner, &Sight::default());
        doubts.unsure = vec![(Ticket { slot: 0, generation: 0 }, 1)];
        office.took_over(Sight::default(), &mut doubts);
        assert!(!doubts.is_unsure() && doubts.absent.is_none());
        assert!(office.caught_up(0, &mut planner, Timestamp::default(), 1));
    }
}
