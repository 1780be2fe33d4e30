//! The part of the rate that depends on the position alone.

use super::math;
use crate::config::RateDrop;
use crate::ids::Position;

/// Rate as a function of position.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Curve {
    /// The same throughout.
    Constant { initial: f64 },
    /// Multiplied by each drop's factor from that epoch's first step on.
    Steps { initial: f64, drops: Vec<RateDrop> },
    /// `end + (initial - end) (1 - t/T)^power` at step t of T (You, Gitman, Ginsburg, "Large Batch
    /// Training of Convolutional Networks", 2017, section 5, with power 2 and end 0).
    Polynomial { initial: f64, end: f64, power: f64, over: u64 },
    /// `end + (initial - end) (1 + cos(pi t/T)) / 2` at step t of T (Loshchilov and Hutter, "SGDR",
    /// 2016, equation 5, without restarts).
    Cosine { initial: f64, end: f64, over: u64 },
}

impl Curve {
    /// The rate of the step at `at`, which is step `global_step` of the run.
    pub(super) fn rate(&self, at: Position, global_step: u64) -> f64 {
        match self {
            Self::Constant { initial } => *initial,
            Self::Steps { initial, drops } => drops
                .iter()
                .filter(|drop| drop.epoch <= at.epoch)
                .fold(*initial, |rate, drop| rate * drop.factor),
            Self::Polynomial { initial, end, power, over } => {
                let rest = over.saturating_sub(global_step) as f64 / *over as f64;
                end + (initial - end) * math::power(rest, *power)
            }
            Self::Cosine { initial, end, over } => {
                let done = global_step.min(*over) as f64 / *over as f64;
                end + (initial - end) * ((1.0 + math::cosine_of_half_turns(done)) * 0.5)
            }
        }
    }
}
