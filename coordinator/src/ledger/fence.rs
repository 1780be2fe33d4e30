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

/// What the run's store says of a coordinator's term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// It is the newest one.
    Newest,
    /// This later one has begun.
    Followed(TermRecord),
    /// The store does not have it any more: somebody has removed what the run keeps.
    Lost,
}

impl Fence {
    /// Looks at the newest term.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn tenure(&self) -> Result<Tenure, CheckpointError> {
        Ok(match self.checkpoints.newest_term().await? {
            Some(newest) if newest.term > self.term => Tenure::Followed(newest),
            Some(newest) if newest.term == self.term => Tenure::Newest,
            _ => Tenure::Lost,
        })
    }

    /// URL of the run.
    pub fn url(&self) -> &str {
        self.checkpoints.store().url()
    }
}

#[cfg(test)]
mod tests {
    use convoy_common::store::Store;

    use super::*;

    #[tokio::test]
    async fn a_term_is_the_newest_then_followed_or_lost() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(Store::open(folder.path().to_str().unwrap()).unwrap());
        checkpoints.claim_next("127.0.0.1:1").await.unwrap();
        let fence = Fence { checkpoints: checkpoints.clone(), term: Term(1) };
        assert_eq!(fence.tenure().await.unwrap(), Tenure::Newest);
        checkpoints.claim_next("127.0.0.1:2").await.unwrap();
        let tenure = fence.tenure().await.unwrap();
        assert!(matches!(&tenure, Tenure::Followed(it) if it.term == Term(2)), "{tenure:?}");
        std::fs::remove_dir_all(folder.path().join("terms")).unwrap();
        assert_eq!(fence.tenure().await.unwrap(), Tenure::Lost);
    }
}
