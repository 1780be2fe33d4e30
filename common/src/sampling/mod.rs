//! Which samples a rank works on: derived, never sent.
//!
//! ```text
//!   epoch     a permutation of 0..samples, new for each epoch
//!   step      the next B places of it: the global batch (the epoch's last is short)
//!   slot      a place in the global batch, 0..B
//!   microbatch  m slots in a row; V = ceil(B / m) of them, the last may be short
//!   rank      microbatches floor(r V / W) .. floor((r + 1) V / W)
//! ```
//!
//! The grid down to the microbatch knows nothing of workers: only [`Sampler::share`] does, and it
//! deals out whole microbatches. So the work of a step is the same for any number of workers, and
//! every sample is used exactly once in an epoch, whoever does it.

mod permutation;

use std::ops::Range;

pub use permutation::Permutation;

/// One sample's place in a split and in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleRef {
    /// In the split; what is random about a sample is keyed by it.
    pub index: u64,
    /// In the global batch, 0..B, whatever rank holds it.
    pub slot: u32,
}

/// The order of samples in training: a pure function of (seed, split size, batch, microbatch).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampler {
    seed: u64,
    samples: u64,
    batch: u32,
    microbatch: u32,
}

impl Sampler {
    /// For a split of `samples`, global batches of `batch` and microbatches of `microbatch`
    /// samples. The last two are at least 1 in a valid config; 0 is taken as 1.
    pub fn new(seed: u64, samples: u64, batch: u32, microbatch: u32) -> Self {
        Self { seed, samples, batch: batch.max(1), microbatch: microbatch.max(1) }
    }

    /// Steps that use every sample once: ceil(samples / batch).
    pub fn steps_per_epoch(&self) -> u32 {
        u32::try_from(self.samples.div_ceil(u64::from(self.batch))).unwrap_or(u32::MAX)
    }

    /// Samples of step `step` of an epoch; fewer in the last one, none after it.
    pub fn batch_size(&self, step: u32) -> u32 {
        let left = self.samples.saturating_sub(self.first_place(step));
        u32::try_from(left).map_or(self.batch, |left| left.min(self.batch))
    }

    /// Microbatches of step `step`: V = ceil(batch size / m).
    pub fn microbatches(&self, step: u32) -> u32 {
        self.batch_size(step).div_ceil(self.microbatch)
    }

    /// The microbatches of `rank` out of `v`, when there are `world` ranks:
    /// floor(rank v / world) .. floor((rank + 1) v / world).
    ///
    /// The shares of all ranks are 0..v without gap or overlap, and differ by at most one; with
    /// more ranks than microbatches some are empty, and so is that of a rank beyond the world.
    pub fn share(v: u32, rank: u32, world: u32) -> Range<u32> {
        let world = u64::from(world.max(1));
        let bound = |rank: u64| {
            let bound = rank.min(world) * u64::from(v) / world;
            u32::try_from(bound).expect("invariant: at most v")
        };
        bound(u64::from(rank))..bound(u64::from(rank) + 1)
    }

    /// The samples of one microbatch in the order of their slots; none beyond the last microbatch.
    pub fn microbatch(&self, epoch: u32, step: u32, index: u32) -> Vec<SampleRef> {
        let order = Permutation::new(self.seed, epoch, self.samples);
        let first = self.first_place(step);
        slots(self.batch_size(step), self.microbatch, index)
            .map(|slot| SampleRef { index: order.at(first + u64::from(slot)), slot })
            .collect()
    }

    /// Place of the step's first sample in the epoch.
    fn first_place(&self, step: u32) -> u64 {
        u64::from(step) * u64::from(self.batch)
    }
}

/// The order of samples in evaluation: as they lie in the split, in one batch of all.
///
/// Its microbatches are shared out by [`Sampler::share`] like those of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvaluationGrid {
    samples: u32,
    microbatch: u32,
}

impl EvaluationGrid {
    /// For a split of `samples` (at most 2^32 - 1 are seen) and microbatches of `microbatch`; a
    /// microbatch of 0 is taken as 1.
    pub fn new(samples: u64, microbatch: u32) -> Self {
        Self { samples: u32::try_from(samples).unwrap_or(u32::MAX), microbatch: microbatch.max(1) }
    }

    /// V = ceil(samples / m).
    pub fn microbatches(&self) -> u32 {
        self.samples.div_ceil(self.microbatch)
    }

    /// The samples of one microbatch; none beyond the last. Slot and index are equal.
    pub fn microbatch(&self, index: u32) -> Vec<SampleRef> {
        slots(self.samples, self.microbatch, index)
            .map(|slot| SampleRef { index: u64::from(slot), slot })
            .collect()
    }
}

/// The slots of microbatch `index` in a batch of `size`.
fn slots(size: u32, microbatch: u32, index: u32) -> Range<u32> {
    let start = index.saturating_mul(microbatch).min(size);
    start..start.saturating_add(microbatch).min(size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What all ranks together work on in one step, in the order of ranks.
    fn step_of(sampler: &Sampler, epoch: u32, step: u32, world: u32) -> Vec<SampleRef> {
        let v = sampler.microbatches(step);
        (0..world)
            .flat_map(|rank| Sampler::share(v, rank, world))
            .flat_map(|index| sampler.microbatch(epoch, step, index))
            .collect()
    }

    proptest! {
        #[test]
        fn every_sample_is_used_exactly_once_in_an_epoch(
            seed: u64, epoch: u32, samples in 0_u64..600, batch in 1_u32..90,
            microbatch in 1_u32..40, world in 1_u32..12,
        ) {
            let sampler = Sampler::new(seed, samples, batch, microbatch);
            let mut seen = vec![0; samples as usize];
            for step in 0..sampler.steps_per_epoch() {
                let drawn = step_of(&sampler, epoch, step, world);
                prop_assert_eq!(drawn.len() as u32, sampler.batch_size(step));
                for (place, sample) in drawn.iter().enumerate() {
                    prop_assert_eq!(sample.slot as usize, place, "slots in order, over all ranks");
                    seen[sample.index as usize] += 1;
                }
            }
            prop_assert!(seen.iter().all(|&times| times == 1), "{:?}", seen);
        }

        #[test]
        fn a_step_is_the_same_for_any_microbatch_and_number_of_workers(
            seed: u64, epoch: u32, samples in 1_u64..600, batch in 1_u32..90,
            sizes in (1_u32..40, 1_u32..40), worlds in (1_u32..12, 1_u32..12),
        ) {
            let one = Sampler::new(seed, samples, batch, sizes.0);
            let other = Sampler::new(seed, samples, batch, sizes.1);
            for step in 0..one.steps_per_epoch() {
                prop_assert_eq!(
                    step_of(&one, epoch, step, worlds.0),
                    step_of(&other, epoch, step, worlds.1)
                );
            }
        }

        #[test]
        fn all_steps_but_the_last_are_full_and_none_is_empty(
            samples: u64, batch in 1_u32.., microbatch in 1_u32..,
        ) {
            let samples = samples % (u64::from(batch) * 1_000_000);
            let sampler = Sampler::new(0, samples, batch, microbatch);
            let steps = sampler.steps_per_epoch();
            if let Some(last) = steps.checked_sub(1) {
                let full = u64::from(last) * u64::from(batch);
                prop_assert_eq!(full + u64::from(sampler.batch_size(last)), samples);
                prop_assert!(sampler.batch_size(last) > 0);
                prop_assert!(last == 0 || sampler.batch_size(last - 1) == batch);
            }
            prop_assert_eq!(sampler.batch_size(steps), 0);
            prop_assert_eq!(sampler.microbatches(steps), 0);
            prop_assert!(sampler.microbatch(0, steps, 0).is_empty());
        }

        #[test]
        fn shares_partition_the_microbatches_evenly(v: u32, world in 1_u32..300) {
            let mut next = 0;
            for rank in 0..world {
                let share = Sampler::share(v, rank, world);
                prop_assert_eq!(share.start, next);
                prop_assert!((v / world..=v.div_ceil(world)).contains(&(share.end - share.start)));
                next = share.end;
            }
            prop_assert_eq!(next, v);
            prop_assert!(Sampler::share(v, world, world).is_empty());
        }

        #[test]
        fn evaluation_sees_every_sample_once_in_order(
            samples in 0_u64..600, microbatch in 1_u32..40, world in 1_u32..12,
        ) {
            let grid = EvaluationGrid::new(samples, microbatch);
            let seen: Vec<u64> = (0..world)
                .flat_map(|rank| Sampler::share(grid.microbatches(), rank, world))
                .flat_map(|index| grid.microbatch(index))
                .map(|sample| sample.index)
                .collect();
            prop_assert_eq!(seen, (0..samples).collect::<Vec<_>>());
            prop_assert!(grid.microbatch(grid.microbatches()).is_empty());
        }
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let order = |seed, epoch| {
            Sampler::new(seed, 100, 100, 100)
                .microbatch(epoch, 0, 0)
                .iter()
                .map(|sample| sample.index)
                .collect::<Vec<_>>()
        };
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }

    #[test]
    fn imagenet_at_batch_128_has_10010_steps_the_last_of_15() {
        let sampler = Sampler::new(0, 1_281_167, 128, 32);
        assert_eq!(sampler.steps_per_epoch(), 10_010);
        assert_eq!(sampler.batch_size(10_008), 128);
        assert_eq!((sampler.batch_size(10_009), sampler.microbatches(10_009)), (15, 1));
    }

    #[test]
    fn impossible_sizes_do_no_harm() {
        let sampler = Sampler::new(0, 5, 0, 0);
        assert_eq!((sampler.steps_per_epoch(), sampler.batch_size(4)), (5, 1));
        assert_eq!(Sampler::new(0, u64::MAX, 1, 1).steps_per_epoch(), u32::MAX);
        assert_eq!(Sampler::share(5, 0, 0), 0..5);
        assert!(sampler.microbatch(0, 0, u32::MAX).is_empty());
    }
}
