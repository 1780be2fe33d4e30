//! What goes wrong on a ring, and whom to blame.
//!
//! An error is cloneable because the first one ends the generation: every operation in flight and
//! every later one gets the same.

use std::time::Duration;

use convoy_common::exit;
use convoy_common::failure::Explain;
use convoy_common::ids::Generation;

/// Why a ring could not be opened, or why it ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The roster, the rank or the chunk size cannot be.
    #[error("cannot form a ring: {reason}")]
    BadSettings {
        /// What is wrong.
        reason: String,
    },
    /// The right neighbour was not reached in time.
    #[error("cannot reach {peer} at {address} after {after:?}: {reason}")]
    Unreachable {
        /// The right neighbour.
        peer: String,
        /// Its ring service.
        address: String,
        /// How long it was tried.
        after: Duration,
        /// Why the last attempt failed.
        reason: String,
    },
    /// The right neighbour refuses this generation for good.
    #[error("{peer} refused to join generation {generation}: {reason}")]
    Refused {
        /// The right neighbour.
        peer: String,
        /// The generation that was meant.
        generation: Generation,
        /// What it said.
        reason: String,
    },
    /// The left neighbour did not open its stream in time.
    #[error("{peer} did not open its side of the ring within {after:?}")]
    NotJoined {
        /// The left neighbour.
        peer: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// A neighbour's stream ended while it was needed.
    #[error("lost {peer}: {detail}")]
    PeerLost {
        /// The neighbour.
        peer: String,
        /// How that showed.
        detail: String,
    },
    /// A neighbour lives on paper but moved nothing for too long.
    #[error("{peer} moved nothing of operation {operation} for {after:?}")]
    Timeout {
        /// The neighbour that was waited for.
        peer: String,
        /// The operation's number.
        operation: u64,
        /// How long it was waited for.
        after: Duration,
    },
    /// The left neighbour sent data that its checksum does not match.
    #[error("data from {peer} arrived altered: {detail}")]
    Corrupt {
        /// The left neighbour.
        peer: String,
        /// Which chunk.
        detail: String,
    },
    /// The left neighbour sent what does not fit the plan.
    #[error("{peer} is out of step: {detail}")]
    OutOfStep {
        /// The left neighbour.
        peer: String,
        /// What did not fit.
        detail: String,
    },
    /// A neighbour gave the generation up and said why.
    #[error("{by} gave up the ring: {reason}")]
    Abandoned {
        /// The neighbour that said so.
        by: String,
        /// The worker that it blames.
        blame: String,
        /// Its own error.
        reason: String,
    },
    /// This worker left the ring because its generation is over.
    #[error("this worker left the ring: its generation is over")]
    Left,
    /// The ring was shut down here.
    #[error("the ring is closed")]
    Closed,
}

impl RingError {
    /// The worker whose loss or fault this is, as far as it can be told from here.
    pub fn blame(&self) -> Option<&str> {
        match self {
            Self::Unreachable { peer, .. }
            | Self::NotJoined { peer, .. }
            | Self::PeerLost { peer, .. }
            | Self::Timeout { peer, .. }
            | Self::Corrupt { peer, .. }
            | Self::OutOfStep { peer, .. } => Some(peer),
            Self::Abandoned { blame, .. } => Some(blame),
            Self::BadSettings { .. } | Self::Refused { .. } | Self::Left | Self::Closed => None,
        }
    }
}

impl Explain for RingError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadSettings { .. } => {
                "the roster comes from the coordinator; check that all run one version".to_owned()
            }
            Self::Unreachable { peer, address, .. } => {
                format!("check that {peer} is running and that this machine can reach {address}")
            }
            Self::NotJoined { peer, .. } => {
                format!("check that {peer} is running and that it can reach this machine")
            }
            Self::Refused { .. } => {
                "the other worker is in a newer generation; this one should join again".to_owned()
            }
            Self::PeerLost { peer, .. } => format!("see the log of {peer} for why it ended"),
            Self::Timeout { peer, .. } => {
                format!("see the log of {peer}; if it was only slow, raise `cluster.ring_timeout`")
            }
            Self::Corrupt { peer, .. } => {
                format!("check memory and network of {peer} and of this machine")
            }
            Self::OutOfStep { .. } => {
                "all workers must run the same version with the same config".to_owned()
            }
            Self::Abandoned { blame, .. } => format!("see the log of {blame}"),
            Self::Left | Self::Closed => return None,
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::BadSettings { .. } => exit::BAD_INPUT,
            Self::Unreachable { .. } | Self::NotJoined { .. } | Self::Refused { .. } => {
                exit::UNAVAILABLE
            }
            Self::Closed => exit::FAILURE,
            _ => exit::WORKER_LOST,
        }
    }
}
