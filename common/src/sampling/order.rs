//! The order in which an epoch uses the samples of a split.
//!
//! ```text
//!  full     any place may hold any sample: one permutation of the split
//!
//!  window   shards, in random order     s7 s2 s9 | s0 s4 s8 | s3 s1 s6 s5
//!           groups of them              \_______/  \______/  \_________/
//!           samples of a group          permuted   permuted   permuted
//! ```
//!
//! Where a sample can be had at the same price wherever it lies, `full` is the best there is. Where
//! whole shards have to be fetched, it would need all of them at once; `window` needs those of one
//! group, and of the next one towards the end of it. The shards of a group are drawn anew in each
//! epoch, so that over the epochs every sample meets every other one.
//!
//! Groups are as even as they can be: ceil(shards / window) of them, whose numbers of shards differ
//! by one at most. Otherwise the last one might be a single shard, whose samples would follow each
//! other.
//!
//! At ImageNet's size, with 400 shards of uneven sizes and a window of 16, tests hold `window` to
//! this: samples are moved by at least 0.9 of the mean distance of a full shuffle (n / 3), fewer than
//! 1.25 / 16 of neighbours are of one shard, and no more than 32 shards are open at once, by all ranks
//! together and with what they read ahead.
//!
//! Both are pure functions of (seed, epoch, place), and of the sizes of the shards. A table of the
//! shards, made once for each epoch, is all that `window` remembers.

use super::permutation::{Domain, Permutation};

/// What an order is made of: nothing, or the shards of the split.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'a> {
    Full,
    Window {
        /// The first sample of each shard, ascending from 0, all below the number of samples.
        starts: &'a [u64],
        /// Shards that are open at once; at least 1.
        window: u32,
    },
}

/// The order of one epoch: which sample stands at which place.
#[derive(Clone, Debug)]
pub struct EpochOrder {
    epoch: u32,
    kind: Table,
}

#[derive(Clone, Debug)]
enum Table {
    Full(Permutation),
    Window {
        seed: u64,
        samples: u64,
        /// In the epoch's order.
        shards: Box<[Shard]>,
        groups: usize,
    },
}

/// One shard in the epoch's order.
#[derive(Clone, Copy, Debug)]
struct Shard {
    number: u32,
    /// Its first sample, in the split.
    first: u64,
    /// Samples of the shards before it in the epoch's order.
    before: u64,
}

impl EpochOrder {
    pub(super) fn new(seed: u64, epoch: u32, samples: u64, kind: Kind<'_>) -> Self {
        let kind = match kind {
            Kind::Full => Table::Full(Permutation::new(seed, epoch, samples)),
            Kind::Window { starts, window } => Table::Window {
                seed,
                samples,
                shards: shuffled(seed, epoch, samples, starts),
                groups: starts.len().div_ceil(window.max(1) as usize),
            },
        };
        Self { epoch, kind }
    }

    /// The epoch whose order it is.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The samples at these places, which are looked up together because they are often of one
    /// group; nothing beyond the last place.
    pub fn samples(&self, places: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
        let mut group: Option<Group<'_>> = None;
        places.map_while(move |place| match &self.kind {
            Table::Full(permutation) => (place < permutation.len()).then(|| permutation.at(place)),
            Table::Window { .. } => {
                if group.as_ref().is_none_or(|group| !group.holds(place)) {
                    group = self.group_at(place);
                }
                group.as_ref().map(|group| group.sample(place))
            }
        })
    }

    /// The shards whose samples stand at this place or behind it, each before any that is needed
    /// later; with a full order all of `shards`.
    pub(super) fn shards_from(&self, place: u64, shards: usize) -> Vec<usize> {
        match &self.kind {
            Table::Full(permutation) if place < permutation.len() => (0..shards).collect(),
            Table::Full(_) => Vec::new(),
            Table::Window { shards, .. } => self.group_at(place).map_or_else(Vec::new, |group| {
                shards[group.bounds.start..].iter().map(|shard| shard.number as usize).collect()
            }),
        }
    }

    /// The group that holds a place; none beyond the last, and none in a full order.
    fn group_at(&self, place: u64) -> Option<Group<'_>> {
        let Table::Window { seed, samples, shards, groups } = &self.kind else { return None };
        if place >= *samples {
            return None;
        }
        let start = |group: usize| group * shards.len() / groups;
        // The first group begins at 0, so at least one does not begin behind the place.
        let (mut low, mut high) = (0, *groups);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if shards[start(middle)].before <= place { low = middle } else { high = middle }
        }
        let bounds = start(low)..start(low + 1);
        let begin = shards[bounds.start].before;
        let end = shards.get(bounds.end).map_or(*samples, |shard| shard.before);
        let domain = Domain::Group(low as u32);
        Some(Group {
            shards: &shards[bounds.clone()],
            bounds,
            begin,
            end,
            order: Permutation::of(*seed, self.epoch, end - begin, domain),
        })
    }
}

/// Shards that are open at once, and the order of their samples.
struct Group<'a> {
    shards: &'a [Shard],
    bounds: std::ops::Range<usize>,
    begin: u64,
    end: u64,
    order: Permutation,
}

impl Group<'_> {
    fn holds(&self, place: u64) -> bool {
        (self.begin..self.end).contains(&place)
    }

    /// The sample at a place that the group holds.
    fn sample(&self, place: u64) -> u64 {
        let drawn = self.begin + self.order.at(place - self.begin);
        let after = self.shards.partition_point(|shard| shard.before <= drawn);
        let shard = self.shards[after - 1];
        shard.first + (drawn - shard.before)
    }
}

fn shuffled(seed: u64, epoch: u32, samples: u64, starts: &[u64]) -> Box<[Shard]> {
    let order = Permutation::of(seed, epoch, starts.len() as u64, Domain::Shards);
    let mut before = 0;
    (0..starts.len() as u64)
        .map(|place| {
            let number = order.at(place) as usize;
            let first = starts[number];
            let end = starts.get(number + 1).copied().unwrap_or(samples);
            let shard = Shard { number: number as u32, first, before };
            before += end - first;
            shard
        })
        .collect()
}
