//! Where encoded images come from: the seam between the pipeline and a packed data set.

use std::error::Error;
use std::fmt;

use async_trait::async_trait;
use convoy_common::cache::Filled;
use convoy_common::dataset::{Encoded, Split};
use convoy_common::failure::Explain;
use convoy_common::ids::Position;

/// A data set as the pipeline sees it.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// The images at `indices` of the split, in that order.
    ///
    /// Several calls may be under way at a time, and any may be dropped half-way.
    async fn read(&self, split: Split, indices: &[u64]) -> Result<Vec<Encoded>, SourceError>;

    /// Training goes on from here, so that a source may fetch ahead what comes next.
    fn heading_for(&self, _position: Position) {}

    /// What its cache did so far; nothing for a source that has none.
    fn filled(&self) -> Option<Filled> {
        None
    }

    /// The mean of the training split's images: `3 x 256 x 256`, RGB, 0 to 255.
    fn mean_image(&self) -> &[f32];

    /// Covariance of R, G and B over the pixels of the training split, row by row, in units of 0 to
    /// 255 squared.
    fn covariance(&self) -> [f64; 9];

    /// What the user knows the image by, for error messages.
    fn name(&self, split: Split, index: u64) -> String {
        format!("image {index} of {}", split.folder())
    }
}

/// Why a source could not be read, with the hint and the exit code of the error it holds.
#[derive(Debug)]
pub struct SourceError(Box<dyn Explain + Send + Sync>);

impl SourceError {
    /// Holds any error that can explain itself.
    pub fn new(error: impl Explain + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl Explain for SourceError {
    fn hint(&self) -> Option<String> {
        self.0.hint()
    }

    fn exit_code(&self) -> u8 {
        self.0.exit_code()
    }
}
