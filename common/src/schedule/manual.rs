//! Drops by hand: what an operator orders while the run goes on.
//!
//! Each has a number in the run's override log. It takes effect at the first step boundary at which
//! all ranks know it, and the log then records where that was; read back from the log, it takes
//! effect at the recorded position, so that a run can be replayed.

use serde::{Deserialize, Serialize};

use super::{LearningRate, ScheduleState};
use crate::ids::Position;

/// One order of the override log.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManualDrop {
    /// In the log of its lineage, from 1.
    pub number: u32,
    /// What the rate is divided by; more than 1.
    pub divide_by: f64,
    /// Where it took effect, if the log knows.
    pub at: Option<Position>,
}

/// One that took effect.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppliedDrop {
    /// In the log of its lineage.
    pub number: u32,
    /// What the rate is divided by.
    pub divide_by: f64,
    /// The first step with the lower rate.
    pub at: Position,
}

impl ScheduleState {
    /// Those of `known` that take effect at the boundary before the step at `at`, in order of
    /// number, if all ranks know the orders up to `agreed`.
    ///
    /// Equal on every rank: what one rank knows beyond `agreed` has no recorded position.
    pub fn due(&self, known: &[ManualDrop], agreed: u32, at: Position) -> Vec<AppliedDrop> {
        let mut due: Vec<AppliedDrop> = known
            .iter()
            .filter(|drop| match drop.at {
                Some(recorded) => recorded <= at,
                None => drop.number <= agreed,
            })
            .filter(|drop| self.manual.iter().all(|it| it.number != drop.number))
            .map(|drop| AppliedDrop { number: drop.number, divide_by: drop.divide_by, at })
            .collect();
        due.sort_by_key(|drop| drop.number);
        due
    }
}

impl LearningRate {
    /// The state once `drop` has taken effect.
    ///
    /// Under the plateau rule it counts as one of `max_drops`, and the lower rate gets a patience
    /// of its own.
    pub fn drop_by_hand(&self, state: &ScheduleState, drop: AppliedDrop) -> ScheduleState {
        let mut next = ScheduleState { stalled: 0, ..state.clone() };
        next.manual.push(drop);
        next
    }
}
