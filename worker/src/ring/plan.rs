//! Who sends what to whom, and in which hop: the ring's arithmetic, without data or wires.
//!
//! Every rank sends to the next one (its right neighbour) only.
//!
//! ```text
//! all-reduce of W = 3, segments a b c; what rank r sends in each hop:
//!   hop   rank 0   rank 1   rank 2
//!    0    a0       b1       c2          reduce-scatter: add one's own, pass on
//!    1    c20      a01      b12
//!    2    b120     c201     a012        all-gather: the sums go round
//!    3    a012     b120     c201
//! ```
//!
//! What a rank receives in hop h is what it sends in hop h + 1, so after hop 0 a rank only reacts:
//! each chunk that arrives is added or stored, and goes on. Each sum is made along one path and
//! then copied, so all ranks hold the same bits. A rank sends `2 (W-1)/W` of the data, the least
//! that is possible (Patarasuk and Yuan 2009, section 3).

use std::ops::Range;

/// How many chunks of `chunk` a length is cut into; an empty one is one empty chunk, so that every
/// operation hears from every rank.
pub(crate) fn chunk_count(length: usize, chunk: usize) -> u32 {
    u32::try_from(length.div_ceil(chunk).max(1)).unwrap_or(u32::MAX)
}

/// Where chunk `index` lies in a length; `None` if there is no such chunk.
pub(crate) fn chunk_range(length: usize, chunk: usize, index: u32) -> Option<Range<usize>> {
    if index >= chunk_count(length, chunk) {
        return None;
    }
    let start = (index as usize).checked_mul(chunk)?;
    Some(start..start.saturating_add(chunk).min(length))
}

/// One rank's view of a reduce-scatter followed by an all-gather.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReducePlan {
    pub elements: usize,
    pub world: u32,
    pub rank: u32,
}

impl ReducePlan {
    /// Hops of a chunk from its first rank to its last: `2 (W-1)`.
    pub(crate) fn hops(&self) -> u32 {
        2 * (self.world - 1)
    }

    /// Elements of segment `s` of 0..W: `floor(sN/W) .. floor((s+1)N/W)`.
    pub(crate) fn segment(&self, s: u32) -> Range<usize> {
        let bound = |s: u32| {
            let product = self.elements as u128 * u128::from(s);
            usize::try_from(product / u128::from(self.world)).unwrap_or(usize::MAX)
        };
        bound(s)..bound(s + 1)
    }

    /// The segment that this rank sends in `hop`.
    pub(crate) fn outgoing(&self, hop: u32) -> u32 {
        behind(self.rank, hop, self.world)
    }

    /// The segment that this rank receives in `hop`, and sends in the next.
    pub(crate) fn incoming(&self, hop: u32) -> u32 {
        behind(self.rank, hop + 1, self.world)
    }

    /// Whether what arrives in `hop` is a partial sum to add to; otherwise it is the whole sum.
    pub(crate) fn reduces(&self, hop: u32) -> bool {
        hop + 1 < self.world
    }
}

/// One rank's view of an all-gather of blocks whose sizes only their owners know beforehand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GatherPlan {
    pub world: u32,
    pub rank: u32,
}

impl GatherPlan {
    /// Hops of a block from its owner to the owner's left neighbour: `W-1`.
    pub(crate) fn hops(&self) -> u32 {
        self.world - 1
    }

    /// The owner of the block that this rank receives in `hop`; in hop 0 it sends its own.
    pub(crate) fn incoming(&self, hop: u32) -> u32 {
        behind(self.rank, hop + 1, self.world)
    }
}

/// The rank `hops` places to the left of `rank`.
fn behind(rank: u32, hops: u32, world: u32) -> u32 {
    (rank + world - hops % world) % world
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_cover_a_length_without_gap_or_overlap(length in 0usize..5000, chunk in 1usize..700) {
            let mut at = 0;
            for index in 0..chunk_count(length, chunk) {
                let range = chunk_range(length, chunk, index).unwrap();
                prop_assert_eq!(range.start, at);
                prop_assert!(range.len() <= chunk && range.end <= length);
                at = range.end;
            }
            prop_assert_eq!(at, length);
            prop_assert!(chunk_range(length, chunk, chunk_count(length, chunk)).is_none());
        }

        #[test]
        fn segments_cover_the_elements_and_differ_by_one_at_most(elements in 0usize..5000, world in 1u32..20) {
            let plan = ReducePlan { elements, world, rank: 0 };
            let lengths: Vec<usize> = (0..world).map(|s| plan.segment(s).len()).collect();
            prop_assert_eq!(lengths.iter().sum::<usize>(), elements);
            prop_assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1);
            prop_assert!((1..world).all(|s| plan.segment(s - 1).end == plan.segment(s).start));
        }

        #[test]
        fn every_rank_ends_with_each_contribution_exactly_once(world in 2u32..12) {
            let plans: Vec<_> = (0..world).map(|rank| ReducePlan { elements: 1, world, rank }).collect();
            let n = world as usize;
            // holds[rank][segment][contributor]: how often the contribution is in the value held.
            let mut holds: Vec<Vec<Vec<u32>>> = (0..n)
                .map(|rank| vec![(0..n).map(|it| u32::from(it == rank)).collect(); n])
                .collect();
            for hop in 0..plans[0].hops() {
                let before = holds.clone();
                for (rank, plan) in plans.iter().enumerate() {
                    let left = (rank + n - 1) % n;
                    let segment = plan.incoming(hop) as usize;
                    prop_assert_eq!(plans[left].outgoing(hop) as usize, segment);
                    prop_assert_eq!(plan.outgoing(hop + 1) as usize, segment);
                    for who in 0..n {
                        let own = if plan.reduces(hop) { before[rank][segment][who] } else { 0 };
                        holds[rank][segment][who] = own + before[left][segment][who];
                    }
                }
            }
            prop_assert!(holds.iter().flatten().flatten().all(|&times| times == 1));
        }

        #[test]
        fn every_rank_receives_each_other_block_once(world in 1u32..20, rank in 0u32..20) {
            let plan = GatherPlan { world, rank: rank % world };
            let mut owners: Vec<u32> = (0..plan.hops()).map(|hop| plan.incoming(hop)).collect();
            owners.push(plan.rank);
            owners.sort_unstable();
            prop_assert_eq!(owners, (0..world).collect::<Vec<_>>());
        }
    }
}
