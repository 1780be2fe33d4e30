//! One step's exchange with numbers that mean nothing: the same blocks, sums and bytes as in
//! training, without the arithmetic. Benchmarks measure the ring with it.

use bytes::Bytes;
use convoy_common::config::{HeadExchange, Numerics};
use convoy_common::sampling::Sampler;

use super::control::Wishes;
use super::exchange::{self, Statistics};
use super::head_plan::HeadPlan;
use super::step;
use crate::model::{Factors, Spec};
use crate::ring::Terms;

/// What one rank gives to the ring in a step of `batch` samples: its block of the all-gather and
/// its terms of the sum.
pub(crate) fn of_step(
    spec: &Spec,
    numerics: &Numerics,
    head: HeadExchange,
    batch: u32,
    (rank, world): (u32, u32),
) -> (Bytes, Terms) {
    let sampler = Sampler::new(0, u64::from(batch), batch, numerics.microbatch);
    let plan = HeadPlan::new(head, batch, spec.linears());
    let share = Sampler::share(sampler.microbatches(0), rank, world);
    let samples = |number| sampler.microbatch(0, 0, number).len();
    let rows: usize = share.clone().map(samples).sum();
    let statistics: Vec<Statistics> = share
        .clone()
        .map(|number| Statistics { samples: samples(number) as u32, ..Statistics::default() })
        .collect();
    let factors: Vec<Factors> = plan
        .gathered()
        .iter()
        .map(|it| Factors {
            rows,
            activations: vec![1e-3; rows * it.inputs],
            deltas: vec![1e-3; rows * it.outputs],
        })
        .collect();
    let block = exchange::encode(Wishes::default(), true, &statistics, &factors);
    let numbers = spec.trunk_len() + plan.dense_floats();
    let mut terms = step::terms(numerics, sampler.microbatches(0), share.clone(), numbers);
    for number in share {
        terms.add(number, vec![1e-3; numbers]);
    }
    (block, terms)
}
