//! **Pure.** Numbers that are the same for the same seed, on every machine and for ever: `SplitMix64`,
//! written out here so that no update of a library changes what a seed means.

/// A source of numbers. Each step of a run has its own, so that a step that is left out changes no
/// number of the others: this is what makes a history shrink.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The source of a seed's n-th step.
    pub fn new(seed: u64, n: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ n.rotate_left(32));
        random.next();
        random.0 ^= n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        random
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1).max(1) as usize) as i64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A number in `0..1`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The place of one of the weights, by its weight.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut left = self.below(weights.iter().sum::<u32>() as usize) as u32;
        for (place, weight) in weights.iter().enumerate() {
            if left < *weight {
                return place;
            }
            left -= weight;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let draw = |seed, n| Random::new(seed, n).next();
        assert_eq!(draw(1, 0), draw(1, 0));
        assert!(draw(1, 0) != draw(1, 1) && draw(1, 0) != draw(2, 0));
    }

    #[test]
    fn weights_of_zero_are_never_drawn() {
        assert!((0..200).all(|n| Random::new(7, n).weighted(&[0, 3, 0, 1]) % 2 == 1));
    }
}
