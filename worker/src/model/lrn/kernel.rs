//! The CPU kernel of one sample: ReLU, normalisation and max pooling in one pass each way.
//!
//! ```text
//! x --relu--> a --/ (k + alpha * sum a^2)^beta--> y --max 3x3/2--> output, winners
//! ```
//!
//! A sample is walked in chunks of [`LANES`] neighbouring places, all channels of a chunk at once,
//! so that the sums over channels stay in the first-level cache and every inner loop is plain
//! enough for the compiler to vectorise. Only `x` and the winners are kept for the way back;
//! the rest is computed again, which is cheaper than reading it from memory.
//!
//! Derivative of the normalisation, with `d = k + alpha * sum a^2` and window sums over channels:
//! `da = dy * d^-beta - 2 * alpha * beta * a * sum(dy * a * d^(-beta - 1))`.
//!
//! Values that are not numbers are passed on, never hidden, so that a diverging run is noticed.

use super::{ALPHA, BETA, K, WINDOW};
use crate::model::spec::{POOL_SIZE, POOL_STRIDE};

/// Places handled together: long enough to read whole cache lines of each channel, short enough
/// for the working memory of 96 channels to stay in the second-level cache.
const LANES: usize = 64;
/// Channels on each side in one sum.
const REACH: usize = WINDOW / 2;
/// A zero may come out of the ReLU with a sign.
const SIGN: u32 = 1 << 31;

/// One sample's shape: channels of square maps.
#[derive(Clone, Copy, Debug)]
pub struct Plane {
    /// Number of channels.
    pub channels: usize,
    /// Height and width before pooling; at least 3.
    pub side: usize,
}

impl Plane {
    /// Values before pooling.
    pub fn len(self) -> usize {
        self.channels * self.side * self.side
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Height and width after pooling.
    pub fn pooled_side(self) -> usize {
        (self.side - POOL_SIZE) / POOL_STRIDE + 1
    }

    /// Values after pooling.
    pub fn pooled_len(self) -> usize {
        self.channels * self.pooled_side() * self.pooled_side()
    }
}

type Lanes = [f32; LANES];

/// A number as it lies in memory; the kernel computes in f32.
pub trait Element: Copy {
    /// The exact value.
    fn load(self) -> f32;
    /// The nearest number, to even where two are.
    fn store(value: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }

    #[inline(always)]
    fn store(value: f32) -> Self {
        value
    }
}

/// A bfloat16: the upper half of an f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Element for Bf16 {
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    #[inline(always)]
    fn store(value: f32) -> Self {
        let bits = value.to_bits();
        let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // Rounding must not make an infinity of what is no number.
        let quiet = (bits >> 16) | 0x40;
        Self((if value.is_nan() { quiet } else { nearest }) as u16)
    }
}

/// Working memory, reused from sample to sample.
#[derive(Debug)]
pub struct Scratch {
    /// One sample before pooling: `y` on the way forward, `dy` on the way back.
    map: Vec<f32>,
    /// By channel, with [`REACH`] rows of zeros at each end.
    active: Vec<Lanes>,
    /// What is summed over channels, with the same zeros.
    summed: Vec<Lanes>,
    /// By channel, without them.
    scale: Vec<Lanes>,
}

impl Scratch {
    /// For samples of this shape.
    pub fn new(plane: Plane) -> Self {
        let padded = vec![[0.0; LANES]; plane.channels + 2 * REACH];
        Self {
            map: vec![0.0; plane.len()],
            active: padded.clone(),
            summed: padded,
            scale: vec![[0.0; LANES]; plane.channels],
        }
    }

    /// Loads one chunk and computes `a`, and `d` in place of the scale.
    fn load<T: Element>(&mut self, plane: Plane, x: &[T], start: usize, width: usize) {
        let area = plane.side * plane.side;
        for channel in 0..plane.channels {
            let from = &x[channel * area + start..][..width];
            let (active, squares) =
                (&mut self.active[channel + REACH], &mut self.summed[channel + REACH]);
            if width < LANES {
                *active = [0.0; LANES];
            }
            active.iter_mut().zip(from).for_each(|(active, value)| *active = value.load());
            for lane in 0..LANES {
                let value = active[lane];
                // Written so that a value that is no number stays one.
                let value = if value < 0.0 { 0.0 } else { value };
                active[lane] = value;
                squares[lane] = value * value;
            }
        }
        for channel in 0..plane.channels {
            self.scale[channel] = window_sum(&self.summed, channel).map(|sum| K + ALPHA * sum);
        }
    }
}

#[inline(always)]
fn window_sum(rows: &[Lanes], channel: usize) -> Lanes {
    let mut sum = rows[channel];
    for row in &rows[channel + 1..channel + WINDOW] {
        for lane in 0..LANES {
            sum[lane] += row[lane];
        }
    }
    sum
}

/// `d^-0.75`.
#[inline(always)]
fn power(d: f32) -> f32 {
    let root = d.sqrt();
    1.0 / (root * root.sqrt())
}

/// One sample forward: `x` has [`Plane::len`] values; `output` and `winners` (the place within
/// its window, row by row) have [`Plane::pooled_len`].
pub fn forward<T: Element>(
    plane: Plane,
    x: &[T],
    output: &mut [T],
    winners: &mut [u8],
    scratch: &mut Scratch,
) {
    let area = plane.side * plane.side;
    for start in (0..area).step_by(LANES) {
        let width = LANES.min(area - start);
        scratch.load(plane, x, start, width);
        for channel in 0..plane.channels {
            let (active, d) = (&scratch.active[channel + REACH], &scratch.scale[channel]);
            let mut y = [0.0; LANES];
            for lane in 0..LANES {
                y[lane] = active[lane] * power(d[lane]);
            }
            scratch.map[channel * area + start..][..width].copy_from_slice(&y[..width]);
        }
    }
    pool(plane, &scratch.map, output, winners);
}

/// One sample backward: the gradient at `x` from the gradient after pooling.
pub fn backward<T: Element>(
    plane: Plane,
    x: &[T],
    gradient: &[T],
    winners: &[u8],
    output: &mut [T],
    scratch: &mut Scratch,
) {
    unpool(plane, gradient, winners, &mut scratch.map);
    let area = plane.side * plane.side;
    for start in (0..area).step_by(LANES) {
        let width = LANES.min(area - start);
        scratch.load(plane, x, start, width);
        for channel in 0..plane.channels {
            let mut dy = [0.0; LANES];
            dy[..width].copy_from_slice(&scratch.map[channel * area + start..][..width]);
            let (active, d) = (&scratch.active[channel + REACH], &mut scratch.scale[channel]);
            let summed = &mut scratch.summed[channel + REACH];
            for lane in 0..LANES {
                let straight = dy[lane] * power(d[lane]);
                summed[lane] = straight * active[lane] / d[lane];
                d[lane] = straight;
            }
        }
        for channel in 0..plane.channels {
            let (active, straight) = (&scratch.active[channel + REACH], &scratch.scale[channel]);
            let sum = window_sum(&scratch.summed, channel);
            let mut dx = [0.0; LANES];
            for lane in 0..LANES {
                let value = straight[lane] - 2.0 * ALPHA * BETA * active[lane] * sum[lane];
                dx[lane] = if active[lane] <= 0.0 { 0.0 } else { value };
            }
            let output = &mut output[channel * area + start..][..width];
            output.iter_mut().zip(dx).for_each(|(output, dx)| *output = T::store(dx));
        }
    }
}

/// Max pooling; of equal values the first in reading order wins.
///
/// Values are not negative after the ReLU, so their bits order them as whole numbers, and what is
/// no number comes above all. That leaves no branch, where one would be guessed wrong half the
/// time.
fn pool<T: Element>(plane: Plane, map: &[f32], output: &mut [T], winners: &mut [u8]) {
    let (side, pooled) = (plane.side, plane.pooled_side());
    let each = output.chunks_exact_mut(pooled).zip(winners.chunks_exact_mut(pooled)).enumerate();
    for (line, (output, winners)) in each {
        let (channel, y) = (line / pooled, line % pooled);
        let top = (channel * side + y * POOL_STRIDE) * side;
        let row =
            |row: usize| map[top + row * side..][..side].windows(POOL_SIZE).step_by(POOL_STRIDE);
        let windows = row(0).zip(row(1)).zip(row(2));
        for (((a, b), c), (output, winner)) in windows.zip(output.iter_mut().zip(winners)) {
            let bits = [a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2]]
                .map(|value| value.to_bits() & !SIGN);
            let best = bits.iter().fold(0, |best, &bits| best.max(bits));
            let mut place = 0;
            for (at, &bits) in bits.iter().enumerate().rev() {
                place = if bits == best { at as u8 } else { place };
            }
            (*output, *winner) = (T::store(f32::from_bits(best)), place);
        }
    }
}

/// Adds each gradient to the place that won its window.
fn unpool<T: Element>(plane: Plane, gradient: &[T], winners: &[u8], map: &mut [f32]) {
    let (side, pooled) = (plane.side, plane.pooled_side());
    map.fill(0.0);
    let lines = gradient.chunks_exact(pooled).zip(winners.chunks_exact(pooled)).enumerate();
    for (line, (gradient, winners)) in lines {
        let (channel, y) = (line / pooled, line % pooled);
        let top = (channel * side + y * POOL_STRIDE) * side;
        for (x, (&gradient, &winner)) in gradient.iter().zip(winners).enumerate() {
            let (row, column) = (usize::from(winner) / POOL_SIZE, usize::from(winner) % POOL_SIZE);
            map[top + row * side + x * POOL_STRIDE + column] += gradient.load();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoy_common::random::{Random, Stream};

    /// Everything in f64, one place at a time: pooled values, and the gradient at `x`.
    fn naive(plane: Plane, x: &[f32], seed: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let (channels, side, area) = (plane.channels, plane.side, plane.side * plane.side);
        let active: Vec<f64> = x.iter().map(|&v| f64::from(v).max(0.0)).collect();
        let window = |c: usize| c.saturating_sub(2)..(c + 3).min(channels);
        let d: Vec<f64> = (0..x.len())
            .map(|i| {
                2.0 + 1e-4
                    * window(i / area).map(|c| active[c * area + i % area].powi(2)).sum::<f64>()
            })
            .collect();
        let y: Vec<f64> = active.iter().zip(&d).map(|(a, d)| a * d.powf(-0.75)).collect();
        let pooled = plane.pooled_side();
        let (mut output, mut dy) = (Vec::new(), vec![0.0; x.len()]);
        for (i, &seed) in seed.iter().enumerate() {
            let (c, top, left) = (i / (pooled * pooled), i / pooled % pooled * 2, i % pooled * 2);
            let places = (0..9).map(|k| c * area + (top + k / 3) * side + left + k % 3);
            let winner = places.reduce(|a, b| if y[b] > y[a] { b } else { a }).unwrap();
            output.push(y[winner]);
            dy[winner] += f64::from(seed);
        }
        let dx = (0..x.len())
            .map(|i| {
                let spread: f64 = window(i / area)
                    .map(|c| c * area + i % area)
                    .map(|j| dy[j] * active[j] * d[j].powf(-1.75))
                    .sum();
                let slope = if x[i] > 0.0 { 1.0 } else { 0.0 };
                slope * (dy[i] * d[i].powf(-0.75) - 1.5e-4 * active[i] * spread)
            })
            .collect();
        (output, dx)
    }

    fn close(fast: &[f32], exact: &[f64]) {
        let size = exact.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (a, b) in fast.iter().zip(exact) {
            assert!((f64::from(*a) - b).abs() <= 1e-6 * size, "{a} is not {b}");
        }
    }

    #[test]
    fn forward_and_backward_agree_with_plain_float64() {
        for (channels, side, spread) in [(1, 3, 1.0), (4, 7, 30.0), (12, 13, 200.0), (7, 10, 5.0)] {
            let plane = Plane { channels, side };
            let mut random = Random::new(9, Stream::Weights, 0, side as u32, 0);
            let (mut x, mut seed) = (vec![0.0; plane.len()], vec![0.0; plane.pooled_len()]);
            random.fill_normal(&mut x, spread);
            random.fill_normal(&mut seed, 1.0);
            let (mut output, mut dx) = (seed.clone(), x.clone());
            let mut winners = vec![0; seed.len()];
            let mut scratch = Scratch::new(plane);
            forward(plane, &x, &mut output, &mut winners, &mut scratch);
            backward(plane, &x, &seed, &winners, &mut dx, &mut scratch);
            let (exact_output, exact_dx) = naive(plane, &x, &seed);
            close(&output, &exact_output);
            close(&dx, &exact_dx);
        }
    }

    #[test]
    fn bfloat16_rounds_to_the_nearest_and_keeps_what_is_no_number() {
        let cases = [
            (1.0, 0x3f80),
            (-2.5, 0xc020),
            // Half-way between two: to the even one, downwards and upwards.
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (1.004, 0x3f81),
            (f32::MAX, 0x7f80),
            (f32::INFINITY, 0x7f80),
        ];
        for (value, bits) in cases {
            assert_eq!(Bf16::store(value), Bf16(bits), "{value}");
        }
        assert!(Bf16::store(f32::from_bits(0x7f80_0001)).load().is_nan());
        assert_eq!(Bf16(0xc020).load(), -2.5);
    }

    #[test]
    fn bfloat16_is_the_same_stage_up_to_its_rounding() {
        let plane = Plane { channels: 7, side: 11 };
        let mut random = Random::new(9, Stream::Weights, 0, 1, 0);
        let (mut x, mut seed) = (vec![0.0; plane.len()], vec![0.0; plane.pooled_len()]);
        random.fill_normal(&mut x, 60.0);
        random.fill_normal(&mut seed, 1.0);
        let round = |values: &[f32]| values.iter().map(|&v| Bf16::store(v)).collect::<Vec<_>>();
        let widen = |values: &[Bf16]| values.iter().map(|v| v.load()).collect::<Vec<_>>();
        let (x16, seed16) = (round(&x), round(&seed));
        (x, seed) = (widen(&x16), widen(&seed16));
        let (mut output, mut dx) = (seed.clone(), x.clone());
        let (mut output16, mut dx16) = (seed16.clone(), x16.clone());
        let (mut winners, mut winners16) = (vec![0; seed.len()], vec![0; seed.len()]);
        let mut scratch = Scratch::new(plane);
        forward(plane, &x, &mut output, &mut winners, &mut scratch);
        forward(plane, &x16, &mut output16, &mut winners16, &mut scratch);
        assert_eq!(winners, winners16);
        assert_eq!(output16, round(&output));
        backward(plane, &x, &seed, &winners, &mut dx, &mut scratch);
        backward(plane, &x16, &seed16, &winners16, &mut dx16, &mut scratch);
        assert_eq!(dx16, round(&dx));
    }

    #[test]
    fn what_is_no_number_is_passed_on() {
        let plane = Plane { channels: 3, side: 5 };
        let mut x = vec![1.0f32; plane.len()];
        x[6] = f32::NAN;
        let mut output = vec![0.0; plane.pooled_len()];
        let mut winners = vec![0; output.len()];
        forward(plane, &x, &mut output, &mut winners, &mut Scratch::new(plane));
        assert!(output[0].is_nan());
    }
}
