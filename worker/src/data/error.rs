//! What can go wrong between the data set and the trainer.

use std::fmt;
use std::time::Duration;

use convoy_common::exit;
use convoy_common::failure::Explain;
use convoy_common::image::ImageError;

use super::augment::MEAN_VALUES;
use super::source::SourceError;

/// Why there is no microbatch.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The source failed.
    #[error("cannot read microbatch {microbatch} of epoch {epoch} step {step}")]
    Read {
        /// Epoch of the request.
        epoch: u32,
        /// Step of the request.
        step: u32,
        /// Number of the microbatch.
        microbatch: u32,
        /// What the source says.
        #[source]
        source: SourceError,
    },
    /// The source gave another number of images than it was asked for.
    #[error("the data set gave {got} images instead of {wanted}")]
    Count {
        /// Images asked for.
        wanted: usize,
        /// Images given.
        got: usize,
    },
    /// One image cannot be used.
    #[error("cannot use {image} (epoch {epoch} step {step})")]
    Image {
        /// What the user knows it by.
        image: String,
        /// Epoch of the request.
        epoch: u32,
        /// Step of the request.
        step: u32,
        /// Why not.
        #[source]
        source: Unusable,
    },
    /// The mean image is not one of 3 x 256 x 256 values.
    #[error("the mean image has {values} values instead of {MEAN_VALUES}")]
    MeanImage {
        /// Values it has.
        values: usize,
    },
    /// A thread could not be started.
    #[error("cannot start a decode thread")]
    Thread {
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Nothing came in time.
    #[error("no microbatch for {waited:?}: {stage}")]
    Timeout {
        /// How long the trainer has waited.
        waited: Duration,
        /// Where the microbatch is held up.
        stage: Stage,
    },
    /// The reader's task ended before the last request: its runtime was shut down, or the requests
    /// panicked.
    #[error("reading ended before the last microbatch")]
    Stopped,
}

/// Why one image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its bytes are not a whole picture.
    #[error(transparent)]
    Undecodable(#[from] ImageError),
    /// It is smaller than what is cropped from it, or its pixels are not as many as its size says.
    #[error("{bytes} bytes of pixels at {width}x{height} do not hold a picture of 256x256")]
    Size {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes of pixels.
        bytes: usize,
    },
    /// The decoder panicked: a bug, which this image brings out.
    #[error("the decoder panicked")]
    Panicked,
}

/// Where a microbatch is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not read yet.
    Reading,
    /// Read, not decoded yet.
    Decoding,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reading => "still reading it from the data set",
            Self::Decoding => "still decoding it",
        })
    }
}

impl Explain for DataError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Read { source, .. } => source.hint(),
            Self::Count { .. } | Self::MeanImage { .. } => {
                Some("pack the data set again with `convoy prepare`".to_owned())
            }
            Self::Image { .. } => Some(
                "mend or remove the image in the source folder and pack it again with \
                 `convoy prepare`"
                    .to_owned(),
            ),
            Self::Timeout { stage: Stage::Reading, .. } => {
                Some("check that the data set's store answers".to_owned())
            }
            Self::Timeout { stage: Stage::Decoding, .. } => {
                Some("raise `data.decode_threads`, or give the worker more cores".to_owned())
            }
            Self::Thread { .. } => Some("check the limit on threads (`ulimit -u`)".to_owned()),
            Self::Stopped => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Read { source, .. } => source.exit_code(),
            Self::Count { .. } | Self::Image { .. } | Self::MeanImage { .. } => exit::BAD_INPUT,
            Self::Timeout { stage: Stage::Reading, .. } => exit::UNAVAILABLE,
            Self::Timeout { .. } | Self::Thread { .. } | Self::Stopped => exit::FAILURE,
        }
    }
}
