//! Which of several packings a place belongs to: the last one that took it.
//!
//! A packing puts a name that nobody else has beside the plan, and looks whether it is still there
//! before each page and before the index. One that was begun there later, on purpose or not, has
//! put its own; then the earlier one ends with an error, and leaves all to the other.
//!
//! Of one that ends and one that begins at the same time, at least one notices: the first writes the
//! index and then looks for its name, the second puts its name and then looks for an index.

use std::time::Duration;

use bytes::Bytes;

use super::{DatasetError, journal};
use crate::nonce;
use crate::store::{PIECE, Store, StoreError, while_away};

/// How long a store may be out of reach for a packing; no longer, so that one that is asked to end does.
const PATIENCE: Duration = Duration::from_secs(60);

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

    /// Writes an object, unless the place is not this packing's any more. A store that is out of reach
    /// for a while is tried again: hours of packing are at stake.
    ///
    /// # Errors
    /// [`DatasetError::TakenOver`], or what the store says.
    pub(super) async fn put(&self, path: &str, data: Bytes) -> Result<(), DatasetError> {
        let away = |error: &DatasetError| matches!(error, DatasetError::Store(it) if it.is_away());
        while_away(PATIENCE, away, || self.put_once(path, data.clone())).await
    }

    async fn put_once(&self, path: &str, data: Bytes) -> Result<(), DatasetError> {
        self.check().await?;
        let outcome = self.write(path, data).await;
        if outcome.is_err() {
            // Whoever has taken the place over takes back what is on its way.
            self.check().await?;
        }
        outcome
    }

    async fn write(&self, path: &str, data: Bytes) -> Result<(), DatasetError> {
        if data.len() > PIECE {
            return Ok(self.store.put(path, data).await?);
        }
        // A request that is late must not replace what another packing has written meanwhile.
        match self.store.create(path, data.clone()).await {
            // Of this packing before it was broken off; or a store that has no such writes.
            Err(
                StoreError::Exists { .. } | StoreError::NotFenced { .. } | StoreError::Other { .. },
            ) => {
                self.check().await?;
                Ok(self.store.put(path, data).await?)
            }
            outcome => Ok(outcome?),
        }
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
