//! Guessing from several views of one image (end of section 4.1's first scheme of the paper).
//!
//! The net sees ten windows of the square: the four corners and the centre, and their mirror images.
//! The guess is the mean of its ten softmax outputs.
//!
//! ```text
//! squares (n x 3 x s x s) -> view k: window k of all n -> logits -> log p_k      (k = 0..9, in order)
//!                            log mean p = log sum_k exp(log p_k) - log 10         (f64)
//! ```
//!
//! Views are computed one after the other, each for the whole microbatch, so memory is that of one
//! view; the sum has a fixed order, so the result depends on the microbatch alone.

use tch::{Kind, Tensor};

use super::evaluate::Evaluation;
use super::lane::{Input, Lane};
use super::{ModelError, Result, head};

/// Views of one image.
const VIEWS: usize = 10;

/// Of the window at (x, y) of the square, mirrored or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    x: i64,
    y: i64,
    mirrored: bool,
}

/// The ten views in their order: corners row by row, the centre, then the same mirrored.
fn views(square: i64, side: i64) -> [View; VIEWS] {
    let (edge, centre) = (square - side, (square - side) / 2);
    let places = [(0, 0), (edge, 0), (0, edge), (edge, edge), (centre, centre)];
    std::array::from_fn(|k| {
        let (x, y) = places[k % places.len()];
        View { x, y, mirrored: k >= places.len() }
    })
}

impl Lane {
    /// Evaluates one microbatch of squares, n x 3 x s x s with s at least the side of the net's
    /// input, from ten views each. The loss is that of the mean probability.
    ///
    /// # Errors
    /// As [`Lane::forward_and_head`].
    pub fn evaluate_views(&self, input: Input<'_>) -> Result<Evaluation> {
        let labels = self.labels(input.labels)?;
        let scores = self.views_scores(input.pixels, input.labels.len())?;
        // The softmax of logarithms of probabilities is the probabilities.
        let score = head::score(&scores, &labels)?;
        Ok(Evaluation {
            samples: input.labels.len() as u64,
            loss_sum: score.loss_sum,
            top1: score.correct,
            top5: score.correct_in_five,
        })
    }

    /// What the net makes of `images` images, `images` x classes, whose softmax is the
    /// probabilities: its logits, if the pixels are windows of its input's size; the logarithm of
    /// the mean probability over ten views, if they are larger squares.
    ///
    /// # Errors
    /// [`ModelError::Size`] if the pixels are not those of so many squares.
    pub fn scores(&self, pixels: &[f32], images: usize) -> Result<Vec<f32>> {
        let scores = if pixels.len() == images * self.spec.input_len() {
            self.forward(&self.squares(pixels, images)?)?
        } else {
            self.views_scores(pixels, images)?
        };
        let mut values = vec![0f32; scores.numel()];
        scores.f_to_kind(Kind::Float)?.f_contiguous()?.f_copy_data(&mut values, scores.numel())?;
        Ok(values)
    }

    fn views_scores(&self, pixels: &[f32], images: usize) -> Result<Tensor> {
        let squares = self.squares(pixels, images)?;
        let (square, side) = (squares.size()[3], self.spec.side() as i64);
        tch::no_grad(|| {
            let mut log_probabilities = Vec::with_capacity(VIEWS);
            for View { x, y, mirrored } in views(square, side) {
                let window = squares.f_narrow(2, y, side)?.f_narrow(3, x, side)?;
                let window = if mirrored { window.f_flip([3])? } else { window.f_contiguous()? };
                log_probabilities.push(self.forward(&window)?.f_log_softmax(1, Kind::Double)?);
            }
            let sum = Tensor::f_stack(&log_probabilities, 0)?.f_logsumexp([0], false)?;
            Ok(sum.f_sub_scalar((VIEWS as f64).ln())?.f_to_kind(Kind::Float)?)
        })
    }

    /// The pixels as n x 3 x s x s on the device.
    fn squares(&self, pixels: &[f32], images: usize) -> Result<Tensor> {
        let values = pixels.len().checked_div(3 * images).unwrap_or(0);
        let square = values.isqrt();
        if square < self.spec.side() || square * square * 3 * images != pixels.len() {
            let expected = images * self.spec.input_len();
            return Err(ModelError::Size { what: "pixels", expected, actual: pixels.len() });
        }
        let shape = [images as i64, 3, square as i64, square as i64];
        let pixels = Tensor::f_from_slice(pixels)?.f_view(shape)?;
        Ok(pixels.f_to_device(self.device.tensor_device())?)
    }
}

#[cfg(test)]
mod tests {
    use convoy_common::config::Init;
    use convoy_common::random::{Random, Stream};

    use super::*;
    use crate::model::net::tests::settings;
    use crate::model::{Device, Dropout, Net, Spec};

    const SQUARE: usize = 256;

    fn lane() -> Lane {
        let spec = Spec::narrowed(2, 10, 16).unwrap();
        let net = Net::initialised(spec, &settings(Init::Kaiming), 1, Device::CPU).unwrap();
        Lane::new(&net, Dropout { seed: 1, probability: 0.5 })
    }

    fn squares(images: usize) -> Vec<f32> {
        let mut pixels = vec![0f32; images * 3 * SQUARE * SQUARE];
        Random::new(3, Stream::Drawing, 0, 0, 0).fill_normal(&mut pixels, 1.0);
        pixels
    }

    /// The window at (x, y), cut by plain indexing.
    fn cut(square: &[f32], side: usize, x: usize, y: usize, mirrored: bool) -> Vec<f32> {
        let mut out = Vec::with_capacity(3 * side * side);
        for channel in 0..3 {
            for row in 0..side {
                for column in 0..side {
                    let column = x + if mirrored { side - 1 - column } else { column };
                    out.push(square[(channel * SQUARE + y + row) * SQUARE + column]);
                }
            }
        }
        out
    }

    #[test]
    fn ten_views_are_the_mean_of_the_softmax_of_ten_windows_cut_by_hand() {
        let (lane, pixels) = (lane(), squares(1));
        let side = lane.spec.side();
        let (edge, centre) = (SQUARE - side, (SQUARE - side) / 2);
        let mut mean = [0f64; 10];
        for (x, y) in [(0, 0), (edge, 0), (0, edge), (edge, edge), (centre, centre)] {
            for mirrored in [false, true] {
                let logits = lane.scores(&cut(&pixels, side, x, y, mirrored), 1).unwrap();
                let exponents = logits.iter().map(|it| f64::from(*it).exp());
                let sum: f64 = exponents.clone().sum();
                mean.iter_mut().zip(exponents).for_each(|(mean, it)| *mean += 0.1 * it / sum);
            }
        }
        let scores = lane.scores(&pixels, 1).unwrap();
        for (score, mean) in scores.iter().zip(mean) {
            assert!((f64::from(*score).exp() - mean).abs() < 1e-6, "{scores:?} {mean:?}");
        }
        let label = 4;
        let input = Input { pixels: &pixels, labels: &[label as i64], samples: &[] };
        let evaluation = lane.evaluate_views(input).unwrap();
        assert!((evaluation.loss_sum + mean[label].ln()).abs() < 1e-5, "{evaluation:?}");
        let ahead = mean.iter().filter(|it| **it > mean[label]).count();
        assert_eq!(
            (evaluation.top1, evaluation.top5),
            (u64::from(ahead == 0), u64::from(ahead < 5))
        );
    }

    #[test]
    fn the_centre_view_is_what_evaluation_by_the_centre_sees() {
        let (lane, pixels) = (lane(), squares(2));
        let side = lane.spec.side();
        let centre = (SQUARE - side) / 2;
        let values = 3 * SQUARE * SQUARE;
        let windows: Vec<f32> =
            pixels.chunks(values).flat_map(|it| cut(it, side, centre, centre, false)).collect();
        let input = Input { pixels: &windows, labels: &[1, 2], samples: &[] };
        let evaluation = lane.evaluate(input).unwrap();
        let scores = lane.scores(&windows, 2).unwrap();
        let hits = scores
            .chunks(10)
            .zip([1, 2])
            .filter(|(it, label)| it.iter().all(|score| *score <= it[*label]));
        assert_eq!(evaluation.top1, hits.count() as u64);
    }

    #[test]
    fn all_ten_views_lie_within_the_square_and_differ() {
        for side in [224, 227, 256] {
            let all = views(256, side);
            for (k, view) in all.iter().enumerate() {
                assert!(view.x >= 0 && view.x + side <= 256 && view.y >= 0 && view.y + side <= 256);
                assert!(side == 256 || !all[..k].contains(view), "{view:?} twice");
            }
        }
    }

    #[test]
    fn pixels_of_no_square_are_refused() {
        let (lane, pixels) = (lane(), squares(1));
        for (pixels, images) in [(&pixels[1..], 1), (&pixels[..], 2), (&pixels[..0], 0)] {
            assert!(matches!(lane.scores(pixels, images), Err(ModelError::Size { .. })));
        }
    }
}
