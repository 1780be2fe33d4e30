//! Given weights as the beginning of a run.
//!
//! ```text
//! run.json -> checkpoints/1/000000000000: the weights, momentum zero -> lineages 1 and 2
//!                                                          lineage 2 begins with that checkpoint
//! ```
//!
//! So the run goes on from a checkpoint like any other: verified, the same for every number of
//! workers, resumed like any other. It is the parent of a lineage and therefore never pruned, and
//! the run can be repeated from it.

use bytes::Bytes;
use convoy_common::checkpoint::{
    Checkpoints, Header, LineageRecord, Manifest, Parent, SharedState, encode_part,
};
use convoy_common::config::RunConfig;
use convoy_common::dataset::DatasetIdentity;
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::ids::{Lineage, Term};
use convoy_common::run_record::{self, Opening};
use convoy_common::store::Store;

use super::TrainedError;
use crate::model::Net;
use crate::state;

/// Before any coordinator's.
const NO_TERM: Term = Term(0);
/// The line of history that the given weights are all of.
const GIVEN: Lineage = Lineage(1);

/// Creates the run with the net's weights as its first checkpoint; gives its manifest and the
/// lineage that training will write. Doing it again after a failure goes on where it ended.
///
/// # Errors
/// [`TrainedError::Begun`] if a coordinator has worked on the run or it has a history, those of the
/// run record and of the store.
pub async fn create(
    config: &RunConfig,
    dataset: &DatasetIdentity,
    net: &Net,
) -> Result<(Manifest, LineageRecord), Failure> {
    let store = Store::open(&config.run.url)?;
    store.probe().await?;
    let checkpoints = Checkpoints::new(store.clone());
    let begun = |what| TrainedError::Begun { url: config.run.url.clone(), what };
    if checkpoints.newest_term().await?.is_some() {
        return Err(begun("a coordinator has worked on it").into());
    }
    if checkpoints.newest_lineage().await?.is_some_and(|it| it.lineage > GIVEN) {
        return Err(begun("it has weights to start from").into());
    }
    let record = run_record::open_or_create(&store, config, dataset, Opening::Resume).await?;

    let layout = state::layout(net);
    let slices = 0..layout.slices().len();
    let data = layout
        .slices()
        .iter()
        .map(|slice| Ok(Bytes::from(net.read_rows(slice.tensor, slice.rows.clone())?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let part = encode_part(&layout, NO_TERM, 0, 1, slices, &data)
        .map_err(|error| Failure::new(exit::FAILURE, error))?;
    let shared = SharedState { world: 1, ..SharedState::at_the_start() };
    checkpoints.upload_part(GIVEN, shared.global_step, &part).await?;
    let header = Header {
        run_id: record.run_id.clone(),
        record_digest: record.digest(),
        lineage: GIVEN,
        parent: None,
        term: NO_TERM,
        model: config.model.clone(),
        dataset: dataset.clone(),
        shared,
        tensors: layout.tensors().to_vec(),
    };
    let manifest = Manifest::assemble(header, vec![part.entry])
        .map_err(|error| Failure::new(exit::FAILURE, error))?;
    checkpoints.publish(&manifest).await?;
    if checkpoints.newest_lineage().await?.is_none() {
        checkpoints.new_lineage(None).await?;
    }
    let parent = Parent { lineage: GIVEN, checkpoint: manifest.path() };
    let lineage = checkpoints.new_lineage(Some(parent)).await?;
    Ok((manifest, lineage))
}
