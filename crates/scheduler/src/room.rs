//! **Pure.** What doors are told of queues that have no room.
//!
//! It is told when a queue was full at two looks in a row, so that one that is worked off fast does not
//! turn work away; that it has room again is told at once. While something is full it is said again,
//! since what was told is forgotten: a leader that is gone must not keep a queue closed.

use common::{limits, pb};

/// What was seen, and what was told.
#[derive(Clone, Debug, Default)]
pub struct Room {
    seen: Vec<pb::FullQueue>,
    told: Vec<pb::FullQueue>,
    look_at: u64,
    told_at: u64,
}

impl Room {
    /// Whether it is time to look again, in monotonic milliseconds.
    pub fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.look_at
    }

    /// These queues are full now. Returns what is to be told, if anything.
    pub fn look(&mut self, now: Vec<pb::FullQueue>, now_ms: u64) -> Option<pb::FullQueues> {
        self.look_at = now_ms + limits::ROOM_HINT_EVERY.as_millis() as u64;
        let lasts = |full: &&pb::FullQueue| has(&self.seen, full);
        let full = now.iter().filter(lasts).cloned().collect::<Vec<_>>();
        self.seen = now;
        let same = full.len() == self.told.len() && full.iter().all(|one| has(&self.told, one));
        let again = self.told_at + limits::ROOM_HINT_AGE.as_millis() as u64 / 3;
        if same && (full.is_empty() || now_ms < again) {
            return None;
        }
        self.told_at = now_ms;
        self.told.clone_from(&full);
        Some(pb::FullQueues { queues: full })
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

    fn told(room: &mut Room, queues: &[&str], now_ms: u64) -> Option<Vec<String>> {
        let told = room.look(full(queues), now_ms)?;
        Some(told.queues.into_iter().map(|full| full.queue).collect())
    }

    #[test]
    fn full_is_told_when_it_lasts_and_room_at_once() {
        let mut room = Room::default();
        assert_eq!(told(&mut room, &["a"], 0), None, "it may be worked off");
        assert_eq!(told(&mut room, &["b"], 250), None);
        assert_eq!(told(&mut room, &["a", "b"], 500), Some(vec!["b".into()]));
        assert_eq!(told(&mut room, &["a", "b"], 750), Some(vec!["a".into(), "b".into()]));
        assert_eq!(told(&mut room, &["a", "b"], 1_000), None, "it is known");
        assert_eq!(told(&mut room, &["a"], 1_250), Some(vec!["a".into()]));
        assert_eq!(told(&mut room, &[], 1_500), Some(vec![]));
        assert_eq!(told(&mut room, &[], 60_000), None);
    }

    #[test]
    fn it_is_said_again_before_it_is_forgotten_and_when_it_did_not_arrive() {
        let age = limits::ROOM_HINT_AGE.as_millis() as u64;
        let mut room = Room::default();
        assert!(room.is_due(0));
        told(&mut room, &["a"], 0);
        assert!(!room.is_due(1));
        assert!(told(&mut room, &["a"], 250).is_some());
        assert_eq!(told(&mut room, &["a"], 500), None);
        assert!(told(&mut room, &["a"], 250 + age / 2).is_some());
        room.not_told();
        assert!(told(&mut room, &["a"], 250 + age / 2 + 1).is_some());
    }
}
