//! One step: from microbatches to committed weights.
//!
//! Nothing is written before every reduced input is in local memory and found finite; after that the
//! update needs no network. A step therefore either happened on this rank as a whole or not at all,
//! and ranks that stop differ by one step at most.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use convoy_common::config::{Numerics, Reduction};
use convoy_common::ids::Position;
use convoy_common::sampling::Sampler;

use super::boundary::Agreed;
use super::exchange::{self, Statistics};
use super::fault::Moment;
use super::remains::{Outputs, StepOutputs, Unit};
use super::times::{Arrival, Stopwatch};
use super::trainer::Trainer;
use super::{Phase, StepTimes, TrainError};
use crate::model::{Hyper, Place};
use crate::ring::{Order, Pending, Ring, Terms};

/// How a step went.
pub(super) enum Stepped {
    /// The weights are those after the step.
    Committed(Committed),
    /// The weights are those before the step, on every rank.
    NonFinite {
        /// What was not finite.
        what: String,
    },
}

pub(super) struct Committed {
    pub(super) total: Statistics,
    pub(super) agreed: Agreed,
    pub(super) times: StepTimes,
    /// By this rank.
    pub(super) bytes_sent: u64,
}

impl Trainer {
    /// Makes the step at the current position with the given learning rate.
    pub(super) fn step(&mut self, lr: f64) -> Result<Stepped, TrainError> {
        let Position { epoch, step } = self.position;
        let share = Sampler::share(self.sampler.microbatches(step), self.rank.0, self.world);
        let place = Place { epoch, step, batch: self.sampler.batch_size(step) };
        let mut watch = Stopwatch::start();
        let mut times = StepTimes::default();
        let sent_before = self.ring.bytes_sent();

        self.control.enter(Phase::Data);
        self.meet(Moment::Data)?;
        for _ in share.clone() {
            self.check_abandoned()?;
            let next = self.pipeline.next();
            self.check_abandoned()?;
            let microbatch = next.ok_or(TrainError::DataEnded)??;
            self.lanes.train(place, microbatch)?;
        }
        times.data_wait = watch.lap();

        // The heads are on the ring while the trunks' backward passes compute.
        self.control.enter(Phase::Compute);
        self.meet(Moment::Compute)?;
        let microbatches = self.sampler.microbatches(step);
        let numbers = self.net.spec().trunk_len() + self.plan.dense_floats();
        let mut gradients = terms(&self.config.numerics, microbatches, share.clone(), numbers);
        let heads = self.lanes.heads(share.len(), &mut gradients)?;
        let statistics: Vec<Statistics> = heads.iter().map(|head| head.statistics).collect();
        let factors = self.plan.join(heads.into_iter().map(|head| head.factors));
        let wishes = self.control.wishes();
        let block = exchange::encode(wishes, self.uploader.is_free(), &statistics, &factors);
        let (gather, submitted) = (self.ring.all_gather(block), Instant::now());
        let gradients = self.lanes.gradients(share.len(), gradients)?;
        let reduce = sum(&self.ring, &self.config.numerics, gradients);
        times.compute = watch.lap();
        self.control.arrived(Arrival {
            steps: 1,
            microbatches: share.len() as u64,
            between: self.parted.map_or(Duration::ZERO, |it| watch.started() - it),
            data: times.data_wait,
            compute: times.compute,
        });

        self.control.enter(Phase::Ring);
        self.meet(Moment::Ring)?;
        let (blocks, gathered_at) = gather.wait_timed()?;
        times.hidden = watch.last().min(gathered_at).saturating_duration_since(submitted);
        let gathered = exchange::decode(&blocks, &self.plan.gathered())?;
        let (summed, summed_at) = reduce.wait_timed()?;
        self.parted = Some(summed_at.max(gathered_at));
        times.all_reduce = watch.lap();
        let bytes_sent = self.ring.bytes_sent() - sent_before;

        let reduced = self.plan.reduced(gathered.factors, summed, self.net.spec().trunk_len());
        let outputs = StepOutputs { total: gathered.total, agreed: gathered.agreed, reduced };
        self.complete(outputs, lr, watch, times, bytes_sent)
    }

    /// The second half of a step, which needs no network: commits what came from the ring, now or
    /// when another rank had it.
    pub(super) fn complete(
        &mut self,
        outputs: StepOutputs,
        lr: f64,
        mut watch: Stopwatch,
        mut times: StepTimes,
        bytes_sent: u64,
    ) -> Result<Stepped, TrainError> {
        self.control.enter(Phase::Update);
        let StepOutputs { total, agreed, reduced } = &outputs;
        let (total, agreed) = (*total, *agreed);
        if !total.loss.is_finite() || !reduced.is_finite() {
            let batch = self.sampler.batch_size(self.position.step);
            let loss = total.loss / f64::from(batch);
            return Ok(Stepped::NonFinite { what: non_finite(self.position, loss, lr) });
        }
        self.meet(Moment::Update)?;
        let hyper = Hyper::of(&self.config.train, lr);
        self.net.commit(reduced, hyper, self.lanes.len() as u32)?;
        self.unit = Some(Arc::new(Unit { from: self.reached(), outputs: Outputs::Step(outputs) }));
        times.update = watch.lap();
        times.total = watch.total();
        Ok(Stepped::Committed(Committed { total, agreed, times, bytes_sent }))
    }
}

/// Where this rank's gradients are collected in the order that the run record wants.
pub(super) fn terms(
    numerics: &Numerics,
    microbatches: u32,
    share: Range<u32>,
    numbers: usize,
) -> Terms {
    match numerics.reduction {
        Reduction::Canonical => {
            Terms::new(Order { microbatches, block: numerics.block }, share, numbers)
        }
        Reduction::Fast => Terms::apart(share, numbers),
    }
}

pub(crate) fn sum(ring: &Ring, numerics: &Numerics, terms: Terms) -> Pending<Vec<f32>> {
    match numerics.reduction {
        Reduction::Canonical => ring.sum(terms),
        Reduction::Fast => ring.all_reduce(terms.into_sum(), numerics.wire),
    }
}

fn non_finite(at: Position, loss: f64, lr: f64) -> String {
    let what = if loss.is_finite() { "a gradient" } else { "the loss" };
    format!("{what} is not finite in the step after {at} (loss {loss}, learning rate {lr})")
}
