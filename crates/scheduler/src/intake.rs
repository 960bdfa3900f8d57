//! **Pure.** What doors are told: which queues have no room, and whether there are task types.
//!
//! A full queue is told when a queue was full at two looks in a row, so that one that is worked
//! off fast does not turn work away; that it has room again is told at once. What holds is said again,
//! since what was told is forgotten: a leader that is gone must not keep a queue closed.

use common::{limits, pb};

/// What was seen, and what was told.
#[derive(Clone, Debug, Default)]
pub struct Intake {
    seen: Vec<pb::FullQueue>,
    told: pb::Intake,
    look_at: u64,
    told_at: u64,
}

impl Intake {
    /// Whether it is time to look again, in monotonic milliseconds.
    pub fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.look_at
    }

    /// These queues are full now, and there are types or not. Returns what is to be told, if anything.
    pub fn look(&mut self, now: pb::Intake, now_ms: u64) -> Option<pb::Intake> {
        self.look_at = now_ms + limits::INTAKE_HINT_EVERY.as_millis() as u64;
        let lasts = |full: &&pb::FullQueue| has(&self.seen, full);
        let full = now.full.iter().filter(lasts).cloned().collect::<Vec<_>>();
        self.seen = now.full;
        let told = &self.told;
        let same = (full.len(), now.types) == (told.full.len(), told.types)
            && full.iter().all(|one| has(&told.full, one));
        let again = self.told_at + limits::INTAKE_HINT_AGE.as_millis() as u64 / 3;
        if same && (full.is_empty() && !now.types || now_ms < again) {
            return None;
        }
        self.told_at = now_ms;
        self.told = pb::Intake { full, types: now.types };
        Some(self.told.clone())
    }

    /// What was told did not arrive: it is told at the next look.
    pub fn not_told(&mut self) {
        self.told_at = 0;
    }
}

fn has(list: &[pb::FullQueue], one: &pb::FullQueue) -> bool {
    list.iter().any(|other| (&other.queue, other.depth) == (&one.queue, one.depth))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(queues: &[&str]) -> Vec<pb::FullQueue> {
        let full = |queue: &&str| pb::FullQueue {
            queue: (*queue).into(),
            depth: 3,
            ..pb::FullQueue::default()
        };
        queues.iter().map(full).collect()
    }

    fn told(intake: &mut Intake, queues: &[&str], now_ms: u64) -> Option<Vec<String>> {
        let told = intake.look(pb::Intake { full: full(queues), types: false }, now_ms)?;
        Some(told.full.into_iter().map(|full| full.queue).collect())
    }

    #[test]
    fn types_are_told_at_once_and_again() {
        let mut intake = Intake::default();
        let mut told = |types, now_ms| {
            intake
                .look(pb::Intake { types, ..pb::Intake::default() }, now_ms)
                .map(|told| told.types)
        };
        let age = limits::INTAKE_HINT_AGE.as_millis() as u64;
        assert_eq!((told(false, 0), told(true, 250), told(true, 500)), (None, Some(true), None));
        assert_eq!(told(true, 250 + age / 2), Some(true));
        assert_eq!((told(false, age), told(false, 2 * age)), (Some(false), None));
    }

    #[test]
    fn full_is_told_when_it_lasts_and_room_at_once() {
        let mut intake = Intake::default();
        assert_eq!(told(&mut intake, &["a"], 0), None, "it may be worked off");
        assert_eq!(told(&mut intake, &["b"], 250), None);
        assert_eq!(told(&mut intake, &["a", "b"], 500), Some(vec!["b".into()]));
        assert_eq!(told(&mut intake, &["a", "b"], 750), Some(vec!["a".into(), "b".into()]));
        assert_eq!(told(&mut intake, &["a", "b"], 1_000), None, "it is known");
        assert_eq!(told(&mut intake, &["a"], 1_250), Some(vec!["a".into()]));
        assert_eq!(told(&mut intake, &[], 1_500), Some(vec![]));
        assert_eq!(told(&mut intake, &[], 60_000), None);
    }

    #[test]
    fn it_is_said_again_before_it_is_forgotten_and_when_it_did_not_arrive() {
        let age = limits::INTAKE_HINT_AGE.as_millis() as u64;
        let mut intake = Intake::default();
        assert!(intake.is_due(0));
        told(&mut intake, &["a"], 0);
        assert!(!intake.is_due(1));
        assert!(told(&mut intake, &["a"], 250).is_some());
        assert_eq!(told(&mut intake, &["a"], 500), None);
        assert!(told(&mut intake, &["a"], 250 + age / 2).is_some());
        intake.not_told();
        assert!(told(&mut intake, &["a"], 250 + age / 2 + 1).is_some());
    }
}
