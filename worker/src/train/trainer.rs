//! The loop of steps and boundaries.

use std::sync::Arc;
use std::time::Instant;

use convoy_common::cache::Filled;
use convoy_common::checkpoint::{Evaluations, SharedState};
use convoy_common::config::RunConfig;
use convoy_common::ids::{Position, Rank, Reached};
use convoy_common::sampling::{EvaluationGrid, Sampler};
use convoy_common::schedule::{LearningRate, ScheduleState};
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::TrainError;
use super::boundary::{Boundary, Timetable};
use super::control::{Control, Phase};
use super::exchange::Statistics;
use super::fault::{Fault, Moment};
use super::head_plan::HeadPlan;
use super::lanes::Lanes;
use super::redo::Redo;
use super::remains::{Remains, Unit};
use super::report::{Cause, Report, Reports, StepReport};
use super::snapshot::Uploader;
use super::step::{Committed, Stepped};
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
    /// What it goes on from.
    pub remains: Remains,
    /// A step or evaluation that others have had already, to be made again first.
    pub redo: Option<Redo>,
    /// The generation before owed a checkpoint: one is taken at the first boundary at which all can.
    pub owes_checkpoint: bool,
    /// End where training would go on, with a checkpoint.
    pub stop: bool,
    /// Microbatches that compute at once.
    pub lanes: u32,
    /// How images are read and decoded.
    pub settings: data::Settings,
    /// The generation's ring.
    pub ring: Ring,
    /// Takes this rank's part of checkpoints.
    pub uploader: Uploader,
    /// The board.
    pub control: Arc<Control>,
    /// Where the store is read.
    pub runtime: Handle,
    /// To the coordinator.
    pub reports: Reports,
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
    pub(super) unit: Option<Arc<Unit>>,
    pub(super) timetable: Timetable,
    pub(super) boundary: Option<Boundary>,
    redo: Option<Redo>,
    /// A checkpoint is owed from the generation before.
    pub(super) owed: bool,
    /// One fell due and is not taken yet.
    pub(super) due: bool,
    pub(super) stop: bool,
    /// The cache of the data set at the last step's end.
    filled: Filled,
    samples_seen: u64,
    last_loss: Option<f64>,
    pub(super) evaluations: Evaluations,
    reports: Reports,
    /// When the last collective ended, as all ranks see it.
    pub(super) parted: Option<Instant>,
    /// Where a snapshot was taken last in this generation.
    pub(super) kept: Option<Position>,
    fault: Option<Fault>,
}

impl Trainer {
    /// Starts the lanes and the reading of images.
    pub fn new(parts: Parts) -> Result<Self, TrainError> {
        let Parts { config, source, images, rank, world, lanes, settings, remains, .. } = parts;
        let Remains { net, shared, boundary, unit, .. } = remains;
        let (training, validation) = images;
        let sampler = Sampler::of(&config, training, &parts.shard_starts);
        let grid = EvaluationGrid::new(validation, config.numerics.microbatch);
        let plan =
            HeadPlan::new(config.numerics.head_exchange, config.train.batch, net.spec().linears());
        if rank.0 == 0 {
            plan.log(config.train.batch, world);
        }
        let timetable = Timetable::new(&config, sampler.steps_per_epoch());
        let after_redo = parts.redo.as_ref().map(|it| it.leads_to(sampler.steps_per_epoch()));
        let first = after_redo.unwrap_or(shared.position);
        let ahead = Arc::clone(&source);
        let wanted = requests(sampler.clone(), timetable.clone(), first, rank, world).inspect(
            move |Request { epoch, step, .. }| {
                ahead.heading_for(Position { epoch: *epoch, step: *step });
            },
        );
        let pipeline = Pipeline::start(Arc::clone(&source), settings, &parts.runtime, wanted)?;
        let dropout = Dropout { seed: config.run.seed, probability: config.model.dropout };
        let threads = config.numerics.threads_per_lane;
        let mut lanes = Lanes::start(&net, dropout, &plan, lanes, threads)?;
        lanes.watch(Arc::clone(&parts.control));
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
            parted: None,
            kept: None,
            fault: parts.fault,
            redo: parts.redo,
            owed: parts.owes_checkpoint,
            due: false,
            stop: parts.stop,
            unit,
            boundary,
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
        if let Some(redo) = self.redo.take() {
            self.make_again(redo)?;
        }
        if let Some(ending) = self.enter()? {
            return Ok(ending);
        }
        loop {
            let lr = self.rate.rate(&self.schedule, self.position);
            match self.step(lr)? {
                Stepped::Committed(committed) => self.advance(lr, &committed)?,
                Stepped::NonFinite { what } => return Ok(self.ending(Cause::NonFinite, what)),
            }
            if let Some(ending) = self.cross(false)? {
                return Ok(ending);
            }
        }
    }

    /// The state is that after a step.
    pub(super) fn advance(&mut self, lr: f64, committed: &Committed) -> Result<(), TrainError> {
        self.position = self.position.next(self.sampler.steps_per_epoch());
        self.evaluations = self.evaluations.after_a_step();
        let agreed = committed.agreed;
        self.boundary = Some(Boundary { agreed, evaluated: false, best: false });
        self.control.reached(self.position);
        let Position { epoch, step } = self.position;
        let Statistics { samples, images, .. } = committed.total;
        // Of every rank and not only of the one that reports: what a drill goes by.
        debug!(epoch, step, samples, images, "step committed");
        self.meet(Moment::Committed)?;
        self.tell_step(lr, committed);
        Ok(())
    }

    /// The last committed position.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Waits until this rank's part of the last checkpoint is stored or has been tried for long
    /// enough.
    pub fn finish_uploads(&mut self) -> Result<(), TrainError> {
        self.control.enter(Phase::Checkpoint);
        self.uploader.finish(&self.control)
    }

    /// Leaves the ring in order, once the right neighbour has everything that it needs.
    pub fn leave_ring(&self) {
        // Who did not get all makes the step again in the next generation.
        if let Err(error) = self.ring.shutdown().wait() {
            debug!(%error, "the ring did not end in order");
        }
    }

    /// What is left of it once the generation is over: the state, and the upload that is on its way.
    /// Lanes finish the microbatch that they hold.
    pub fn into_remains(self) -> (Remains, Uploader) {
        let shared = self.shared();
        let kept = self.kept == Some(shared.position);
        // What is given up on its way nobody else may know of.
        let owes_checkpoint = self.due || self.owed || !kept && !self.uploader.is_free();
        let Self { net, boundary, unit, uploader, .. } = self;
        (Remains { net, shared, boundary, unit, owes_checkpoint, kept }, uploader)
    }

    /// How far the state has come.
    pub(super) fn reached(&self) -> Reached {
        let evaluated = self.boundary.is_some_and(|it| it.evaluated);
        Reached { position: self.position, evaluated }
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

    pub(super) fn ending(&self, cause: Cause, detail: String) -> Ending {
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

    pub(super) fn shared(&self) -> SharedState {
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

    pub(super) fn tell(&self, report: Report) {
        if !self.reports.send_blocking(report) {
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
