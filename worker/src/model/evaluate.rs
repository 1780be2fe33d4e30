//! Counting errors on held-out samples: forward without dropout, nothing kept.

use tch::Tensor;

use super::lane::{Input, Lane};
use super::{Result, head, trunk};

/// Sums over evaluated samples; integers and an ordered sum, so they can be added over workers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Samples seen.
    pub samples: u64,
    /// Sum of their losses.
    pub loss_sum: f64,
    /// Samples whose true class has the greatest logit. Where logits are equal, the true class
    /// wins.
    pub top1: u64,
    /// Samples whose true class is among the five greatest.
    pub top5: u64,
}

impl Lane {
    /// Evaluates one microbatch.
    ///
    /// # Errors
    /// As [`Lane::forward_and_head`].
    pub fn evaluate(&self, input: Input<'_>) -> Result<Evaluation> {
        let (pixels, labels) = self.tensors(input)?;
        let score = head::score(&self.forward(&pixels)?, &labels)?;
        Ok(Evaluation {
            samples: input.labels.len() as u64,
            loss_sum: score.loss_sum,
            top1: score.correct,
            top5: score.correct_in_five,
        })
    }

    /// Forward without dropout: the logits, n x classes.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let features = trunk::forward(&self.spec, &self.weights, pixels)?;
        head::logits(&self.weights[2 * self.spec.convs().len()..], &features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_counted_by_the_logits_that_are_greater() {
        let logits = Tensor::from_slice(&[
            1f32, 9.0, 2.0, 3.0, 4.0, 5.0, // true class 1: first
            9.0, 1.0, 2.0, 3.0, 4.0, 5.0, // true class 2: fifth
            9.0, 1.0, 2.0, 3.0, 4.0, 5.0, // true class 1: sixth
            7.0, 7.0, 7.0, 7.0, 7.0, 7.0, // all equal
        ])
        .view([4, 6]);
        let score = head::score(&logits, &Tensor::from_slice(&[1i64, 2, 1, 5])).unwrap();
        assert_eq!((score.correct, score.correct_in_five), (2, 3));
    }

    #[test]
    fn logits_that_are_no_numbers_hit_nothing() {
        let logits = Tensor::from_slice(&[f32::NAN; 12]).view([2, 6]);
        let score = head::score(&logits, &Tensor::from_slice(&[0i64, 3])).unwrap();
        assert_eq!((score.correct, score.correct_in_five), (0, 0));
        assert!(score.loss_sum.is_nan());
    }
}
