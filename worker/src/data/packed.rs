//! A packed data set as a source of images, and what a run's cache of it should hold.

use std::sync::Arc;

use async_trait::async_trait;
use convoy_common::cache::{self, CachedDataset, Filled, Order};
use convoy_common::config::RunConfig;
use convoy_common::dataset::{Dataset, Encoded, Split};
use convoy_common::ids::Position;
use convoy_common::sampling::Sampler;

use super::source::{Source, SourceError};

/// Shards that one worker fetches at a time. Each comes in pieces, two of which are asked for at
/// once; more than a few connections to a store bring no more bytes.
const DOWNLOADS: usize = 3;

#[async_trait]
impl Source for Dataset {
    async fn read(&self, split: Split, indices: &[u64]) -> Result<Vec<Encoded>, SourceError> {
        Self::read(self, split, indices).await.map_err(SourceError::new)
    }

    fn mean_image(&self) -> &[f32] {
        Self::mean_image(self)
    }

    fn covariance(&self) -> [f64; 9] {
        *Self::covariance(self)
    }
}

#[async_trait]
impl Source for CachedDataset {
    async fn read(&self, split: Split, indices: &[u64]) -> Result<Vec<Encoded>, SourceError> {
        Self::read(self, split, indices).await.map_err(SourceError::new)
    }

    fn mean_image(&self) -> &[f32] {
        self.dataset().mean_image()
    }

    fn covariance(&self) -> [f64; 9] {
        *self.dataset().covariance()
    }

    fn heading_for(&self, position: Position) {
        Self::heading_for(self, position);
    }

    fn filled(&self) -> Option<Filled> {
        Self::filled(self)
    }
}

/// The data set of a run, with the cache that the run's config asks for, which begins to fill.
///
/// To be called within a tokio runtime.
pub async fn cached(dataset: Dataset, config: &RunConfig) -> CachedDataset {
    let settings = cache::Settings {
        folder: config.data.cache.path(|variable| std::env::var_os(variable)),
        limit: config.data.cache_size,
        downloads: DOWNLOADS,
    };
    let order = order(&dataset, config);
    CachedDataset::open(dataset, settings, order).await
}

/// The shards of the training split as training comes to them, then those of the validation split if
/// the run evaluates: it reads them in one go, which costs little from the store as well.
fn order(dataset: &Dataset, config: &RunConfig) -> Order {
    let starts = dataset.shard_starts(Split::Train);
    let sampler = Sampler::of(config, dataset.len(Split::Train), &starts);
    let (training, all) = (starts.len(), dataset.shards());
    let held_out = if config.evaluation.every_epochs > 0 { training..all } else { all..all };
    Arc::new(move |Position { epoch, step }| {
        // The rest of this epoch and the whole of the next name every shard.
        let soon = sampler.shards_from(epoch, step).take(2 * training);
        Box::new(soon.chain(held_out.clone()))
    })
}
