//! The run record: `run.json`, written once when a run is created, create-only.
//!
//! It fixes everything that decides the run's bits: resolved config, data set and numerics.
//! Opening the run again compares what is wanted now with what is recorded; [`changes()`] says
//! which settings may differ.

mod changes;
mod fingerprint;
mod shuffle;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use changes::{Change, changes};
pub use fingerprint::{fingerprint, record_fingerprint};
pub use shuffle::{Decision, decide_shuffle};

use crate::config::RunConfig;
use crate::dataset::DatasetIdentity;
use crate::exit;
use crate::failure::Explain;
use crate::nonce;
use crate::store::{Store, StoreError};

/// Where it lies below the run's URL.
pub const PATH: &str = "run.json";

/// Version of the record's form.
pub const FORMAT: u32 = 1;

/// What a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// [`FORMAT`]
    pub format: u32,
    /// Random; no two runs share one.
    pub run_id: String,
    /// Version of Convoy that created the run.
    pub version: String,
    /// RFC 3339.
    pub created: String,
    /// As resolved then. Settings that may change are given anew at each start.
    pub config: RunConfig,
    /// What it trains on.
    pub dataset: DatasetIdentity,
}

/// What the caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Go on with the run if it exists, else create it.
    Resume,
    /// Create the run; it must not exist.
    Fresh,
}

/// Opening a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no run there.
    #[error("there is no run at {url}")]
    NoRun {
        /// The run's URL.
        url: String,
    },
    /// A new run was wanted where there is one.
    #[error("a run exists already at {url}")]
    AlreadyThere {
        /// The run's URL.
        url: String,
    },
    /// Settings differ that must not change within a run.
    #[error("the run at {url} cannot go on with other settings:{}", diff(changes))]
    Changed {
        /// The run's URL.
        url: String,
        /// All of them.
        changes: Vec<Change>,
    },
    /// The record has another form than this version of Convoy knows.
    #[error("{url} has format {found}, this version of Convoy reads format {known}")]
    Format {
        /// The record.
        url: String,
        /// As it says.
        found: u64,
        /// What this version reads.
        known: u32,
    },
    /// The record is not the JSON it should be.
    #[error("{url} is damaged: {reason}")]
    Damaged {
        /// The record.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

fn diff(changes: &[Change]) -> String {
    changes.iter().map(|change| format!("\n  {change}")).collect()
}

impl Explain for RecordError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Store(error) => return error.hint(),
            Self::NoRun { .. } => {
                "give the URL of a run, the one in its config's run.url".to_owned()
            }
            Self::AlreadyThere { .. } => {
                "leave out --fresh to go on with it, or choose another run.url".to_owned()
            }
            Self::Changed { .. } => {
                "set them back to go on with it, or choose another run.url for a new run".to_owned()
            }
            Self::Format { .. } => "use the version of Convoy that wrote it".to_owned(),
            Self::Damaged { .. } => {
                "restore the file from a copy, or choose another run.url".to_owned()
            }
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            _ => exit::BAD_INPUT,
        }
    }
}

impl RunRecord {
    /// blake3 of the record, as hexadecimal digits; manifests and workers carry it.
    pub fn digest(&self) -> String {
        // The order of fields is that of the structs, so equal records have equal text.
        let text = serde_json::to_vec(self).expect("invariant: a run record is plain data");
        blake3::hash(&text).to_hex().to_string()
    }
}

/// Creates the run at `store`, or opens it and compares.
///
/// The record comes back as it was created: settings that may change (and did) are logged, and
/// are the caller's own `config` from here on. How images are shuffled stands in the record, even
/// where `config` leaves it open.
///
/// # Errors
/// [`RecordError::Changed`] with every forbidden change, [`RecordError::AlreadyThere`],
/// [`RecordError::Format`], [`RecordError::Damaged`] and those of the store.
pub async fn open_or_create(
    store: &Store,
    config: &RunConfig,
    dataset: &DatasetIdentity,
    mode: Opening,
) -> Result<RunRecord, RecordError> {
    let there = |url: &Store| RecordError::AlreadyThere { url: url.url().to_owned() };
    match read(store).await {
        Ok(_) if mode == Opening::Fresh => return Err(there(store)),
        Ok(record) => return reopen(store, record, config, dataset),
        Err(RecordError::NoRun { .. }) => {}
        // A run that cannot be read is still a run.
        Err(RecordError::Format { .. } | RecordError::Damaged { .. }) if mode == Opening::Fresh => {
            return Err(there(store));
        }
        Err(error) => return Err(error),
    }
    let mut resolved = config.clone();
    let decision = decide_shuffle(&config.data, &Store::open(&config.data.url)?).await?;
    resolved.data.shuffle = decision.shuffle;
    let record = RunRecord {
        format: FORMAT,
        run_id: nonce::unique(),
        version: crate::VERSION.to_owned(),
        created: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        config: resolved,
        dataset: dataset.clone(),
    };
    let text = serde_json::to_vec_pretty(&record).map_err(|error| RecordError::Damaged {
        url: store.url_of(PATH),
        reason: error.to_string(),
    })?;
    match store.create(PATH, Bytes::from(text)).await {
        Ok(()) => {
            tracing::info!(run = %record.run_id, url = store.url(), "run created");
            let Decision { shuffle, reason, data_bytes } = decision;
            let cache_size = config.data.cache_size;
            tracing::info!(
                shuffle = shuffle.as_str(),
                reason,
                data_bytes,
                cache_size,
                "the order of training images is decided"
            );
            Ok(record)
        }
        // Somebody created it meanwhile.
        Err(StoreError::Exists { .. }) if mode == Opening::Resume => {
            reopen(store, read(store).await?, config, dataset)
        }
        Err(StoreError::Exists { .. }) => Err(there(store)),
        Err(error) => Err(error.into()),
    }
}

/// The record of the run at `store`.
///
/// # Errors
/// [`RecordError::NoRun`], [`RecordError::Format`], [`RecordError::Damaged`] and those of the
/// store.
pub async fn read(store: &Store) -> Result<RunRecord, RecordError> {
    let text = match store.get_small(PATH).await {
        Ok(text) => text,
        Err(StoreError::NotFound { .. }) => {
            return Err(RecordError::NoRun { url: store.url().to_owned() });
        }
        Err(error) => return Err(error.into()),
    };
    let url = store.url_of(PATH);
    let damaged = |reason: String| RecordError::Damaged { url: url.clone(), reason };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(found) if found == u64::from(FORMAT) => {}
        Some(found) => return Err(RecordError::Format { url, found, known: FORMAT }),
        None => return Err(damaged("it has no field `format`".to_owned())),
    }
    serde_json::from_slice(&text).map_err(|error| {
        let writer = value.get("version").and_then(serde_json::Value::as_str).unwrap_or("?");
        damaged(format!("{error} (written by version {writer}, this is {})", crate::VERSION))
    })
}

fn reopen(
    store: &Store,
    record: RunRecord,
    config: &RunConfig,
    dataset: &DatasetIdentity,
) -> Result<RunRecord, RecordError> {
    let (allowed, forbidden): (Vec<_>, Vec<_>) =
        changes(&record, config, dataset).into_iter().partition(|change| change.allowed);
    if !forbidden.is_empty() {
        return Err(RecordError::Changed { url: store.url().to_owned(), changes: forbidden });
    }
    tracing::info!(run = %record.run_id, url = store.url(), "run found");
    if record.version != crate::VERSION {
        tracing::warn!(
            was = record.version,
            now = crate::VERSION,
            "run was created by another version"
        );
    }
    for Change { field, was, now, .. } in allowed {
        tracing::info!(field, was, now, "setting changed since the run was created");
    }
    Ok(record)
}
