//! How the gradient of each fully connected layer reaches all ranks.
//!
//! A layer's weight gradient is the product of its deltas and its activations over the global batch.
//! Either every rank gathers those factors and multiplies them itself, or each multiplies its own
//! rows and the products are summed in the ring. The factors are exact and, at the usual batch, far
//! fewer bytes; the product does not shrink with the number of workers. The choice follows from the
//! batch and the layer's dimensions alone, so it is the same on every cluster.

use convoy_common::config::HeadExchange;
use tracing::info;

use crate::model::spec::Linear;
use crate::model::{Factors, HeadGradient, Reduced};

/// Dimensions of a fully connected layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Widths {
    pub(super) name: &'static str,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

/// The choice for each layer, in the net's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeadPlan {
    layers: Vec<(Widths, Choice)>,
}

/// How one layer is exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Factors,
    Gradients,
}

impl HeadPlan {
    /// `batch` is the global batch of a full step.
    pub(crate) fn new(exchange: HeadExchange, batch: u32, layers: &[Linear]) -> Self {
        let widths = layers.iter().map(|it| Widths {
            name: it.name,
            inputs: it.inputs,
            outputs: it.outputs,
        });
        let choose = |widths: &Widths| match exchange {
            HeadExchange::Factors => Choice::Factors,
            HeadExchange::Gradients => Choice::Gradients,
            HeadExchange::Auto if factor_floats(batch, widths) <= gradient_floats(widths) => {
                Choice::Factors
            }
            HeadExchange::Auto => Choice::Gradients,
        };
        Self { layers: widths.map(|it| (it, choose(&it))).collect() }
    }

    /// Widths of the layers whose factors are gathered, in the net's order.
    pub(super) fn gathered(&self) -> Vec<Widths> {
        self.of(Choice::Factors)
    }

    /// Numbers that are summed besides the trunk's gradient: weights and biases of the other layers.
    pub(super) fn dense_floats(&self) -> usize {
        self.of(Choice::Gradients).iter().map(Widths::parameters).sum()
    }

    /// Takes out the factors of the layers that are summed: they stay on this rank.
    pub(super) fn take_dense(&self, factors: &mut [Factors]) -> Vec<Factors> {
        let layers = factors.iter_mut().zip(&self.layers);
        layers
            .filter(|(_, (_, choice))| *choice == Choice::Gradients)
            .map(|(factors, _)| std::mem::take(factors))
            .collect()
    }

    /// One rank's rows of each gathered layer, from those of its microbatches in order.
    pub(super) fn join<const N: usize>(
        &self,
        heads: impl Iterator<Item = [Factors; N]>,
    ) -> Vec<Factors> {
        let mut joined: Vec<Factors> = self.gathered().iter().map(|_| Factors::default()).collect();
        for head in heads {
            let gathered =
                head.iter().zip(&self.layers).filter(|(_, (_, it))| *it == Choice::Factors);
            for (all, (mine, _)) in joined.iter_mut().zip(gathered) {
                all.append(mine);
            }
        }
        joined
    }

    /// Puts together what the ring gave: `summed` is the trunk's gradient, then the dense layers'.
    pub(super) fn reduced(
        &self,
        gathered: Vec<Factors>,
        mut summed: Vec<f32>,
        trunk: usize,
    ) -> Reduced {
        let mut gathered = gathered.into_iter();
        let mut dense = summed.split_off(trunk.min(summed.len()));
        let head = self.layers.iter().map(|(widths, choice)| match choice {
            Choice::Factors => HeadGradient::Factors(gathered.next().unwrap_or_default()),
            Choice::Gradients => {
                let rest = dense.split_off(widths.parameters().min(dense.len()));
                HeadGradient::Dense(std::mem::replace(&mut dense, rest))
            }
        });
        let head: Vec<HeadGradient> = head.collect();
        let head = head.try_into().expect("invariant: the head has three layers");
        Reduced { head, trunk: summed }
    }

    /// Says once what was chosen, with the bytes and the arithmetic of both ways.
    ///
    /// Bytes are what the busiest rank sends in a step of `batch`; arithmetic is what each rank
    /// multiplies: all rows of factors, or its own for gradients, which are added up besides.
    pub(super) fn log(&self, batch: u32, world: u32) {
        let others = f64::from(world - 1) / f64::from(world);
        for (widths, choice) in &self.layers {
            let product = 2e-9 * f64::from(batch) * (widths.inputs * widths.outputs) as f64;
            let gradients = match world {
                1 => 0.0,
                2 => 0.5,
                _ => 1.0,
            };
            info!(
                layer = widths.name,
                choice = ?choice,
                factors_mb = others * megabytes(factor_floats(batch, widths)),
                gradients_mb = gradients * megabytes(gradient_floats(widths)),
                factors_gflop = product,
                gradients_gflop = product / f64::from(world),
                "head exchange"
            );
        }
    }

    fn of(&self, wanted: Choice) -> Vec<Widths> {
        let chosen = self.layers.iter().filter(|(_, choice)| *choice == wanted);
        chosen.map(|(widths, _)| *widths).collect()
    }
}

impl Widths {
    /// Weights and biases.
    fn parameters(&self) -> usize {
        (self.inputs + 1) * self.outputs
    }
}

/// What an all-gather moves past each rank, in numbers: every row of activations and deltas.
fn factor_floats(batch: u32, widths: &Widths) -> u64 {
    u64::from(batch) * (widths.inputs + widths.outputs) as u64
}

/// What an all-reduce moves past each rank, in numbers: the gradient twice.
fn gradient_floats(widths: &Widths) -> u64 {
    2 * (widths.inputs * widths.outputs) as u64
}

fn megabytes(floats: u64) -> f64 {
    4e-6 * floats as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fc(name: &'static str, inputs: usize, outputs: usize) -> Linear {
        Linear { name, inputs, outputs }
    }

    fn layers(classes: usize) -> [Linear; 3] {
        [fc("fc6", 9216, 4096), fc("fc7", 4096, 4096), fc("fc8", 4096, classes)]
    }

    #[test]
    fn gradients_win_only_beyond_the_break_even_batch_of_each_layer() {
        for (layer, break_even) in [(0, 5671), (1, 4096), (2, 1607)] {
            let choice =
                |batch| HeadPlan::new(HeadExchange::Auto, batch, &layers(1000)).layers[layer].1;
            assert_eq!(choice(break_even), Choice::Factors);
            assert_eq!(choice(break_even + 1), Choice::Gradients);
        }
    }

    #[test]
    fn a_last_layer_of_few_classes_is_summed_at_a_small_batch_already() {
        let plan = HeadPlan::new(HeadExchange::Auto, 32, &layers(10));
        assert_eq!(plan.gathered().iter().map(|it| it.name).collect::<Vec<_>>(), ["fc6", "fc7"]);
        assert_eq!(plan.dense_floats(), 4097 * 10);
    }

    #[test]
    fn the_config_can_force_either_way() {
        let count = |exchange| HeadPlan::new(exchange, 1, &layers(1000)).gathered().len();
        assert_eq!(count(HeadExchange::Factors), 3);
        assert_eq!(count(HeadExchange::Gradients), 0);
    }
}
