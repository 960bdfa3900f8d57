//! **Pure.** Which faults come when: the same for the same seed.

use std::time::Duration;

use crate::kind::Kind;

/// Numbers that look random and follow from a seed (`splitmix64`).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice of a seed; each use of a seed has a number of its own.
    pub fn new(seed: u64, use_of_it: u64) -> Self {
        let mut dice = Self(seed ^ use_of_it.wrapping_mul(0xA076_1D64_78BD_642F));
        dice.roll();
        dice
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.roll() % end }
    }

    /// A number from `low` to `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    /// Brings the items into any order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}

/// One fault of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it is.
    pub kind: Kind,
    /// When it begins, counted from the start of the load.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What is left to choose when it happens: the victim, the form.
    pub pick: u64,
}

/// Draws the faults: each kind `rounds` times, spread over the time in any order.
pub fn draw(seed: u64, kinds: &[Kind], rounds: u32, time: Duration) -> Vec<Fault> {
    let mut dice = Dice::new(seed, 1);
    let mut faults = Vec::new();
    let mut drawn = Vec::new();
    for _round in 0..rounds {
        let mut order: Vec<_> = kinds.iter().copied().filter(|kind| !kind.is_last()).collect();
        dice.shuffle(&mut order);
        // What takes longest begins first, so that its end is still within the time.
        order.sort_by_key(|kind| std::cmp::Reverse(kind.lasts().0 >= 10_000));
        drawn.extend(order);
    }
    let gap = (time.as_millis() as u64) / (drawn.len() as u64 + 1);
    for (n, kind) in (1..).zip(drawn) {
        let at = gap * n + dice.below(gap / 2 + 1);
        let (low, high) = kind.lasts();
        faults.push(Fault {
            kind,
            at: Duration::from_millis(at),
            lasts: Duration::from_millis(dice.between(low, high)),
            pick: dice.roll(),
        });
    }
    faults
}

/// Beginning or end of a fault, by its place in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It begins.
    Begin(usize),
    /// It ends.
    End(usize),
}

/// The steps of a plan in the order of their times.
pub fn steps(faults: &[Fault]) -> Vec<(Duration, Step)> {
    let begins = faults.iter().enumerate().map(|(n, fault)| (fault.at, Step::Begin(n)));
    let ends = faults.iter().enumerate().map(|(n, fault)| (fault.at + fault.lasts, Step::End(n)));
    let mut steps: Vec<_> = begins.chain(ends).collect();
    // Stable: what has no length begins before it ends.
    steps.sort_by_key(|(at, _)| *at);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan() {
        let time = Duration::from_secs(60);
        let plan = draw(7, &Kind::ALL, 2, time);
        assert_eq!(plan, draw(7, &Kind::ALL, 2, time));
        assert_ne!(plan, draw(8, &Kind::ALL, 2, time));
        let last = Kind::ALL.iter().filter(|kind| kind.is_last()).count();
        assert_eq!(plan.len(), 2 * (Kind::ALL.len() - last));
        assert!(plan.iter().all(|fault| fault.at < time + time / 10));
    }

    #[test]
    fn every_fault_begins_once_and_then_ends() {
        let plan = draw(3, &Kind::ALL, 1, Duration::from_secs(20));
        let mut open = vec![0; plan.len()];
        for (_, step) in steps(&plan) {
            match step {
                Step::Begin(n) => open[n] += 1,
                Step::End(n) => {
                    assert_eq!(open[n], 1);
                    open[n] += 1;
                }
            }
        }
        assert!(open.iter().all(|count| *count == 2));
    }
}
