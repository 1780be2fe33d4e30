//! What a worker tells the coordinator about its generation, and how that looks on the wire.

use std::time::Duration;

use convoy_common::cache::Filled;
use convoy_common::checkpoint::{PartEntry, SharedState};
use convoy_common::ids::{Generation, Position, Reached};
use convoy_common::pb;
use pb::worker_message::Kind;
use tokio::sync::mpsc;

use super::times::{Arrival, StepTimes};

/// A fact about one generation.
#[derive(Clone, Debug)]
pub enum Report {
    /// Still there.
    Heartbeat(Heartbeat),
    /// The state is loaded and the ring is open.
    Ready {
        /// Digest of weights and momentum.
        state_digest: String,
    },
    /// A step was committed (told by rank 0).
    Step(StepReport),
    /// The validation split was evaluated (told by rank 0).
    Evaluation(EvaluationReport),
    /// This worker knows the orders of the override log up to this one.
    DropKnown {
        /// Of the order.
        number: u32,
    },
    /// A drop by hand took effect on all ranks (told by rank 0).
    DropApplied {
        /// Of the order.
        number: u32,
        /// Before the first step with the lower rate.
        position: Position,
    },
    /// This rank's part of a checkpoint is in the store.
    PartUploaded {
        /// The checkpoint's position.
        position: Position,
        /// The part.
        part: PartEntry,
        /// What every rank knows alike.
        shared: SharedState,
        /// From the snapshot to the end of the upload.
        took: Duration,
        /// Digest of the whole state on this worker.
        state_digest: String,
    },
    /// A try to store this rank's part failed; more will follow.
    PartDelayed {
        /// The checkpoint's position.
        position: Position,
        /// Why, with its causes.
        error: String,
        /// What can be done about it.
        hint: Option<String>,
    },
    /// This rank's part of a checkpoint did not reach the store.
    PartFailed {
        /// The checkpoint's position.
        position: Position,
        /// Why.
        error: String,
        /// Digest of the whole state on this worker.
        state_digest: String,
    },
    /// This worker left the ring of its generation and keeps its state.
    Left {
        /// How far that state has come; none: there is none yet.
        held: Option<Reached>,
        /// At a boundary on which all ranks agreed.
        agreed: bool,
        /// A checkpoint was due and is not taken.
        owes_checkpoint: bool,
        /// A snapshot of just this state was taken.
        kept: bool,
        /// What led to this state can be given to others.
        has_unit: bool,
        /// The peer whose fault it seems.
        blame: Option<String>,
        /// What happened.
        error: String,
    },
    /// This worker was asked to go.
    Leaving {
        /// By whom or what.
        reason: String,
    },
    /// This worker cannot go on.
    Failed {
        /// The last committed position.
        position: Position,
        /// What happened.
        error: String,
        /// The exit code that it deserves.
        exit_code: u8,
    },
    /// All ranks ended together.
    Finished {
        /// The last committed position.
        position: Position,
        /// Why.
        cause: Cause,
        /// More about the cause.
        detail: String,
        /// Digest of weights and momentum.
        state_digest: String,
    },
}

/// Where a worker is, and what it waits for.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat {
    /// Where the trainer is.
    pub position: Position,
    /// What it is doing.
    pub phase: &'static str,
    /// For how long.
    pub in_phase: Duration,
    /// Since the snapshot whose part is on its way to the store.
    pub upload: Option<Duration>,
    /// How long it took to be ready for the ring.
    pub arrival: Arrival,
    /// Chunks on the ring, to the right and from the left.
    pub chunks: (u64, u64),
}

impl Heartbeat {
    fn of(self, generation: Option<pb::GenerationId>) -> pb::Heartbeat {
        let Arrival { steps, microbatches, between, data, compute } = self.arrival;
        pb::Heartbeat {
            generation,
            position: Some(self.position.into()),
            phase: self.phase.to_owned(),
            seconds_in_phase: self.in_phase.as_secs_f64(),
            // One that has just begun is one all the same.
            seconds_of_upload: self.upload.map_or(0.0, |it| it.as_secs_f64().max(1e-3)),
            arrival: Some(pb::Arrival {
                steps,
                microbatches,
                between: between.as_secs_f64(),
                data: data.as_secs_f64(),
                compute: compute.as_secs_f64(),
            }),
            chunks_sent: self.chunks.0,
            chunks_received: self.chunks.1,
        }
    }
}

/// The way of one generation's reports to the agent. What comes late is still told of the generation
/// that it is about.
#[derive(Clone, Debug)]
pub struct Reports {
    generation: Generation,
    to: mpsc::Sender<(Generation, Report)>,
}

impl Reports {
    /// For reports about `generation`.
    pub fn new(generation: Generation, to: mpsc::Sender<(Generation, Report)>) -> Self {
        Self { generation, to }
    }

    /// False if the agent is gone.
    pub(super) async fn send(&self, report: Report) -> bool {
        self.to.send((self.generation, report)).await.is_ok()
    }

    /// The same from a thread outside the runtime.
    pub(super) fn send_blocking(&self, report: Report) -> bool {
        self.to.blocking_send((self.generation, report)).is_ok()
    }
}

/// Why a generation ended in agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The last epoch or step is done, or the schedule ended the run.
    Completed,
    /// The coordinator asked for it.
    Stopped,
    /// A loss or gradient was not finite; the step was not committed.
    NonFinite,
    /// The coordinator asked for another generation.
    Regroup,
}

/// One committed step; sums are over the global batch.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// After the step.
    pub position: Position,
    /// Samples in the global batch.
    pub samples: u32,
    /// Mean cross-entropy, nats.
    pub loss: f64,
    /// Samples whose largest logit is the label's.
    pub correct: u32,
    /// The rate that the step used.
    pub learning_rate: f64,
    /// What it cost on this worker.
    pub times: StepTimes,
    /// What this worker sent on the ring, without the frames around the numbers.
    pub bytes_sent: u64,
    /// What its cache of the data set holds, and did since the step before; nothing without one.
    pub cache: Option<Filled>,
}

/// Counts over the whole validation split.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationReport {
    /// When it was made.
    pub position: Position,
    /// Images.
    pub samples: u64,
    /// Images whose label is the first guess.
    pub top1_correct: u64,
    /// Images whose label is among the first five guesses.
    pub top5_correct: u64,
    /// Mean cross-entropy, nats.
    pub loss: f64,
    /// How long it took.
    pub took: Duration,
    /// The learning rate from here on.
    pub learning_rate: f64,
    /// The schedule ends the run here.
    pub schedule_done: bool,
}

impl Report {
    /// The wire form, for one generation.
    pub fn of(self, generation: Generation) -> pb::WorkerMessage {
        let generation = Some(generation.into());
        let kind = match self {
            Self::Heartbeat(it) => Kind::Heartbeat(it.of(generation)),
            Self::Ready { state_digest } => Kind::Ready(pb::Ready { generation, state_digest }),
            Self::Step(it) => Kind::Step(pb::StepReport {
                generation,
                position: Some(it.position.into()),
                samples: it.samples,
                loss: it.loss,
                correct: it.correct,
                learning_rate: it.learning_rate,
                times: Some(it.times.into()),
                bytes_sent: it.bytes_sent,
                cache: it.cache.map(|it| pb::CacheReport {
                    shards: it.shards,
                    of: it.of,
                    hits: it.hits,
                    misses: it.misses,
                    fetched: it.fetched,
                }),
            }),
            Self::Evaluation(it) => Kind::Evaluation(pb::EvaluationReport {
                generation,
                position: Some(it.position.into()),
                samples: it.samples,
                top1_correct: it.top1_correct,
                top5_correct: it.top5_correct,
                loss: it.loss,
                seconds: it.took.as_secs_f64(),
                learning_rate: it.learning_rate,
                schedule_done: it.schedule_done,
            }),
            Self::DropKnown { number } => {
                Kind::DirectiveKnown(pb::DirectiveKnown { generation, number })
            }
            Self::DropApplied { number, position } => {
                let position = Some(position.into());
                Kind::DirectiveApplied(pb::DirectiveApplied { generation, number, position })
            }
            Self::PartUploaded { position, part, shared, took, state_digest } => {
                Kind::PartUploaded(pb::PartUploaded {
                    generation,
                    position: Some(position.into()),
                    part_json: json(&part),
                    shared_json: json(&shared),
                    seconds: took.as_secs_f64(),
                    state_digest,
                })
            }
            Self::PartDelayed { position, error, hint } => Kind::PartDelayed(pb::PartDelayed {
                generation,
                position: Some(position.into()),
                error,
                hint: hint.unwrap_or_default(),
            }),
            Self::PartFailed { position, error, state_digest } => {
                Kind::PartFailed(pb::PartFailed {
                    generation,
                    position: Some(position.into()),
                    error,
                    state_digest,
                })
            }
            Self::Left { held, agreed, owes_checkpoint, kept, has_unit, blame, error } => {
                Kind::Left(pb::Left {
                    generation,
                    held: held.map(pb::Reached::from),
                    agreed,
                    owes_checkpoint,
                    blame: blame.unwrap_or_default(),
                    error,
                    kept,
                    has_unit,
                })
            }
            Self::Leaving { reason } => Kind::Leaving(pb::Leaving { reason }),
            Self::Failed { position, error, exit_code } => {
                Kind::GenerationFailed(pb::GenerationFailed {
                    generation,
                    position: Some(position.into()),
                    blame: String::new(),
                    error,
                    exit_code: u32::from(exit_code),
                })
            }
            Self::Finished { position, cause, detail, state_digest } => {
                Kind::Finished(pb::Finished {
                    generation,
                    position: Some(position.into()),
                    cause: pb::FinishCause::from(cause).into(),
                    detail,
                    state_digest,
                })
            }
        };
        pb::WorkerMessage { kind: Some(kind) }
    }
}

impl From<Cause> for pb::FinishCause {
    fn from(it: Cause) -> Self {
        match it {
            Cause::Completed => Self::Completed,
            Cause::Stopped => Self::Stopped,
            Cause::NonFinite => Self::NonFinite,
            // Told as `Left`, never as `Finished`.
            Cause::Regroup => Self::Unspecified,
        }
    }
}

impl From<StepTimes> for pb::StepTimes {
    fn from(it: StepTimes) -> Self {
        Self {
            data_wait: it.data_wait.as_secs_f64(),
            compute: it.compute.as_secs_f64(),
            all_reduce: it.all_reduce.as_secs_f64(),
            update: it.update.as_secs_f64(),
            total: it.total.as_secs_f64(),
            hidden: it.hidden.as_secs_f64(),
        }
    }
}

fn json(it: &impl serde::Serialize) -> String {
    serde_json::to_string(it).expect("invariant: plain data has a JSON form")
}
