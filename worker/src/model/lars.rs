//! Layer-wise adaptive rate scaling: You, Gitman, Ginsburg, "Large Batch Training of Convolutional
//! Networks" (2017), algorithm 1.
//!
//! ```text
//! local rate = trust * |w| / (|g| + lambda |w|)
//! v = mu v + eta * local rate * (g + lambda w)
//! w = w - v
//! ```
//!
//! Every parameter tensor has a local rate of its own, biases included, as in the table of the
//! paper that lists norms of weights and of biases one by one. The paper's momentum holds the rates
//! already, unlike that of plain SGD here. The denominator is as the authors' own solver computes it; the
//! paper's first version printed the gradient's norm twice there.
//! Later descriptions of the method leave out biases and what belongs to normalisation, and take the
//! norm of `g + lambda w`: this is the paper's form.
//!
//! Norms are sums of squares in f64 in one fixed order, so they do not depend on who computes them
//! with how many threads.

/// Sums that run side by side: the order of additions is fixed, and the compiler can vectorise it.
const STRANDS: usize = 8;

/// The local rate of a tensor from its norms.
///
/// The paper says nothing of a tensor of zeros, such as a bias at the start, which this formula would
/// never let go. It, and one without a gradient, gets `trust` itself: the rate of a tensor whose
/// norm equals its gradient's.
pub fn local_rate(trust: f64, weight_norm: f64, gradient_norm: f64, weight_decay: f64) -> f64 {
    let below = gradient_norm + weight_decay * weight_norm;
    if weight_norm > 0.0 && below > 0.0 { trust * weight_norm / below } else { trust }
}

/// The Euclidean norm.
pub fn norm(values: &[f32]) -> f64 {
    let (groups, rest) = values.as_chunks::<STRANDS>();
    let mut sums = [0f64; STRANDS];
    for group in groups {
        for (sum, &value) in sums.iter_mut().zip(group) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    let rest = rest.iter().map(|&value| f64::from(value) * f64::from(value));
    sums.into_iter().chain(rest).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_rate_is_the_papers_formula() {
        assert_eq!(local_rate(0.001, 2.0, 4.0, 0.5), 0.001 * 2.0 / 5.0);
        assert_eq!(local_rate(0.02, 3.0, 3.0, 0.0), 0.02);
    }

    #[test]
    fn a_gradient_twice_as_long_makes_an_update_of_the_same_length() {
        for factor in [1.0, 2.0, 1024.0] {
            let step = local_rate(0.001, 5.0, 0.25 * factor, 0.0) * 0.25 * factor;
            assert_eq!(step, 0.005);
        }
    }

    #[test]
    fn zeros_can_be_left() {
        assert_eq!(local_rate(0.001, 0.0, 7.0, 0.0005), 0.001);
        assert_eq!(local_rate(0.001, 7.0, 0.0, 0.0), 0.001);
        assert_eq!(local_rate(0.001, 0.0, 0.0, 0.0), 0.001);
    }

    #[test]
    fn the_norm_takes_every_value_once() {
        for length in [0usize, 1, 7, 8, 9, 1000] {
            let values: Vec<f32> = (0..length).map(|i| i as f32 - 3.5).collect();
            let plain: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
            assert!((norm(&values) - plain.sqrt()).abs() <= 1e-12 * plain.sqrt());
        }
        assert!((norm(&[3.0e30, 4.0e30]) / 5.0e30 - 1.0).abs() < 1e-6, "no overflow");
    }
}
