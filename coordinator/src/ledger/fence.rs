//! What keeps a coordinator that was away from going on: the newest term object of its run.
//!
//! Whatever is published or pruned asks for itself; this is for the time between, in which a
//! coordinator that nobody needs any more would wait for workers that have gone to the next one.

use convoy_common::checkpoint::{CheckpointError, Checkpoints, TermRecord};
use convoy_common::ids::Term;

/// Knows this coordinator's term, and where later ones would be.
#[derive(Clone, Debug)]
pub struct Fence {
    pub(super) checkpoints: Checkpoints,
    pub(super) term: Term,
}

impl Fence {
    /// The newest term, if it is later than this coordinator's own.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn later_term(&self) -> Result<Option<TermRecord>, CheckpointError> {
        let newest = self.checkpoints.newest_term().await?;
        Ok(newest.filter(|it| it.term > self.term))
    }
}
