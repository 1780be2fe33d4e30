//! A packed data set as a source of images.

use async_trait::async_trait;
use convoy_common::dataset::{Dataset, Encoded, Split};

use super::source::{Source, SourceError};

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
