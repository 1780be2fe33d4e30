//! A random order of n things without a table of n.
//!
//! A Feistel network permutes the numbers of b bits, 2^b being the least power of two that is not
//! below n. A number that lands at n or above is sent through again, until it lands below ("cycle
//! walking": Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), which takes fewer
//! than two passes on average. So the order of ImageNet's 1.28 million samples costs no memory, and
//! any place of it can be asked for alone: a worker that joins, or a run that resumes, computes its
//! microbatches and nothing else.

use crate::random::{Key, Stream, key, philox4x32};

/// Even, so that both halves are changed equally often.
///
/// Four would do for large domains (Luby and Rackoff, 1988); on a few bits each round mixes little.
const ROUNDS: u32 = 16;

/// What is permuted: each has numbers of its own under the key of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    /// The samples of a split.
    Samples,
    /// Its shards.
    Shards,
    /// The samples of one group of shards.
    Group(u32),
}

impl Domain {
    /// The last two words of the counter. They are part of what a run record means.
    fn words(self) -> [u32; 2] {
        match self {
            Self::Samples => [0, 0],
            Self::Shards => [1, 0],
            Self::Group(number) => [2, number],
        }
    }
}

/// A permutation of 0..n, drawn for one (seed, epoch).
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    /// Of the [`Domain`].
    words: [u32; 2],
    /// Bits of the low and of the high half; they differ by at most one.
    low_bits: u32,
    high_bits: u32,
    key: Key,
}

impl Permutation {
    /// The order of `n` samples in `epoch`.
    pub fn new(seed: u64, epoch: u32, n: u64) -> Self {
        Self::of(seed, epoch, n, Domain::Samples)
    }

    /// The order of `n` things of that kind in `epoch`.
    pub(super) fn of(seed: u64, epoch: u32, n: u64, domain: Domain) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let low_bits = bits / 2;
        Self {
            n,
            words: domain.words(),
            low_bits,
            high_bits: bits - low_bits,
            key: key(seed, Stream::Order, epoch),
        }
    }

    /// How many things it orders.
    pub(super) fn len(&self) -> u64 {
        self.n
    }

    /// What stands at `place`, which is below n. (At n or beyond there is nothing; the answer is
    /// then `place` itself, so that the function stays a permutation of all numbers.)
    pub fn at(&self, place: u64) -> u64 {
        if place >= self.n {
            return place;
        }
        let mut it = place;
        // A cycle of a permutation that starts below n comes back below n, so this ends.
        loop {
            it = self.network(it);
            if it < self.n {
                return it;
            }
        }
    }

    /// The Feistel network: a permutation of all numbers of `low_bits + high_bits` bits, because
    /// each round changes one half by xor with a function of the other one.
    fn network(&self, it: u64) -> u64 {
        let low_mask = (1 << self.low_bits) - 1;
        let high_mask = (1 << self.high_bits) - 1;
        let mut low = it & low_mask;
        let mut high = it >> self.low_bits;
        for round in (0..ROUNDS).step_by(2) {
            high ^= self.function(round, low) & high_mask;
            low ^= self.function(round + 1, high) & low_mask;
        }
        high << self.low_bits | low
    }

    /// 32 random bits for each (round, half); a half has at most 32 bits.
    fn function(&self, round: u32, half: u64) -> u64 {
        let [kind, number] = self.words;
        u64::from(philox4x32(self.key, [round, half as u32, kind, number])[0])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(seed: u64, epoch: u32, n: u64) -> Vec<u64> {
        let permutation = Permutation::new(seed, epoch, n);
        (0..n).map(|place| permutation.at(place)).collect()
    }

    /// Chi-square of `counts` against `expected`, in standard deviations from its mean.
    fn surprise(counts: &[u32], expected: f64, freedom: f64) -> f64 {
        let chi: f64 = counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        (chi - freedom) / (2.0 * freedom).sqrt()
    }

    proptest! {
        #[test]
        fn it_is_a_permutation_of_any_size(seed: u64, epoch: u32, n in 0_u64..3000) {
            let mut all = order(seed, epoch, n);
            all.sort_unstable();
            prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn it_stays_within_any_size(seed: u64, n in 1_u64.., place: u64) {
            let permutation = Permutation::new(seed, 0, n);
            prop_assert!(permutation.at(place % n) < n);
            prop_assert_eq!(permutation.at(n), n);
        }
    }

    #[test]
    fn every_order_of_five_things_is_equally_likely() {
        let epochs = 60_000;
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..epochs {
            *counts.entry(order(1, epoch, 5)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 120);
        let counts: Vec<u32> = counts.into_values().collect();
        let surprise = surprise(&counts, f64::from(epochs) / 120.0, 119.0);
        assert!(surprise.abs() < 4.5, "{surprise} deviations off");
    }

    #[test]
    fn every_sample_is_as_likely_at_every_place() {
        for n in [7, 16, 33, 64] {
            let epochs = 8000;
            let size = usize::try_from(n).unwrap();
            let mut counts = vec![0; size * size];
            for epoch in 0..epochs {
                for (place, sample) in order(2, epoch, n).into_iter().enumerate() {
                    counts[place * size + sample as usize] += 1;
                }
            }
            let freedom = ((n - 1) * (n - 1)) as f64;
            let surprise = surprise(&counts, f64::from(epochs) / n as f64, freedom);
            assert!(surprise.abs() < 4.5, "{n}: {surprise} deviations off");
        }
    }

    #[test]
    fn neighbours_and_successive_epochs_have_nothing_in_common() {
        let n = 10_007;
        let one = order(3, 0, n);
        let next = order(3, 1, n);
        let correlation = |a: &[u64], b: &[u64]| {
            let centred = |x: u64| x as f64 - (n - 1) as f64 / 2.0;
            let variance = ((n * n - 1) as f64) / 12.0;
            let sum: f64 = a.iter().zip(b).map(|(&a, &b)| centred(a) * centred(b)).sum();
            sum / variance / (a.len() as f64).sqrt()
        };
        assert!(correlation(&one, &next).abs() < 4.5);
        assert!(correlation(&one, &(0..n).collect::<Vec<_>>()).abs() < 4.5);
        assert!(correlation(&one[1..], &one).abs() < 4.5);
        // In a random order, as many samples follow their predecessor as stay in place: one each.
        let followers = one.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count();
        let fixed = one.iter().enumerate().filter(|&(i, &x)| i as u64 == x).count();
        assert!(followers < 9 && fixed < 9, "{followers} followers, {fixed} in place");
    }

    #[test]
    fn each_batch_holds_a_fair_mix_of_the_split() {
        // A split that is sorted by class: a batch must not lean to one part of it.
        let (n, parts, batch) = (65_536, 8, 128);
        let all = order(4, 0, n);
        let counts: Vec<u32> = all
            .chunks(batch)
            .flat_map(|batch| {
                (0..parts).map(move |part| {
                    batch.iter().filter(|&&sample| sample * parts / n == part).count() as u32
                })
            })
            .collect();
        // Drawn without replacement from so many, it is close to independent draws.
        let batches = all.len() as f64 / batch as f64;
        let freedom = (batches - 1.0) * (parts - 1) as f64;
        let surprise = surprise(&counts, batch as f64 / parts as f64, freedom);
        assert!(surprise.abs() < 4.5, "{surprise} deviations off");
    }
}
