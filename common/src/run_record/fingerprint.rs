//! What the run's first worker computed: `fingerprint.json`, beside the run record, create-only.
//!
//! A run's bits hang on more than its record: the processor and the tensor library round as they do.
//! The first worker that joins a run leaves a hash of a small fixed computation; who computes another
//! one later is not of the same kind.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::RecordError;
use crate::store::{Store, StoreError};

/// Where it lies below the run's URL.
const PATH: &str = "fingerprint.json";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    /// Of the numerics of the run's first worker, in hexadecimal digits.
    fingerprint: String,
}

/// The fingerprint of the run at `store`, if one is recorded.
///
/// # Errors
/// [`RecordError::Damaged`] and those of the store.
pub async fn fingerprint(store: &Store) -> Result<Option<String>, RecordError> {
    match store.get_small(PATH).await {
        Ok(text) => match serde_json::from_slice::<Recorded>(&text) {
            Ok(it) => Ok(Some(it.fingerprint)),
            Err(error) => {
                Err(RecordError::Damaged { url: store.url_of(PATH), reason: error.to_string() })
            }
        },
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Records the fingerprint; one that is recorded already stays.
///
/// # Errors
/// Those of the store.
pub async fn record_fingerprint(store: &Store, fingerprint: &str) -> Result<(), RecordError> {
    let recorded = Recorded { fingerprint: fingerprint.to_owned() };
    let text = serde_json::to_vec(&recorded).expect("invariant: a text has a JSON form");
    match store.create(PATH, Bytes::from(text)).await {
        Ok(()) | Err(StoreError::Exists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
