//! What goes wrong between a worker and the peer that gives it something.

use std::time::Duration;

use convoy_common::exit;
use convoy_common::failure::Explain;
use convoy_common::rpc::RpcError;

use crate::model::ModelError;

/// Why a worker did not get what a peer was to give.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Nobody answers at the peer's address.
    #[error("cannot reach {peer}, which has what this worker lacks")]
    Unreachable {
        /// The peer.
        peer: String,
        /// Why.
        #[source]
        source: RpcError,
    },
    /// The peer refused, or its stream ended early.
    #[error("{peer} did not give what this worker lacks: {detail}")]
    Broken {
        /// The peer.
        peer: String,
        /// How that showed.
        detail: String,
    },
    /// The peer lives on paper and sends nothing.
    #[error("{peer} sent nothing for {}", humantime::format_duration(*.after))]
    Silent {
        /// The peer.
        peer: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// What came is not what it should be.
    #[error("{peer} sent what does not fit: {detail}")]
    Bad {
        /// The peer.
        peer: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The tensors could not be written.
    #[error("cannot take in the state: {0}")]
    Model(#[from] ModelError),
    /// The thread that takes the state in ended.
    #[error("taking in the state ended unexpectedly; the panic is in this worker's log")]
    Panicked,
}

impl PeerError {
    /// The peer whose fault it seems.
    pub fn blame(&self) -> Option<&str> {
        match self {
            Self::Unreachable { peer, .. }
            | Self::Broken { peer, .. }
            | Self::Silent { peer, .. }
            | Self::Bad { peer, .. } => Some(peer),
            Self::Model(_) | Self::Panicked => None,
        }
    }
}

impl Explain for PeerError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { source, .. } => source.hint(),
            Self::Broken { peer, .. } | Self::Silent { peer, .. } => {
                Some(format!("see the log of {peer}"))
            }
            Self::Bad { peer, .. } => Some(format!(
                "check memory and network of {peer} and of this machine; all workers must run the \
                 same version"
            )),
            Self::Model(error) => error.hint(),
            Self::Panicked => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Model(_) | Self::Panicked => exit::FAILURE,
            _ => exit::UNAVAILABLE,
        }
    }
}
