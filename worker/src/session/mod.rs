//! The worker's side of the coordinator: typed orders in, typed reports out.
//!
//! ```text
//! agent <--News-- Link <--orders-- Line --call--> coordinator
//!   '---reports-->  |  --kept for the next one--> Kept
//!                   '-- no answer --> Search: newest term object, address known --> the next one
//! ```
//!
//! The wire types stop here. One bidirectional call ([`mod@line`]) carries everything; its end means that
//! the other side is gone, so a crash is known at once and not after a timeout. A worker outlives its
//! coordinators: the [`Link`] stays, looks for the next one and tells it what the last one may not
//! have heard.

mod kept;
mod line;
mod link;
mod search;

use std::sync::Arc;
use std::time::Duration;

use convoy_common::config::RunConfig;
use convoy_common::failure::Explain;
use convoy_common::ids::{Generation, Lineage, Position, Rank, Reached, Term};
use convoy_common::schedule::ManualDrop;
use convoy_common::{PROTOCOL, VERSION, exit, pb, rpc};

pub use line::{Line, open};
pub use link::{Back, Link, News};

use crate::ring::Member;

/// What the coordinator tells a worker to do.
#[derive(Debug)]
pub enum Order {
    /// Load this state, open this ring, then report ready.
    Prepare(Assignment),
    /// Every rank is ready: train.
    Begin(Generation),
    /// End at a step boundary on which all ranks agree.
    StopAfterStep {
        /// Take a checkpoint there.
        checkpoint: bool,
        /// Why, for the log.
        reason: String,
    },
    /// Divide the rate, once all ranks know of it.
    Drop(ManualDrop),
    /// Leave the generation's ring at once and keep the state.
    EndGeneration {
        /// Which.
        generation: Generation,
        /// Why, for the log.
        reason: String,
    },
    /// The same at a step boundary on which all ranks agree.
    Regroup {
        /// Which.
        generation: Generation,
        /// Why, for the log.
        reason: String,
    },
    /// A coordinator of a later term goes on with the generation.
    Adopted {
        /// Which.
        generation: Generation,
        /// Orders of the override log that may not have come.
        drops: Vec<ManualDrop>,
    },
    /// Leave the ring, drop all that is held, then begin as a new worker.
    StartAfresh {
        /// Why, for the log.
        reason: String,
    },
    /// The coordinator lives.
    Pulse,
    /// What became of this checkpoint is decided.
    Settled {
        /// That took it.
        generation: Generation,
        /// Of the checkpoint.
        position: Position,
    },
    /// The same with a snapshot of the state.
    Pause {
        /// Which.
        generation: Generation,
        /// Why, for the log.
        reason: String,
    },
    /// Take a checkpoint, once all ranks know of the wish.
    TakeCheckpoint,
    /// Say which of these cannot be reached.
    Probe {
        /// Of the question, for the answer.
        number: u32,
        /// Who, and where.
        members: Vec<Member>,
    },
    /// End now.
    Shutdown {
        /// Why, for the log.
        reason: String,
        /// What this process exits with.
        exit_code: u8,
    },
}

/// One worker's place in a generation.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The generation to prepare for.
    pub generation: Generation,
    /// This worker's place in the roster.
    pub rank: Rank,
    /// All workers, in rank order.
    pub roster: Vec<Member>,
    /// The line of history that checkpoints belong to.
    pub lineage: Lineage,
    /// Where training goes on.
    pub start: Reached,
    /// What this worker begins with.
    pub resume: Resume,
    /// Take a checkpoint at the first boundary at which all ranks can.
    pub owes_checkpoint: bool,
    /// End where training would go on, with a checkpoint.
    pub stop: bool,
    /// Orders of the override log that the state does not hold yet.
    pub drops: Vec<ManualDrop>,
}

/// What a worker begins a generation with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The checkpoint of this path in the run's store; none: initial weights from the seed.
    Checkpoint(Option<String>),
    /// What it holds.
    Keep,
    /// What it holds and one step or evaluation, which that peer has had already.
    Redo(Member),
    /// What that peer holds.
    State(Member),
}

/// Who joins.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Unique within the job.
    pub name: String,
    /// host:port of the ring service, as peers reach it.
    pub ring_address: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Microbatches that compute at once.
    pub lanes: u32,
    /// Cores that this process may use; 0: not known.
    pub cores: u32,
    /// Digest of the config that this worker expects, if it was told one.
    pub expect_config: Option<String>,
    /// Whether its device multiplies bf16 in hardware.
    pub bf16_units: bool,
}

/// What the coordinator tells a worker that it takes.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// The run's id.
    pub run_id: String,
    /// Digest of the run record, which names the run's checkpoints.
    pub record_digest: String,
    /// The coordinator's term.
    pub term: Term,
    /// The resolved config.
    pub config: RunConfig,
}

/// Where a worker is, for a coordinator that knows nothing of it.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The newest place that it was given.
    pub place: Arc<Assignment>,
    /// How far it is in that generation.
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
    /// The newest order of the override log that it knows; 0: none.
    pub newest_drop: u32,
    /// By whom or what it was asked to go, if it was.
    pub leaving: Option<String>,
    /// Digest of the config that it works by.
    pub config_digest: String,
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
    /// At its end.
    Ended,
}

/// Why there is no session (any more).
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Nobody answers there.
    #[error("the coordinator at {url} cannot be reached")]
    Unreachable {
        /// Where it should be.
        url: String,
        #[source]
        /// The last attempt's error.
        source: rpc::RpcError,
    },
    /// It answered, and does not want this worker.
    #[error("the coordinator at {url} refused this worker: {reason}")]
    Refused {
        /// Where it is.
        url: String,
        /// Its words.
        reason: String,
        /// Its advice.
        hint: String,
        /// Whether trying again may help is in this.
        exit_code: u8,
    },
    /// The line broke.
    #[error("the connection to the coordinator at {url} was lost: {detail}")]
    Lost {
        /// Where it was.
        url: String,
        /// What the connection said last.
        detail: String,
    },
    /// It said something that this version does not understand.
    #[error("the coordinator at {url} sent what this version does not understand: {detail}")]
    Protocol {
        /// Where it is.
        url: String,
        /// What was wrong.
        detail: String,
    },
    /// It took the call and then said nothing.
    #[error("the coordinator at {url} did not answer within {}", humantime::format_duration(*.after))]
    Silent {
        /// Where it is.
        url: String,
        /// How long this worker waited.
        after: Duration,
    },
    /// It is of a term that is over.
    #[error("the coordinator at {url} is of term {term}, and this worker has known term {known}")]
    Superseded {
        /// Where it is.
        url: String,
        /// Its term.
        term: u64,
        /// The newest that is known.
        known: u64,
    },
    /// None came in place of the one that was lost.
    #[error(
        "no coordinator came in place of the one at {url} within {}; {what}",
        humantime::format_duration(*.after)
    )]
    Deserted {
        /// Where the last one was.
        url: String,
        /// How long was waited.
        after: Duration,
        /// What became of the worker.
        what: String,
    },
}

impl Explain for SessionError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { .. } => {
                "start it with `convoy serve CONFIG`, and check the address and the firewall".to_owned()
            }
            Self::Refused { hint, .. } => hint.clone(),
            Self::Lost { .. } => {
                "see the coordinator's log; launching the same config again resumes from the last checkpoint"
                    .to_owned()
            }
            Self::Protocol { .. } => "run the same version of Convoy everywhere".to_owned(),
            Self::Superseded { .. } => {
                "end that coordinator; the newest term object of the run names the one that counts"
                    .to_owned()
            }
            Self::Deserted { .. } => {
                "start a coordinator with the same config; it goes on from the newest checkpoint"
                    .to_owned()
            }
            Self::Silent { .. } => {
                "check that a Convoy coordinator, and not something else, listens there".to_owned()
            }
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { exit_code, .. } => *exit_code,
            Self::Protocol { .. } => exit::BAD_INPUT,
            _ => exit::UNAVAILABLE,
        }
    }
}

fn refusal_code(told: u32) -> u8 {
    u8::try_from(told).ok().filter(|it| *it != 0).unwrap_or(exit::BAD_INPUT)
}

/// What this worker computes under the run's numerics; the coordinator compares it.
#[derive(Clone, Debug)]
pub struct Computed {
    /// As [`crate::model::fingerprint()`] gives it.
    pub fingerprint: String,
}

impl From<Computed> for pb::WorkerMessage {
    fn from(it: Computed) -> Self {
        let numerics = pb::Numerics { fingerprint: it.fingerprint };
        Self { kind: Some(pb::worker_message::Kind::Numerics(numerics)) }
    }
}

/// Which peers this worker cannot reach.
#[derive(Clone, Debug)]
pub struct Probed {
    /// Of the question.
    pub number: u32,
    /// Their names.
    pub unreachable: Vec<String>,
}

impl From<Probed> for pb::WorkerMessage {
    fn from(it: Probed) -> Self {
        let probed = pb::Probed { number: it.number, unreachable: it.unreachable };
        Self { kind: Some(pb::worker_message::Kind::Probed(probed)) }
    }
}

impl From<Introduction> for pb::Hello {
    fn from(who: Introduction) -> Self {
        Self {
            version: VERSION.to_owned(),
            protocol: PROTOCOL,
            name: who.name,
            ring_address: who.ring_address,
            device: who.device,
            lanes: who.lanes,
            pid: std::process::id(),
            expect_config: who.expect_config.unwrap_or_default(),
            cores: who.cores,
            bf16_units: who.bf16_units,
            standing: None,
        }
    }
}

impl From<&Standing> for pb::Standing {
    /// Without what the [`Link`] knows: the fingerprint and the parts that wait.
    fn from(it: &Standing) -> Self {
        let place = &it.place;
        let member = |it: &Member| pb::Member {
            name: it.name.clone(),
            ring_address: it.address.to_string(),
        };
        Self {
            generation: Some(place.generation.into()),
            rank: place.rank.0,
            roster: place.roster.iter().map(member).collect(),
            lineage: place.lineage.0,
            start: Some(place.start.into()),
            stage: pb::Stage::from(it.stage).into(),
            position: Some(it.position.into()),
            held: it.held.map(pb::Reached::from),
            has_unit: it.has_unit,
            owes_checkpoint: it.owes_checkpoint,
            stop: it.stop.clone().unwrap_or_default(),
            pause: it.pause.clone().unwrap_or_default(),
            newest_drop: it.newest_drop,
            leaving: it.leaving.clone().unwrap_or_default(),
            fingerprint: String::new(),
            parts: Vec::new(),
            config_digest: it.config_digest.clone(),
        }
    }
}

impl From<Stage> for pb::Stage {
    fn from(it: Stage) -> Self {
        match it {
            Stage::Out => Self::Out,
            Stage::Preparing => Self::Preparing,
            Stage::Training => Self::Training,
            Stage::Ended => Self::Ended,
        }
    }
}
