//! What can be wrong with a checkpoint, named down to the part.

use std::fmt;

use super::manifest::ManifestError;
use crate::exit;
use crate::failure::Explain;
use crate::run_record::RecordError;
use crate::store::StoreError;

/// Reading, writing or checking checkpoints failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no checkpoint there.
    #[error("there is no checkpoint at {url}")]
    NotFound {
        /// Where.
        url: String,
    },
    /// Another form than this version of Convoy knows.
    #[error("{url} has format {found}, this version of Convoy reads format {known}")]
    Format {
        /// The object.
        url: String,
        /// As it says.
        found: u64,
        /// What this version reads.
        known: u32,
    },
    /// Not the JSON it should be.
    #[error("{url} is damaged: {reason}")]
    Damaged {
        /// The object.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The manifest's own parts contradict each other.
    #[error("the manifest {url} is inconsistent")]
    Inconsistent {
        /// Where.
        url: String,
        /// How.
        #[source]
        source: ManifestError,
    },
    /// A part is not what its manifest says.
    #[error("part {part} of checkpoint {url} {problem}")]
    Part {
        /// The manifest.
        url: String,
        /// The part's file name.
        part: String,
        /// What is wrong with it.
        problem: PartProblem,
    },
    /// The checkpoint is of another net than the one to be loaded into.
    #[error("checkpoint {url} is of another net: {reason}")]
    OtherNet {
        /// The manifest.
        url: String,
        /// The first difference.
        reason: String,
    },
    /// A checkpoint of that step is there already.
    #[error("checkpoint {url} exists already, with another state")]
    Exists {
        /// The manifest.
        url: String,
    },
    /// A coordinator of a later term has taken over.
    #[error("term {own} is over: term {newest} has begun")]
    Superseded {
        /// The caller's.
        own: u64,
        /// The newest.
        newest: u64,
    },
    /// None of the checkpoints of the lineage verifies.
    #[error("no checkpoint of {url} is good ({skipped} skipped)")]
    NoneGood {
        /// The run.
        url: String,
        /// How many were tried.
        skipped: usize,
        /// Of the newest one.
        reason: String,
    },
    /// No checkpoint of the lineage was evaluated, so none is the best.
    #[error("no checkpoint in lineage {lineage} of {url} is of an evaluated state")]
    NoBest {
        /// The run.
        url: String,
        /// Its line of history.
        lineage: u64,
    },
    /// Checkpoints were pruned faster than they could be read.
    #[error("the checkpoints at {url} are removed faster than they can be read")]
    Restless {
        /// The lineage's folder.
        url: String,
    },
    /// It was removed while it was being read.
    #[error("checkpoint {url} was removed while it was being read")]
    Removed {
        /// The manifest.
        url: String,
    },
    /// Another coordinator wrote that number of the override log.
    #[error("{url} was written by another coordinator")]
    Taken {
        /// The order.
        url: String,
    },
    /// The run record of the checkpoint cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl CheckpointError {
    /// Whether the same may go well later; see [`StoreError::may_pass`].
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) | Self::Record(RecordError::Store(error)) => error.may_pass(),
            _ => false,
        }
    }
}

/// How a part differs from what its manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartProblem {
    /// It is not there.
    Missing,
    /// It is shorter or longer.
    Size {
        /// By the manifest.
        expected: u64,
        /// In the store.
        found: u64,
    },
    /// Its bytes, or those of the slice, have another hash.
    Altered {
        /// The slice, where it is known.
        slice: Option<String>,
    },
}

impl fmt::Display for PartProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "is missing"),
            Self::Size { expected, found } => {
                write!(f, "has {found} bytes instead of {expected}")
            }
            Self::Altered { slice: None } => write!(f, "was altered: its hash differs"),
            Self::Altered { slice: Some(slice) } => {
                write!(f, "was altered: the hash of {slice} differs")
            }
        }
    }
}

impl Explain for CheckpointError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Store(error) => return error.hint(),
            Self::Record(error) => return error.hint(),
            Self::NotFound { .. } => {
                "`convoy checkpoints list RUN_URL` shows what there is".to_owned()
            }
            Self::Format { .. } => "use the version of Convoy that wrote it".to_owned(),
            Self::Damaged { .. } | Self::Inconsistent { .. } | Self::Part { .. } => {
                "resume from an older checkpoint; `convoy checkpoints verify RUN_URL` tells which \
                 are good"
                    .to_owned()
            }
            Self::OtherNet { .. } => {
                "model and number of classes must be those of the run that wrote it".to_owned()
            }
            Self::NoBest { .. } => "evaluation.every_epochs says after how many epochs a run is \
                                    evaluated; leave out `best` for the newest checkpoint"
                .to_owned(),
            Self::NoneGood { reason, .. } => format!("the newest: {reason}"),
            Self::Restless { .. } => {
                "its job runs and keeps few: raise checkpoint.keep_last, or try again".to_owned()
            }
            Self::Removed { .. } => "its job runs and keeps few: try again for a newer one, or \
                                     raise checkpoint.keep_last"
                .to_owned(),
            Self::Exists { .. } | Self::Superseded { .. } | Self::Taken { .. } => return None,
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Record(error) => error.exit_code(),
            Self::Exists { .. }
            | Self::Superseded { .. }
            | Self::Restless { .. }
            | Self::Removed { .. } => exit::FAILURE,
            _ => exit::BAD_INPUT,
        }
    }
}
