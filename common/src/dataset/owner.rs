//! Which of several packings a place belongs to: the last one that took it.
//!
//! A packing puts a name that nobody else has beside the plan, and looks whether it is still there
//! before each page and before the index. One that was begun there later, on purpose or not, has
//! put its own; then the earlier one ends with an error, and leaves all to the other.
//!
//! Of one that ends and one that begins at the same time, at least one notices: the first writes the
//! index and then looks for its name, the second puts its name and then looks for an index.

use bytes::Bytes;

use super::{DatasetError, journal};
use crate::nonce;
use crate::store::{Store, StoreError};

/// Says that the place is this packing's.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    store: Store,
    name: String,
}

impl Owner {
    /// Takes the place over, from whomever.
    pub(super) async fn take_over(store: &Store) -> Result<Self, DatasetError> {
        let name = nonce::unique();
        store.put(journal::OWNER, Bytes::from(name.clone())).await?;
        Ok(Self { store: store.clone(), name })
    }

    /// Refuses to go on in a place that is not this packing's any more.
    pub(super) async fn check(&self) -> Result<(), DatasetError> {
        match self.store.get_small(journal::OWNER).await {
            Ok(name) if name == self.name.as_bytes() => Ok(()),
            // It is gone when the other one has ended.
            Ok(_) | Err(StoreError::NotFound { .. } | StoreError::TooLarge { .. }) => {
                Err(DatasetError::TakenOver { url: self.store.url().to_owned() })
            }
            Err(error) => Err(error.into()),
        }
    }
}
