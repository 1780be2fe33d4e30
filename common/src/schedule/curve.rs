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
    /// `end + (initial - end) (1 - t/T)^power` at step t of a fall over T (You, Gitman, Ginsburg,
    /// "Large Batch Training of Convolutional Networks", 2017, section 5, with power 2 and end 0).
    Polynomial { initial: f64, end: f64, power: f64, fall: Fall },
    /// `end + (initial - end) (1 + cos(pi t/T)) / 2` at step t of a fall over T (Loshchilov and
    /// Hutter, "SGDR", 2016, equation 5, without restarts).
    Cosine { initial: f64, end: f64, fall: Fall },
}

/// The steps of the run over which a rate falls; it has the whole rate before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fall {
    from: u64,
    over: u64,
}

impl Fall {
    /// From the end of the warm-up to that of the run.
    pub(super) fn new(warmup: u64, total: u64) -> Self {
        Self { from: warmup, over: total.saturating_sub(warmup).max(1) }
    }

    /// t/T, 0 to 1.
    fn done(self, global_step: u64) -> f64 {
        self.step(global_step) as f64 / self.over as f64
    }

    /// 1 - t/T, 1 to 0.
    fn left(self, global_step: u64) -> f64 {
        (self.over - self.step(global_step)) as f64 / self.over as f64
    }

    fn step(self, global_step: u64) -> u64 {
        global_step.saturating_sub(self.from).min(self.over)
    }
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
            Self::Polynomial { initial, end, power, fall } => {
                end + (initial - end) * math::power(fall.left(global_step), *power)
            }
            Self::Cosine { initial, end, fall } => {
                let fallen = math::cosine_of_half_turns(fall.done(global_step));
                end + (initial - end) * ((1.0 + fallen) * 0.5)
            }
        }
    }
}
