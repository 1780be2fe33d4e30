//! The plateau rule: divide the rate when evaluations stop improving, and end the run when that no
//! longer helps.

use super::{Observation, ScheduleState};

/// `[schedule] kind = "plateau"`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plateau {
    /// Errors fewer than the best that count as an improvement; at least 1.
    pub(super) min_delta: u64,
    /// Evaluations without improvement before a drop; at least 1.
    pub(super) patience: u32,
    /// What the rate is divided by at each drop; more than 1.
    pub(super) divide_by: f64,
    /// The run ends when one more drop than this would be due; drops by hand count.
    pub(super) max_drops: u32,
}

impl Plateau {
    /// `divide_by` to the power of `drops`, by repeated multiplication.
    ///
    /// Not `powi`, whose last bit may differ between platforms.
    pub(super) fn divisor(&self, drops: u32) -> f64 {
        (0..drops).fold(1.0, |product, _| product * self.divide_by)
    }

    /// What follows from one more evaluation without improvement, already counted in `state`.
    ///
    /// The best count outlives a drop: the lower rate has to beat it, not itself.
    pub(super) fn stalled(&self, state: ScheduleState) -> (ScheduleState, Observation) {
        if state.stalled < self.patience {
            let evaluations = state.stalled;
            return (state, Observation::Stalled { evaluations });
        }
        let by_hand = u32::try_from(state.manual.len()).unwrap_or(u32::MAX);
        if state.drops.saturating_add(by_hand) >= self.max_drops {
            return (ScheduleState { done: true, ..state }, Observation::Done);
        }
        let drops = state.drops + 1;
        (ScheduleState { drops, stalled: 0, ..state }, Observation::Dropped { drops })
    }
}
