//! Where a step's time goes, as wall time of the trainer's thread.

use std::time::{Duration, Instant};

/// The split of one step. The parts do not overlap and sum up to the total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Waiting for decoded images.
    pub data_wait: Duration,
    /// Forward and backward, including what the ring does meanwhile.
    pub compute: Duration,
    /// Waiting for the ring after the last gradient was computed: its exposed part.
    pub all_reduce: Duration,
    /// Checking and committing the step.
    pub update: Duration,
    /// The whole step.
    pub total: Duration,
    /// How long the exchange ran behind the computing, which is the part of it that costs no time;
    /// within `compute`, not beside it.
    pub hidden: Duration,
}

/// How long a rank took to be ready for the ring: from the end of the last collective, which all ranks see
/// together, to its own part of the next. All ranks' steps take equally long, because all wait for the
/// slowest; these times tell who that is. Sums over steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// How many.
    pub steps: u64,
    /// Microbatches computed in them.
    pub microbatches: u64,
    /// Before the step: committing the last one, keeping a checkpoint.
    pub between: Duration,
    /// Waiting for decoded images.
    pub data: Duration,
    /// Forward and backward.
    pub compute: Duration,
}

impl Arrival {
    pub(super) fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.microbatches += other.microbatches;
        self.between += other.between;
        self.data += other.data;
        self.compute += other.compute;
    }
}

/// Measures the split: each lap ends one part.
#[derive(Debug)]
pub(super) struct Stopwatch {
    start: Instant,
    lap: Instant,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self { start: now, lap: now }
    }

    /// The time since the last lap.
    pub(super) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.lap, now)
    }

    /// When it was started.
    pub(super) fn started(&self) -> Instant {
        self.start
    }

    /// When the last lap ended.
    pub(super) fn last(&self) -> Instant {
        self.lap
    }

    pub(super) fn total(&self) -> Duration {
        self.lap - self.start
    }
}
