//! `[numerics]`: what decides bits and is not part of the recipe.

use serde::{Deserialize, Serialize};

/// `[numerics]`: what decides bits. None of it may change within a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numerics {
    /// Samples of one microbatch, the unit of work and of numerics.
    pub microbatch: u32,
    /// Intra-op threads of one lane.
    pub threads_per_lane: u32,
    /// How gradients of the fully connected layers are exchanged.
    pub head_exchange: HeadExchange,
    /// How the trunk's gradients are summed.
    pub reduction: Reduction,
    /// Microbatches of one block of the canonical sum.
    #[serde(default = "one")]
    pub block: u32,
    /// How summed gradients are written on the ring.
    #[serde(default)]
    pub wire: Wire,
    /// Number format of activations and of the weights that they meet.
    pub precision: Precision,
}

/// What records from before there were blocks, or a least number of workers, mean.
pub(super) fn one() -> u32 {
    1
}

/// The number format of a lane's arithmetic. Weights, momentum and sums are fp32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// IEEE single precision.
    Fp32,
    /// bfloat16: the range of single precision with 8 bits of significand.
    Bf16,
}

/// How the gradient of a fully connected layer reaches every rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadExchange {
    /// Factors where they are fewer bytes than the gradient, by batch and dimensions alone.
    Auto,
    /// Activations and deltas are gathered and multiplied by every rank.
    Factors,
    /// Each rank multiplies its own rows; gradients are summed in the ring.
    Gradients,
}

/// The order in which gradients are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// Reduce-scatter, then all-gather: the order depends on the number of workers.
    Fast,
    /// In the order of microbatches, whoever computed them: the same bits on any number of workers.
    Canonical,
}

/// How summed gradients are written on the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wire {
    /// As they are.
    #[default]
    Fp32,
    /// Rounded to the nearest bfloat16, every partial sum anew.
    Bf16,
}
