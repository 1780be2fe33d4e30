//! Asks a store to show, before anything depends on it, that it keeps what it is trusted with.

use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use futures::TryStreamExt as _;
use object_store::ObjectMeta;

use super::{Store, StoreError};
use crate::nonce;

/// Where the objects of probes lie for a moment.
const FOLDER: &str = "probe";
/// Nobody is at a probe for so long, whatever the clocks say.
const BROKEN_OFF: Duration = Duration::from_secs(3600);

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
        let path = format!("{FOLDER}/{}", nonce::unique());
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
        self.sweep_probes(BROKEN_OFF).await?;
        self.create(path, Bytes::from_static(b"first")).await?;
        let outcome = self.probe_second_writer(path).await;
        // The verdict matters more than a left-over object of five bytes.
        let removed = self.delete(path).await;
        self.remove_empty_folder(FOLDER).await;
        outcome.and(removed)
    }

    /// Removes what probes have left that were broken off, and that is older than this. Gives how many
    /// there were.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn sweep_probes(&self, age: Duration) -> Result<usize, StoreError> {
        let explain = |error| self.context("list", FOLDER).explain(error);
        let all = self.backend.list(Some(&self.full(FOLDER)));
        let all: Vec<ObjectMeta> = all.try_collect().await.map_err(explain)?;
        let mut swept = 0;
        for meta in all {
            let name = meta.location.filename().unwrap_or_default();
            let since = Utc::now().signed_duration_since(meta.last_modified);
            if since.to_std().unwrap_or_default() >= age {
                self.delete(&format!("{FOLDER}/{name}")).await?;
                swept += 1;
            }
        }
        Ok(swept)
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
