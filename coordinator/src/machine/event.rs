//! What the machine hears: a closed set of facts, already checked for form at the service's door.

use std::fmt;
use std::time::Duration;

use convoy_common::checkpoint::{PartEntry, SharedState};
use convoy_common::ids::{Generation, Lineage, Position, Rank, Reached, Term};

use super::effect::Seat;
use super::operate::Wish;
use super::report::Report;

/// One call of a worker; never used twice in the life of a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Everything that can happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A worker called and introduced itself.
    Joined {
        /// Its call.
        connection: ConnectionId,
        /// Who it is.
        hello: Hello,
    },
    /// A worker's call is over.
    Gone {
        /// The call.
        connection: ConnectionId,
        /// How it ended.
        why: Departure,
    },
    /// A worker said something about a generation.
    Said {
        /// Its call.
        connection: ConnectionId,
        /// The generation it means.
        generation: Generation,
        /// What it said.
        report: Report,
    },
    /// A worker computed its fingerprint under the run's numerics.
    Computed {
        /// Its call.
        connection: ConnectionId,
        /// Hash of what it computed.
        fingerprint: String,
    },
    /// A worker wants to go as soon as the others can do without it.
    Leaving {
        /// Its call.
        connection: ConnectionId,
        /// Why.
        reason: String,
    },
    /// A coordinator of a later term has taken the run over.
    Superseded {
        /// Its term.
        term: Term,
        /// host:port at which it listens.
        address: String,
    },
    /// The operator wants the job to take a checkpoint and end.
    StopRequested {
        /// For logs and workers.
        reason: String,
    },
    /// The operator wants the job to end now.
    Interrupted {
        /// For logs and workers.
        reason: String,
    },
    /// A manifest is in the store: the checkpoint exists.
    ManifestPublished(Kept),
    /// A manifest could not be published.
    ManifestFailed {
        /// Of the checkpoint.
        position: Position,
        /// Why.
        error: String,
    },
    /// The run's store does not take what this process is to write; it will be tried again.
    StoreFails {
        /// Why, with its causes.
        error: String,
        /// What can be done about it.
        hint: Option<String>,
    },
    /// It took all that waited.
    StoreWorks,
    /// The operator wants the learning rate to be divided.
    DropOrdered {
        /// Who asks; never used twice in the life of a coordinator.
        request: u64,
        /// By what.
        divide_by: f64,
        /// For the log.
        reason: String,
    },
    /// The override log holds the order.
    DropLogged {
        /// Its number.
        number: u32,
    },
    /// The override log does not hold it.
    DropFailed {
        /// Its number.
        number: u32,
        /// Why.
        error: String,
    },
    /// The override log says where the order took effect.
    DropRecorded {
        /// Its number.
        number: u32,
        /// As the log says.
        position: Position,
    },
    /// The override log does not say it.
    DropNotRecorded {
        /// Its number.
        number: u32,
        /// Why.
        error: String,
    },
    /// An operator asks for something.
    Asked {
        /// Who asks; never used twice in the life of a coordinator.
        request: u64,
        /// For what.
        wish: Wish,
    },
    /// A worker has tried to reach others.
    Probed {
        /// Its call.
        connection: ConnectionId,
        /// Of the question.
        number: u32,
        /// Whom it could not reach.
        unreachable: Vec<String>,
    },
    /// Time has passed.
    Tick,
}

/// How a worker introduces itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// Version of Convoy.
    pub version: String,
    /// Version of the wire protocol.
    pub protocol: u32,
    /// Unique within the job.
    pub name: String,
    /// host:port of its ring service.
    pub ring_address: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Microbatches that it computes at once.
    pub lanes: u32,
    /// Of its process.
    pub pid: u32,
    /// Digest of the config that it was told to expect.
    pub expect_config: Option<String>,
    /// Cores that it may use, if it knows.
    pub cores: Option<u32>,
    /// Whether its device multiplies bf16 in hardware.
    pub bf16_units: bool,
    /// What it has of the run already, if it has lost its coordinator and calls the next one.
    pub standing: Option<Box<Standing>>,
}

/// Where a worker is that worked under an earlier coordinator.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The newest that it was given a place in.
    pub generation: Generation,
    /// Its place.
    pub rank: Rank,
    /// All of the generation, in rank order.
    pub roster: Vec<Seat>,
    /// The line of history that its state belongs to.
    pub lineage: Lineage,
    /// Where the generation began.
    pub start: Reached,
    /// How far it is in it.
    pub stage: Stage,
    /// The last committed position.
    pub position: Position,
    /// What it holds while no trainer has it; none: nothing.
    pub held: Option<Reached>,
    /// It can tell how that came about.
    pub has_unit: bool,
    /// It missed a checkpoint.
    pub owes_checkpoint: bool,
    /// Why it was told to stop at a boundary, if it was.
    pub stop: Option<String>,
    /// Why its generation was told to pause, if it was.
    pub pause: Option<String>,
    /// The newest order of the override log that it knows.
    pub newest_drop: u32,
    /// By whom or what it was asked to go, if it was.
    pub leaving: Option<String>,
    /// What it computed under the run's numerics.
    pub fingerprint: String,
    /// Digest of the resolved config that it works by.
    pub config_digest: String,
    /// Parts in the store of which it does not know what became of them.
    pub parts: Vec<Part>,
}

/// How far a worker is in its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Out of its ring.
    Out,
    /// Getting ready for it, or ready.
    Preparing,
    /// In it.
    Training,
    /// At its end, in agreement or not.
    Ended,
}

/// A rank's part of a checkpoint that is in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// For the manifest.
    pub entry: PartEntry,
    /// What every rank should say alike; the checkpoint's position is in it.
    pub shared: SharedState,
    /// From the snapshot to the end of the upload.
    pub took: Duration,
    /// Of the whole state on this worker.
    pub state_digest: String,
}

/// How a worker's call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The worker closed it, as a process that ends does.
    Closed,
    /// The connection broke.
    Broken(String),
    /// The worker said what this version does not understand.
    Protocol(String),
    /// It does not read what it is sent.
    Deaf,
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => write!(f, "its connection closed"),
            Self::Broken(error) => write!(f, "its connection broke: {error}"),
            Self::Protocol(error) => write!(f, "it broke the protocol: {error}"),
            Self::Deaf => write!(f, "it does not read its orders"),
        }
    }
}

/// A checkpoint that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Before which step its state is.
    pub position: Position,
    /// Of its manifest, below the run's URL.
    pub path: String,
    /// Of all parts.
    pub bytes: u64,
    /// From the snapshot to the manifest; none for one that was there before.
    pub took: Option<Duration>,
}
