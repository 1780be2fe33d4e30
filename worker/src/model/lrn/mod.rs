//! ReLU, local response normalisation and max pooling after conv1 and conv2, as one stage.
//!
//! Section 3.3 of the paper: `y[c] = x[c] / (k + alpha * sum of x[j]^2 over j = c-2..c+2)^beta`,
//! with the sum over neighbouring channels at one place. `alpha` is not divided by the window's
//! size (PyTorch's `LocalResponseNorm` divides: give it 5e-4 for the same function).
//!
//! The library's composition of this is up to half a training step, because it walks a large
//! tensor a dozen times. On the CPU, [`kernel`] does the three operations in one pass forward and
//! one backward. Elsewhere the sum over channels is a 1x1 convolution with a banded matrix of
//! zeros and ones, the power is made of reciprocal square roots, and autograd differentiates.

pub mod kernel;

use tch::{Device, Kind, Tensor};

use super::spec::{POOL_SIZE, POOL_STRIDE};
use super::trunk::Segment;
use super::{ModelError, Result, host};

/// `k` of the paper.
pub const K: f32 = 2.0;
/// `n` of the paper: channels in one sum.
pub const WINDOW: usize = 5;
/// `alpha` of the paper.
pub const ALPHA: f32 = 1e-4;
/// `beta` of the paper. The kernels compute this power by square roots, so it cannot be changed
/// alone.
pub const BETA: f32 = 0.75;

/// What the backward pass needs.
#[derive(Debug)]
pub(super) enum Saved {
    /// The convolution's output, and which place of each window won.
    Host { input: Tensor, winners: Vec<u8> },
    /// A graph that the library differentiates.
    Graph(Segment),
}

/// ReLU, normalisation and pooling of a convolution's output (n, channels, height, width).
pub(super) fn forward(input: &Tensor) -> Result<(Tensor, Saved)> {
    match input.device() {
        Device::Cpu => forward_host(input),
        _ => forward_graph(input),
    }
}

/// The gradient at the convolution's output, from the gradient after pooling.
pub(super) fn backward(saved: Saved, gradient: &Tensor) -> Result<Tensor> {
    match saved {
        Saved::Host { input, winners } => backward_host(&input, &winners, gradient),
        Saved::Graph(segment) => {
            let mut gradients = segment.backward(gradient)?;
            Ok(gradients.swap_remove(0))
        }
    }
}

fn forward_host(input: &Tensor) -> Result<(Tensor, Saved)> {
    match input.f_kind()? {
        Kind::BFloat16 => forward_numbers::<kernel::Bf16>(input),
        _ => forward_numbers::<f32>(input),
    }
}

fn backward_host(input: &Tensor, winners: &[u8], gradient: &Tensor) -> Result<Tensor> {
    match input.f_kind()? {
        Kind::BFloat16 => backward_numbers::<kernel::Bf16>(input, winners, gradient),
        _ => backward_numbers::<f32>(input, winners, gradient),
    }
}

fn forward_numbers<T: host::Number + kernel::Element>(input: &Tensor) -> Result<(Tensor, Saved)> {
    let input = input.f_contiguous()?;
    let (n, plane) = plane_of(&input)?;
    let side = plane.pooled_side() as i64;
    let mut output =
        Tensor::f_empty([n, plane.channels as i64, side, side], (T::KIND, Device::Cpu))?;
    let mut winners = vec![0u8; output.numel()];
    let (Some(from), Some(to)) = (host::values::<T>(&input), host::values_mut::<T>(&mut output))
    else {
        return Err(not_plain(&input));
    };
    let mut scratch = kernel::Scratch::new(plane);
    let each = from.chunks_exact(plane.len()).zip(to.chunks_exact_mut(plane.pooled_len()));
    for ((from, to), winners) in each.zip(winners.chunks_exact_mut(plane.pooled_len())) {
        kernel::forward(plane, from, to, winners, &mut scratch);
    }
    Ok((output, Saved::Host { input, winners }))
}

fn backward_numbers<T: host::Number + kernel::Element>(
    input: &Tensor,
    winners: &[u8],
    gradient: &Tensor,
) -> Result<Tensor> {
    let gradient = gradient.f_contiguous()?;
    let (_, plane) = plane_of(input)?;
    let mut output = Tensor::f_empty(input.size(), (T::KIND, Device::Cpu))?;
    let (Some(from), Some(seed), Some(to)) = (
        host::values::<T>(input),
        host::values::<T>(&gradient),
        host::values_mut::<T>(&mut output),
    ) else {
        return Err(not_plain(input));
    };
    let mut scratch = kernel::Scratch::new(plane);
    let pooled = plane.pooled_len();
    let each = from.chunks_exact(plane.len()).zip(to.chunks_exact_mut(plane.len()));
    let seeds = seed.chunks_exact(pooled).zip(winners.chunks_exact(pooled));
    for ((from, to), (seed, winners)) in each.zip(seeds) {
        kernel::backward(plane, from, seed, winners, to, &mut scratch);
    }
    Ok(output)
}

fn plane_of(input: &Tensor) -> Result<(i64, kernel::Plane)> {
    let (n, channels, height, _) = input.size4()?;
    Ok((n, kernel::Plane { channels: channels as usize, side: height as usize }))
}

fn not_plain(tensor: &Tensor) -> ModelError {
    ModelError::Size {
        what: "a contiguous tensor of one kind in host memory",
        expected: tensor.numel(),
        actual: 0,
    }
}

fn forward_graph(input: &Tensor) -> Result<(Tensor, Saved)> {
    let segment = Segment::record(&[input], |leaves| {
        let pooled = normalise(&leaves[0].f_relu()?)?;
        let (size, stride) = (POOL_SIZE as i64, POOL_STRIDE as i64);
        Ok(pooled.f_max_pool2d([size, size], [stride, stride], [0, 0], [1, 1], false)?)
    })?;
    Ok((segment.output(), Saved::Graph(segment)))
}

/// The normalisation alone, out of the library's operations; differentiable.
pub(super) fn normalise(x: &Tensor) -> Result<Tensor> {
    let channels = x.size4()?.1;
    let reach = (WINDOW / 2) as i64;
    let band = Tensor::f_ones([channels, channels], (x.f_kind()?, x.device()))?
        .f_tril(reach)?
        .f_triu(-reach)?
        .f_view([channels, channels, 1, 1])?;
    let sum = x.f_square()?.f_conv2d(&band, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1)?;
    let root = sum.f_mul_scalar(f64::from(ALPHA))?.f_add_scalar(f64::from(K))?.f_rsqrt()?;
    // d^-0.75 = d^-0.5 * d^-0.25, and d^-0.25 is the root of d^-0.5.
    Ok(x.f_mul(&root.f_mul(&root.f_sqrt()?)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_and_the_composition_agree_forward_and_backward() {
        tch::manual_seed(3);
        let x = Tensor::randn([2, 12, 15, 15], (Kind::Float, Device::Cpu)) * 60.0;
        let (fast, saved_fast) = forward_host(&x).unwrap();
        let (slow, saved_slow) = forward_graph(&x).unwrap();
        let seed = Tensor::randn(fast.size(), (Kind::Float, Device::Cpu));
        let (fast_dx, slow_dx) =
            (backward(saved_fast, &seed).unwrap(), backward(saved_slow, &seed).unwrap());
        for (a, b) in [(fast, slow), (fast_dx, slow_dx)] {
            let error = (&a - &b).abs().max().double_value(&[]) / b.abs().max().double_value(&[]);
            assert!(error < 1e-5, "{error}");
        }
    }
}
