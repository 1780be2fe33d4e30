//! Asks a store to show, before anything depends on it, that it keeps what it is trusted with.

use bytes::Bytes;

use super::{Store, StoreError};
use crate::nonce;

impl Store {
    /// Writes, reads and removes one small object, and checks that a create-only write is one.
    ///
    /// One request after the other: some servers honour create-only for writers in turn and not
    /// for writers at once, and some ignore it altogether; this finds the latter. Ends within
    /// [`super::Limits::probe`].
    ///
    /// # Errors
    /// [`StoreError::NotFenced`], [`StoreError::Unreachable`], [`StoreError::Denied`],
    /// [`StoreError::NoBucket`].
    pub async fn probe(&self) -> Result<(), StoreError> {
        let path = format!("probe-{}", nonce::unique());
        match tokio::time::timeout(self.limits.probe, self.probe_at(&path)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StoreError::Unreachable {
                endpoint: self.endpoint.as_deref().unwrap_or(self.url()).to_owned(),
                url: self.url_of(&path),
                source: format!("no answer within {} s", self.limits.probe.as_secs_f64()).into(),
            }),
        }
    }

    async fn probe_at(&self, path: &str) -> Result<(), StoreError> {
        // Some servers make a missing bucket at the first write; none lists one.
        self.list(path).await?;
        self.create(path, Bytes::from_static(b"first")).await?;
        let outcome = self.probe_second_writer(path).await;
        // The verdict matters more than a left-over object of five bytes.
        let removed = self.delete(path).await;
        outcome.and(removed)
    }

    async fn probe_second_writer(&self, path: &str) -> Result<(), StoreError> {
        let not_fenced = |reason: &str| StoreError::NotFenced {
            url: self.url().to_owned(),
            reason: reason.to_owned(),
        };
        match self.create(path, Bytes::from_static(b"second")).await {
            Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error),
            Ok(()) => return Err(not_fenced("a second writer replaced the first one's object")),
        }
        if self.get(path).await? == "first" {
            Ok(())
        } else {
            Err(not_fenced("the second writer's bytes were kept although it was refused"))
        }
    }
}
