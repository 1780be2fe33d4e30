//! A data set that lies in memory: for tests, and for measuring without a store.

use async_trait::async_trait;
use convoy_common::dataset::{Encoded, Split};
use convoy_common::failure::Explain;

use super::source::{Source, SourceError};

/// What every data set in memory says its colours vary like: about as photographs do. It is not
/// computed from the images, so that a test knows it.
pub(super) const COVARIANCE: [f64; 9] =
    [4_800.0, 4_500.0, 4_000.0, 4_500.0, 4_900.0, 4_700.0, 4_000.0, 4_700.0, 5_200.0];

/// Encoded images of both splits, and their mean.
#[derive(Clone, Debug)]
pub struct InMemory {
    /// Images of the training split.
    pub train: Vec<Encoded>,
    /// Images of the validation split.
    pub validation: Vec<Encoded>,
    /// `3 x 256 x 256`, RGB, 0 to 255.
    pub mean_image: Vec<f32>,
}

#[derive(Debug, thiserror::Error)]
#[error("there is no image {index} in {}", split.folder())]
struct Absent {
    split: Split,
    index: u64,
}

impl Explain for Absent {}

#[async_trait]
impl Source for InMemory {
    async fn read(&self, split: Split, indices: &[u64]) -> Result<Vec<Encoded>, SourceError> {
        let images = match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        };
        let image = |&index: &u64| {
            let at = usize::try_from(index).ok();
            let image = at.and_then(|at| images.get(at)).cloned();
            image.ok_or_else(|| SourceError::new(Absent { split, index }))
        };
        indices.iter().map(image).collect()
    }

    fn mean_image(&self) -> &[f32] {
        &self.mean_image
    }

    fn covariance(&self) -> [f64; 9] {
        COVARIANCE
    }
}
