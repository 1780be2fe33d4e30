//! The update: one step's reduced gradients into momentum and weights.
//!
//! PyTorch's form of SGD: `v = mu v + (g + lambda w)`, then `w = w - eta v`; or [`lars`], which
//! needs the gradient's norm first and therefore stores the gradient. Nothing is written
//! until all inputs have been checked to be there, and nothing here waits for anybody: a step is
//! committed as a whole or not at all.
//!
//! On the CPU a fully connected layer is updated in blocks of rows that stay in the cache: scale
//! the block's momentum, multiply the factors into it, add the decay, subtract from the weights.
//! The gradient itself is never stored. Blocks are fixed by the layer's shape, so it does not
//! matter for the bits how many threads share them.

use convoy_common::config::{Optimizer, Train};
use tch::{Kind, Tensor};

use super::head::{HeadGradient, LAYERS};
use super::{ModelError, Net, Result, host, lars, threads};

/// Bytes of one block of momentum. Small enough to stay in the last-level cache with its weights,
/// large enough that the matrix product does not spend its time arranging the activations, which
/// it does anew for every block. For 32 samples: 256 KiB 173 ms, 1 MiB 121, 2 MiB 104, 8 MiB 120.
const BLOCK_BYTES: usize = 2 << 20;

/// One step's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// Learning rate, eta.
    pub lr: f64,
    /// Momentum, mu.
    pub momentum: f64,
    /// L2 penalty, lambda; on weights and biases alike.
    pub weight_decay: f64,
    /// How gradients become updates.
    pub optimizer: Optimizer,
    /// The trust coefficient of LARS.
    pub lars_trust: f64,
}

/// How far running statistics of batch normalisation go towards those of a step, as PyTorch's
/// default `momentum`.
const STATISTICS_RATE: f32 = 0.1;

/// The gradients of one step, summed over the global batch; deltas and sums are divided by its
/// size already.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduced {
    /// The trunk's parameters in order, then the statistics of batch normalisation
    /// ([`Spec::trunk_len`](super::Spec::trunk_len) values).
    pub trunk: Vec<f32>,
    /// fc6, fc7, fc8.
    pub head: [HeadGradient; LAYERS],
}

impl Reduced {
    /// Whether all numbers are finite. Factors must also be so small that no product of theirs
    /// can overflow.
    pub fn is_finite(&self) -> bool {
        let largest = |values: &[f32]| {
            // Not `max`, which would lose what is no number.
            values.iter().fold(0f64, |most, &value| {
                let size = f64::from(value.abs());
                if size <= most { most } else { size }
            })
        };
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        let head = self.head.iter().all(|gradient| match gradient {
            HeadGradient::Dense(values) => finite(values),
            HeadGradient::Factors(factors) => {
                finite(&factors.activations)
                    && finite(&factors.deltas)
                    && largest(&factors.activations)
                        * largest(&factors.deltas)
                        * factors.rows as f64
                        <= f64::from(f32::MAX)
            }
        });
        head && finite(&self.trunk)
    }
}

impl Net {
    /// Applies one step. `lanes` threads share the work; no lane may compute meanwhile.
    ///
    /// # Errors
    /// [`ModelError::Size`] if a gradient does not fit the net; nothing is written then.
    pub fn commit(&mut self, reduced: &Reduced, hyper: Hyper, lanes: u32) -> Result<()> {
        self.check(reduced)?;
        tch::no_grad(|| self.apply(reduced, hyper, lanes.max(1)))
    }

    fn check(&self, reduced: &Reduced) -> Result<()> {
        let same = |what, expected: usize, actual: usize| {
            if expected == actual {
                Ok(())
            } else {
                Err(ModelError::Size { what, expected, actual })
            }
        };
        same("gradient of the trunk", self.spec.trunk_len(), reduced.trunk.len())?;
        for (linear, gradient) in self.spec.linears().iter().zip(&reduced.head) {
            match gradient {
                HeadGradient::Dense(values) => {
                    same(
                        "gradient of a layer",
                        linear.outputs * (linear.inputs + 1),
                        values.len(),
                    )?;
                }
                HeadGradient::Factors(factors) => {
                    same("activations", factors.rows * linear.inputs, factors.activations.len())?;
                    same("deltas", factors.rows * linear.outputs, factors.deltas.len())?;
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, reduced: &Reduced, hyper: Hyper, lanes: u32) -> Result<()> {
        let trunk = self.spec.trunk_parameters();
        let mut rest = reduced.trunk.as_slice();
        for index in 0..trunk {
            let (mine, others) = rest.split_at(self.weights[index].numel());
            self.dense(index, mine, hyper)?;
            rest = others;
        }
        self.fold_statistics(rest)?;
        for (layer, gradient) in reduced.head.iter().enumerate() {
            let index = trunk + 2 * layer;
            match gradient {
                HeadGradient::Dense(values) => {
                    let (weight, bias) = values.split_at(self.weights[index].numel());
                    self.dense(index, weight, hyper)?;
                    self.dense(index + 1, bias, hyper)?;
                }
                HeadGradient::Factors(factors) if factors.rows == 0 => {
                    self.dense(index, &vec![0.0; self.weights[index].numel()], hyper)?;
                    self.dense(index + 1, &vec![0.0; self.weights[index + 1].numel()], hyper)?;
                }
                HeadGradient::Factors(factors) => {
                    let (activations, deltas) = factors.tensors()?;
                    match hyper.optimizer {
                        Optimizer::Sgd => {
                            self.factored(index, &activations, &deltas, hyper, lanes)?;
                        }
                        Optimizer::Lars => {
                            let gradient =
                                self.multiplied_out(index, &activations, &deltas, lanes)?;
                            self.dense(index, &gradient, hyper)?;
                        }
                    }
                    self.dense(index + 1, &factors.bias_gradient(), hyper)?;
                }
            }
        }
        Ok(())
    }

    /// Updates one tensor from its gradient.
    fn dense(&mut self, index: usize, gradient: &[f32], hyper: Hyper) -> Result<()> {
        let (weight, momentum) = (&mut self.weights[index], &mut self.momentum[index]);
        let (eta, mu, lambda) = hyper.rounded();
        if let (Some(w), Some(v)) =
            (host::values_mut::<f32>(weight), host::values_mut::<f32>(momentum))
        {
            match hyper.optimizer {
                Optimizer::Sgd => {
                    for ((w, v), &g) in w.iter_mut().zip(v).zip(gradient) {
                        *v = mu * *v + g + lambda * *w;
                        *w -= eta * *v;
                    }
                }
                Optimizer::Lars => {
                    let rate = hyper.lars_rate(lars::norm(w), lars::norm(gradient)) as f32;
                    for ((w, v), &g) in w.iter_mut().zip(v).zip(gradient) {
                        *v = mu * *v + rate * (g + lambda * *w);
                        *w -= *v;
                    }
                }
            }
            return self.round(index);
        }
        let gradient = Tensor::f_from_slice(gradient)?
            .f_view(weight.size().as_slice())?
            .f_to_device(weight.device())?;
        match hyper.optimizer {
            Optimizer::Sgd => {
                let _ = momentum.f_mul_scalar_(hyper.momentum)?.f_add_(&gradient)?;
                finish(weight, momentum, hyper)?;
            }
            Optimizer::Lars => {
                let norm = |tensor: &Tensor| -> Result<f64> {
                    let squares = tensor.f_to_kind(Kind::Double)?.f_square()?;
                    Ok(squares.f_sum(Kind::Double)?.f_double_value(&[])?.sqrt())
                };
                let rate = hyper.lars_rate(norm(weight)?, norm(&gradient)?);
                let decayed = gradient.f_add(&weight.f_mul_scalar(hyper.weight_decay)?)?;
                let scaled = decayed.f_mul_scalar(rate)?;
                let _ = momentum.f_mul_scalar_(hyper.momentum)?.f_add_(&scaled)?;
                let _ = weight.f_sub_(momentum)?;
            }
        }
        self.round(index)
    }

    /// Moves the running statistics towards those of the step.
    fn fold_statistics(&mut self, measured: &[f32]) -> Result<()> {
        let mut rest = measured;
        for running in &mut self.statistics {
            let (mine, others) = rest.split_at(running.numel());
            rest = others;
            let mine = Tensor::f_from_slice(mine)?.f_to_device(running.device())?;
            let _ = running
                .f_mul_scalar_(f64::from(1.0 - STATISTICS_RATE))?
                .f_add_(&mine.f_mul_scalar(f64::from(STATISTICS_RATE))?)?;
        }
        Ok(())
    }

    /// The gradient that factors stand for, in rows of fixed blocks whoever computes them.
    fn multiplied_out(
        &self,
        index: usize,
        activations: &Tensor,
        deltas: &Tensor,
        lanes: u32,
    ) -> Result<Vec<f32>> {
        let (rows, columns) = self.weights[index].size2()?;
        let deltas = deltas.f_tr()?.f_contiguous()?;
        let gradient = Tensor::f_zeros([rows, columns], (Kind::Float, tch::Device::Cpu))?;
        let block = (BLOCK_BYTES as i64 / (columns * 4)).clamp(1, rows);
        let blocks: Vec<(Tensor, Tensor, Tensor)> = (0..rows)
            .step_by(block as usize)
            .map(|start| {
                let length = block.min(rows - start);
                let part = |whole: &Tensor| whole.f_narrow(0, start, length);
                Ok((part(&gradient)?, part(&deltas)?, activations.shallow_clone()))
            })
            .collect::<Result<_>>()?;
        share(blocks, lanes, |(mut gradient, deltas, activations)| {
            let _ = gradient.f_addmm_(&deltas, &activations)?;
            Ok(())
        })?;
        let mut values = vec![0f32; gradient.numel()];
        gradient.f_copy_data(&mut values, gradient.numel())?;
        Ok(values)
    }

    /// Updates one weight from the factors of its gradient.
    fn factored(
        &mut self,
        index: usize,
        activations: &Tensor,
        deltas: &Tensor,
        hyper: Hyper,
        lanes: u32,
    ) -> Result<()> {
        let (weight, momentum) = (&mut self.weights[index], &mut self.momentum[index]);
        if self.device.is_cuda() {
            let device = weight.device();
            let (activations, deltas) =
                (activations.f_to_device(device)?, deltas.f_to_device(device)?);
            let _ =
                momentum.f_mul_scalar_(hyper.momentum)?.f_addmm_(&deltas.f_tr()?, &activations)?;
            finish(weight, momentum, hyper)?;
            return self.round(index);
        }
        let rounded = self.rounded.as_ref().and_then(|all| all.get(index));
        let deltas = deltas.f_tr()?.f_contiguous()?;
        let (rows, columns) = weight.size2()?;
        let block = (BLOCK_BYTES as i64 / (columns * 4)).clamp(1, rows);
        let blocks: Vec<Block> = (0..rows)
            .step_by(block as usize)
            .map(|start| {
                let length = block.min(rows - start);
                Ok(Block {
                    weight: weight.f_narrow(0, start, length)?,
                    momentum: momentum.f_narrow(0, start, length)?,
                    deltas: deltas.f_narrow(0, start, length)?,
                    activations: activations.shallow_clone(),
                    rounded: rounded.map(|it| it.f_narrow(0, start, length)).transpose()?,
                })
            })
            .collect::<Result<_>>()?;
        share(blocks, lanes, |block| block.update(hyper))
    }
}

impl Hyper {
    /// Those of a config, with the learning rate of one step.
    pub fn of(train: &Train, lr: f64) -> Self {
        Self {
            lr,
            momentum: train.momentum,
            weight_decay: train.weight_decay,
            optimizer: train.optimizer,
            lars_trust: train.lars_trust,
        }
    }

    /// What LARS multiplies a tensor's gradient with, from the norms of both.
    fn lars_rate(self, weight_norm: f64, gradient_norm: f64) -> f64 {
        let local =
            lars::local_rate(self.lars_trust, weight_norm, gradient_norm, self.weight_decay);
        self.lr * local
    }

    /// Rate, momentum and decay as the kernels use them.
    fn rounded(self) -> (f32, f32, f32) {
        (self.lr as f32, self.momentum as f32, self.weight_decay as f32)
    }
}

/// Rows of one layer, with what their update needs.
#[derive(Debug)]
struct Block {
    weight: Tensor,
    momentum: Tensor,
    deltas: Tensor,
    activations: Tensor,
    /// The same rows of the rounded weights, with bf16.
    rounded: Option<Tensor>,
}

impl Block {
    fn update(mut self, hyper: Hyper) -> Result<()> {
        let (eta, mu, lambda) = hyper.rounded();
        let not_plain = || ModelError::Size { what: "rows in host memory", expected: 1, actual: 0 };
        for v in host::values_mut::<f32>(&mut self.momentum).ok_or_else(not_plain)? {
            *v *= mu;
        }
        let _ = self.momentum.f_addmm_(&self.deltas, &self.activations)?;
        let v = host::values_mut::<f32>(&mut self.momentum).ok_or_else(not_plain)?;
        let w = host::values_mut::<f32>(&mut self.weight).ok_or_else(not_plain)?;
        for (w, v) in w.iter_mut().zip(v) {
            *v += lambda * *w;
            *w -= eta * *v;
        }
        if let Some(rounded) = &mut self.rounded {
            rounded.f_copy_(&self.weight)?;
        }
        Ok(())
    }
}

/// Runs the blocks on so many threads, each with kernels of one thread.
fn share<B: Send>(
    blocks: Vec<B>,
    lanes: u32,
    update: impl Fn(B) -> Result<()> + Sync,
) -> Result<()> {
    let lanes = (lanes as usize).min(blocks.len());
    if lanes <= 1 {
        return blocks.into_iter().try_for_each(update);
    }
    let mut shares: Vec<Vec<B>> = (0..lanes).map(|_| Vec::new()).collect();
    for (index, block) in blocks.into_iter().enumerate() {
        shares[index % lanes].push(block);
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = shares
            .into_iter()
            .map(|blocks| {
                scope.spawn(|| {
                    threads::use_on_this_thread(1);
                    tch::no_grad(|| blocks.into_iter().try_for_each(&update))
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// The rest of an update where the device does it: decay, then weights.
fn finish(weight: &mut Tensor, momentum: &mut Tensor, hyper: Hyper) -> Result<()> {
    let _ = momentum.f_add_(&weight.f_mul_scalar(hyper.weight_decay)?)?;
    let _ = weight.f_sub_(&momentum.f_mul_scalar(hyper.lr)?)?;
    Ok(())
}
