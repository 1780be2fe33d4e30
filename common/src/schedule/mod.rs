//! The learning rate: pure functions of the position and of the evaluation history.
//!
//! The rate is a product of independent parts. A [`Curve`] depends on the position alone, as does a
//! [`Warmup`], which works on any curve. Divisors depend on the history that [`ScheduleState`] sums
//! up: the plateau rule's drops, and those by hand. Every rank computes all of them from what all
//! ranks know alike, so nobody ships a rate. This module knows no clock, no I/O and no cluster.
//!
//! ```text
//! position -----+------------> Curve::rate --+
//!               '------------> Warmup::part -+--> rate = curve * part / divide_by^drops / by hand
//! errors --> Plateau::observe --> drops -----+
//! orders --> due, all know --> by hand ------'
//! ```
//!
//! Steps are counted from the run's start. Warm-up delays neither a listed drop nor the end of a curve;
//! a curve that falls over the run begins to when it is over, so the stated rate is reached.
//!
//! The paper (section 5) starts at 0.01 and divides by 10 "when the validation error rate stopped
//! improving with the current learning rate", three times before the end.

mod curve;
mod manual;
mod math;
mod plateau;
mod warmup;

use serde::{Deserialize, Serialize};

use self::curve::{Curve, Fall};
pub use self::manual::{AppliedDrop, ManualDrop};
use self::plateau::Plateau;
use self::warmup::Warmup;
use crate::config::{self, Decay};
use crate::ids::Position;

/// A run's rule for its learning rate.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningRate {
    curve: Curve,
    warmup: Warmup,
    plateau: Option<Plateau>,
    steps_per_epoch: u32,
}

/// What the schedule remembers of the run so far; part of every checkpoint.
///
/// Equal on every rank, because it is a function of error counts summed over all of them and of
/// orders that all know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// Drops so far that came from the history, not from the position.
    pub drops: u32,
    /// Fewest top-1 errors of an evaluation that counted as an improvement.
    pub best_errors: Option<u64>,
    /// Evaluations without improvement since the best one or the last drop.
    pub stalled: u32,
    /// The schedule has ended the run.
    pub done: bool,
    /// Drops by hand that took effect, in that order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manual: Vec<AppliedDrop>,
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
    /// The rule for a run with so many steps in an epoch.
    ///
    /// Its highest rate is [`config::Train::peak_rate`]; curves that fall until the end of the run
    /// take that end from `train.epochs` and `train.max_steps`.
    pub fn new(train: &config::Train, schedule: &config::Schedule, steps_per_epoch: u32) -> Self {
        let initial = train.peak_rate();
        let epochs = u64::from(schedule.warmup_epochs) * u64::from(steps_per_epoch);
        let steps = epochs + u64::from(schedule.warmup_steps);
        let warmup = Warmup { steps, from: schedule.warmup_from };
        let fall = Fall::new(steps, train.total_steps(steps_per_epoch));
        let mut plateau = None;
        let curve = match &schedule.decay {
            Decay::Constant => Curve::Constant { initial },
            Decay::Steps { drops } => Curve::Steps { initial, drops: drops.clone() },
            Decay::Plateau { min_delta, patience, divide_by, max_drops } => {
                plateau = Some(Plateau {
                    min_delta: *min_delta,
                    patience: *patience,
                    divide_by: *divide_by,
                    max_drops: *max_drops,
                });
                Curve::Constant { initial }
            }
            Decay::Polynomial { power, end_lr } => {
                Curve::Polynomial { initial, end: *end_lr, power: *power, fall }
            }
            Decay::Cosine { end_lr } => Curve::Cosine { initial, end: *end_lr, fall },
        };
        Self { curve, warmup, plateau, steps_per_epoch }
    }

    /// The rate of the step at `at`.
    ///
    /// Only additions, multiplications and divisions in a fixed order, so every machine gets the
    /// same bits.
    pub fn rate(&self, state: &ScheduleState, at: Position) -> f64 {
        let global_step = at.global_step(self.steps_per_epoch);
        let rate = self.curve.rate(at, global_step) * self.warmup.part(global_step);
        let rate =
            self.plateau.as_ref().map_or(rate, |plateau| rate / plateau.divisor(state.drops));
        state.manual.iter().fold(rate, |rate, drop| rate / drop.divide_by)
    }

    /// The first step of the run from which on the rate stays the same unless something happens.
    ///
    /// Before it, a step's rate that differs from the last one's is no news.
    pub fn moves_until(&self) -> u64 {
        match self.curve {
            Curve::Constant { .. } | Curve::Steps { .. } => self.warmup.steps,
            Curve::Polynomial { .. } | Curve::Cosine { .. } => u64::MAX,
        }
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
