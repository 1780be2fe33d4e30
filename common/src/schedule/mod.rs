//! The learning rate: pure functions of the position and of the evaluation history.
//!
//! The rate is a product of two independent parts. A [`Curve`] depends on the position alone
//! (constant and step list today; warm-up, cosine and polynomial decay are further curves). A
//! divisor depends on the history that [`ScheduleState`] sums up (the plateau rule today; drops by
//! hand are one more reason to count a drop). Every rank computes both from what all ranks know
//! alike, so nobody ships a rate. This module knows no clock, no I/O and no cluster.
//!
//! ```text
//! position ------------------> Curve::rate --+
//!                                            +--> rate = curve / divide_by^drops
//! errors --> Plateau::observe --> drops -----+
//! ```
//!
//! The paper (section 5) starts at 0.01 and divides by 10 "when the validation error rate stopped
//! improving with the current learning rate", three times before the end.

mod curve;
mod plateau;

use serde::{Deserialize, Serialize};

use self::curve::Curve;
use self::plateau::Plateau;
use crate::config;
use crate::ids::Position;

/// A run's rule for its learning rate.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningRate {
    curve: Curve,
    plateau: Option<Plateau>,
}

/// What the schedule remembers of the run so far; part of every checkpoint.
///
/// Equal on every rank, because it is an integer function of error counts summed over all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// Drops so far that came from the history, not from the position.
    pub drops: u32,
    /// Fewest top-1 errors of an evaluation that counted as an improvement.
    pub best_errors: Option<u64>,
    /// Evaluations without improvement since the best one or the last drop.
    pub stalled: u32,
    /// The schedule has ended the run.
    pub done: bool,
}

/// What one evaluation meant for the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The first evaluation, or one with enough errors fewer than the best.
    Improved,
    /// No improvement, and no drop yet.
    Stalled {
        /// Evaluations without improvement so far, this one included.
        evaluations: u32,
    },
    /// No improvement for so long that the rate drops, from the next step on.
    Dropped {
        /// Drops so far, this one included.
        drops: u32,
    },
    /// One drop more than allowed would be due (or was before): the run ends.
    Done,
}

impl LearningRate {
    /// The rule for a run that starts at `initial`.
    pub fn new(initial: f64, schedule: &config::Schedule) -> Self {
        let (curve, plateau) = match schedule {
            config::Schedule::Constant => (Curve::Constant { initial }, None),
            config::Schedule::Steps { drops } => {
                (Curve::Steps { initial, drops: drops.clone() }, None)
            }
            config::Schedule::Plateau { min_delta, patience, divide_by, max_drops } => (
                Curve::Constant { initial },
                Some(Plateau {
                    min_delta: *min_delta,
                    patience: *patience,
                    divide_by: *divide_by,
                    max_drops: *max_drops,
                }),
            ),
        };
        Self { curve, plateau }
    }

    /// The rate of the step at `at`.
    ///
    /// Only multiplications and one division in a fixed order, so every machine gets the same bits.
    pub fn rate(&self, state: &ScheduleState, at: Position) -> f64 {
        let rate = self.curve.rate(at);
        self.plateau.as_ref().map_or(rate, |plateau| rate / plateau.divisor(state.drops))
    }

    /// The state after an evaluation that found `errors` top-1 errors on the validation split.
    ///
    /// The new state holds from the first step after that evaluation. Without a plateau rule the
    /// best count is still kept, for logs, and nothing ever drops.
    pub fn observe(&self, state: &ScheduleState, errors: u64) -> (ScheduleState, Observation) {
        if state.done {
            return (state.clone(), Observation::Done);
        }
        let min_delta = self.plateau.as_ref().map_or(1, |plateau| plateau.min_delta);
        if state.best_errors.is_none_or(|best| improves(errors, best, min_delta)) {
            let next = ScheduleState { best_errors: Some(errors), stalled: 0, ..state.clone() };
            return (next, Observation::Improved);
        }
        let stalled = state.stalled.saturating_add(1);
        let stalled_state = ScheduleState { stalled, ..state.clone() };
        match &self.plateau {
            Some(plateau) => plateau.stalled(stalled_state),
            None => (stalled_state, Observation::Stalled { evaluations: stalled }),
        }
    }
}

/// Whether `errors` are at least `min_delta` fewer than `best`.
fn improves(errors: u64, best: u64, min_delta: u64) -> bool {
    errors.checked_add(min_delta).is_some_and(|bound| bound <= best)
}

#[cfg(test)]
mod tests;
