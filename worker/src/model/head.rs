//! fc6, fc7 and fc8: forward and backward by explicit formulas.
//!
//! With `x` a layer's input, `W` and `b` its parameters, `m` a dropout mask, and B the samples of
//! the global batch:
//!
//! ```text
//! x6 = m6 * features                         dfeatures = (d6 W6) * m6
//! z6 = x6 W6' + b6   x7 = m7 * relu(z6)      d6 = (d7 W7) * m7 * [z6 > 0]
//! z7 = x7 W7' + b7   x8 = m8 * relu(z7)      d7 = (d8 W8) * m8 * [z7 > 0]
//! z8 = x8 W8' + b8                           d8 = (softmax(z8) - one_hot(label)) / B
//! loss = -log softmax(z8)[label]
//! ```
//!
//! Matrices have the weights' number format; the softmax, the loss and what leaves the module are
//! fp32 in any case.
//!
//! The gradient of a layer over any set of samples is `d' x` for the weight and the column sums
//! of `d` for the bias, so `x` and `d` (the factors) are all that need to leave the worker. By hand, because then
//! they are there before the trunk's backward pass starts and can travel meanwhile.

use tch::{Kind, Tensor};

use super::{ModelError, Result};

/// Number of fully connected layers.
pub(super) const LAYERS: usize = 3;

/// The factors of one fully connected layer's gradient.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Factors {
    /// Number of samples, n.
    pub rows: usize,
    /// What went into the layer: n x inputs, row by row.
    pub activations: Vec<f32>,
    /// The loss's gradient at its output, already divided by the global batch: n x outputs.
    pub deltas: Vec<f32>,
}

impl Factors {
    /// The factors of more samples, after these.
    pub fn append(&mut self, other: &Self) {
        self.rows += other.rows;
        self.activations.extend_from_slice(&other.activations);
        self.deltas.extend_from_slice(&other.deltas);
    }

    /// The gradient that they stand for: weight (outputs x inputs), then bias.
    ///
    /// # Errors
    /// [`ModelError::Size`] if the factors are not of one number of samples.
    pub fn gradient(&self) -> Result<Vec<f32>> {
        let (activations, deltas) = self.tensors()?;
        let weight = deltas.f_tr()?.f_matmul(&activations)?;
        let mut gradient = vec![0f32; weight.numel()];
        weight.f_copy_data(&mut gradient, weight.numel())?;
        gradient.extend(self.bias_gradient());
        Ok(gradient)
    }

    /// Column sums of the deltas, added in the order of the samples.
    pub(super) fn bias_gradient(&self) -> Vec<f32> {
        let outputs = self.deltas.len() / self.rows.max(1);
        let mut sums = vec![0f64; outputs];
        for row in self.deltas.chunks_exact(outputs.max(1)) {
            sums.iter_mut().zip(row).for_each(|(sum, &delta)| *sum += f64::from(delta));
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    }

    /// Activations and deltas as matrices in host memory.
    pub(super) fn tensors(&self) -> Result<(Tensor, Tensor)> {
        let matrix = |what, values: &[f32]| -> Result<Tensor> {
            if self.rows == 0 || values.is_empty() || !values.len().is_multiple_of(self.rows) {
                return Err(ModelError::Size { what, expected: self.rows, actual: values.len() });
            }
            let columns = values.len() / self.rows;
            Ok(Tensor::f_from_slice(values)?.f_view([self.rows as i64, columns as i64])?)
        };
        Ok((matrix("activations", &self.activations)?, matrix("deltas", &self.deltas)?))
    }
}

/// The gradient of one fully connected layer over the global batch, in either form.
#[derive(Clone, Debug, PartialEq)]
pub enum HeadGradient {
    /// The factors of all samples, in the order of the global batch.
    Factors(Factors),
    /// Weight (outputs x inputs), then bias.
    Dense(Vec<f32>),
}

/// What the head hands on.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) factors: [Factors; LAYERS],
    /// The loss's gradient at the features.
    pub(super) feature_gradient: Tensor,
    pub(super) loss_sum: f64,
    pub(super) correct: u64,
}

/// Forward and backward for one microbatch.
///
/// `weights` are weight and bias of the three layers; `masks` are those of their inputs, or none;
/// `batch` is B.
pub(super) fn pass(
    weights: &[Tensor],
    features: &Tensor,
    labels: &Tensor,
    masks: &[Option<Tensor>; LAYERS],
    batch: u32,
) -> Result<Pass> {
    let [w6, b6, w7, b7, w8, b8] = weights else {
        return Err(ModelError::Size {
            what: "parameters of the head",
            expected: 6,
            actual: weights.len(),
        });
    };
    tch::no_grad(|| {
        let x6 = masked(features.shallow_clone(), masks[0].as_ref())?;
        let x7 = masked(hidden(&x6, w6, b6)?, masks[1].as_ref())?;
        let x8 = masked(hidden(&x7, w7, b7)?, masks[2].as_ref())?;
        let logits = x8.f_linear(w8, Some(b8))?.f_to_kind(Kind::Float)?;
        let score = score(&logits, labels)?;

        let one_hot = logits.f_zeros_like()?.f_scatter_value(1, &labels.f_unsqueeze(1)?, 1.0)?;
        let d8 = score.probabilities.f_sub(&one_hot)?.f_div_scalar(f64::from(batch))?;
        let d8 = d8.f_to_kind(w8.f_kind()?)?;
        let d7 = hidden_delta(&d8, w8, &x8, masks[2].as_ref())?;
        let d6 = hidden_delta(&d7, w7, &x7, masks[1].as_ref())?;
        let feature_gradient = masked(d6.f_matmul(w6)?, masks[0].as_ref())?;
        let factors = [factors(&x6, &d6)?, factors(&x7, &d7)?, factors(&x8, &d8)?];
        Ok(Pass { factors, feature_gradient, loss_sum: score.loss_sum, correct: score.correct })
    })
}

/// Forward alone, without dropout: the logits, fp32.
pub(super) fn logits(weights: &[Tensor], features: &Tensor) -> Result<Tensor> {
    let [w6, b6, w7, b7, w8, b8] = weights else {
        return Err(ModelError::Size {
            what: "parameters of the head",
            expected: 6,
            actual: weights.len(),
        });
    };
    tch::no_grad(|| {
        let x7 = hidden(features, w6, b6)?;
        let x8 = hidden(&x7, w7, b7)?;
        Ok(x8.f_linear(w8, Some(b8))?.f_to_kind(Kind::Float)?)
    })
}

/// Loss and hits of a microbatch.
#[derive(Debug)]
pub(super) struct Score {
    pub(super) probabilities: Tensor,
    pub(super) loss_sum: f64,
    /// The true class has the greatest logit; of equal ones all count.
    pub(super) correct: u64,
    /// The true class is among the five greatest.
    pub(super) correct_in_five: u64,
}

/// Softmax cross-entropy, and hits by the number of logits that are greater than the true one:
/// unlike a sort, that has one answer when logits are equal. Logits that are no numbers hit
/// nothing.
pub(super) fn score(logits: &Tensor, labels: &Tensor) -> Result<Score> {
    let labels = labels.f_unsqueeze(1)?;
    let log_probabilities = logits.f_log_softmax(1, Kind::Float)?;
    let loss_sum =
        -log_probabilities.f_gather(1, &labels, false)?.f_sum(Kind::Double)?.f_double_value(&[])?;
    let truth = logits.f_gather(1, &labels, false)?;
    // Not `greater`: what is no number must count against a hit.
    let ahead = logits.f_less_equal_tensor(&truth)?.f_logical_not()?.f_sum_dim_intlist(
        1,
        false,
        Kind::Int64,
    )?;
    let hits = |most: i64| -> Result<u64> {
        Ok(ahead.f_less_equal(most)?.f_sum(Kind::Int64)?.f_int64_value(&[])? as u64)
    };
    let classes = logits.size()[1];
    let correct = if classes == 1 && !loss_sum.is_finite() { 0 } else { hits(0)? };
    Ok(Score {
        probabilities: log_probabilities.f_exp()?,
        loss_sum,
        correct,
        correct_in_five: hits(4)?,
    })
}

fn hidden(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    Ok(x.f_linear(weight, Some(bias))?.f_relu_()?)
}

fn masked(x: Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    Ok(match mask {
        Some(mask) => x.f_mul(mask)?,
        None => x,
    })
}

/// The gradient at a hidden layer's output before ReLU and dropout, from that of the next layer;
/// `x` is what the next layer was given.
fn hidden_delta(
    next: &Tensor,
    next_weight: &Tensor,
    x: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let delta = masked(next.f_matmul(next_weight)?, mask)?;
    // Where a unit was kept, `x` is positive exactly if its input to the ReLU was; where it was
    // dropped, the mask has made the gradient zero already.
    Ok(x.f_threshold_backward(&delta, 0.0)?)
}

fn factors(activations: &Tensor, deltas: &Tensor) -> Result<Factors> {
    let values = |tensor: &Tensor| -> Result<Vec<f32>> {
        let mut values = vec![0f32; tensor.numel()];
        let plain = tensor.f_to_kind(Kind::Float)?.f_contiguous()?;
        plain.f_copy_data(&mut values, tensor.numel())?;
        Ok(values)
    };
    let rows = activations.size()[0] as usize;
    Ok(Factors { rows, activations: values(activations)?, deltas: values(deltas)? })
}
