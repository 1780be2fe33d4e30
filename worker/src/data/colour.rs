//! Colour augmentation along the principal axes of the data set's colours (section 4.1 of the
//! paper).
//!
//! ```text
//! covariance of R, G, B over the training pixels = P diag(l1, l2, l3) P'      (Jacobi)
//! to every pixel of the image is added   P [a1 sqrt(l1), a2 sqrt(l2), a3 sqrt(l3)]'
//! a1, a2, a3 from N(0, sigma), drawn once for the image in an epoch; sigma = 0.1 in the paper
//! ```
//!
//! The paper's sentence multiplies by the eigenvalues; its author's published code (cuda-convnet2,
//! `convdata.py`) by the standard deviations along the axes, which are their square roots. Only
//! those are in the pixels' own units: with pixels from 0 to 255 the first eigenvalue of ImageNet
//! is near 9,000, and its root near 95, so that a shift is about 10 in length.
//!
//! All of it is basic `f64` arithmetic in a fixed order, so every machine adds the same numbers.
//! The sign of an axis is fixed too, although the draws are symmetric, because runs are compared
//! bit by bit.

use convoy_common::random::{Random, Stream};

use super::Request;

/// Turns over all pairs of axes, at most; a 3 x 3 matrix is diagonal to the last bit after five.
const SWEEPS: usize = 30;

/// What colours of a data set vary along.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axes {
    /// Orthogonal columns, each of the length of one standard deviation, widest first; in units of
    /// pixels from 0 to 255.
    deviations: [[f64; 3]; 3],
}

impl Axes {
    /// The axes of a covariance matrix, given row by row.
    ///
    /// What rounding has made asymmetric is averaged, and what it has made negative is 0. None of
    /// the entries may be other than finite, which a data set's index guarantees.
    pub(super) fn of(covariance: &[f64; 9]) -> Self {
        let mut matrix = [[0.0; 3]; 3];
        for (row, values) in matrix.iter_mut().enumerate() {
            for (column, value) in values.iter_mut().enumerate() {
                *value = 0.5 * (covariance[row * 3 + column] + covariance[column * 3 + row]);
            }
        }
        let (values, vectors) = eigen(matrix);
        let mut order = [0, 1, 2];
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        let axis = |column: usize| {
            let vector = [0, 1, 2].map(|row: usize| vectors[row][column]);
            let largest = vector
                .iter()
                .copied()
                .fold(0.0, |most: f64, it| if it.abs() > most.abs() { it } else { most });
            let deviation = values[column].max(0.0).sqrt();
            vector.map(|it| if largest < 0.0 { -it * deviation } else { it * deviation })
        };
        Self { deviations: order.map(axis) }
    }

    /// What is added to R, G and B of a sample: three draws from the sample's own stream,
    /// [`Stream::Colour`], for the axes from the widest to the narrowest.
    pub(super) fn shift(&self, sigma: f64, seed: u64, request: &Request, sample: u64) -> [f32; 3] {
        if sigma == 0.0 {
            return [0.0; 3];
        }
        let mut random = Random::new(seed, Stream::Colour, request.epoch, request.step, sample);
        let mut shift = [0.0; 3];
        for axis in &self.deviations {
            let along = sigma * random.normal();
            for (sum, part) in shift.iter_mut().zip(axis) {
                *sum += along * part;
            }
        }
        shift.map(|it| it as f32)
    }
}

/// Eigenvalues and, as columns, eigenvectors of length 1 of a symmetric matrix: the cyclic method
/// of Jacobi (Golub and Van Loan, "Matrix Computations", section 8.5), in no particular order.
fn eigen(mut a: [[f64; 3]; 3]) -> ([f64; 3], [[f64; 3]; 3]) {
    let mut vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    for _ in 0..SWEEPS {
        if a[0][1] == 0.0 && a[0][2] == 0.0 && a[1][2] == 0.0 {
            break;
        }
        for (p, q) in [(0, 1), (0, 2), (1, 2)] {
            turn(&mut a, &mut vectors, p, q);
        }
    }
    ([a[0][0], a[1][1], a[2][2]], vectors)
}

/// Turns the axes `p` and `q` so that their entry becomes 0.
fn turn(a: &mut [[f64; 3]; 3], vectors: &mut [[f64; 3]; 3], p: usize, q: usize) {
    let off = a[p][q];
    // Beside both diagonal entries it is nothing: without this, tiny numbers would go on for ever.
    if off == 0.0 || (a[p][p].abs() + off == a[p][p].abs() && a[q][q].abs() + off == a[q][q].abs())
    {
        (a[p][q], a[q][p]) = (0.0, 0.0);
        return;
    }
    // The smaller root of t^2 + 2 t theta - 1 = 0 is the tangent of the angle.
    let theta = (a[q][q] - a[p][p]) / (2.0 * off);
    let root = (theta * theta + 1.0).sqrt();
    let t = if theta < 0.0 { -1.0 / (root - theta) } else { 1.0 / (root + theta) };
    let cosine = 1.0 / (t * t + 1.0).sqrt();
    let sine = t * cosine;
    a[p][p] -= t * off;
    a[q][q] += t * off;
    (a[p][q], a[q][p]) = (0.0, 0.0);
    let r = 3 - p - q;
    let (to_p, to_q) = (a[r][p], a[r][q]);
    a[r][p] = cosine * to_p - sine * to_q;
    a[r][q] = sine * to_p + cosine * to_q;
    (a[p][r], a[q][r]) = (a[r][p], a[r][q]);
    for row in vectors {
        let (at_p, at_q) = (row[p], row[q]);
        row[p] = cosine * at_p - sine * at_q;
        row[q] = sine * at_p + cosine * at_q;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::Purpose;
    use crate::data::memory::COVARIANCE as PHOTOGRAPHS;

    /// P diag(l) P' for a matrix given by its columns, which hold the roots of l.
    fn product(columns: &[[f64; 3]; 3]) -> [f64; 9] {
        let mut out = [0.0; 9];
        for (at, value) in out.iter_mut().enumerate() {
            *value = columns.iter().map(|column| column[at / 3] * column[at % 3]).sum();
        }
        out
    }

    fn dot(a: &[f64; 3], b: &[f64; 3]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn request(epoch: u32, step: u32) -> Request {
        Request { purpose: Purpose::Train, epoch, step, microbatch: 0, samples: Vec::new() }
    }

    proptest! {
        #[test]
        fn the_axes_are_orthogonal_and_make_up_the_covariance(
            a in prop::array::uniform9(-100_f64..100.0), scale in -8_i32..4,
        ) {
            // A A' is a covariance, whatever A.
            let scale = 10_f64.powi(scale);
            let columns = [0, 1, 2].map(|k| [0, 1, 2].map(|row: usize| a[row * 3 + k] * scale));
            let covariance = product(&columns);
            let Axes { deviations } = Axes::of(&covariance);
            let most = covariance.iter().fold(0.0_f64, |most, it| most.max(it.abs()));
            for (got, expected) in product(&deviations).iter().zip(covariance) {
                prop_assert!((got - expected).abs() <= 1e-13 * most, "{got} for {expected}");
            }
            for (p, q) in [(0, 1), (0, 2), (1, 2)] {
                prop_assert!(dot(&deviations[p], &deviations[q]).abs() <= 1e-12 * most);
                let lengths = [p, q].map(|k| dot(&deviations[k], &deviations[k]));
                prop_assert!(lengths[0] >= lengths[1] * (1.0 - 1e-12), "widest first");
            }
        }
    }

    #[test]
    fn known_matrices_have_their_known_axes() {
        // Eigenvalues 4, 2, 1 along (1,1,0), (1,-1,0), (0,0,1).
        let Axes { deviations } = Axes::of(&[3.0, 1.0, 0.0, 1.0, 3.0, 0.0, 0.0, 0.0, 1.0]);
        let root = 0.5_f64.sqrt();
        let expected = [
            [2.0 * root, 2.0 * root, 0.0],
            [2_f64.sqrt() * root, -(2_f64.sqrt()) * root, 0.0],
            [0.0, 0.0, 1.0],
        ];
        for (got, expected) in deviations.iter().flatten().zip(expected.iter().flatten()) {
            // The second axis may point either way; its sign is that of its first largest entry.
            assert!((got.abs() - expected.abs()).abs() < 1e-15, "{deviations:?}");
        }
        let grey = Axes::of(&[9.0; 9]);
        assert!((grey.deviations[0][0] - 3.0).abs() < 1e-14, "{grey:?}");
        assert!(grey.deviations[1..].iter().flatten().all(|it| it.abs() < 1e-6), "{grey:?}");
        assert_eq!(Axes::of(&[0.0; 9]).deviations, [[0.0; 3]; 3]);
    }

    #[test]
    fn an_axis_points_towards_its_largest_entry() {
        for axis in Axes::of(&PHOTOGRAPHS).deviations {
            let largest = axis.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
            assert!(largest.unwrap() > 0.0, "{axis:?}");
        }
    }

    #[test]
    fn shifts_have_the_covariance_of_the_colours_times_the_square_of_sigma() {
        let (axes, count) = (Axes::of(&PHOTOGRAPHS), 40_000);
        let (mut sums, mut products) = ([0.0; 3], [0.0; 9]);
        for sample in 0..count {
            let shift = axes.shift(0.1, 7, &request(3, 5), sample).map(f64::from);
            for (at, product) in products.iter_mut().enumerate() {
                *product += shift[at / 3] * shift[at % 3];
            }
            sums.iter_mut().zip(shift).for_each(|(sum, it)| *sum += it);
        }
        for (got, expected) in products.iter().zip(PHOTOGRAPHS) {
            let (got, expected) = (got / count as f64, 0.01 * expected);
            assert!((got - expected).abs() < 0.03 * expected, "{got} for {expected}");
        }
        // The mean of so many has a deviation of 0.1 sqrt(4,800 / 40,000) = 0.035.
        assert!(sums.iter().all(|sum| (sum / count as f64).abs() < 0.15), "{sums:?}");
    }

    #[test]
    fn a_shift_is_a_function_of_seed_position_and_sample_and_of_nothing_else() {
        let axes = Axes::of(&PHOTOGRAPHS);
        let at = |seed, epoch, step, sample| axes.shift(0.1, seed, &request(epoch, step), sample);
        let one = at(1, 2, 3, 4);
        assert_eq!(one, at(1, 2, 3, 4));
        for other in [at(2, 2, 3, 4), at(1, 3, 3, 4), at(1, 2, 4, 4), at(1, 2, 3, 5)] {
            assert_ne!(one, other);
        }
        assert_eq!(axes.shift(0.0, 1, &request(2, 3), 4), [0.0; 3]);
    }

    /// Worked out by another program in another language; a change would change every run.
    #[test]
    fn the_shifts_of_a_run_stay_as_they_are() {
        let axes = Axes::of(&PHOTOGRAPHS);
        let shift = axes.shift(0.1, 42, &request(3, 17), 1_000_000);
        let expected: [f32; 3] = [9.880_427, 7.687_035, 10.110_615];
        for (got, expected) in shift.iter().zip(expected) {
            assert!((got - expected).abs() <= 1e-5, "{shift:?}");
        }
    }
}
