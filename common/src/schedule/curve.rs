//! The part of the rate that depends on the position alone.

use crate::config::RateDrop;
use crate::ids::Position;

/// Rate as a function of position.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Curve {
    /// The same throughout.
    Constant { initial: f64 },
    /// Multiplied by each drop's factor from that epoch's first step on.
    Steps { initial: f64, drops: Vec<RateDrop> },
}

impl Curve {
    pub(super) fn rate(&self, at: Position) -> f64 {
        match self {
            Self::Constant { initial } => *initial,
            Self::Steps { initial, drops } => drops
                .iter()
                .filter(|drop| drop.epoch <= at.epoch)
                .fold(*initial, |rate, drop| rate * drop.factor),
        }
    }
}
