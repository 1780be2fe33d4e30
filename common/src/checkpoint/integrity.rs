//! Reading parts: no byte is used, or called good, before its hash is right.
//!
//! Parts are read in windows of a few slices, the next ones on their way while one is hashed, so
//! memory does not grow with the checkpoint. Hashing runs on the runtime's blocking threads.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::catalogue::Checkpoints;
use super::error::{CheckpointError, PartProblem};
use super::layout::{Slice, StateLayout};
use super::manifest::Manifest;
use super::part::{PartEntry, slice_hash};
use crate::store::{PIECE, StoreError};

/// Windows that are read or hashed at a time.
const WINDOWS_AT_ONCE: usize = 3;

/// Some slices that lie one after the other in a part.
struct Window {
    /// In the file.
    bytes: Range<u64>,
    /// Index into the layout's slices, and the hash to be found.
    slices: Vec<(usize, String)>,
}

impl Checkpoints {
    /// Reads every byte of every part and compares sizes and hashes.
    ///
    /// # Errors
    /// [`CheckpointError::Part`] with the first part that is not what the manifest says,
    /// [`CheckpointError::Removed`] and those of the store.
    pub async fn verify(&self, manifest: &Manifest) -> Result<(), CheckpointError> {
        self.unless_removed(manifest, self.verify_parts(manifest).await).await
    }

    async fn verify_parts(&self, manifest: &Manifest) -> Result<(), CheckpointError> {
        // Missing and short parts show without reading anything.
        self.check_sizes(manifest, &self.store.list(&manifest.folder()).await?)?;
        for part in &manifest.parts {
            let mut hasher = blake3::Hasher::new();
            let starts = (0..part.size).step_by(PIECE);
            let mut pieces = stream::iter(starts)
                .map(|start| self.fetch(manifest, part, start..part.size.min(start + PIECE as u64)))
                .buffered(WINDOWS_AT_ONCE);
            while let Some(piece) = pieces.try_next().await? {
                hasher = blocking(move || {
                    hasher.update(&piece);
                    hasher
                })
                .await;
            }
            if hasher.finalize().to_hex().as_str() != part.blake3 {
                let problem = PartProblem::Altered { slice: None };
                return Err(self.part_error(manifest, &part.name, problem));
            }
        }
        Ok(())
    }

    /// Hands every slice of the state to `sink`, each one after its hash was found right; in the
    /// order of the parts. When this ends with an error, `sink` may have had some of them: load
    /// into a staging area and swap.
    ///
    /// # Errors
    /// [`CheckpointError::OtherNet`] if the layout is not that of the checkpoint,
    /// [`CheckpointError::Part`], [`CheckpointError::Removed`] and those of the store.
    pub async fn load(
        &self,
        manifest: &Manifest,
        layout: &StateLayout,
        sink: impl FnMut(&Slice, &[u8]),
    ) -> Result<(), CheckpointError> {
        self.unless_removed(manifest, self.load_parts(manifest, layout, sink).await).await
    }

    /// A running job prunes: a part that is missing with its manifest is no damage.
    async fn unless_removed(
        &self,
        manifest: &Manifest,
        outcome: Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        match outcome {
            Err(CheckpointError::Part { url, problem: PartProblem::Missing, .. })
                if !self.store.exists(&manifest.path()).await? =>
            {
                Err(CheckpointError::Removed { url })
            }
            outcome => outcome,
        }
    }

    async fn load_parts(
        &self,
        manifest: &Manifest,
        layout: &StateLayout,
        mut sink: impl FnMut(&Slice, &[u8]),
    ) -> Result<(), CheckpointError> {
        if let Some(reason) = difference(manifest, layout) {
            let url = self.store.url_of(&manifest.path());
            return Err(CheckpointError::OtherNet { url, reason });
        }
        self.check_sizes(manifest, &self.store.list(&manifest.folder()).await?)?;
        for part in &manifest.parts {
            let windows = windows(part, layout);
            let mut read = stream::iter(windows)
                .map(|window| self.fetch_window(manifest, part, layout, window))
                .buffered(WINDOWS_AT_ONCE);
            while let Some((window, bytes)) = read.try_next().await? {
                let mut rest = &bytes[..];
                for (index, _) in &window.slices {
                    let slice = &layout.slices()[*index];
                    let (own, others) = rest.split_at(layout.slice_bytes(slice));
                    sink(slice, own);
                    rest = others;
                }
            }
        }
        Ok(())
    }

    /// The window's bytes, with the hash of each slice checked.
    async fn fetch_window(
        &self,
        manifest: &Manifest,
        part: &PartEntry,
        layout: &StateLayout,
        window: Window,
    ) -> Result<(Window, Bytes), CheckpointError> {
        let bytes = self.fetch(manifest, part, window.bytes.clone()).await?;
        let sizes: Vec<usize> = window
            .slices
            .iter()
            .map(|(index, _)| layout.slice_bytes(&layout.slices()[*index]))
            .collect();
        let (window, bytes, wrong) = blocking(move || {
            let mut rest = &bytes[..];
            let wrong = window.slices.iter().zip(sizes).find_map(|((index, hash), size)| {
                let (own, others) = rest.split_at(size);
                rest = others;
                (slice_hash(own) != *hash).then_some(*index)
            });
            (window, bytes, wrong)
        })
        .await;
        match wrong {
            None => Ok((window, bytes)),
            Some(index) => {
                let slice = Some(layout.slice_name(&layout.slices()[index]));
                Err(self.part_error(manifest, &part.name, PartProblem::Altered { slice }))
            }
        }
    }

    /// The range of a part, in full length.
    async fn fetch(
        &self,
        manifest: &Manifest,
        part: &PartEntry,
        range: Range<u64>,
    ) -> Result<Bytes, CheckpointError> {
        let path = format!("{}/{}", manifest.folder(), part.name);
        match self.store.get_range(&path, range.clone()).await {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
            Ok(bytes) => {
                let found = range.start + bytes.len() as u64;
                let problem = PartProblem::Size { expected: part.size, found };
                Err(self.part_error(manifest, &part.name, problem))
            }
            Err(StoreError::NotFound { .. }) => {
                Err(self.part_error(manifest, &part.name, PartProblem::Missing))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The part's slices, a few at a time. They end where the file ends; what lies before them is its
/// header, which loading does not need. The manifest has been checked, so every slice is one of
/// the layout's.
fn windows(part: &PartEntry, layout: &StateLayout) -> Vec<Window> {
    let indices: HashMap<(&str, usize), usize> = layout
        .slices()
        .iter()
        .enumerate()
        .map(|(i, slice)| ((layout.tensors()[slice.tensor].name.as_str(), slice.rows.start), i))
        .collect();
    let slices: Vec<(usize, u64, &String)> = part
        .slices
        .iter()
        .filter_map(|entry| {
            let index = *indices.get(&(entry.tensor.as_str(), entry.first_row))?;
            let bytes = layout.slice_bytes(&layout.slices()[index]) as u64;
            Some((index, bytes, &entry.blake3))
        })
        .collect();
    let data: u64 = slices.iter().map(|(_, bytes, _)| bytes).sum();
    let mut start = part.size.saturating_sub(data);
    let mut windows: Vec<Window> = Vec::new();
    for (index, bytes, hash) in slices {
        let range = start..start + bytes;
        start = range.end;
        match windows.last_mut() {
            Some(last) if range.end - last.bytes.start <= PIECE as u64 => {
                last.bytes.end = range.end;
                last.slices.push((index, hash.clone()));
            }
            _ => windows.push(Window { bytes: range, slices: vec![(index, hash.clone())] }),
        }
    }
    windows
}

/// The first tensor in which checkpoint and layout differ.
fn difference(manifest: &Manifest, layout: &StateLayout) -> Option<String> {
    let (theirs, ours) = (&manifest.tensors, layout.tensors());
    for (their, our) in theirs.iter().zip(ours) {
        if their != our {
            return Some(format!(
                "it has {} {:?} where {} {:?} is wanted",
                their.name, their.shape, our.name, our.shape
            ));
        }
    }
    (theirs.len() != ours.len())
        .then(|| format!("it has {} tensors, {} are wanted", theirs.len(), ours.len()))
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Only a runtime that shuts down cancels; nobody waits for the result then.
        Err(_) => std::future::pending().await,
    }
}
