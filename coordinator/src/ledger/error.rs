//! Why a run cannot be opened.

use convoy_common::checkpoint::CheckpointError;
use convoy_common::dataset::DatasetError;
use convoy_common::exit;
use convoy_common::failure::Explain;
use convoy_common::run_record::RecordError;
use convoy_common::store::StoreError;

/// A run cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its data set.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Its record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Its checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// There is nothing to train on.
    #[error("the data set at {url} has no training images")]
    NoImages {
        /// Of the data set.
        url: String,
    },
    /// The run to be replayed is another one.
    #[error("the run at {url} was trained with other settings:{diff}")]
    OtherRun {
        /// Of the run to be replayed.
        url: String,
        /// A line for each difference that touches bits.
        diff: String,
    },
    /// Another coordinator works on the run.
    #[error("a coordinator at {address} works on the run at {url} already (term {term})")]
    Occupied {
        /// Of the run.
        url: String,
        /// Where the other listens.
        address: String,
        /// Its term.
        term: u64,
    },
}

impl Explain for OpenError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Dataset(error) => error.hint(),
            Self::Record(error) => error.hint(),
            Self::Checkpoint(error) => error.hint(),
            Self::NoImages { .. } => Some("pack a data set with `convoy prepare`".to_owned()),
            Self::OtherRun { .. } => {
                Some("a replay needs the settings of the run that it replays".to_owned())
            }
            Self::Occupied { address, .. } => Some(format!(
                "it needs no other (convoy status {address} asks it); stop that one first, or choose \
                 another run.url"
            )),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Dataset(error) => error.exit_code(),
            Self::Record(error) => error.exit_code(),
            Self::Checkpoint(error) => error.exit_code(),
            Self::NoImages { .. } | Self::OtherRun { .. } => exit::BAD_INPUT,
            Self::Occupied { .. } => exit::SUPERSEDED,
        }
    }
}
