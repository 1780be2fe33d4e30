//! How a new run shuffles its training images, where its config leaves that open.
//!
//! A full shuffle mixes best and needs any image at any time. That is cheap where the data set lies
//! in a folder, where a worker's cache holds all of it, and where there is no cache to fill: then
//! every image is read by range, wherever it lies. Else whole shards have to be fetched again in
//! every epoch, and a window over a few of them lets each be fetched once.
//!
//! The answer touches bits, so it is given once, when the run is created, and stands in its record.

use crate::config::{CacheFolder, Data, Shuffle};
use crate::dataset::SHARDS;
use crate::store::{Store, StoreError};

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Never [`Shuffle::Auto`].
    pub shuffle: Shuffle,
    /// For the log.
    pub reason: &'static str,
    /// Of the data set's shards, where that mattered.
    pub data_bytes: Option<u64>,
}

/// The shuffle that a run with these settings gets, whose data set lies at `store`.
///
/// # Errors
/// Those of the store, which is asked for the size of the data set if that matters.
pub async fn decide_shuffle(data: &Data, store: &Store) -> Result<Decision, StoreError> {
    let decided = |shuffle, reason| Decision { shuffle, reason, data_bytes: None };
    if data.shuffle != Shuffle::Auto {
        return Ok(decided(data.shuffle, "the config says so"));
    }
    if store.url().starts_with("file://") {
        return Ok(decided(Shuffle::Full, "the data set lies in a folder"));
    }
    if data.cache == CacheFolder::Off {
        return Ok(decided(Shuffle::Full, "without a cache every image is read by range"));
    }
    let bytes = store.list(SHARDS).await?.iter().map(|shard| shard.size).sum();
    let decision = if bytes <= data.cache_size {
        decided(Shuffle::Full, "the cache holds the data set")
    } else {
        decided(Shuffle::Window, "the data set is larger than the cache")
    };
    Ok(Decision { data_bytes: Some(bytes), ..decision })
}
