//! Why a worker cannot train in a generation, and whether that is its own fault.

use convoy_common::failure::Failure;

use crate::peer::PeerError;
use crate::ring::RingError;
use crate::train::TrainError;

/// What keeps a worker from taking part in a generation.
#[derive(Debug)]
pub(super) struct Setback {
    pub(super) failure: Failure,
    /// The peer whose fault it seems.
    pub(super) blame: Option<String>,
    /// The generation is broken, and this worker is good for the next one.
    pub(super) goes_on: bool,
}

impl From<Failure> for Setback {
    fn from(failure: Failure) -> Self {
        Self { failure, blame: None, goes_on: false }
    }
}

impl From<RingError> for Setback {
    fn from(error: RingError) -> Self {
        TrainError::from(error).into()
    }
}

impl From<PeerError> for Setback {
    fn from(error: PeerError) -> Self {
        let blame = error.blame().map(str::to_owned);
        let goes_on = blame.is_some();
        Self { failure: error.into(), blame, goes_on }
    }
}

impl From<TrainError> for Setback {
    fn from(error: TrainError) -> Self {
        let (blame, goes_on) = (error.blame().map(str::to_owned), error.keeps_state());
        Self { failure: error.into(), blame, goes_on }
    }
}
