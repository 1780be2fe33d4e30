//! What the machine wants done; carrying it out is the engine's work.

use std::time::Duration;

use convoy_common::checkpoint::{PartEntry, SharedState};
use convoy_common::exit;
use convoy_common::ids::{Generation, Lineage, Position, Rank, Reached, Term};
use convoy_common::schedule::ManualDrop;

use super::admission::Refusal;
use super::event::{ConnectionId, Kept};
use super::note::Note;

/// One thing to do. Effects of one step are carried out in their order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Tell a worker. After [`Order::Shutdown`] there is nothing more to tell it.
    Send {
        /// Its call.
        to: ConnectionId,
        /// What.
        order: Order,
    },
    /// Turn a worker away and end its call.
    Refuse {
        /// Its call.
        to: ConnectionId,
        /// Why.
        refusal: Refusal,
    },
    /// Make a checkpoint exist.
    Publish(Box<Publication>),
    /// Remove checkpoints that are more than the config keeps.
    Prune {
        /// Workers may still upload parts of this term and of later ones.
        living: Term,
    },
    /// Keep what the run's first worker computed, for all that join it later.
    RecordFingerprint(String),
    /// Write an order into the override log.
    LogDrop {
        /// The order.
        drop: ManualDrop,
        /// Why the operator wants it.
        reason: String,
    },
    /// Write down where an order took effect.
    RecordDrop {
        /// Of the order.
        number: u32,
        /// Before the first step with the lower rate.
        position: Position,
    },
    /// Say what was decided, and why.
    Log(Note),
    /// The job is over. The last effect there is.
    End(Outcome),
}

/// What a worker is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// It is taken; its config follows.
    Welcome,
    /// Load this state, open this ring, then say so.
    Assign(Assignment),
    /// Every rank is ready: train.
    Begin(Generation),
    /// End at a step boundary on which all ranks agree.
    StopAfterStep {
        /// Take a checkpoint there.
        checkpoint: bool,
        /// Why.
        reason: String,
    },
    /// Divide the rate, once all ranks know of it.
    Drop(ManualDrop),
    /// Leave the ring at once, keep the state, say so.
    EndGeneration {
        /// Which.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// The same at a step boundary on which all ranks agree.
    Regroup {
        /// Which.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// This coordinator goes on with the generation that the worker is in.
    Adopted(Adoption),
    /// Leave the ring, drop all that is held, then begin as a new worker does.
    StartAfresh {
        /// Why.
        reason: String,
    },
    /// What became of this checkpoint is decided: its part need not be reported again.
    Settled {
        /// That took it.
        generation: Generation,
        /// Of the checkpoint.
        position: Position,
    },
    /// The same with a snapshot, at one at which all can take one.
    Pause {
        /// Which.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// Take a checkpoint, once all ranks know of the wish.
    TakeCheckpoint,
    /// Try to reach these, and say whom it could not.
    Probe {
        /// Of the question.
        number: u32,
        /// Whom.
        seats: Vec<Seat>,
    },
    /// End now.
    Shutdown {
        /// Why.
        reason: String,
        /// What the worker exits with.
        exit_code: u8,
    },
}

/// A worker's place in a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The generation.
    pub generation: Generation,
    /// The worker's rank.
    pub rank: Rank,
    /// All workers, in rank order.
    pub roster: Vec<Seat>,
    /// The line of history.
    pub lineage: Lineage,
    /// Where training goes on.
    pub start: Reached,
    /// What the worker begins with.
    pub resume: Resume,
    /// A checkpoint was abandoned or missed: take one at the first boundary at which all can.
    pub owes_checkpoint: bool,
    /// End where training would go on, with a checkpoint.
    pub stop: bool,
    /// Orders of the override log that the state does not hold yet.
    pub drops: Vec<ManualDrop>,
}

/// A generation of an earlier coordinator that goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Adoption {
    /// Which.
    pub generation: Generation,
    /// Orders of the override log that its workers may not have heard of.
    pub drops: Vec<ManualDrop>,
}

/// What a worker begins a generation with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Initial weights.
    Seed,
    /// The checkpoint whose manifest is at this path.
    Checkpoint(String),
    /// What it holds.
    Keep,
    /// What it holds and one step or evaluation, which that worker has had already.
    Redo(Seat),
    /// What that worker holds.
    State(Seat),
}

/// One line of a roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The worker's name.
    pub name: String,
    /// host:port of its ring service.
    pub ring_address: String,
}

/// A checkpoint all of whose parts are in the store.
#[derive(Clone, Debug)]
pub struct Publication {
    /// That took it.
    pub generation: Generation,
    /// What every rank said alike.
    pub shared: SharedState,
    /// One for each rank, in rank order.
    pub parts: Vec<PartEntry>,
    /// Of the whole state, as every rank computed it.
    pub state_digest: String,
    /// The longest of the ranks' times, from the snapshot to the end of the upload.
    pub uploads_took: Duration,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// In a word.
    pub kind: Ending,
    /// Of the process, one of [`exit`].
    pub exit_code: u8,
    /// What happened, in a sentence.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The newest checkpoint that exists.
    pub last_checkpoint: Option<Kept>,
}

/// How a job ended, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything is trained and kept.
    Completed,
    /// Somebody wanted it.
    Stopped,
    /// Something broke.
    Failed,
}

impl Outcome {
    /// Everything is trained and kept.
    pub(super) fn completed(message: String) -> Self {
        Self::new(Ending::Completed, exit::OK, message)
    }

    /// Somebody wanted it.
    pub(super) fn stopped(exit_code: u8, message: String) -> Self {
        Self::new(Ending::Stopped, exit_code, message)
    }

    /// Something broke.
    pub(super) fn failed(exit_code: u8, message: String) -> Self {
        Self::new(Ending::Failed, exit_code, message)
    }

    fn new(kind: Ending, exit_code: u8, message: String) -> Self {
        Self { kind, exit_code, message, hint: None, last_checkpoint: None }
    }

    #[must_use]
    pub(super) fn with_hint(mut self, hint: String) -> Self {
        self.hint = Some(hint);
        self
    }
}
