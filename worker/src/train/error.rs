//! Why a worker leaves its generation without the others' agreement.

use std::time::Duration;

use convoy_common::exit;
use convoy_common::failure::Explain;

use super::exchange::BlockError;
use crate::data::DataError;
use crate::model::ModelError;
use crate::ring::RingError;

/// What stopped the trainer. The state is that of the last committed step.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A neighbour is gone, silent or talks nonsense.
    #[error("the ring broke: {0}")]
    Ring(#[from] RingError),
    /// A peer's block cannot be read.
    #[error("the exchange of a step failed: {0}")]
    Block(#[from] BlockError),
    /// An image or the data set's store.
    #[error("the data pipeline failed: {0}")]
    Data(#[from] DataError),
    /// The pipeline ended before the run did.
    #[error("the data pipeline ended early")]
    DataEnded,
    /// A tensor operation.
    #[error("a tensor operation failed: {0}")]
    Model(#[from] ModelError),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
    /// A lane's thread ended.
    #[error("a lane ended unexpectedly; its panic is in this worker's log")]
    LaneDied,
    /// A lane takes too long.
    #[error("a lane did not finish its microbatch within {}", humantime::format_duration(*.after))]
    LaneStuck {
        /// How long the trainer waited.
        after: Duration,
    },
    /// The trainer panicked, which is a defect.
    #[error("the trainer panicked; the message is in this worker's log")]
    Panicked,
    /// What other ranks committed is not what they say.
    #[error(
        "a step that other ranks have committed cannot be made again: its numbers are not finite"
    )]
    Torn,
    /// The generation was ended from outside.
    #[error("the generation was abandoned")]
    Abandoned,
}

impl TrainError {
    /// Whether the generation is to blame rather than this worker, whose state is that of the last
    /// committed step and good for the next generation.
    pub fn keeps_state(&self) -> bool {
        match self {
            Self::Ring(error) => !matches!(error, RingError::BadSettings { .. }),
            Self::Abandoned => true,
            _ => false,
        }
    }

    /// The peer whose fault it seems, by name.
    pub fn blame(&self) -> Option<&str> {
        match self {
            Self::Ring(error) => error.blame(),
            _ => None,
        }
    }
}

impl Explain for TrainError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Ring(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::Model(error) => error.hint(),
            _ => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Ring(error) => error.exit_code(),
            Self::Data(error) => error.exit_code(),
            _ => exit::FAILURE,
        }
    }
}
