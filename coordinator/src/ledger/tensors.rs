//! What a state consists of, read from its parts.
//!
//! The coordinator knows no net, yet a manifest names every tensor with its shape. Each part is a
//! safetensors file whose header has the shapes of its slices; together, in rank order, they give
//! all tensors in the state's order.

use std::collections::HashMap;

use bytes::Bytes;
use convoy_common::checkpoint::{PartEntry, TensorSpec};
use convoy_common::ids::Lineage;
use convoy_common::store::{Store, StoreError};
use serde::Deserialize;

/// Headers are a few KiB; one longer than this is none.
const LARGEST_HEADER: u64 = 64 << 20;
/// What is read first: nearly always the whole header.
const FIRST_READ: u64 = 64 << 10;

/// Parts that do not say what the state consists of.
#[derive(Debug, thiserror::Error)]
pub enum TensorsError {
    /// The store failed.
    #[error("cannot read the header of part {part}: {source}")]
    Store {
        /// Its file name.
        part: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The part's header is not one, or does not fit what its worker reported.
    #[error("the header of part {part} is wrong: {reason}")]
    Header {
        /// Its file name.
        part: String,
        /// How.
        reason: String,
    },
}

#[derive(Debug, Deserialize)]
struct SliceInfo {
    shape: Vec<usize>,
}

/// All tensors of the state that the parts make up.
pub(super) async fn read(
    store: &Store,
    lineage: Lineage,
    global_step: u64,
    parts: &[PartEntry],
) -> Result<Vec<TensorSpec>, TensorsError> {
    let mut tensors: Vec<TensorSpec> = Vec::new();
    for part in parts {
        let path = format!("checkpoints/{lineage}/{global_step:012}/{}", part.name);
        let header = read_header(store, &path, part).await?;
        append(&mut tensors, part, &header)
            .map_err(|reason| TensorsError::Header { part: part.name.clone(), reason })?;
    }
    Ok(tensors)
}

/// The JSON between the file's first eight bytes (its length, little-endian) and the data.
async fn read_header(store: &Store, path: &str, part: &PartEntry) -> Result<Bytes, TensorsError> {
    let failed = |source| TensorsError::Store { part: part.name.clone(), source };
    let wrong =
        |reason: &str| TensorsError::Header { part: part.name.clone(), reason: reason.to_owned() };
    let first = store.get_range(path, 0..part.size.min(FIRST_READ)).await.map_err(failed)?;
    let length = first.first_chunk().map(|it| u64::from_le_bytes(*it)).unwrap_or(u64::MAX);
    let end = length.saturating_add(8);
    if end > part.size || length > LARGEST_HEADER {
        return Err(wrong("its length is beyond the file"));
    }
    let bytes = if end <= first.len() as u64 {
        first.slice(8..end as usize)
    } else {
        store.get_range(path, 8..end).await.map_err(failed)?
    };
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(wrong("the file ends in it")) }
}

/// Adds the slices of one part; those of a tensor follow each other.
fn append(tensors: &mut Vec<TensorSpec>, part: &PartEntry, header: &[u8]) -> Result<(), String> {
    let header: HashMap<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(|error| error.to_string())?;
    for slice in &part.slices {
        let name = format!("{}/{:07}", slice.tensor, slice.first_row);
        let info = header.get(&name).ok_or_else(|| format!("slice {name} is not in it"))?;
        let SliceInfo { shape } =
            SliceInfo::deserialize(info).map_err(|error| format!("{name}: {error}"))?;
        let rows = shape.first().copied().unwrap_or(1);
        if rows != slice.rows {
            return Err(format!("{name} has {rows} rows, {} were reported", slice.rows));
        }
        match tensors.last_mut().filter(|it| it.name == slice.tensor) {
            Some(tensor) => {
                let (have, inner) = tensor.shape.split_first_mut().ok_or("it has no rows")?;
                if *have != slice.first_row || Some(&*inner) != shape.get(1..) {
                    return Err(format!("{name} does not follow the slice before it"));
                }
                *have = have.checked_add(rows).ok_or("it has too many rows")?;
            }
            None if slice.first_row == 0 => {
                tensors.push(TensorSpec { name: slice.tensor.clone(), shape });
            }
            None => return Err(format!("{name} does not follow the slice before it")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use convoy_common::checkpoint::{
        Header, Manifest, SharedState, SliceEntry, StateLayout, encode_part,
    };
    use convoy_common::dataset::DatasetIdentity;
    use convoy_common::ids::Term;

    use super::*;

    fn specs() -> Vec<TensorSpec> {
        let spec = |name: &str, shape: &[usize]| TensorSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
        };
        vec![
            spec("fc.weight", &[700, 4096]),
            spec("fc.bias", &[700]),
            spec("conv.weight", &[8, 3, 11, 11]),
        ]
    }

    async fn parts(store: &Store, world: u32) -> Vec<PartEntry> {
        let layout = StateLayout::new(specs());
        let mut entries = Vec::new();
        for rank in 0..world {
            let range = layout.share(rank, world);
            let data: Vec<Bytes> = layout.slices()[range.clone()]
                .iter()
                .map(|slice| vec![0u8; layout.slice_bytes(slice)].into())
                .collect();
            let part = encode_part(&layout, Term(1), rank, world, range, &data).unwrap();
            let path = format!("checkpoints/1/000000000007/{}", part.entry.name);
            store.put_chunks(&path, part.chunks.clone()).await.unwrap();
            entries.push(part.entry);
        }
        entries
    }

    #[tokio::test]
    async fn names_and_shapes_come_back_whatever_the_number_of_parts() {
        let folder = tempfile::tempdir().unwrap();
        for world in 1..5 {
            let store =
                Store::open(folder.path().join(world.to_string()).to_str().unwrap()).unwrap();
            let parts = parts(&store, world).await;
            assert_eq!(read(&store, Lineage(1), 7, &parts).await.unwrap(), specs());
        }
    }

    #[test]
    fn whatever_is_in_a_part_its_tensors_are_read_or_refused_and_cut_within_bounds() {
        crate::bytes::bound_memory(4 << 30);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let slice = |first_row, rows| SliceEntry {
            tensor: "w".to_owned(),
            first_row,
            rows,
            blake3: "0".repeat(64),
        };
        crate::bytes::try_all("part", |bytes| {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path().to_str().unwrap()).unwrap();
            // What a worker may have said of it, be it true or not.
            for (size, slices) in [
                (bytes.len() as u64, vec![slice(0, 6)]),
                (bytes.len() as u64, vec![slice(0, usize::MAX), slice(usize::MAX, usize::MAX)]),
                (u64::MAX, vec![slice(0, 1 << 60)]),
            ] {
                let name = "part-1-0of1-x.safetensors".to_owned();
                let entry = PartEntry { name, size, blake3: String::new(), slices };
                let path = format!("checkpoints/1/000000000007/{}", entry.name);
                let read = async {
                    store.put(&path, bytes.clone().into()).await.unwrap();
                    read(&store, Lineage(1), 7, std::slice::from_ref(&entry)).await
                };
                match runtime.block_on(read) {
                    Ok(tensors) => drop(Manifest::assemble(header(tensors), vec![entry])),
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
        });
    }

    /// Of a manifest that has these tensors.
    fn header(tensors: Vec<TensorSpec>) -> Header {
        let text = "run = { url = 'r' }\ndata = { url = 'd' }";
        let source = convoy_common::config::Source::new("t.toml".as_ref(), &[]);
        let config = source.with_environment(Vec::new()).resolve_text(text).unwrap().config;
        let (train, validation, classes) = (1, 1, 1);
        Header {
            run_id: String::new(),
            record_digest: String::new(),
            lineage: Lineage(1),
            parent: None,
            term: Term(1),
            model: config.model,
            dataset: DatasetIdentity { digest: String::new(), train, validation, classes },
            shared: SharedState::at_the_start(),
            tensors,
        }
    }

    #[tokio::test]
    async fn a_part_that_is_not_what_was_reported_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let mut parts = parts(&store, 2).await;
        parts[1].slices[0].rows += 1;
        let error = read(&store, Lineage(1), 7, &parts).await.unwrap_err();
        assert!(error.to_string().contains(&parts[1].name), "{error}");
        let path = format!("checkpoints/1/000000000007/{}", parts[0].name);
        store.put(&path, Bytes::from(vec![0xff; parts[0].size as usize])).await.unwrap();
        let error = read(&store, Lineage(1), 7, &parts).await.unwrap_err();
        assert!(matches!(error, TensorsError::Header { .. }), "{error}");
    }
}
