//! One step: from microbatches to committed weights.
//!
//! Nothing is written before every reduced input is in local memory and found finite; after that the
//! update needs no network. A step therefore either happened on this rank as a whole or not at all,
//! and ranks that stop differ by one step at most.

use convoy_common::ids::Position;
use convoy_common::sampling::Sampler;

use super::boundary::Agreed;
use super::exchange::{self, Statistics};
use super::lanes::Gradients;
use super::times::Stopwatch;
use super::trainer::Trainer;
use super::{Phase, StepTimes, TrainError};
use crate::model::{Hyper, Place};

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
}

impl Trainer {
    /// Makes the step at the current position with the given learning rate.
    pub(super) fn step(&mut self, lr: f64) -> Result<Stepped, TrainError> {
        let Position { epoch, step } = self.position;
        let share = Sampler::share(self.sampler.microbatches(step), self.rank.0, self.world);
        let place = Place { epoch, step, batch: self.sampler.batch_size(step) };
        let mut watch = Stopwatch::start();
        let mut times = StepTimes::default();

        self.control.enter(Phase::Data);
        for _ in share.clone() {
            self.check_abandoned()?;
            let microbatch = self.pipeline.next().ok_or(TrainError::DataEnded)??;
            self.lanes.train(place, microbatch)?;
        }
        times.data_wait = watch.lap();

        // The heads are on the ring while the trunks' backward passes compute.
        self.control.enter(Phase::Compute);
        let mut gradients =
            Gradients::zero(share.start, self.net.spec().trunk_len() + self.plan.dense_floats());
        let heads = self.lanes.heads(share.len(), &mut gradients)?;
        let statistics: Vec<Statistics> = heads.iter().map(|head| head.statistics).collect();
        let factors = self.plan.join(heads.into_iter().map(|head| head.factors));
        let wishes = self.control.wishes();
        let block = exchange::encode(wishes, self.uploader.is_free(), &statistics, &factors);
        let gather = self.ring.all_gather(block);
        let gradient = self.lanes.gradients(share.len(), gradients)?;
        let reduce = self.ring.all_reduce(gradient);
        times.compute = watch.lap();

        self.control.enter(Phase::Ring);
        let gathered = exchange::decode(&gather.wait()?, &self.plan.gathered())?;
        let summed = reduce.wait()?;
        times.all_reduce = watch.lap();

        self.control.enter(Phase::Update);
        let reduced = self.plan.reduced(gathered.factors, summed, self.net.spec().trunk_len());
        if !gathered.total.loss.is_finite() || !reduced.is_finite() {
            let loss = gathered.total.loss / f64::from(place.batch);
            return Ok(Stepped::NonFinite { what: non_finite(self.position, loss, lr) });
        }
        let hyper = Hyper::of(&self.config.train, lr);
        self.net.commit(&reduced, hyper, self.lanes.len() as u32)?;
        times.update = watch.lap();
        times.total = watch.total();
        Ok(Stepped::Committed(Committed { total: gathered.total, agreed: gathered.agreed, times }))
    }
}

fn non_finite(at: Position, loss: f64, lr: f64) -> String {
    let what = if loss.is_finite() { "a gradient" } else { "the loss" };
    format!("{what} is not finite in the step after {at} (loss {loss}, learning rate {lr})")
}
