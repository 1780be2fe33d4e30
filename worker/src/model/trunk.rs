//! The convolutions: forward with everything kept that the way back needs, then backward.
//!
//! ```text
//! pixels -> [conv1] -> relu, norm, pool -> [conv2] -> relu, norm, pool -> [conv3 conv4 conv5 pool]
//! ```
//!
//! Parts in brackets are recorded and differentiated by the tensor library; what lies between is
//! the stage of [`super::lrn`]. Without LRN there is one part. The way back seeds each part with the gradient of the one after
//! it. Gradients are returned, never accumulated in a tensor, so that lanes can share weights.

use tch::{Kind, Tensor};

use super::spec::{Conv, Norm, POOL_SIZE, POOL_STRIDE, Spec};
use super::{ModelError, Result, lrn};

/// A recorded part of the net: leaves, and an output that depends on them.
#[derive(Debug)]
pub(super) struct Segment {
    leaves: Vec<Tensor>,
    output: Tensor,
}

impl Segment {
    /// Records `compute` over leaves that share the given tensors' memory.
    pub(super) fn record(
        inputs: &[&Tensor],
        compute: impl FnOnce(&[Tensor]) -> Result<Tensor>,
    ) -> Result<Self> {
        let leaves = inputs
            .iter()
            .map(|input| Ok(input.f_detach()?.f_set_requires_grad(true)?))
            .collect::<Result<Vec<_>>>()?;
        let output = tch::with_grad(|| compute(&leaves))?;
        Ok(Self { leaves, output })
    }

    /// The output without its history.
    pub(super) fn output(&self) -> Tensor {
        self.output.detach()
    }

    /// Gradients at the leaves, in order, from the gradient at the output.
    pub(super) fn backward(self, gradient: &Tensor) -> Result<Vec<Tensor>> {
        // The library takes no seed but one at a scalar. The derivative of this product by the
        // output is the gradient itself, times one.
        let seed = tch::with_grad(|| -> Result<Tensor> {
            if self.output.f_kind()? == Kind::BFloat16 {
                // The library's dot product of bf16 walks one number after the other: 55 ms for 16
                // samples of conv1, where product and sum take a few.
                let product = self.output.f_mul(&gradient.f_contiguous()?)?;
                return Ok(product.f_sum(Kind::BFloat16)?);
            }
            Ok(self.output.f_flatten(0, -1)?.f_dot(&gradient.f_contiguous()?.f_flatten(0, -1)?)?)
        })?;
        Ok(Tensor::f_run_backward(&[&seed], &self.leaves, false, false)?)
    }
}

/// Added to a variance before its root is taken, as in PyTorch.
const BATCH_NORM_EPSILON: f64 = 1e-5;

/// Where batch normalisation takes mean and variance from.
enum Statistics<'a> {
    /// From the microbatch, which are kept: mean and variance of each place, in order.
    Measured(Vec<Tensor>),
    /// From the running ones, in the same order.
    Running(&'a [Tensor]),
}

/// A forward pass that can be taken back.
#[derive(Debug)]
pub(super) struct Recorded {
    /// Output of the last pooling, (n, features).
    pub(super) features: Tensor,
    /// Mean and unbiased variance of each place of batch normalisation, fp32.
    pub(super) statistics: Vec<Tensor>,
    parts: Vec<Part>,
    /// Shape of the features before they were flattened.
    shape: Vec<i64>,
}

/// A recorded run of convolutions and the stage after it, if there is one.
#[derive(Debug)]
struct Part {
    segment: Segment,
    /// Whether its first leaf is the output of the part before it: all but the first part.
    input_is_leaf: bool,
    stage: Option<lrn::Saved>,
}

/// Forward with a record; `weights` are the net's, in order.
pub(super) fn record(spec: &Spec, weights: &[Tensor], pixels: &Tensor) -> Result<Recorded> {
    let mut parts = Vec::new();
    let mut x = pixels.shallow_clone();
    let mut first = 0;
    let mut rest = weights;
    let mut statistics = Statistics::Measured(Vec::new());
    while first < spec.convs().len() {
        let run = run_length(&spec.convs()[first..]);
        let convs = &spec.convs()[first..first + run];
        let (parameters, others) = rest.split_at(convs.iter().map(Conv::parameters).sum());
        rest = others;
        let input_is_leaf = first > 0;
        let mut inputs: Vec<&Tensor> = input_is_leaf.then_some(&x).into_iter().collect();
        inputs.extend(parameters);
        let segment = Segment::record(&inputs, |leaves| {
            let (from, leaves) = match leaves.split_first() {
                Some((input, rest)) if input_is_leaf => (input, rest),
                _ => (&x, leaves),
            };
            compute(convs, leaves, from, &mut statistics)
        })?;
        let (output, stage) = if convs[run - 1].norm == Norm::Response {
            let (output, saved) = lrn::forward(&segment.output())?;
            (output, Some(saved))
        } else {
            (segment.output(), None)
        };
        parts.push(Part { segment, input_is_leaf, stage });
        x = output;
        first += run;
    }
    let (features, shape) = (x.f_flatten(1, -1)?, x.size());
    let statistics = match statistics {
        Statistics::Measured(all) => all,
        Statistics::Running(_) => Vec::new(),
    };
    Ok(Recorded { features, statistics, parts, shape })
}

impl Recorded {
    /// Gradients of all weights and biases of the trunk, in order, from the gradient at the
    /// features.
    pub(super) fn backward(self, gradient: &Tensor) -> Result<Vec<Tensor>> {
        let mut parts = Vec::with_capacity(self.parts.len());
        let mut gradient = gradient.f_view(self.shape.as_slice())?;
        for part in self.parts.into_iter().rev() {
            if let Some(saved) = part.stage {
                gradient = lrn::backward(saved, &gradient)?;
            }
            let mut gradients = part.segment.backward(&gradient)?;
            if part.input_is_leaf {
                gradient = gradients.remove(0);
            }
            parts.push(gradients);
        }
        Ok(parts.into_iter().rev().flatten().collect())
    }
}

/// Forward alone: the features, (n, features). `running` are the statistics of batch
/// normalisation.
pub(super) fn forward(
    spec: &Spec,
    weights: &[Tensor],
    running: &[Tensor],
    pixels: &Tensor,
) -> Result<Tensor> {
    tch::no_grad(|| {
        let mut x = pixels.shallow_clone();
        let mut rest = weights;
        let mut statistics = Statistics::Running(running);
        for conv in spec.convs() {
            let (parameters, others) = rest.split_at(conv.parameters());
            rest = others;
            x = compute(std::slice::from_ref(conv), parameters, &x, &mut statistics)?;
            if conv.norm == Norm::Response {
                x = lrn::forward(&x)?.0;
            }
        }
        Ok(x.f_flatten(1, -1)?)
    })
}

/// Convolutions up to and with the first that response normalisation follows.
fn run_length(convs: &[Conv]) -> usize {
    let first = convs.iter().position(|conv| conv.norm == Norm::Response);
    first.map_or(convs.len(), |at| at + 1)
}

/// Convolutions, each with its batch normalisation, ReLU and pooling unless the stage of [`lrn`]
/// does those.
fn compute(
    convs: &[Conv],
    parameters: &[Tensor],
    input: &Tensor,
    statistics: &mut Statistics<'_>,
) -> Result<Tensor> {
    let mut x = input.shallow_clone();
    let mut rest = parameters;
    for conv in convs {
        let (parameters, others) = rest.split_at(conv.parameters());
        rest = others;
        let (stride, padding) = (conv.stride as i64, conv.padding as i64);
        x = x.f_conv2d(
            &parameters[0],
            Some(&parameters[1]),
            [stride, stride],
            [padding, padding],
            [1, 1],
            conv.groups as i64,
        )?;
        match conv.norm {
            Norm::Response => continue,
            Norm::Batch(_) => x = statistics.normalise(&x, &parameters[2], &parameters[3])?,
            Norm::None => {}
        }
        x = x.f_relu_()?;
        if conv.pooled {
            let (size, stride) = (POOL_SIZE as i64, POOL_STRIDE as i64);
            x = x.f_max_pool2d([size, size], [stride, stride], [0, 0], [1, 1], false)?;
        }
    }
    Ok(x)
}

impl Statistics<'_> {
    /// Batch normalisation of (n, channels, height, width); differentiable where it measures.
    fn normalise(&mut self, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
        const NONE: Option<&Tensor> = None;
        let epsilon = BATCH_NORM_EPSILON;
        match self {
            Self::Measured(all) => {
                let (y, mean, root) = x.f_native_batch_norm(
                    Some(scale),
                    Some(shift),
                    NONE,
                    NONE,
                    true,
                    0.0,
                    epsilon,
                )?;
                // The library keeps 1 / sqrt(biased variance + epsilon); running statistics take
                // the unbiased variance, as PyTorch's do.
                let values = (x.numel() / x.size4()?.1 as usize) as f64;
                let variance = root
                    .f_detach()?
                    .f_to_kind(Kind::Double)?
                    .f_pow_tensor_scalar(-2)?
                    .f_sub_scalar(epsilon)?
                    .f_clamp_min(0.0)?
                    .f_mul_scalar(values / (values - 1.0).max(1.0))?;
                all.push(mean.f_detach()?.f_to_kind(Kind::Float)?);
                all.push(variance.f_to_kind(Kind::Float)?);
                Ok(y)
            }
            Self::Running(all) => {
                let [mean, variance, rest @ ..] = *all else {
                    let what = "running statistics of batch normalisation";
                    return Err(ModelError::Size { what, expected: 2, actual: all.len() });
                };
                *all = rest;
                let (y, _, _) = x.f_native_batch_norm(
                    Some(scale),
                    Some(shift),
                    Some(mean),
                    Some(variance),
                    false,
                    0.0,
                    epsilon,
                )?;
                Ok(y)
            }
        }
    }
}
