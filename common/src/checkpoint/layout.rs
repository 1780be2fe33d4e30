//! How the state of training is cut into slices.
//!
//! A slice is a run of rows of one tensor. The cut depends on names and shapes alone, so the same
//! slices come out on any number of workers: only who writes which of them changes. That makes
//! one digest of the whole state comparable between runs of different size, and lets a checkpoint
//! of W workers be read by any other number.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Bytes of a slice, where one row is not larger.
pub const SLICE_BYTES: usize = 4 << 20;

/// Bytes of a number: the state is f32 throughout.
pub(super) const NUMBER: usize = size_of::<f32>();

/// Name and shape of one tensor, f32.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Such as `fc6.weight` or `fc6.weight.momentum`.
    pub name: String,
    /// Row-major; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Rows along the first dimension; a scalar is one row.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.shape.iter().skip(1).fold(NUMBER, |bytes, side| bytes.saturating_mul(*side))
    }
}

/// Some rows of one tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// Index into [`StateLayout::tensors`].
    pub tensor: usize,
    /// Along the first dimension.
    pub rows: Range<usize>,
}

/// The tensors of the state, in a fixed order, and their slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLayout {
    tensors: Vec<TensorSpec>,
    slices: Vec<Slice>,
    /// Byte at which each slice starts in the state as a whole, and the total at the end.
    starts: Vec<u64>,
}

/// How many slices these tensors would be cut into, without cutting them; nothing if their bytes
/// cannot be counted. Shapes come from files, and a list of slices takes memory.
pub(super) fn count_slices(tensors: &[TensorSpec]) -> Option<u64> {
    let (mut slices, mut bytes) = (0_u64, 0_u64);
    for spec in tensors {
        let row = spec.shape.iter().skip(1).try_fold(NUMBER, |row, side| row.checked_mul(*side))?;
        let per_slice = SLICE_BYTES.checked_div(row).unwrap_or(usize::MAX).max(1);
        slices = slices.checked_add(spec.rows().div_ceil(per_slice) as u64)?;
        bytes = bytes.checked_add((spec.rows() as u64).checked_mul(row as u64)?)?;
    }
    Some(slices)
}

impl StateLayout {
    /// Cuts the tensors. Their order is part of the format; names must differ.
    pub fn new(tensors: Vec<TensorSpec>) -> Self {
        let mut slices = Vec::new();
        let mut starts = vec![0_u64];
        for (tensor, spec) in tensors.iter().enumerate() {
            let per_slice = SLICE_BYTES.checked_div(spec.row_bytes()).unwrap_or(usize::MAX).max(1);
            let mut first = 0;
            while first < spec.rows() {
                let rows = first..first.saturating_add(per_slice).min(spec.rows());
                first = rows.end;
                let bytes = rows.len().saturating_mul(spec.row_bytes()) as u64;
                starts.push(starts[starts.len() - 1].saturating_add(bytes));
                slices.push(Slice { tensor, rows });
            }
        }
        Self { tensors, slices, starts }
    }

    /// In the order given.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// In order of tensor, then row.
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    /// Bytes of the whole state.
    pub fn bytes(&self) -> u64 {
        self.starts[self.slices.len()]
    }

    /// Bytes of one slice.
    pub fn slice_bytes(&self, slice: &Slice) -> usize {
        slice.rows.len() * self.tensors[slice.tensor].row_bytes()
    }

    /// Shape of one slice: its tensor's, with its own number of rows.
    pub fn slice_shape(&self, slice: &Slice) -> Vec<usize> {
        let mut shape = self.tensors[slice.tensor].shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = slice.rows.len();
        }
        shape
    }

    /// Name of one slice in a part: tensor and first row, such as `fc6.weight/0000512`.
    pub fn slice_name(&self, slice: &Slice) -> String {
        format!("{}/{:07}", self.tensors[slice.tensor].name, slice.rows.start)
    }

    /// The slices (as a range of indices) that `rank` of `world` writes: contiguous, all covered
    /// once over the ranks, and equal in bytes up to one slice.
    pub fn share(&self, rank: u32, world: u32) -> Range<usize> {
        self.boundary(rank, world)..self.boundary(rank + 1, world)
    }

    /// The first slice that starts at or after the fraction `rank / world` of all bytes.
    fn boundary(&self, rank: u32, world: u32) -> usize {
        if rank >= world {
            return self.slices.len();
        }
        let goal = u128::from(self.bytes()) * u128::from(rank);
        self.starts[..self.slices.len()]
            .partition_point(|start| u128::from(*start) * u128::from(world) < goal)
    }
}

/// Digest of the whole state: blake3 over tensor name, first row, rows and blake3 of every slice
/// in the layout's order, as hexadecimal digits. It does not depend on who wrote which slice.
///
/// `hashes` are those of the slices' little-endian bytes, one for each of
/// [`StateLayout::slices`].
pub fn state_digest<H: AsRef<str>>(layout: &StateLayout, hashes: &[H]) -> String {
    debug_assert_eq!(layout.slices().len(), hashes.len());
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"convoy state 1\n");
    for (slice, hash) in layout.slices().iter().zip(hashes) {
        let name = &layout.tensors()[slice.tensor].name;
        let line = format!("{name}\n{} {} {}\n", slice.rows.start, slice.rows.len(), hash.as_ref());
        hasher.update(line.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(shapes: &[&[usize]]) -> StateLayout {
        StateLayout::new(
            shapes
                .iter()
                .enumerate()
                .map(|(i, shape)| TensorSpec { name: format!("t{i}"), shape: shape.to_vec() })
                .collect(),
        )
    }

    #[test]
    fn a_slice_holds_as_many_whole_rows_as_fit() {
        let fc6 = layout(&[&[4096, 9216]]);
        assert_eq!(fc6.slices()[0].rows, 0..113);
        assert!(fc6.slices().iter().all(|slice| fc6.slice_bytes(slice) <= SLICE_BYTES));
        assert_eq!(fc6.slice_name(&fc6.slices()[1]), "t0/0000113");
        assert_eq!(fc6.slice_shape(&fc6.slices()[1]), [113, 9216]);
    }

    #[test]
    fn a_row_larger_than_a_slice_is_a_slice() {
        let wide = layout(&[&[3, 2 << 20]]);
        assert_eq!(wide.slices().len(), 3);
    }

    #[test]
    fn slices_are_counted_without_cutting_whatever_the_shapes() {
        for shapes in [&[&[3, 1 << 20][..], &[], &[0, 5]][..], &[&[300, 4096]], &[]] {
            let layout = layout(shapes);
            assert_eq!(count_slices(layout.tensors()), Some(layout.slices().len() as u64));
        }
        let spec = |shape: &[usize]| TensorSpec { name: "w".to_owned(), shape: shape.to_vec() };
        assert_eq!(count_slices(&[spec(&[usize::MAX, 2])]), None);
        assert_eq!(count_slices(&[spec(&[2, usize::MAX, usize::MAX])]), None);
        assert_eq!(count_slices(&[spec(&[1 << 40, 1 << 20])]), Some(1 << 40));
    }

    #[test]
    fn scalars_and_empty_tensors_have_their_place() {
        let odd = layout(&[&[], &[0, 7], &[5, 0], &[1]]);
        let rows: Vec<_> = odd.slices().iter().map(|it| (it.tensor, it.rows.clone())).collect();
        assert_eq!(rows, [(0, 0..1), (2, 0..5), (3, 0..1)]);
        assert_eq!(odd.bytes(), 8);
    }

    #[test]
    fn the_digest_follows_every_hash_and_their_order() {
        let it = layout(&[&[2 << 20], &[1]]);
        let digest = state_digest(&it, &["a", "b", "c"]);
        assert_ne!(digest, state_digest(&it, &["a", "c", "b"]));
        assert_eq!(digest.len(), 64);
    }

    proptest! {
        #[test]
        fn shares_cover_every_slice_once_and_differ_by_at_most_a_slice(
            rows in proptest::collection::vec(0usize..400, 1..6),
            world in 1u32..12,
        ) {
            let tensors = rows.iter().enumerate().map(|(i, rows)| TensorSpec {
                name: format!("t{i}"),
                shape: vec![*rows, 30_000],
            });
            let layout = StateLayout::new(tensors.collect());
            let mut next = 0;
            let even = layout.bytes() / u64::from(world);
            for rank in 0..world {
                let share = layout.share(rank, world);
                prop_assert_eq!(share.start, next);
                next = share.end;
                let bytes: u64 =
                    layout.slices()[share].iter().map(|it| layout.slice_bytes(it) as u64).sum();
                prop_assert!(bytes.abs_diff(even) <= SLICE_BYTES as u64 + 1);
            }
            prop_assert_eq!(next, layout.slices().len());
        }
    }
}
