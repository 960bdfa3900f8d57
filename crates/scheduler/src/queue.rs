//! **Pure.** A queue's ready tasks in order, and how many of them may be out at once.

use std::collections::VecDeque;

use common::{event::Pause, limits};

use crate::plan::Ticket;

const PRIORITIES: usize = 10;
/// Tickets of tasks that have moved on that a queue keeps before it looks for them.
pub(crate) const STALE_TICKETS_MAX: u64 = 4_096;

/// One queue: who is ready, how much is out, and whether it is paused.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// Ready tasks by priority, 1 first; within a priority the oldest first. A ticket whose task
    /// has moved on since is skipped when it comes up.
    ready: [VecDeque<Ticket>; PRIORITIES],
    /// Ready tasks, without the tickets that are to be skipped.
    pub queued: u64,
    /// Open tasks that wait for something else.
    pub waiting: u64,
    /// Released and not ended.
    pub outstanding: u32,
    /// The last pause that was not ended by somebody; it may have ended by itself.
    pub paused: Option<Pause>,
    /// How fast it goes.
    pub pace: Pace,
}

impl Queue {
    /// Its open tasks, without those that other systems run.
    pub fn tasks(&self) -> u64 {
        self.queued + self.waiting + u64::from(self.outstanding)
    }

    /// Puts a ready task at the end of its priority.
    pub fn push(&mut self, priority: u8, ticket: Ticket) {
        self.lane(priority).push_back(ticket);
    }

    /// Puts a task back to where it was taken from.
    pub fn push_front(&mut self, priority: u8, ticket: Ticket) {
        self.lane(priority).push_front(ticket);
    }

    /// The next ticket: the highest priority, then the oldest.
    pub fn pop(&mut self) -> Option<(u8, Ticket)> {
        let lanes = self.ready.iter_mut().enumerate().rev();
        lanes.into_iter().find_map(|(n, lane)| Some((n as u8 + 1, lane.pop_front()?)))
    }

    /// Tickets of the same and of higher priorities, in the order of release.
    pub fn ahead(&self, priority: u8) -> impl Iterator<Item = (u8, Ticket)> {
        self.ready
            .iter()
            .enumerate()
            .rev()
            .take_while(move |(n, _)| *n as u8 + 1 >= priority)
            .flat_map(|(n, lane)| lane.iter().map(move |ticket| (n as u8 + 1, *ticket)))
    }

    /// Drops the tickets whose task has moved on, when they have come to outnumber the others: a
    /// standby never takes any off.
    pub fn compact(&mut self, is_ready: impl Fn(Ticket, u8) -> bool) {
        let tickets = self.ready.iter().map(VecDeque::len).sum::<usize>() as u64;
        if tickets > 2 * self.queued + STALE_TICKETS_MAX {
            for (n, lane) in self.ready.iter_mut().enumerate() {
                lane.retain(|ticket| is_ready(*ticket, n as u8 + 1));
            }
        }
    }

    fn lane(&mut self, priority: u8) -> &mut VecDeque<Ticket> {
        let place = usize::from(priority.clamp(1, 10)) - 1;
        self.ready.get_mut(place).expect("invariant: ten lanes for ten priorities")
    }
}

/// How fast a queue goes: smoothed completions per second, and the time from release to start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    ended: u32,
    since_ms: u64,
    per_second: f64,
    latency_seconds: f64,
}

impl Pace {
    /// Attempts that end in a second, if some did.
    pub fn per_second(&self) -> Option<f64> {
        (self.per_second > 0.0).then_some(self.per_second)
    }

    /// An attempt ended that spent this long between its release and its start.
    pub fn ended(&mut self, now_ms: u64, latency_seconds: f64) {
        const SMOOTHING: f64 = 0.05;
        self.latency_seconds +=
            SMOOTHING * (latency_seconds.clamp(0.0, 1.0) - self.latency_seconds);
        self.ended += 1;
        let elapsed = now_ms.saturating_sub(self.since_ms);
        if elapsed >= 100 {
            let rate = f64::from(self.ended) * 1_000.0 / elapsed as f64;
            self.per_second =
                if elapsed > 5_000 { rate } else { 0.7 * self.per_second + 0.3 * rate };
            self.ended = 0;
            self.since_ms = now_ms;
        }
    }
}

/// Released-but-unfinished tasks that a queue may have: enough that no slot waits for the
/// scheduler, and no more, so that priorities and cancellations act on the newest facts.
pub fn window(slots: u32, pace: Pace, window_max: u32) -> u32 {
    if slots == 0 {
        return 0;
    }
    let in_transit = (2.0 * pace.per_second * pace.latency_seconds).ceil() as u32;
    (2 * slots).max(slots.saturating_add(in_transit)).max(limits::WINDOW_MIN).min(window_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_released_to_nobody_and_the_window_is_bounded() {
        assert_eq!(window(0, Pace::default(), 4_096), 0);
        assert_eq!(window(1, Pace::default(), 4_096), limits::WINDOW_MIN);
        assert_eq!(window(100, Pace::default(), 4_096), 200);
        let fast = Pace { per_second: 1e6, latency_seconds: 1.0, ..Pace::default() };
        assert_eq!(window(100, fast, 4_096), 4_096);
    }

    #[test]
    fn ten_goes_before_one_and_older_before_newer() {
        let mut queue = Queue::default();
        let ticket = |slot| Ticket { slot, generation: 0 };
        for (priority, slot) in [(1, 1), (10, 2), (5, 3), (10, 4)] {
            queue.push(priority, ticket(slot));
        }
        let order = std::iter::from_fn(|| queue.pop()).map(|(_, t)| t.slot).collect::<Vec<_>>();
        assert_eq!(order, [2, 4, 3, 1]);
    }
}
