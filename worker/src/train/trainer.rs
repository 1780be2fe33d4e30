//! The loop of steps and boundaries.

use std::sync::Arc;

use convoy_common::cache::Filled;
use convoy_common::checkpoint::{Evaluations, SharedState, Tally};
use convoy_common::config::RunConfig;
use convoy_common::ids::{Position, Rank};
use convoy_common::sampling::{EvaluationGrid, Sampler};
use convoy_common::schedule::{LearningRate, Observation, ScheduleState};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::boundary::{Agreed, Snapshot, Timetable};
use super::control::{Control, Phase};
use super::fault::{Fault, Moment};
use super::head_plan::HeadPlan;
use super::lanes::Lanes;
use super::report::{Cause, Report, StepReport};
use super::snapshot::Uploader;
use super::step::{Committed, Stepped};
use super::{EvaluationReport, TrainError};
use crate::data::{self, Pipeline, Purpose, Request, Source};
use crate::model::{Dropout, Net};
use crate::ring::Ring;

/// What a trainer is made of.
pub struct Parts {
    /// The run.
    pub config: RunConfig,
    /// What it trains on.
    pub source: Arc<dyn Source>,
    /// Images of the training and of the validation split.
    pub images: (u64, u64),
    /// The first image of each shard of the training split.
    pub shard_starts: Vec<u64>,
    /// This worker's place in the roster.
    pub rank: Rank,
    /// Workers in the roster.
    pub world: u32,
    /// The net, with the state at `shared.position`.
    pub net: Net,
    /// Microbatches that compute at once.
    pub lanes: u32,
    /// How images are read and decoded.
    pub settings: data::Settings,
    /// What is known of that state besides the tensors.
    pub shared: SharedState,
    /// The generation's ring.
    pub ring: Ring,
    /// Takes this rank's part of checkpoints.
    pub uploader: Uploader,
    /// The board.
    pub control: Arc<Control>,
    /// Where the store is read.
    pub runtime: Handle,
    /// To the coordinator.
    pub reports: mpsc::Sender<Report>,
    /// What a test wants to happen; nothing in a worker.
    pub fault: Option<Fault>,
}

/// How a generation ended when all ranks agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The last committed position.
    pub position: Position,
    /// Why.
    pub cause: Cause,
    /// More about the cause.
    pub detail: String,
}

/// One worker's part of one generation.
pub struct Trainer {
    pub(super) config: RunConfig,
    pub(super) source: Arc<dyn Source>,
    pub(super) settings: data::Settings,
    pub(super) sampler: Sampler,
    pub(super) grid: EvaluationGrid,
    pub(super) rank: Rank,
    pub(super) world: u32,
    pub(super) net: Net,
    pub(super) plan: HeadPlan,
    pub(super) lanes: Lanes,
    pub(super) ring: Ring,
    pub(super) pipeline: Pipeline,
    pub(super) control: Arc<Control>,
    pub(super) runtime: Handle,
    pub(super) uploader: Uploader,
    pub(super) rate: LearningRate,
    pub(super) schedule: ScheduleState,
    pub(super) position: Position,
    timetable: Timetable,
    /// The cache of the data set at the last step's end.
    filled: Filled,
    samples_seen: u64,
    last_loss: Option<f64>,
    evaluations: Evaluations,
    reports: mpsc::Sender<Report>,
    fault: Option<Fault>,
}

impl Trainer {
    /// Starts the lanes and the reading of images.
    pub fn new(parts: Parts) -> Result<Self, TrainError> {
        let Parts { config, source, images, rank, world, net, lanes, settings, shared, .. } = parts;
        let (training, validation) = images;
        let sampler = Sampler::of(&config, training, &parts.shard_starts);
        let grid = EvaluationGrid::new(validation, config.numerics.microbatch);
        let plan =
            HeadPlan::new(config.numerics.head_exchange, config.train.batch, net.spec().linears());
        if rank.0 == 0 {
            plan.log(config.train.batch, world);
        }
        let timetable = Timetable::new(&config, sampler.steps_per_epoch());
        let ahead = Arc::clone(&source);
        let wanted = requests(sampler.clone(), timetable.clone(), shared.position, rank, world)
            .inspect(move |Request { epoch, step, .. }| {
                ahead.heading_for(Position { epoch: *epoch, step: *step });
            });
        let pipeline = Pipeline::start(Arc::clone(&source), settings, &parts.runtime, wanted)?;
        let dropout = Dropout { seed: config.run.seed, probability: config.model.dropout };
        let lanes = Lanes::start(&net, dropout, &plan, lanes, config.numerics.threads_per_lane)?;
        parts.control.reached(shared.position);
        Ok(Self {
            rate: LearningRate::new(&config.train, &config.schedule, sampler.steps_per_epoch()),
            schedule: shared.schedule,
            position: shared.position,
            filled: source.filled().unwrap_or_default(),
            samples_seen: shared.samples_seen,
            last_loss: shared.last_loss,
            evaluations: shared.evaluations,
            ring: parts.ring,
            control: parts.control,
            runtime: parts.runtime,
            uploader: parts.uploader,
            reports: parts.reports,
            fault: parts.fault,
            config,
            source,
            settings,
            sampler,
            grid,
            rank,
            world,
            net,
            plan,
            lanes,
            pipeline,
            timetable,
        })
    }

    /// Trains until all ranks agree to end, or until something breaks.
    ///
    /// After an error the state is that of the last committed step, [`Self::position`].
    pub fn run(&mut self) -> Result<Ending, TrainError> {
        if self.schedule.done || self.timetable.is_complete(self.position) {
            return Ok(self.ending(Cause::Completed, "there was nothing left to train".to_owned()));
        }
        loop {
            let lr = self.rate.rate(&self.schedule, self.position);
            let committed = match self.step(lr)? {
                Stepped::Committed(committed) => committed,
                Stepped::NonFinite { what } => return Ok(self.ending(Cause::NonFinite, what)),
            };
            self.position = self.position.next(self.sampler.steps_per_epoch());
            self.evaluations = self.evaluations.after_a_step();
            self.control.reached(self.position);
            self.meet(Moment::Committed)?;
            self.tell_step(lr, &committed);

            self.drop_by_hand(committed.agreed);

            let mut due = self.timetable.due(self.position, committed.agreed);
            let fewest_errors = self.evaluations.fewest_errors;
            if due.evaluate && self.evaluate_and_observe()? {
                (due.end, due.checkpoint) = (Some(Cause::Completed), Snapshot::Final);
            }
            if self.config.checkpoint.keep_best && self.evaluations.fewest_errors != fewest_errors {
                due.checkpoint = due.checkpoint.of_the_best();
            }
            self.keep(due.checkpoint)?;
            if let Some(cause) = due.end {
                return Ok(self.ending(cause, String::new()));
            }
        }
    }

    /// The last committed position.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Waits until this rank's part of the last checkpoint is stored or has failed.
    pub fn finish_uploads(&self) -> Result<(), TrainError> {
        self.uploader.wait_until_free()
    }

    /// The net, for its digest.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// A moment at which a test may have planted something.
    pub(super) fn meet(&mut self, moment: Moment) -> Result<(), TrainError> {
        match &self.fault {
            Some(fault) => fault(moment, self.position, &mut self.net),
            None => Ok(()),
        }
    }

    pub(super) fn check_abandoned(&self) -> Result<(), TrainError> {
        if self.control.is_abandoned() { Err(TrainError::Abandoned) } else { Ok(()) }
    }

    fn ending(&self, cause: Cause, detail: String) -> Ending {
        Ending { position: self.position, cause, detail }
    }

    fn tell_step(&mut self, lr: f64, committed: &Committed) {
        let Committed { total, times, bytes_sent, .. } = committed;
        let loss = total.loss / f64::from(total.samples.max(1));
        self.samples_seen += u64::from(total.samples);
        self.last_loss = Some(loss);
        let filled = self.source.filled();
        let cache = filled.map(|now| now.since(self.filled));
        self.filled = filled.unwrap_or_default();
        if self.rank.0 == 0 {
            self.tell(Report::Step(StepReport {
                position: self.position,
                samples: total.samples,
                loss,
                correct: total.correct,
                learning_rate: lr,
                times: *times,
                bytes_sent: *bytes_sent,
                cache,
            }));
        }
    }

    /// Lets those orders of the override log take effect that all ranks know.
    fn drop_by_hand(&mut self, agreed: Agreed) {
        for drop in self.schedule.due(&self.control.drops(), agreed.newest_drop, self.position) {
            self.schedule = self.rate.drop_by_hand(&self.schedule, drop);
            let lr = self.rate.rate(&self.schedule, self.position);
            let (number, Position { epoch, step }) = (drop.number, drop.at);
            info!(number, epoch, step, lr, "a drop by hand takes effect");
            if self.rank.0 == 0 {
                self.tell(Report::DropApplied { number, position: self.position });
            }
        }
    }

    /// Evaluates and lets the schedule see it; says whether the schedule ends the run.
    fn evaluate_and_observe(&mut self) -> Result<bool, TrainError> {
        let mut report: EvaluationReport = self.evaluate()?;
        let errors = report.samples - report.top1_correct;
        let (schedule, observation) = self.rate.observe(&self.schedule, errors);
        self.schedule = schedule;
        let tally = Tally {
            images: report.samples,
            top1_errors: errors,
            top5_errors: report.samples - report.top5_correct,
        };
        if tally.images > 0 {
            self.evaluations = self.evaluations.with(tally);
        }
        report.learning_rate = self.rate.rate(&self.schedule, self.position);
        report.schedule_done = self.schedule.done;
        if let Observation::Dropped { .. } = observation {
            info!(
                epoch = self.position.epoch,
                lr = report.learning_rate,
                "the learning rate drops"
            );
        }
        if self.rank.0 == 0 {
            self.tell(Report::Evaluation(report));
        }
        Ok(self.schedule.done)
    }

    fn keep(&self, snapshot: Snapshot) -> Result<(), TrainError> {
        let Position { epoch, step } = self.position;
        match snapshot {
            Snapshot::No => return Ok(()),
            Snapshot::Skip => {
                if self.rank.0 == 0 {
                    warn!(
                        epoch,
                        step, "a checkpoint is skipped: the one before is still being uploaded"
                    );
                }
                return Ok(());
            }
            Snapshot::Take => self.control.enter(Phase::Checkpoint),
            Snapshot::Final => {
                self.control.enter(Phase::Checkpoint);
                self.uploader.wait_until_free()?;
            }
        }
        self.uploader.take(&self.net, self.shared())
    }

    fn shared(&self) -> SharedState {
        SharedState {
            position: self.position,
            global_step: self.position.global_step(self.sampler.steps_per_epoch()),
            schedule: self.schedule.clone(),
            samples_seen: self.samples_seen,
            last_loss: self.last_loss,
            world: self.world,
            evaluations: self.evaluations,
        }
    }

    fn tell(&self, report: Report) {
        if self.reports.blocking_send(report).is_err() {
            warn!("a report was dropped because this worker is ending");
        }
    }
}

/// Everything this rank will read, from `start` to the end of the run.
fn requests(
    sampler: Sampler,
    timetable: Timetable,
    start: Position,
    rank: Rank,
    world: u32,
) -> impl Iterator<Item = Request> + Send {
    let steps = sampler.steps_per_epoch();
    let mut order = Arc::new(sampler.epoch(start.epoch));
    std::iter::successors(Some(start), move |at| Some(at.next(steps)))
        .take_while(move |at| !timetable.is_complete(*at))
        .flat_map(move |Position { epoch, step }| {
            let share = Sampler::share(sampler.microbatches(step), rank.0, world);
            if order.epoch() != epoch {
                order = Arc::new(sampler.epoch(epoch));
            }
            let (sampler, order) = (sampler.clone(), Arc::clone(&order));
            share.map(move |microbatch| Request {
                purpose: Purpose::Train,
                epoch,
                step,
                microbatch,
                samples: sampler.microbatch_in(&order, step, microbatch),
            })
        })
}
