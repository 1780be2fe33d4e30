//! What a worker tells of its generation: its life, its steps, its checkpoints and its end.

use std::fmt;
use std::time::Duration;

use convoy_common::checkpoint::{PartEntry, SharedState};
use convoy_common::ids::{Position, Reached};

/// What a worker says about its generation.
#[derive(Clone, Debug)]
pub enum Report {
    /// It lives.
    Heartbeat {
        /// The last committed position.
        position: Position,
        /// What it is doing, in a word.
        phase: String,
        /// More about that.
        vitals: Vitals,
    },
    /// It has loaded the state and opened its ring.
    Ready {
        /// Of weights and momentum.
        state_digest: String,
    },
    /// A step was committed.
    Step(StepReport),
    /// The validation split was evaluated.
    Evaluated(Evaluation),
    /// It knows the orders of the override log up to this one.
    DropKnown {
        /// Of the order.
        number: u32,
    },
    /// All ranks divided the rate.
    DropApplied {
        /// Of the order.
        number: u32,
        /// Before the first step with the lower rate.
        position: Position,
    },
    /// Its part of a checkpoint is in the store.
    PartUploaded {
        /// Of the checkpoint.
        position: Position,
        /// For the manifest.
        part: Box<PartEntry>,
        /// What every rank should say alike.
        shared: SharedState,
        /// From the snapshot to the end of the upload.
        took: Duration,
        /// Of the whole state on this worker.
        state_digest: String,
    },
    /// A try to store its part of a checkpoint failed; it goes on trying.
    PartDelayed {
        /// Why, with its causes.
        error: String,
        /// What can be done about it.
        hint: Option<String>,
    },
    /// Its part of a checkpoint is not in the store.
    PartFailed {
        /// Of the checkpoint.
        position: Position,
        /// Of the whole state on this worker.
        state_digest: String,
        /// Why.
        error: String,
    },
    /// It left the ring of the generation and keeps its state.
    Left(Left),
    /// It cannot go on, and its state is lost.
    Failed(Failed),
    /// It ended the generation in agreement with all other ranks.
    Finished(Finished),
}

/// What a heartbeat tells of a worker's work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Vitals {
    /// Since it entered its phase.
    pub in_phase: Duration,
    /// Since the snapshot whose part is on its way to the store.
    pub upload: Option<Duration>,
    /// How long it took to be ready for the ring.
    pub arrival: Arrival,
    /// Chunks on the ring, to the right and from the left.
    pub chunks: (u64, u64),
}

/// How long a worker took to be ready for the ring, from the end of the last collective to its own part
/// of the next; sums over the steps of a generation, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Arrival {
    /// How many.
    pub steps: u64,
    /// Microbatches that it computed in them.
    pub microbatches: u64,
    /// Committing, evaluating, keeping.
    pub between: f64,
    /// Waiting for decoded images.
    pub data: f64,
    /// Forward and backward.
    pub compute: f64,
}

/// One committed step; sums are over the global batch.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// After the step.
    pub position: Position,
    /// In the global batch.
    pub samples: u32,
    /// Mean cross-entropy, nats.
    pub loss: f64,
    /// Samples whose first guess was right.
    pub correct: u32,
    /// The rate that the step used.
    pub learning_rate: f64,
    /// What it cost.
    pub times: StepTimes,
    /// Sent on the ring by the worker that reports.
    pub bytes_sent: u64,
    /// Of the worker that reports, if it has one.
    pub cache: Option<CacheReport>,
}

/// What a worker's cache of the data set holds, and what it did since the report before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// Shards that are there.
    pub shards: u64,
    /// Shards that should be there.
    pub of: u64,
    /// Images that came from it.
    pub hits: u64,
    /// Images that came from the store.
    pub misses: u64,
    /// Bytes of whole shards that the worker fetched.
    pub fetched: u64,
}

/// Seconds of wall time of one step on the worker that reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTimes {
    /// Waiting for decoded images.
    pub data_wait: f64,
    /// Forward and backward.
    pub compute: f64,
    /// Waiting for the ring beyond what computing hides.
    pub all_reduce: f64,
    /// Committing.
    pub update: f64,
    /// The whole step.
    pub total: f64,
    /// How long the exchange ran behind the computing; not a part of the total.
    pub hidden: f64,
}

/// Counts over the whole validation split.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// When it was made.
    pub position: Position,
    /// Images.
    pub samples: u64,
    /// First guess right.
    pub top1_correct: u64,
    /// Label among the first five guesses.
    pub top5_correct: u64,
    /// Mean cross-entropy, nats.
    pub loss: f64,
    /// How long it took.
    pub seconds: f64,
    /// The learning rate from here on.
    pub learning_rate: f64,
    /// The schedule ends the run here.
    pub schedule_done: bool,
}

/// How a worker left the ring of its generation with its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// What it holds; none: nothing yet.
    pub held: Option<Reached>,
    /// At a boundary on which all ranks agreed; otherwise something broke, here or elsewhere.
    pub agreed: bool,
    /// A checkpoint was due and is not taken.
    pub owes_checkpoint: bool,
    /// A snapshot of just this state was taken.
    pub kept: bool,
    /// It can give others what led to this state.
    pub has_unit: bool,
    /// The peer that it blames.
    pub blame: Option<String>,
    /// What happened.
    pub error: String,
}

/// Why a worker cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The last committed position.
    pub position: Position,
    /// What happened.
    pub error: String,
    /// Exit code that it deserves.
    pub exit_code: u8,
}

/// How a worker ended its generation in agreement with the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The last committed position.
    pub position: Position,
    /// Why.
    pub cause: Cause,
    /// More about the cause.
    pub detail: String,
    /// Of weights and momentum.
    pub state_digest: String,
}

/// Why a generation ended in agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The last epoch is done, or the schedule ended the run.
    Completed,
    /// A stop took effect.
    Stopped,
    /// A loss or gradient was not finite; no rank committed the step.
    NonFinite,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::NonFinite => "non-finite",
        })
    }
}
