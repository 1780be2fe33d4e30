//! One rank's part of a checkpoint: a safetensors file whose tensors are slices of the state.
//!
//! ```text
//! part-<term>-<rank>of<world>-<16 digits of its hash>.safetensors
//! ```
//!
//! The name carries the term, so that a sweep can tell its own from others', and the hash, so that
//! a second attempt at the same step (a later generation of the same term) never replaces bytes
//! that a manifest already vouches for.
//!
//! The file is made of a header and the caller's own buffers; nothing of the state is copied.

use std::ops::Range;

use bytes::Bytes;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};

use super::layout::{Slice, StateLayout};
use crate::ids::Term;

/// What a manifest says of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartEntry {
    /// File name beside the manifest.
    pub name: String,
    /// Of the file, in bytes.
    pub size: u64,
    /// Of the file.
    pub blake3: String,
    /// In order of the file.
    pub slices: Vec<SliceEntry>,
}

/// What a manifest says of one slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceEntry {
    /// The tensor's name.
    pub tensor: String,
    /// Along the first dimension.
    pub first_row: usize,
    /// How many.
    pub rows: usize,
    /// Of the slice's little-endian bytes.
    pub blake3: String,
}

/// A part, ready to be uploaded.
#[derive(Clone, Debug)]
pub struct EncodedPart {
    /// For the manifest.
    pub entry: PartEntry,
    /// The file: its header, then the slices' own buffers.
    pub chunks: Vec<Bytes>,
}

/// The data handed to [`encode_part`] do not fit the layout.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// Another number of buffers than slices.
    #[error("{found} buffers for {expected} slices")]
    Buffers {
        /// Slices of the range.
        expected: usize,
        /// Buffers given.
        found: usize,
    },
    /// A buffer of another size than its slice.
    #[error("slice {slice} has {expected} bytes, its buffer {found}")]
    Size {
        /// Its name.
        slice: String,
        /// By the layout.
        expected: usize,
        /// As given.
        found: usize,
    },
    /// The slices of the range lie outside the layout, or two tensors share a name.
    #[error("the slices cannot be laid out: {0}")]
    Layout(String),
}

/// Hashes the slices `range` of the layout and puts a header before them.
///
/// `data` holds one buffer for each slice of the range, little-endian f32. Hashes every byte
/// twice (the slice, the file): for hundreds of megabytes that is a good part of a second, so it
/// belongs on a thread of its own and never on an async one.
///
/// # Errors
/// [`PartError`] when data and layout do not agree.
pub fn encode_part(
    layout: &StateLayout,
    term: Term,
    rank: u32,
    world: u32,
    range: Range<usize>,
    data: &[Bytes],
) -> Result<EncodedPart, PartError> {
    let slices = layout
        .slices()
        .get(range.clone())
        .ok_or_else(|| PartError::Layout(format!("there are no slices {range:?}")))?;
    if slices.len() != data.len() {
        return Err(PartError::Buffers { expected: slices.len(), found: data.len() });
    }
    for (slice, bytes) in slices.iter().zip(data) {
        let expected = layout.slice_bytes(slice);
        if expected != bytes.len() {
            let slice = layout.slice_name(slice);
            return Err(PartError::Size { slice, expected, found: bytes.len() });
        }
    }
    let header = header(layout, slices)?;

    let mut file = blake3::Hasher::new();
    file.update(&header);
    let mut size = header.len() as u64;
    let mut entries = Vec::with_capacity(slices.len());
    for (slice, bytes) in slices.iter().zip(data) {
        // One after the other, so that the second hash finds the bytes in the cache.
        let blake3 = blake3::hash(bytes).to_hex().to_string();
        file.update(bytes);
        size += bytes.len() as u64;
        entries.push(SliceEntry {
            tensor: layout.tensors()[slice.tensor].name.clone(),
            first_row: slice.rows.start,
            rows: slice.rows.len(),
            blake3,
        });
    }
    let blake3 = file.finalize().to_hex().to_string();
    let name = format!("part-{term}-{rank}of{world}-{}.safetensors", &blake3[..16]);
    let chunks = std::iter::once(header).chain(data.iter().cloned()).collect();
    Ok(EncodedPart { entry: PartEntry { name, size, blake3, slices: entries }, chunks })
}

/// Hash of one slice's bytes, as manifests and [`super::state_digest`] have it.
pub fn slice_hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The term that wrote a part, from its name; none for any other file.
pub(super) fn term_of(name: &str) -> Option<Term> {
    let rest = name.strip_prefix("part-")?.strip_suffix(".safetensors")?;
    rest.split('-').next()?.parse().ok().map(Term)
}

/// The length of the header in 8 bytes, then the header padded to a multiple of 8.
fn header(layout: &StateLayout, slices: &[Slice]) -> Result<Bytes, PartError> {
    let mut end = 0;
    let infos = slices.iter().map(|slice| {
        let start = end;
        end += layout.slice_bytes(slice);
        let shape = layout.slice_shape(slice);
        let info = TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) };
        (layout.slice_name(slice), info)
    });
    let wrong = |error: &dyn std::fmt::Display| PartError::Layout(error.to_string());
    let metadata = Metadata::new(None, infos.collect()).map_err(|error| wrong(&error))?;
    let mut text = serde_json::to_vec(&metadata).map_err(|error| wrong(&error))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    Ok(header.into())
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::super::layout::TensorSpec;
    use super::*;

    fn layout() -> StateLayout {
        let spec = |name: &str, shape: &[usize]| TensorSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
        };
        StateLayout::new(vec![spec("fc.weight", &[700, 4096]), spec("fc.bias", &[700])])
    }

    fn data(layout: &StateLayout, range: Range<usize>) -> Vec<Bytes> {
        layout.slices()[range]
            .iter()
            .map(|slice| vec![slice.rows.start as u8; layout.slice_bytes(slice)].into())
            .collect()
    }

    #[test]
    fn another_reader_of_the_format_finds_every_slice() {
        let layout = layout();
        let part = encode_part(&layout, Term(3), 0, 1, 0..4, &data(&layout, 0..4)).unwrap();
        let file = part.chunks.concat();
        assert_eq!(file.len() as u64, part.entry.size);
        assert_eq!(blake3::hash(&file).to_hex().as_str(), part.entry.blake3);
        let read = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.len(), 4);
        let slice = read.tensor("fc.weight/0000256").unwrap();
        assert_eq!(slice.shape(), [256, 4096]);
        assert_eq!(slice_hash(slice.data()), part.entry.slices[1].blake3);
    }

    #[test]
    fn the_name_tells_the_term() {
        let layout = layout();
        let part = encode_part(&layout, Term(12), 1, 2, 2..4, &data(&layout, 2..4)).unwrap();
        assert!(part.entry.name.starts_with("part-12-1of2-"));
        assert_eq!(term_of(&part.entry.name), Some(Term(12)));
        assert_eq!(term_of("manifest.json"), None);
        assert_eq!(term_of("part-x-0of1.safetensors"), None);
    }

    #[test]
    fn data_that_do_not_fit_the_layout_are_refused() {
        let layout = layout();
        let mut wrong = data(&layout, 0..4);
        assert!(matches!(
            encode_part(&layout, Term(1), 0, 1, 0..3, &wrong),
            Err(PartError::Buffers { expected: 3, found: 4 })
        ));
        wrong[3] = Bytes::from_static(b"1234");
        assert!(matches!(
            encode_part(&layout, Term(1), 0, 1, 0..4, &wrong),
            Err(PartError::Size { expected: 2800, found: 4, .. })
        ));
        assert!(matches!(
            encode_part(&layout, Term(1), 0, 1, 0..9, &wrong),
            Err(PartError::Layout(_))
        ));
    }
}
