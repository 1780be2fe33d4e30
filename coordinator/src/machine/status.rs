//! What the job is doing now, for whoever asks.

use std::time::Duration;

use convoy_common::ids::{Generation, Position, Rank};

use super::event::Kept;
use super::operate::Answer;
use super::report::{Evaluation, StepReport};
use super::stragglers::Straggler;

/// One moment of the job.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The running generation, or the last one.
    pub generation: Option<Generation>,
    /// In a word: waiting, adopting, preparing, training, regrouping, paused, stopping, completed,
    /// stopped or failed.
    pub phase: &'static str,
    /// More about the phase.
    pub detail: String,
    /// All that are connected, by name.
    pub workers: Vec<WorkerStatus>,
    /// The last committed one that is known.
    pub position: Position,
    /// The last one reported.
    pub last_step: Option<StepReport>,
    /// Over the last steps.
    pub images_per_second: f64,
    /// The last one.
    pub last_evaluation: Option<Evaluation>,
    /// The newest one that exists.
    pub last_checkpoint: Option<Kept>,
    /// Until the end of the run, if it can be told.
    pub eta: Option<Duration>,
    /// Drops of the rate by hand, and requests for one that were refused.
    pub drops: Vec<DropStatus>,
    /// While checkpoints wait because the run's store fails.
    pub store_trouble: Option<StoreTrouble>,
    /// If it is paused.
    pub pause: Option<PauseStatus>,
    /// Whom the others wait for, and who is slow.
    pub stragglers: Vec<Straggler>,
    /// What became of the operators' last wishes.
    pub answers: Vec<Answer>,
}

/// The run's store does not take what it is given; it is tried again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreTrouble {
    /// Whom it fails: workers, or the coordinator.
    pub who: Vec<String>,
    /// What the last one heard.
    pub error: String,
    /// What can be done about it.
    pub hint: Option<String>,
    /// Since the first failed try.
    pub lasts: Duration,
}

/// Since when and why nobody trains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseStatus {
    /// For how long.
    pub since: Duration,
    /// By whom or what.
    pub reason: String,
    /// The checkpoint of its position, if it exists.
    pub checkpoint: Option<String>,
}

/// What became of one order to drop the rate.
#[derive(Clone, Debug, PartialEq)]
pub struct DropStatus {
    /// Who asked for it in the life of this coordinator.
    pub request: Option<u64>,
    /// In the override log; 0: not taken.
    pub number: u32,
    /// What the rate is divided by.
    pub divide_by: f64,
    /// How far it has come.
    pub stage: DropStage,
    /// Workers that do not know it yet.
    pub waiting_for: Vec<String>,
}

/// How far an order to drop the rate has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DropStage {
    /// On its way to the override log.
    Writing,
    /// In the log; not all ranks know it, or its position is still to come.
    Waiting,
    /// All ranks divided the rate before the step there; the log does not say so yet.
    Applied(Position),
    /// The same, and recorded.
    Effective(Position),
    /// It is not in the log, for this reason.
    Failed(String),
}

/// One connected worker.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Unique within the job.
    pub name: String,
    /// In the running generation.
    pub rank: Option<Rank>,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// The last committed position.
    pub position: Position,
    /// What it is doing, in a word.
    pub phase: String,
    /// Since it said something.
    pub silence: Duration,
    /// Since it entered its phase.
    pub in_phase: Duration,
    /// It was asked to leave.
    pub leaving: bool,
}
