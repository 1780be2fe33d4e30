//! Linear warm-up: the first steps use a growing part of the rate.
//!
//! Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.2: a rate that is scaled up for a
//! large batch is reached from the unscaled one by a constant amount more in each step.

/// Multiplies any curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Warmup {
    /// The first step that has the whole rate; 0: no warm-up.
    pub(super) steps: u64,
    /// The part of the rate that step 0 has, 0 to 1.
    pub(super) from: f64,
}

impl Warmup {
    /// The part of the rate that this step of the run has.
    pub(super) fn part(&self, global_step: u64) -> f64 {
        if global_step >= self.steps {
            return 1.0;
        }
        self.from + (1.0 - self.from) * (global_step as f64 / self.steps as f64)
    }
}
