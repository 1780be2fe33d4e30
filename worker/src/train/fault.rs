//! Moments of a step at which a test may plant a fault, addressed by rank, step and moment.
//!
//! Whoever makes a trainer may hand it a [`Fault`]; workers have none, and no config, option or
//! message can make one.

use std::sync::Arc;

use convoy_common::ids::Position;

use super::TrainError;
use crate::model::Net;

/// Where in a step a trainer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the first microbatch is read.
    Data,
    /// Microbatches are being computed.
    Compute,
    /// The exchange is on its way.
    Ring,
    /// Everything is here and finite; nothing is written yet.
    Update,
    /// The step is committed.
    Committed,
    /// This rank's share of the validation split is counted; nobody knows it yet.
    Evaluate,
    /// The counts of all ranks are here; the schedule has not seen them.
    Evaluated,
    /// The state is copied for a checkpoint; nothing of it is on its way yet.
    Snapshot,
    /// This rank's part of a checkpoint is ready to be uploaded.
    Upload,
    /// The part is in the store; the coordinator does not know it.
    Uploaded,
}

/// What happens at a moment of an upload, which has no net at hand: told the position of the
/// checkpoint, on the runtime that uploads.
pub type Mishap = Arc<dyn Fn(Moment, Position) + Send + Sync>;

/// What happens at a moment: told the position that the trainer is at (after the step, once it is
/// committed) and given the net. An error ends the trainer there and then.
pub type Fault = Arc<dyn Fn(Moment, Position, &mut Net) -> Result<(), TrainError> + Send + Sync>;
