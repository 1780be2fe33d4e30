//! Decisions and news worth a line in the log, typed: the engine gives them words and levels.

use std::fmt;
use std::time::Duration;

use convoy_common::ids::{Generation, Position, Reached};
use convoy_common::schedule::ManualDrop;

use super::admission::Refusal;
use super::effect::Seat;
use super::event::{Hello, Kept};
use super::pace::Progress;
use super::report::{Cause, Evaluation};
use super::stragglers::Straggler;

/// One line of the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// A worker was taken.
    Joined {
        /// Who.
        hello: Hello,
        /// Workers there are now.
        have: u32,
        /// Workers that make up the job.
        need: u32,
    },
    /// A worker was turned away.
    Refused {
        /// Who.
        name: String,
        /// Why.
        refusal: Refusal,
    },
    /// A worker left that had no rank; another may take its place.
    LeftEarly {
        /// Who.
        name: String,
        /// How.
        why: String,
        /// Workers there are now.
        have: u32,
        /// Workers that make up the job.
        need: u32,
    },
    /// A worker computed its fingerprint under the run's numerics.
    Fingerprint {
        /// Who.
        name: String,
        /// What.
        fingerprint: String,
        /// The run's own, where it is another and that is allowed.
        of_run: Option<String>,
    },
    /// A new run computes in fp32 and every worker could compute in bf16.
    Bf16Possible,
    /// A generation was formed and its assignments sent.
    Formed {
        /// Its id.
        generation: Generation,
        /// In rank order.
        roster: Vec<Seat>,
        /// Where it goes on.
        position: Position,
        /// What it goes on from: the seed, a checkpoint, or what workers hold.
        from: String,
    },
    /// The generation of an earlier coordinator goes on.
    Adopted {
        /// Its id.
        generation: Generation,
        /// In rank order.
        roster: Vec<Seat>,
        /// Those of it who are gone.
        missing: Vec<String>,
        /// How far it is.
        position: Position,
        /// Training goes on as it is; if not, those who are there regroup.
        whole: bool,
    },
    /// What a worker holds is of no use.
    StartsAfresh {
        /// Who.
        name: String,
        /// Why.
        reason: String,
    },
    /// One more worker of the generation is ready.
    Ready {
        /// Who.
        name: String,
        /// How many are.
        ready: u32,
        /// Of how many.
        of: u32,
    },
    /// All are ready and hold equal bits: training begins.
    Began {
        /// The generation.
        generation: Generation,
        /// Digest of the state that all hold.
        state_digest: String,
    },
    /// How training goes.
    Progress(Progress),
    /// The learning rate is another one from here on.
    RateChanged {
        /// From which position on.
        position: Position,
        /// Before.
        from: f64,
        /// Now.
        to: f64,
    },
    /// The validation split was evaluated.
    Evaluated(Evaluation),
    /// A checkpoint exists.
    CheckpointPublished(Kept),
    /// A checkpoint will not exist; training goes on.
    CheckpointAbandoned {
        /// Which.
        position: Position,
        /// Why.
        why: Abandoned,
    },
    /// The run's store does not take a part or a manifest, which wait; training goes on.
    StoreFails {
        /// A worker, or the coordinator.
        who: String,
        /// What it heard.
        error: String,
        /// What can be done about it.
        hint: Option<String>,
        /// Since the first failed try.
        lasts: Duration,
    },
    /// The store takes again what waited.
    StoreWorks {
        /// How long it did not.
        lasted: Duration,
    },
    /// Workers hold different states at a checkpoint, which will not exist.
    Diverged {
        /// Which.
        position: Position,
        /// Who holds what.
        account: String,
    },
    /// A stop was asked for.
    StopAccepted {
        /// Why.
        reason: String,
    },
    /// The operator wants the rate to be divided.
    DropOrdered {
        /// The order.
        drop: ManualDrop,
        /// Why.
        reason: String,
    },
    /// All ranks divided the rate.
    DropEffective {
        /// Of the order.
        number: u32,
        /// Before the first step with the lower rate.
        position: Position,
        /// By what.
        divide_by: f64,
    },
    /// The override log does not say what it should.
    DropFailed {
        /// Of the order.
        number: u32,
        /// How.
        error: String,
    },
    /// A worker ended its generation in agreement with the others.
    Finished {
        /// Who.
        name: String,
        /// Where.
        position: Position,
        /// Why.
        cause: Cause,
    },
    /// A worker is lost for the job.
    Lost {
        /// Who.
        name: String,
        /// Why.
        why: String,
    },
    /// A generation is over; those who are left keep their state.
    Regrouping {
        /// The generation.
        generation: Generation,
        /// Why.
        reason: String,
        /// All ranks agreed on it; nothing broke.
        agreed: bool,
    },
    /// A worker has left the ring of its generation.
    Left {
        /// Who.
        name: String,
        /// What it holds.
        held: Option<Reached>,
    },
    /// There are too few workers to train.
    TooFew {
        /// Workers that could.
        have: u32,
        /// How many are needed.
        need: u32,
    },
    /// The generation is asked to end at a boundary, for those who come and go.
    RegroupOrdered {
        /// Who is ready to join.
        joining: Vec<String>,
        /// Who wants to go.
        leaving: Vec<String>,
    },
    /// A worker wants to go.
    Leaving {
        /// Who.
        name: String,
        /// Why.
        reason: String,
    },
    /// A worker may go: the others do without it.
    Drained {
        /// Who.
        name: String,
    },
    /// The operator wants the job to pause.
    PauseAccepted {
        /// Why.
        reason: String,
    },
    /// The store does not take what a pause wants to keep: the job pauses without a checkpoint.
    PauseForced {
        /// For how long all ranks were waited for.
        waited: Duration,
    },
    /// Nobody trains, and workers keep their state.
    Paused {
        /// What they hold.
        position: Position,
        /// Why.
        reason: String,
    },
    /// The pause is over.
    Resumed {
        /// How long it was, if it had begun.
        paused: Option<Duration>,
    },
    /// The operator wants a checkpoint.
    CheckpointAsked {
        /// After at least this position.
        position: Position,
    },
    /// The others wait for a worker, or it is slower than they are, or its upload takes long.
    Straggles(Straggler),
    /// It does not any more.
    KeepsUp {
        /// Who.
        name: String,
        /// What it did.
        phase: String,
        /// For how long it was seen to.
        lasted: Duration,
    },
    /// A worker that waits for a place cannot reach others, or they cannot reach it.
    Unreachable {
        /// Who.
        name: String,
        /// Whom.
        with: Vec<String>,
        /// Until it is tried again.
        retry: Duration,
    },
    /// A worker that was lost for what it may be lost for again gets no place for a while.
    Barred {
        /// Who.
        name: String,
        /// How long.
        time: Duration,
    },
    /// The first sign that a generation is broken.
    Faltered {
        /// The generation.
        generation: Generation,
        /// Whose sign it is.
        name: String,
        /// What it is.
        sign: String,
    },
    /// A further sign, which may point at the cause.
    AlsoFaltered {
        /// Whose sign it is.
        name: String,
        /// What it is.
        sign: String,
    },
    /// A message that the present state has no use for was dropped.
    Ignored {
        /// Who sent it.
        name: String,
        /// What kind.
        what: &'static str,
        /// The generation that it meant.
        generation: Generation,
    },
    /// This process did not run for a while, so silence of others in that time means nothing.
    WasAway {
        /// For how long.
        gap: Duration,
    },
}

/// Why a checkpoint will not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// A rank's part is not in the store.
    PartFailed {
        /// Whose.
        name: String,
        /// Why.
        error: String,
    },
    /// Ranks disagree about what they should know alike.
    Disagreement {
        /// Whose account differs from that of the lowest rank.
        odd: Vec<String>,
    },
    /// Ranks hold different states.
    Diverged {
        /// Who differs, where a majority agrees; else all.
        odd: String,
    },
    /// A later one was complete before it.
    Overtaken,
    /// The generation that took it is over; the next one takes another.
    GenerationOver,
    /// The manifest could not be published.
    NotPublished {
        /// Why.
        error: String,
    },
}

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PartFailed { name, error } => {
                write!(f, "the part of worker {name} was not stored: {error}")
            }
            Self::Disagreement { odd } => {
                write!(f, "workers disagree about it; odd: {}", odd.join(", "))
            }
            Self::Diverged { odd } => write!(f, "workers hold different states; odd: {odd}"),
            Self::Overtaken => write!(f, "a later one came first"),
            Self::GenerationOver => write!(f, "the generation that took it is over"),
            Self::NotPublished { error } => write!(f, "{error}"),
        }
    }
}
