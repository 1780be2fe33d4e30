//! Lanes: threads that compute microbatches over the same weights.
//!
//! A kernel's result may depend on its number of threads, so each lane runs its kernels with the
//! fixed number of the run record, and a machine with more cores runs more lanes. Microbatches go to
//! lanes by number, and what comes back is put in microbatch order before anything is added up:
//! neither the number of lanes nor their speed can be seen in the result.
//!
//! Weights are only read here. The trainer writes them between steps, when every lane is idle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use convoy_common::sampling;

use super::TrainError;
use super::control::Control;
use super::exchange::Statistics;
use super::head_plan::HeadPlan;
use crate::data::{Microbatch, Purpose};
use crate::model::evaluate::Evaluation;
use crate::model::{Dropout, Factors, Input, Lane, Net, Place, threads};
use crate::ring::Terms;

/// No microbatch takes longer; what does is stuck.
const DEADLINE: Duration = Duration::from_secs(600);
/// Between two looks at whether the generation is over.
const LOOK: Duration = Duration::from_millis(20);

/// The lanes of one worker.
#[derive(Debug)]
pub(crate) struct Lanes {
    work: Vec<Sender<Work>>,
    results: Receiver<(u32, Outcome)>,
    threads: Vec<JoinHandle<()>>,
    /// Says when there is nothing to wait for any more.
    control: Option<Arc<Control>>,
}

/// What one microbatch's head gives, before its trunk's backward pass begins.
pub(super) struct HeadResult {
    pub(super) statistics: Statistics,
    /// Of each layer; those of layers that are summed are empty.
    pub(super) factors: [Factors; 3],
}

enum Work {
    Train(Place, Microbatch),
    Evaluate(Microbatch),
}

enum Outcome {
    Head(HeadResult),
    /// Trunk, then the layers that are summed.
    Gradient(Vec<f32>),
    Counts(Evaluation),
    Failed(TrainError),
}

impl Lanes {
    /// Starts `count` lanes over the net's weights, each with kernels of `threads` threads.
    pub(crate) fn start(
        net: &Net,
        dropout: Dropout,
        plan: &HeadPlan,
        count: u32,
        threads_per_lane: u32,
    ) -> Result<Self, TrainError> {
        let (done, results) = mpsc::channel();
        let mut work = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let (to, queue) = mpsc::channel();
            let (lane, plan, done) = (Lane::new(net, dropout), plan.clone(), done.clone());
            let thread = std::thread::Builder::new()
                .name(format!("lane-{number}"))
                .spawn(move || {
                    threads::use_on_this_thread(threads_per_lane);
                    run(&lane, &plan, &queue, &done);
                })
                .map_err(TrainError::Thread)?;
            work.push(to);
            threads.push(thread);
        }
        Ok(Self { work, results, threads, control: None })
    }

    /// From now on whoever waits for a lane waits no longer than the generation lasts.
    pub(super) fn watch(&mut self, control: Arc<Control>) {
        self.control = Some(control);
    }

    pub(super) fn len(&self) -> usize {
        self.work.len()
    }

    /// Hands a microbatch to its lane.
    pub(super) fn train(&self, place: Place, microbatch: Microbatch) -> Result<(), TrainError> {
        self.send(microbatch.request.microbatch, Work::Train(place, microbatch))
    }

    /// Hands a microbatch of the validation split to its lane.
    pub(super) fn evaluate(&self, microbatch: Microbatch) -> Result<(), TrainError> {
        self.send(microbatch.request.microbatch, Work::Evaluate(microbatch))
    }

    /// Waits for the heads of `count` microbatches, while gradients may come in too.
    pub(super) fn heads(
        &self,
        count: usize,
        gradients: &mut Terms,
    ) -> Result<Vec<HeadResult>, TrainError> {
        let mut heads = BTreeMap::new();
        while heads.len() < count {
            match self.receive()? {
                (number, Outcome::Head(head)) => {
                    heads.insert(number, head);
                }
                (number, Outcome::Gradient(gradient)) => gradients.add(number, gradient),
                (_, other) => return Err(unexpected(other)),
            }
        }
        Ok(heads.into_values().collect())
    }

    /// Waits until the gradients of `count` microbatches are there.
    pub(super) fn gradients(&self, count: usize, mut so_far: Terms) -> Result<Terms, TrainError> {
        while so_far.received() < count {
            match self.receive()? {
                (number, Outcome::Gradient(gradient)) => so_far.add(number, gradient),
                (_, other) => return Err(unexpected(other)),
            }
        }
        Ok(so_far)
    }

    /// Waits for one evaluated microbatch; gives its number too.
    pub(super) fn counts(&self) -> Result<(u32, Evaluation), TrainError> {
        match self.receive()? {
            (number, Outcome::Counts(counts)) => Ok((number, counts)),
            (_, other) => Err(unexpected(other)),
        }
    }

    fn send(&self, number: u32, work: Work) -> Result<(), TrainError> {
        self.work[number as usize % self.work.len()].send(work).map_err(|_| TrainError::LaneDied)
    }

    fn receive(&self) -> Result<(u32, Outcome), TrainError> {
        let start = Instant::now();
        loop {
            if self.control.as_ref().is_some_and(|it| it.is_abandoned()) {
                return Err(TrainError::Abandoned);
            }
            match self.results.recv_timeout(LOOK) {
                Ok((_, Outcome::Failed(error))) => return Err(error),
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Timeout) if start.elapsed() < DEADLINE => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(TrainError::LaneStuck { after: DEADLINE });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(TrainError::LaneDied),
            }
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.work.clear();
        // Nobody listens any more, so that a lane leaves what is in its queue alone.
        self.results = mpsc::channel().1;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a lane panicked");
            }
        }
    }
}

fn run(lane: &Lane, plan: &HeadPlan, queue: &Receiver<Work>, done: &Sender<(u32, Outcome)>) {
    while let Ok(work) = queue.recv() {
        // The trainer is gone when nobody listens: then there is nothing left to do.
        let listening = match work {
            Work::Train(place, microbatch) => train(lane, plan, place, &microbatch, done),
            Work::Evaluate(microbatch) => {
                let number = microbatch.request.microbatch;
                let evaluated = match microbatch.request.purpose {
                    Purpose::EvaluateSquares => lane.evaluate_views(input(&microbatch, &[])),
                    Purpose::Train | Purpose::Evaluate => lane.evaluate(input(&microbatch, &[])),
                };
                let outcome = match evaluated {
                    Ok(counts) => Outcome::Counts(counts),
                    Err(error) => Outcome::Failed(error.into()),
                };
                done.send((number, outcome)).is_ok()
            }
        };
        if !listening {
            break;
        }
    }
}

/// Computes one microbatch; the head is told before the trunk's backward pass begins.
fn train(
    lane: &Lane,
    plan: &HeadPlan,
    place: Place,
    microbatch: &Microbatch,
    done: &Sender<(u32, Outcome)>,
) -> bool {
    let number = microbatch.request.microbatch;
    let samples: Vec<u64> = microbatch.request.samples.iter().map(|it| it.index).collect();
    let (mut head, trunk) = match lane.forward_and_head(input(microbatch, &samples), place) {
        Ok(halves) => halves,
        Err(error) => return done.send((number, Outcome::Failed(error.into()))).is_ok(),
    };
    let statistics = Statistics {
        loss: head.loss_sum,
        correct: head.correct as u32,
        samples: microbatch.labels.len() as u32,
        images: samples
            .iter()
            .fold(0, |sum, it| sum.wrapping_add(sampling::mark(place.epoch, place.step, *it))),
    };
    let dense = plan.take_dense(&mut head.factors);
    let head = HeadResult { statistics, factors: head.factors };
    if done.send((number, Outcome::Head(head))).is_err() {
        return false;
    }
    let gradient = trunk.backward().and_then(|mut gradient| {
        for factors in dense {
            gradient.extend(factors.gradient()?);
        }
        Ok(gradient)
    });
    let outcome = match gradient {
        Ok(gradient) => Outcome::Gradient(gradient),
        Err(error) => Outcome::Failed(error.into()),
    };
    done.send((number, outcome)).is_ok()
}

fn input<'a>(microbatch: &'a Microbatch, samples: &'a [u64]) -> Input<'a> {
    Input { pixels: &microbatch.pixels, labels: &microbatch.labels, samples }
}

fn unexpected(outcome: Outcome) -> TrainError {
    match outcome {
        Outcome::Failed(error) => error,
        _ => TrainError::LaneDied,
    }
}
