//! Which samples a rank works on: derived, never sent.
//!
//! ```text
//!   epoch     a permutation of 0..samples, new for each epoch ([`EpochOrder`])
//!   step      the next B places of it: the global batch (the epoch's last is short)
//!   slot      a place in the global batch, 0..B
//!   microbatch  m slots in a row; V = ceil(B / m) of them, the last may be short
//!   rank      microbatches floor(r V / W) .. floor((r + 1) V / W)
//! ```
//!
//! The grid down to the microbatch knows nothing of workers: only [`Sampler::share`] does, and it
//! deals out whole microbatches. So the work of a step is the same for any number of workers, and
//! every sample is used exactly once in an epoch, whoever does it.

mod order;
mod permutation;

use std::ops::Range;
use std::sync::Arc;

pub use order::EpochOrder;
pub use permutation::Permutation;

use crate::config::{RunConfig, Shuffle};
use crate::random::mix;
use order::Kind;

/// One sample's place in a split and in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleRef {
    /// In the split; what is random about a sample is keyed by it.
    pub index: u64,
    /// In the global batch, 0..B, whatever rank holds it.
    pub slot: u32,
}

/// The order of samples in training: a pure function of (seed, split size, batch, microbatch), and
/// of the shards where they are shuffled within a window. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampler {
    seed: u64,
    samples: u64,
    batch: u32,
    microbatch: u32,
    /// The first sample of each shard: ascending from 0, all below `samples`.
    starts: Arc<[u64]>,
    /// Shards open at once; none: the order is full.
    window: Option<u32>,
}

impl Sampler {
    /// For a split of `samples`, global batches of `batch` and microbatches of `microbatch`
    /// samples, in full order. The last two are at least 1 in a valid config; 0 is taken as 1.
    pub fn new(seed: u64, samples: u64, batch: u32, microbatch: u32) -> Self {
        let starts = starts(samples, &[]);
        let (batch, microbatch) = (batch.max(1), microbatch.max(1));
        Self { seed, samples, batch, microbatch, starts, window: None }
    }

    /// That of a run, whose training split has `samples` samples in shards that begin with these.
    ///
    /// [`Shuffle::Auto`], which no run record says, is taken as [`Shuffle::Full`].
    pub fn of(config: &RunConfig, samples: u64, shard_starts: &[u64]) -> Self {
        let (batch, microbatch) = (config.train.batch, config.numerics.microbatch);
        let full = Self::new(config.run.seed, samples, batch, microbatch).in_shards(shard_starts);
        match config.data.shuffle {
            Shuffle::Auto | Shuffle::Full => full,
            Shuffle::Window => full.with_window(config.data.shuffle_window),
        }
    }

    /// With shards that begin with these samples, as [`crate::dataset::Dataset::shard_starts`] says
    /// them; what is not ascending from 0 or lies beyond the last sample is no start.
    #[must_use]
    pub fn in_shards(self, shard_starts: &[u64]) -> Self {
        Self { starts: starts(self.samples, shard_starts), ..self }
    }

    /// With so many shards open at once instead of a full order; 0 is taken as 1.
    #[must_use]
    pub fn with_window(self, shards: u32) -> Self {
        Self { window: Some(shards.max(1)), ..self }
    }

    /// The order of one epoch. With a window it holds a table of the shards, so whoever asks for
    /// many microbatches keeps it.
    pub fn epoch(&self, epoch: u32) -> EpochOrder {
        let kind = match self.window {
            None => Kind::Full,
            Some(window) => Kind::Window { starts: &self.starts, window },
        };
        EpochOrder::new(self.seed, epoch, self.samples, kind)
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
        self.microbatch_in(&self.epoch(epoch), step, index)
    }

    /// The same in an epoch's order that [`Self::epoch`] gave.
    pub fn microbatch_in(&self, order: &EpochOrder, step: u32, index: u32) -> Vec<SampleRef> {
        let slots = slots(self.batch_size(step), self.microbatch, index);
        let first = self.first_place(step);
        let places = first + u64::from(slots.start)..first + u64::from(slots.end);
        order.samples(places).zip(slots).map(|(index, slot)| SampleRef { index, slot }).collect()
    }

    /// The shards that training needs from a position on, by their numbers in the split, each before
    /// those that are needed later: the rest of the epoch, then the next one, without end. A shard
    /// that is open at the position comes first. In full order any shard may be needed at any time,
    /// and they come in the order of their numbers.
    pub fn shards_from(
        &self,
        epoch: u32,
        step: u32,
    ) -> impl Iterator<Item = usize> + Send + 'static {
        let (sampler, place) = (self.clone(), self.first_place(step));
        // Without samples there would be no end of epochs that need nothing.
        let epochs = (epoch..=u32::MAX).take_while({
            let some = self.samples > 0;
            move |_| some
        });
        epochs.flat_map(move |at| {
            let place = if at == epoch { place } else { 0 };
            sampler.epoch(at).shards_from(place, sampler.starts.len())
        })
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

/// A number that stands for the use of one image of the training split in one step.
///
/// The sum of a step's marks (wrapping) tells which images it was fed, whoever adds them up in which
/// order: another set, or one image twice, has the same sum with a probability of 2^-64.
pub fn mark(epoch: u32, step: u32, index: u64) -> u64 {
    mix(mix(u64::from(epoch) << 32 | u64::from(step)) ^ index)
}

/// The starts that make sense: ascending from 0 and below `samples`.
fn starts(samples: u64, given: &[u64]) -> Arc<[u64]> {
    let mut starts: Vec<u64> = Vec::with_capacity(given.len().max(1));
    if samples > 0 {
        starts.push(0);
    }
    for &start in given {
        if start < samples && starts.last().is_some_and(|&last| last < start) {
            starts.push(start);
        }
    }
    starts.into()
}

/// The slots of microbatch `index` in a batch of `size`.
fn slots(size: u32, microbatch: u32, index: u32) -> Range<u32> {
    let start = index.saturating_mul(microbatch).min(size);
    start..start.saturating_add(microbatch).min(size)
}

#[cfg(test)]
mod tests;
