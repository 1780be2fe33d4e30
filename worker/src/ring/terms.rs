//! The canonical sum: what it is, and the terms of it that one rank has.
//!
//! The sum of V microbatch gradients is a left fold over blocks of k microbatches, each block a left
//! fold over its microbatches, both starting at +0. Blocks are cut by the microbatches' numbers in
//! the step alone, so V and k decide the bits and the number of ranks does not.
//!
//! ```text
//!  V = 7, k = 3    ((g0 + g1 + g2) + (g3 + g4 + g5)) + (g6)
//!  rank 0 of 2     g0 g1 g2            -> sum of the blocks that are complete
//!  rank 1 of 2     g3 g4 g5, g6
//!  rank 0 of 3     g0 g1               -> the open block g0 + g1
//!  rank 1 of 3     g2 g3               -> the sum so far and the open block g3
//! ```
//!
//! Floating-point addition is not associative, so a rank that continues a block cannot add up its
//! own microbatches first: it keeps each of them until what comes before arrives. What begins with a
//! block of its own it folds at once.
//!
//! Where a zero's sign could differ it does not matter: a sum that starts at +0 never becomes -0,
//! and a block's zero of either sign, added to such a sum, changes nothing.

use std::collections::BTreeMap;
use std::ops::Range;

/// The order of a canonical sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Microbatches of the step, over all ranks.
    pub microbatches: u32,
    /// Microbatches of one block.
    pub block: u32,
}

/// What has to travel at a boundary between two microbatches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// The sum of all blocks so far; none is open.
    Sum,
    /// The first block, which is open.
    Open,
    /// The sum of all complete blocks, and the open one.
    Both,
}

impl Order {
    /// What travels before microbatch `next`.
    pub(crate) fn carried(self, next: u32) -> Carried {
        let block = self.block.max(1);
        if next.is_multiple_of(block) || next >= self.microbatches {
            Carried::Sum
        } else if next < block {
            Carried::Open
        } else {
            Carried::Both
        }
    }

    fn opens(self, number: u32) -> bool {
        number.is_multiple_of(self.block.max(1))
    }

    fn closes(self, number: u32) -> bool {
        number + 1 >= self.microbatches || self.opens(number + 1)
    }
}

impl Carried {
    /// Numbers that travel for one element.
    pub(crate) fn streams(self) -> u32 {
        if self == Self::Both { 2 } else { 1 }
    }
}

/// A run of microbatches within one block, folded as far as that is exact.
#[derive(Debug)]
struct Piece {
    data: Vec<f32>,
    /// It begins its block; otherwise it is one microbatch that continues a block.
    opens: bool,
    /// It ends its block.
    closes: bool,
}

/// One rank's terms of a canonical sum.
#[derive(Debug)]
pub struct Terms {
    order: Order,
    share: Range<u32>,
    /// What the first microbatch is called by who adds it.
    first: u32,
    elements: usize,
    next: u32,
    received: usize,
    early: BTreeMap<u32, Vec<f32>>,
    pieces: Vec<Piece>,
}

impl Terms {
    /// The terms of the rank that has the microbatches `share`, each of `elements` numbers.
    pub fn new(order: Order, share: Range<u32>, elements: usize) -> Self {
        let (first, next) = (share.start, share.start);
        let (early, pieces) = (BTreeMap::new(), Vec::new());
        Self { order, share, first, elements, next, received: 0, early, pieces }
    }

    /// The terms of a sum over the microbatches `share` alone, whoever has others.
    pub fn apart(share: Range<u32>, elements: usize) -> Self {
        let microbatches = share.end.saturating_sub(share.start);
        let order = Order { microbatches, block: 1 };
        Self { first: share.start, ..Self::new(order, 0..microbatches, elements) }
    }

    /// Takes in microbatch `number` of the share; they may come in any order, each once.
    pub fn add(&mut self, number: u32, gradient: Vec<f32>) {
        debug_assert_eq!(gradient.len(), self.elements);
        self.early.insert(number - self.first + self.share.start, gradient);
        self.received += 1;
        while let Some(gradient) = self.early.remove(&self.next) {
            self.append(self.next, gradient);
            self.next += 1;
        }
    }

    /// How many have come.
    pub fn received(&self) -> usize {
        self.received
    }

    pub(crate) fn order(&self) -> Order {
        self.order
    }

    pub(crate) fn share(&self) -> &Range<u32> {
        &self.share
    }

    pub(crate) fn elements(&self) -> usize {
        self.elements
    }

    /// Whether every microbatch of the share is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.next >= self.share.end
    }

    fn append(&mut self, number: u32, data: Vec<f32>) {
        let (opens, closes) = (self.order.opens(number), self.order.closes(number));
        match self.pieces.last_mut() {
            // A block that began here goes on.
            Some(last) if !opens && last.opens && !last.closes => {
                add(&mut last.data, &data);
                last.closes = closes;
            }
            _ => self.pieces.push(Piece { data, opens, closes }),
        }
        // Nothing comes before the first microbatch, so its rank can fold its blocks, too.
        if self.share.start == 0
            && let [.., sum, block] = self.pieces.as_mut_slice()
            && block.closes
        {
            add(&mut sum.data, &block.data);
            self.pieces.pop();
        }
    }

    /// Continues the sum and the open block over some elements with this rank's terms.
    pub(crate) fn fold_into(&self, range: Range<usize>, sum: &mut [f32], open: &mut [f32]) {
        for piece in &self.pieces {
            let data = &piece.data[range.clone()];
            match (piece.opens, piece.closes) {
                (true, true) => add(sum, data),
                (true, false) => open.copy_from_slice(data),
                (false, closes) => {
                    add(open, data);
                    if closes {
                        add(sum, open);
                    }
                }
            }
        }
    }

    /// The sum over all microbatches, where this rank has all of them.
    pub fn into_sum(mut self) -> Vec<f32> {
        // The usual case needs no other memory; adding +0 is what the fold begins with.
        if let [Piece { opens: true, closes: true, data }] = self.pieces.as_mut_slice() {
            let mut sum = std::mem::take(data);
            sum.iter_mut().for_each(|value| *value += 0.0);
            return sum;
        }
        let (mut sum, mut open) = (vec![0.0; self.elements], vec![0.0; self.elements]);
        self.fold_into(0..self.elements, &mut sum, &mut open);
        sum
    }
}

fn add(into: &mut [f32], terms: &[f32]) {
    for (sum, term) in into.iter_mut().zip(terms) {
        *sum += term;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use convoy_common::sampling::Sampler;
    use proptest::prelude::*;

    use super::*;

    /// The definition, written down without any thought of ranks.
    pub(in crate::ring) fn definition(gradients: &[Vec<f32>], block: u32) -> Vec<f32> {
        let elements = gradients.first().map_or(0, Vec::len);
        let mut sum = vec![0.0; elements];
        for block in gradients.chunks(block as usize) {
            let mut of_block = vec![0.0; elements];
            for gradient in block {
                add(&mut of_block, gradient);
            }
            add(&mut sum, &of_block);
        }
        sum
    }

    /// Numbers of very different size, so that any other order shows; zeros of both signs, too.
    pub(in crate::ring) fn gradient(number: u32, elements: usize) -> Vec<f32> {
        (0..elements as u32)
            .map(|i| {
                let mixed = (i ^ number.rotate_left(20)).wrapping_mul(0x9e37_79b9).rotate_left(13);
                let mixed = mixed.wrapping_mul(0x85eb_ca6b) ^ number;
                match mixed % 11 {
                    0 => 0.0,
                    1 => -0.0,
                    _ => (mixed as f32 / u32::MAX as f32 - 0.5) * 10f32.powi(mixed as i32 % 7),
                }
            })
            .collect()
    }

    pub(in crate::ring) fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|it| it.to_bits()).collect()
    }

    pub(in crate::ring) fn terms(order: Order, rank: u32, world: u32, elements: usize) -> Terms {
        let share = Sampler::share(order.microbatches, rank, world);
        let mut terms = Terms::new(order, share.clone(), elements);
        // Lanes finish in any order.
        for number in share.rev() {
            terms.add(number, gradient(number, elements));
        }
        terms
    }

    proptest! {
        #[test]
        fn ranks_that_continue_each_others_sum_come_to_the_definitions_bits(
            microbatches in 1u32..40, block in 1u32..12, world in 1u32..12, elements in 0usize..9,
        ) {
            let order = Order { microbatches, block };
            let gradients: Vec<_> = (0..microbatches).map(|it| gradient(it, elements)).collect();
            let (mut sum, mut open) = (vec![0.0; elements], vec![f32::NAN; elements]);
            for rank in 0..world {
                let terms = terms(order, rank, world, elements);
                // What does not travel is lost between ranks.
                match order.carried(terms.share().start) {
                    Carried::Sum => open.fill(f32::NAN),
                    Carried::Open => sum.fill(0.0),
                    Carried::Both => {}
                }
                terms.fold_into(0..elements, &mut sum, &mut open);
            }
            prop_assert_eq!(bits(&sum), bits(&definition(&gradients, block)));
            let alone = terms(order, 0, 1, elements).into_sum();
            prop_assert_eq!(bits(&alone), bits(&sum));
        }
    }

    #[test]
    fn order_matters_to_the_numbers_of_these_tests() {
        let gradients: Vec<_> = (0..8).map(|it| gradient(it, 64)).collect();
        let mut reversed = gradients.clone();
        reversed.reverse();
        let sum = |it: &[Vec<f32>], block| bits(&definition(it, block));
        assert_ne!(sum(&gradients, 1), sum(&reversed, 1));
        assert_ne!(sum(&gradients, 1), sum(&gradients, 3));
    }

    #[test]
    fn only_a_rank_that_continues_a_block_keeps_microbatches_apart() {
        let pieces = |block, rank, world| {
            let order = Order { microbatches: 12, block };
            terms(order, rank, world, 1).pieces.len()
        };
        assert_eq!(pieces(1, 0, 2), 1, "the first rank folds as it goes");
        assert_eq!(pieces(1, 1, 2), 6);
        assert_eq!(pieces(6, 1, 2), 1);
        assert_eq!(pieces(4, 1, 2), 2 + 1, "two that continue, then a block of its own");
    }
}
