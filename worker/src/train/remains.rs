//! What a worker holds of a run between two generations.
//!
//! Generations come and go with those who take part; what a worker has computed stays with it. It is
//! always the state after a whole step, and with it goes what the last unit of progress took from
//! the ring, for a rank that did not get that far.

use std::sync::Arc;

use convoy_common::checkpoint::SharedState;
use convoy_common::ids::Reached;

use super::boundary::{Agreed, Boundary};
use super::exchange::Statistics;
use crate::model::evaluate::Evaluation;
use crate::model::{Net, Reduced};

/// A state and all that is known of it.
#[derive(Debug)]
pub struct Remains {
    /// Weights and momentum.
    pub net: Net,
    /// What a checkpoint of it would say.
    pub shared: SharedState,
    /// The boundary that it is at; none where no step has been made since the run was opened.
    pub(crate) boundary: Option<Boundary>,
    /// What led here, if a step or evaluation did.
    pub(crate) unit: Option<Arc<Unit>>,
    /// A checkpoint fell due here or before and was not taken.
    pub owes_checkpoint: bool,
    /// A snapshot of it was taken.
    pub kept: bool,
}

/// What one step or evaluation took from the ring. It is the same on every rank.
///
/// Held for the last one alone: for a step that is the summed gradient and the factors of the
/// global batch, tens of megabytes for AlexNet.
#[derive(Debug)]
pub(crate) struct Unit {
    /// The state that it leads on from.
    pub(crate) from: Reached,
    pub(crate) outputs: Outputs,
}

#[derive(Debug)]
pub(crate) enum Outputs {
    Step(StepOutputs),
    Evaluation(Evaluation),
}

#[derive(Debug, PartialEq)]
pub(crate) struct StepOutputs {
    pub(super) total: Statistics,
    pub(super) agreed: Agreed,
    pub(super) reduced: Reduced,
}

impl Remains {
    /// A state that was made or loaded, and not trained since.
    pub fn fresh(net: Net, shared: SharedState) -> Self {
        Self { net, shared, boundary: None, unit: None, owes_checkpoint: false, kept: false }
    }

    /// How far it has come.
    pub fn reached(&self) -> Reached {
        Reached {
            position: self.shared.position,
            evaluated: self.boundary.is_some_and(|it| it.evaluated),
        }
    }
}
