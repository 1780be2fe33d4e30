//! The net's state as the checkpoint protocol sees it: slices of named tensors.

use convoy_common::checkpoint::{
    Checkpoints, Manifest, StateLayout, TensorSpec, slice_hash, state_digest,
};
use convoy_common::failure::Failure;

use crate::model::{ModelError, Net};

/// How checkpoints cut the net's state.
pub fn layout(net: &Net) -> StateLayout {
    let tensors = net.state_specs().into_iter();
    StateLayout::new(tensors.map(|(name, shape)| TensorSpec { name, shape }).collect())
}

/// Digest of weights and momentum; equal bits have equal digests, whatever the number of workers.
pub fn digest(net: &Net, layout: &StateLayout) -> Result<String, ModelError> {
    let mut hashes = Vec::with_capacity(layout.slices().len());
    for slice in layout.slices() {
        hashes.push(net.look_at_rows(slice.tensor, slice.rows.clone(), slice_hash)?);
    }
    Ok(state_digest(layout, &hashes))
}

/// Fills the net with a checkpoint's state.
///
/// Every byte has been checked against its hash before it is written. After an error the net is not
/// usable: the caller drops it.
pub async fn load(
    catalogue: &Checkpoints,
    manifest: &Manifest,
    layout: &StateLayout,
    net: &mut Net,
) -> Result<(), Failure> {
    let mut failed = None;
    catalogue
        .load(manifest, layout, |slice, bytes| {
            if failed.is_none() {
                failed = net.write_rows(slice.tensor, slice.rows.clone(), bytes).err();
            }
        })
        .await?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}
