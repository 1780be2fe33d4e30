//! `[train]` and `[schedule]`: the optimizer, its batch, and how the learning rate falls.

use serde::{Deserialize, Serialize};

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Passes over the training split.
    pub epochs: u32,
    /// Ends the run after this many steps, if given; for short runs and tests.
    pub max_steps: Option<u64>,
    /// Samples of one step over all workers (the global batch).
    pub batch: u32,
    /// Initial learning rate.
    pub lr: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// L2 penalty, added to the gradient of every weight and bias.
    pub weight_decay: f64,
    /// The batch that `lr` is meant for; none: this one's.
    pub lr_base_batch: Option<u32>,
    /// How gradients become updates.
    pub optimizer: Optimizer,
    /// The trust coefficient of LARS; no other optimizer reads it.
    pub lars_trust: f64,
}

impl Train {
    /// The rate that the schedule starts from: `lr`, scaled with the batch if a base is given
    /// (Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.1).
    pub fn peak_rate(&self) -> f64 {
        match self.lr_base_batch {
            Some(base) => self.lr * f64::from(self.batch) / f64::from(base),
            None => self.lr,
        }
    }

    /// Steps of the whole run, unless a schedule ends it before.
    pub fn total_steps(&self, steps_per_epoch: u32) -> u64 {
        let all = u64::from(self.epochs) * u64::from(steps_per_epoch);
        self.max_steps.map_or(all, |max| all.min(max))
    }
}

/// How gradients become updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum (section 5 of the paper).
    Sgd,
    /// Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017), for large batches.
    Lars,
}

/// `[schedule]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// How the rate falls. What this kind does not know is refused there.
    #[serde(flatten)]
    pub decay: Decay,
    /// Epochs of linear warm-up; 0: none, or [`Self::warmup_steps`].
    pub warmup_epochs: u32,
    /// The same in steps; not both.
    pub warmup_steps: u32,
    /// The part of the rate that the first step has.
    pub warmup_from: f64,
}

/// Without warm-up.
impl From<Decay> for Schedule {
    fn from(decay: Decay) -> Self {
        Self { decay, warmup_epochs: 0, warmup_steps: 0, warmup_from: 0.1 }
    }
}

impl Schedule {
    /// Whether rates depend on where the run ends, so that it cannot be made longer or shorter.
    pub fn depends_on_end(&self) -> bool {
        match self.decay {
            Decay::Constant | Decay::Steps { .. } | Decay::Plateau { .. } => false,
            Decay::Polynomial { .. } | Decay::Cosine { .. } => true,
        }
    }
}

/// `schedule.kind` and its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Decay {
    /// The initial rate throughout.
    Constant,
    /// Multiplied by `factor` at the start of each listed epoch.
    Steps {
        /// In ascending order of epoch.
        drops: Vec<RateDrop>,
    },
    /// Divided when the top-1 error count on the validation split stalls.
    Plateau {
        /// An evaluation improves on the best if it has at least this many errors fewer.
        min_delta: u64,
        /// Evaluations without improvement before a drop.
        patience: u32,
        /// The rate is divided by this at a drop.
        divide_by: f64,
        /// The run ends when one more drop than this would be due.
        max_drops: u32,
    },
    /// Falls to `end_lr` at the end of the run, as a power of the part of the run that is left.
    Polynomial {
        /// 1 is a straight line.
        power: f64,
        /// At the end of the run.
        end_lr: f64,
    },
    /// Falls to `end_lr` at the end of the run along half a cosine.
    Cosine {
        /// At the end of the run.
        end_lr: f64,
    },
}

/// One entry of a step list.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateDrop {
    /// Takes effect at this epoch's first step.
    pub epoch: u32,
    /// What the rate is multiplied by.
    pub factor: f64,
}
