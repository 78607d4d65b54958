//! The one source of chance: a PCG generator with a fixed algorithm, and our own arithmetic on its output, so that a seed
//! replays the same world after any update of any crate.

use rand_core::Rng;
use rand_core::SeedableRng;
use rand_pcg::Pcg64Mcg;

/// A stream of chance.
#[derive(Clone, Debug)]
pub struct Dice(Pcg64Mcg);

impl Dice {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Pcg64Mcg::seed_from_u64(seed))
    }

    /// A number below `n` (0 for 0), by multiplication and shift (Lemire 2016, without the rejection step: the bias is below
    /// 2⁻³² for every range used here).
    pub fn below(&mut self, n: u64) -> u64 {
        let wide = u128::from(self.0.next_u64()) * u128::from(n);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A place in a list of `n`.
    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// The time to the next of events that come independently, `mean` apart on average; at least one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive finite number of milliseconds"
    )]
    pub fn wait(&mut self, mean: u64) -> u64 {
        let wait = -(1.0 - self.unit()).ln() * mean as f64;
        (wait as u64).max(1)
    }

    /// `value` give or take `percent` of it.
    pub fn around(&mut self, value: u64, percent: u64) -> u64 {
        let spread = value * percent / 100;
        self.between(value - spread, value + spread)
    }

    /// One of `choices`; the first of none is the caller's fault and gives index 0.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        let index = self.below(choices.len() as u64);
        choices.get(usize::try_from(index).unwrap_or(0))
    }

    /// `n` different numbers below `of`, in random order.
    pub fn some_of(&mut self, n: usize, of: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..of).collect();
        for i in 0..n.min(of) {
            let j = i + usize::try_from(self.below((of - i) as u64)).unwrap_or(0);
            all.swap(i, j);
        }
        all.truncate(n);
        all
    }

    /// An independent stream, so that one part of the world drawing more often does not change another.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self::new(self.0.next_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_across_versions() {
        let mut dice = Dice::new(7);
        let drawn: Vec<u64> = (0..4).map(|_| dice.below(1_000_000)).collect();
        let mut again = Dice::new(7);
        assert_eq!(drawn, (0..4).map(|_| again.below(1_000_000)).collect::<Vec<_>>());
    }

    #[test]
    fn draws_stay_in_their_ranges() {
        let mut dice = Dice::new(1);
        for _ in 0..1_000 {
            assert!((3..=5).contains(&dice.between(3, 5)));
            assert!((90..=110).contains(&dice.around(100, 10)));
            assert!(dice.wait(10) >= 1);
        }
        let mut some = dice.some_of(5, 9);
        some.sort_unstable();
        some.dedup();
        assert_eq!(some.len(), 5);
    }
}
