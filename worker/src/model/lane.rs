//! One microbatch through the net: the unit of work and of numerics.
//!
//! A worker with several cores runs several lanes, each on a thread of its own with its own
//! microbatch, all over the same weights. A lane's results depend on the weights, the microbatch
//! and its place alone: not on how many lanes there are, nor on which one computes it.

use convoy_common::random::Stream;
use tch::{Kind, Tensor};

use super::head::{self, LAYERS};
use super::trunk::{self, Recorded};
use super::{Device, Factors, ModelError, Net, Result, Spec, dropout};

/// Dropout of the two layers that have it ([`Spec::dropped`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The run's seed.
    pub seed: u64,
    /// Probability of dropping a unit, in [0, 1).
    pub probability: f64,
}

/// Where in training a microbatch belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Epoch, from 0.
    pub epoch: u32,
    /// Step within the epoch, from 0.
    pub step: u32,
    /// Samples in this step's global batch, over all workers: gradients are divided by it.
    pub batch: u32,
}

/// A microbatch in host memory.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// n x 3 x side x side, mean subtracted.
    pub pixels: &'a [f32],
    /// n classes.
    pub labels: &'a [i64],
    /// n indices in the split; dropout derives from them. Not read in evaluation.
    pub samples: &'a [u64],
}

/// What is known once the head has been through, before the trunk's backward pass.
#[derive(Clone, Debug)]
pub struct Head {
    /// Factors of fc6, fc7, fc8.
    pub factors: [Factors; LAYERS],
    /// Sum of the samples' losses (not divided by anything).
    pub loss_sum: f64,
    /// Samples whose true class had the greatest logit, with dropout at work.
    pub correct: u64,
}

/// The second half of a microbatch's work.
#[derive(Debug)]
pub struct TrunkPending {
    recorded: Recorded,
    gradient: Tensor,
    length: usize,
    /// This microbatch's part of the global batch.
    share: f32,
}

/// Computes microbatches on one thread at a time.
#[derive(Debug)]
pub struct Lane {
    pub(super) spec: Spec,
    pub(super) device: Device,
    /// In the number format of the lane's arithmetic.
    pub(super) weights: Vec<Tensor>,
    /// Running statistics of batch normalisation.
    pub(super) statistics: Vec<Tensor>,
    pub(super) kind: Kind,
    dropout: Dropout,
}

impl Lane {
    /// A lane over the net's weights, which it shares: it sees every commit.
    ///
    /// Whoever runs lanes must not commit while one computes.
    pub fn new(net: &Net, dropout: Dropout) -> Self {
        let kind = if net.rounded.is_some() { Kind::BFloat16 } else { Kind::Float };
        Self {
            spec: net.spec.clone(),
            device: net.device,
            weights: net.multiplied(),
            statistics: net.statistics.iter().map(Tensor::shallow_clone).collect(),
            kind,
            dropout,
        }
    }

    /// Another lane over the same weights, for another thread.
    #[must_use]
    pub fn share(&self) -> Self {
        let clones = |tensors: &[Tensor]| tensors.iter().map(Tensor::shallow_clone).collect();
        Self {
            spec: self.spec.clone(),
            weights: clones(&self.weights),
            statistics: clones(&self.statistics),
            ..*self
        }
    }

    /// The trunk forward, then the head forward and backward.
    ///
    /// # Errors
    /// [`ModelError::Size`] or [`ModelError::Label`] if the input does not fit the net.
    pub fn forward_and_head(&self, input: Input<'_>, place: Place) -> Result<(Head, TrunkPending)> {
        let (pixels, labels) = self.tensors(input)?;
        if input.samples.len() != input.labels.len() {
            let (expected, actual) = (input.labels.len(), input.samples.len());
            return Err(ModelError::Size { what: "sample indices", expected, actual });
        }
        let recorded = trunk::record(&self.spec, &self.weights, &pixels)?;
        self.head(recorded, &labels, input.samples, place)
    }

    fn head(
        &self,
        recorded: Recorded,
        labels: &Tensor,
        samples: &[u64],
        place: Place,
    ) -> Result<(Head, TrunkPending)> {
        let mut streams = [Stream::DropoutFc6, Stream::DropoutFc7].into_iter();
        let mut masks = [const { None }; LAYERS];
        for (layer, dropped) in self.spec.dropped().into_iter().enumerate() {
            if dropped && let Some(stream) = streams.next() {
                masks[layer] = self.mask(layer, stream, place, samples)?;
            }
        }
        let weights = &self.weights[self.spec.trunk_parameters()..];
        let pass = head::pass(weights, &recorded.features, labels, &masks, place.batch)?;
        let head = Head { factors: pass.factors, loss_sum: pass.loss_sum, correct: pass.correct };
        let length = self.spec.trunk_len();
        let share = samples.len() as f32 / place.batch.max(1) as f32;
        Ok((head, TrunkPending { recorded, gradient: pass.feature_gradient, length, share }))
    }

    /// Pixels and labels on the device, checked against the net.
    pub(super) fn tensors(&self, input: Input<'_>) -> Result<(Tensor, Tensor)> {
        let n = input.labels.len();
        let expected = n * self.spec.input_len();
        if n == 0 || input.pixels.len() != expected {
            return Err(ModelError::Size { what: "pixels", expected, actual: input.pixels.len() });
        }
        let labels = self.labels(input.labels)?;
        let side = self.spec.side() as i64;
        let device = self.device.tensor_device();
        let pixels = Tensor::f_from_slice(input.pixels)?.f_view([n as i64, 3, side, side])?;
        Ok((pixels.f_to_device(device)?.f_to_kind(self.kind)?, labels))
    }

    /// Labels on the device, checked against the number of classes.
    pub(super) fn labels(&self, labels: &[i64]) -> Result<Tensor> {
        let classes = self.spec.classes();
        if let Some(&label) = labels.iter().find(|&&label| label < 0 || label >= classes as i64) {
            return Err(ModelError::Label { label, classes });
        }
        Ok(Tensor::f_from_slice(labels)?.f_to_device(self.device.tensor_device())?)
    }

    fn mask(
        &self,
        layer: usize,
        stream: Stream,
        place: Place,
        samples: &[u64],
    ) -> Result<Option<Tensor>> {
        if self.dropout.probability == 0.0 {
            return Ok(None);
        }
        let width = self.spec.linears()[layer].inputs;
        let factors = dropout::mask(self.dropout, stream, place, samples, width);
        let mask = Tensor::f_from_slice(&factors)?.f_view([samples.len() as i64, width as i64])?;
        Ok(Some(mask.f_to_device(self.device.tensor_device())?.f_to_kind(self.kind)?))
    }
}

impl TrunkPending {
    /// The trunk's backward pass: its gradient as one run of numbers, in the order of
    /// [`Spec::parameters`], then the microbatch's part of the statistics of batch normalisation
    /// ([`Spec::trunk_len`] values).
    ///
    /// # Errors
    /// If the device fails.
    pub fn backward(self) -> Result<Vec<f32>> {
        let mut recorded = self.recorded;
        let statistics = std::mem::take(&mut recorded.statistics);
        let gradients = recorded.backward(&self.gradient)?;
        let mut flat = vec![0f32; self.length];
        let mut rest = flat.as_mut_slice();
        for gradient in gradients {
            let (mine, others) = rest.split_at_mut(gradient.numel());
            let plain = gradient.f_to_kind(Kind::Float)?.f_contiguous()?;
            plain.f_copy_data(mine, gradient.numel())?;
            rest = others;
        }
        for values in statistics {
            let (mine, others) = rest.split_at_mut(values.numel());
            values.f_copy_data(mine, values.numel())?;
            mine.iter_mut().for_each(|value| *value *= self.share);
            rest = others;
        }
        Ok(flat)
    }
}
