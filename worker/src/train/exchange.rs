//! What one rank tells all others in a step, as bytes.
//!
//! ```text
//! control word | statistics of each microbatch | per gathered layer: activations, deltas
//! ```
//!
//! It travels as one block of an all-gather, so every rank holds the same blocks in rank order,
//! which is microbatch order. Integers and floats are little-endian. A block comes from a peer, so
//! reading checks every length; the layers' widths are known to both sides and are not sent.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::boundary::Agreed;
use super::control::Wishes;
use super::head_plan::Widths;
use crate::model::Factors;

const STOP: u8 = 1;
const CHECKPOINT: u8 = 2;
const SLOT_FREE: u8 = 4;
const REGROUP: u8 = 8;
const PAUSE: u8 = 16;
const KEEP: u8 = 32;

/// What a microbatch adds to the step's log line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Statistics {
    /// Sum of the cross-entropy over the samples, nats.
    pub(super) loss: f64,
    /// Samples whose largest logit is the label's.
    pub(super) correct: u32,
    /// Samples.
    pub(super) samples: u32,
    /// Sum of the images' marks, see [`convoy_common::sampling::mark`].
    pub(super) images: u64,
}

/// All ranks' blocks, put together.
#[derive(Debug, PartialEq)]
pub(super) struct Gathered {
    pub(super) agreed: Agreed,
    /// Over the global batch.
    pub(super) total: Statistics,
    /// One per gathered layer; rows in the order of the global batch.
    pub(super) factors: Vec<Factors>,
}

/// A block that is not what this version writes.
#[derive(Debug, thiserror::Error)]
#[error("rank {rank} sent a block of {bytes} bytes that does not hold {what}")]
pub struct BlockError {
    /// Who sent it.
    pub rank: usize,
    /// Its length.
    pub bytes: usize,
    what: &'static str,
}

impl BlockError {
    pub(super) fn new(rank: usize, bytes: usize, what: &'static str) -> Self {
        Self { rank, bytes, what }
    }
}

/// Writes this rank's block. `factors` has the rank's rows of each gathered layer.
pub(super) fn encode(
    wishes: Wishes,
    slot_free: bool,
    statistics: &[Statistics],
    factors: &[Factors],
) -> Bytes {
    let floats: usize = factors.iter().map(|it| it.activations.len() + it.deltas.len()).sum();
    let mut block = BytesMut::with_capacity(9 + 24 * statistics.len() + 4 * floats);
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    block.put_u8(
        flag(wishes.stop, STOP)
            | flag(wishes.checkpoint, CHECKPOINT)
            | flag(slot_free, SLOT_FREE)
            | flag(wishes.regroup, REGROUP)
            | flag(wishes.pause, PAUSE)
            | flag(wishes.keep, KEEP),
    );
    block.put_u32_le(wishes.newest_drop);
    block.put_u32_le(statistics.len() as u32);
    for it in statistics {
        block.put_f64_le(it.loss);
        block.put_u32_le(it.correct);
        block.put_u32_le(it.samples);
        block.put_u64_le(it.images);
    }
    for it in factors {
        for value in it.activations.iter().chain(&it.deltas) {
            block.put_f32_le(*value);
        }
    }
    block.freeze()
}

/// Puts all ranks' blocks together; sums run in microbatch order, whoever sent them.
pub(super) fn decode(blocks: &[Bytes], layers: &[Widths]) -> Result<Gathered, BlockError> {
    let mut agreed =
        Agreed { slots_free: true, keep: true, newest_drop: u32::MAX, ..Agreed::default() };
    let mut total = Statistics::default();
    let mut factors: Vec<Factors> = layers.iter().map(|_| Factors::default()).collect();
    for (rank, block) in blocks.iter().enumerate() {
        let mut reader = Reader { rest: block, rank, bytes: block.len() };
        let flags = reader.array::<1>("a control word")?[0];
        agreed.stop |= flags & STOP != 0;
        agreed.stop_checkpoint |= flags & CHECKPOINT != 0;
        agreed.slots_free &= flags & SLOT_FREE != 0;
        agreed.regroup |= flags & REGROUP != 0;
        agreed.pause |= flags & PAUSE != 0;
        // By all, so that all know alike when the wish is heard.
        agreed.keep &= flags & KEEP != 0;
        let newest_drop = u32::from_le_bytes(reader.array("the newest order")?);
        agreed.newest_drop = agreed.newest_drop.min(newest_drop);
        let microbatches = u32::from_le_bytes(reader.array("a count of microbatches")?);
        let mut rows = 0_usize;
        for _ in 0..microbatches {
            let what = "its statistics";
            total.loss += f64::from_le_bytes(reader.array(what)?);
            total.correct = total.correct.wrapping_add(u32::from_le_bytes(reader.array(what)?));
            let samples = u32::from_le_bytes(reader.array(what)?);
            total.samples = total.samples.wrapping_add(samples);
            let images = u64::from_le_bytes(reader.array(what)?);
            total.images = total.images.wrapping_add(images);
            rows = rows.saturating_add(samples as usize);
        }
        for (gathered, widths) in factors.iter_mut().zip(layers) {
            gathered.rows += rows;
            reader.floats(rows, widths.inputs, &mut gathered.activations)?;
            reader.floats(rows, widths.outputs, &mut gathered.deltas)?;
        }
        if !reader.rest.is_empty() {
            return Err(reader.error("just one step's factors"));
        }
    }
    Ok(Gathered { agreed, total, factors })
}

struct Reader<'a> {
    rest: &'a [u8],
    rank: usize,
    bytes: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], BlockError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.error(what))?;
        self.rest = rest;
        Ok(*head)
    }

    fn floats(&mut self, rows: usize, width: usize, out: &mut Vec<f32>) -> Result<(), BlockError> {
        let what = "the factors of its samples";
        let bytes = rows
            .checked_mul(width)
            .and_then(|n| n.checked_mul(4))
            .ok_or_else(|| self.error(what))?;
        let (head, rest) = self.rest.split_at_checked(bytes).ok_or_else(|| self.error(what))?;
        self.rest = rest;
        let (values, _) = head.as_chunks::<4>();
        out.extend(values.iter().map(|it| f32::from_le_bytes(*it)));
        Ok(())
    }

    fn error(&self, what: &'static str) -> BlockError {
        BlockError { rank: self.rank, bytes: self.bytes, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: [Widths; 2] = [
        Widths { name: "fc6", inputs: 3, outputs: 2 },
        Widths { name: "fc7", inputs: 2, outputs: 1 },
    ];

    fn factors(rows: usize, widths: Widths, start: f32) -> Factors {
        let values = |n: usize, from: f32| (0..n).map(|i| from + i as f32).collect();
        Factors {
            rows,
            activations: values(rows * widths.inputs, start),
            deltas: values(rows * widths.outputs, start + 0.5),
        }
    }

    fn block(samples: u32, start: f32, wishes: Wishes, slot_free: bool) -> Bytes {
        let images = u64::MAX - u64::from(samples);
        let statistics = [Statistics { loss: f64::from(start), correct: 1, samples, images }];
        let factors: Vec<_> = LAYERS.iter().map(|w| factors(samples as usize, *w, start)).collect();
        encode(wishes, slot_free, &statistics, &factors)
    }

    #[test]
    fn blocks_of_unequal_ranks_become_the_rows_of_the_global_batch() {
        let stop =
            Wishes { stop: true, newest_drop: 3, regroup: true, keep: true, ..Wishes::default() };
        let knows_more = Wishes { newest_drop: 4, ..Wishes::default() };
        let blocks = [block(2, 10.0, knows_more, true), block(1, 20.0, stop, false)];
        let gathered = decode(&blocks, &LAYERS).unwrap();
        // The marks wrap round: all but 2 and all but 1 are all but 4.
        let images = u64::MAX - 4;
        assert_eq!(gathered.total, Statistics { loss: 30.0, correct: 2, samples: 3, images });
        assert_eq!(
            gathered.agreed,
            Agreed { stop: true, newest_drop: 3, regroup: true, ..Agreed::default() }
        );
        assert_eq!(gathered.factors[0].rows, 3);
        assert_eq!(
            gathered.factors[0].activations,
            [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 20.0, 21.0, 22.0]
        );
        assert_eq!(gathered.factors[1].deltas, [10.5, 11.5, 20.5]);
    }

    #[test]
    fn a_rank_without_microbatches_adds_nothing() {
        let idle = encode(Wishes::default(), true, &[], &[Factors::default(), Factors::default()]);
        let both = decode(&[block(2, 1.0, Wishes::default(), true), idle], &LAYERS).unwrap();
        assert_eq!(both, decode(&[block(2, 1.0, Wishes::default(), true)], &LAYERS).unwrap());
    }

    #[test]
    fn a_block_cut_anywhere_or_with_a_byte_too_many_is_an_error_that_names_the_rank() {
        let whole = block(2, 1.0, Wishes::default(), true);
        let good = block(1, 2.0, Wishes::default(), true);
        for end in 0..whole.len() {
            let error = decode(&[good.clone(), whole.slice(..end)], &LAYERS).unwrap_err();
            assert_eq!(error.rank, 1);
        }
        let mut long = whole.to_vec();
        long.push(0);
        assert!(decode(&[long.into()], &LAYERS).is_err());
        let mut boast = whole.to_vec();
        boast[5..9].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode(&[boast.into()], &LAYERS).is_err());
    }
}
