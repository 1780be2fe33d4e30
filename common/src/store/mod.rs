//! An object store rooted at a URL: a folder (`file://`) or a bucket (`s3://`).
//!
//! Everything that outlives a process goes through here: data sets, run records, checkpoints,
//! terms. One type hides which backend it is; what callers may rely on is what the conformance
//! suite in `tests/store_conformance.rs` checks against each of them:
//!
//! * a read after a write sees the write;
//! * [`Store::create`] lets exactly one of many writers have an object, which is all the fencing
//!   that Convoy uses (folders have no conditional update, so nothing relies on one);
//! * errors mean the same on every backend.
//!
//! Two layers try failed requests again, never both: the backend does it for all but the reads of
//! data ([`Store::read_range`] and its kin), which have a deadline over all tries. Whoever has
//! something to write that must not be lost tries for longer than that, with pauses of a [`Backoff`],
//! as long as the error [may pass](StoreError::may_pass).
//!
//! It knows nothing of what the objects hold.

mod backoff;
mod error;
mod leftovers;
mod open;
mod patience;
mod pieces;
mod probe;
mod read;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::aws::AmazonS3;
use object_store::path::{Path, PathPart};
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutPayload};
use url::Url;

pub use backoff::{Backoff, while_away};
pub use error::{Cause, StoreError};
pub use leftovers::Unfinished;
pub use open::{Limits, Settings};
pub(crate) use read::READ_PIECE;

use error::{Context, WRITE};

/// Bytes of one request for something large; a larger object is uploaded in pieces of this size.
pub const PIECE: usize = 16 << 20;

/// More than any record or manifest has.
pub const SMALL: u64 = 64 << 20;

/// Times a create-only write is tried again when the store reports a conflict and yet holds
/// nothing (S3 does so while two writers are at it).
const CONFLICT_RETRIES: u32 = 5;

/// An object store below one URL. Clones are cheap and share connections.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Arc<dyn ObjectStore>,
    /// The same place, for reads whose tries are counted by [`read`]: it makes one, of any length.
    single: Arc<dyn ObjectStore>,
    /// The backend itself, for uploads in pieces; none if the store is a folder.
    bucket: Option<Arc<AmazonS3>>,
    prefix: Path,
    url: Arc<str>,
    endpoint: Option<Arc<str>>,
    limits: Limits,
    /// Create-only writes are trusted to be such.
    fenced: bool,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    /// Relative to the store's URL.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

impl Store {
    /// The store at `url`: `file:///FOLDER`, `s3://BUCKET/PREFIX`, or a plain path. Credentials
    /// and endpoint come from the `AWS_*` variables. No request is made.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`]
    pub fn open(url: &str) -> Result<Self, StoreError> {
        open::open(url, &Settings::from_env())
    }

    /// The same with given deadlines and variables in place of the environment's.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`]
    pub fn open_with(url: &str, settings: &Settings) -> Result<Self, StoreError> {
        open::open(url, settings)
    }

    /// The URL in its canonical form, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The part of this store below `sub`.
    #[must_use]
    pub fn within(&self, sub: &str) -> Self {
        let sub = sub.trim_matches('/');
        Self { prefix: self.full(sub), url: self.url_of(sub).into(), ..self.clone() }
    }

    /// The same store for one that does not honour create-only writes: [`Self::create`] looks
    /// whether the object is there and then writes it. Of two writers at once both may succeed, so
    /// whoever uses it must see to it that there is one writer.
    #[must_use]
    pub fn unfenced(self) -> Self {
        Self { fenced: false, ..self }
    }

    /// The whole object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and those of the connection.
    pub async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        let read = async { self.backend.get(&self.full(path)).await?.bytes().await };
        read.await.map_err(|error| self.context("read", path).explain(error))
    }

    /// The whole of an object that should be a few KiB of text.
    ///
    /// # Errors
    /// As [`Store::get`], and [`StoreError::TooLarge`] for one of more than [`SMALL`] bytes, of which
    /// none is kept.
    pub async fn get_small(&self, path: &str) -> Result<Bytes, StoreError> {
        let explain = |error| self.context("read", path).explain(error);
        let found = self.backend.get(&self.full(path)).await.map_err(explain)?;
        let bytes = found.meta.size;
        if bytes > SMALL {
            return Err(StoreError::TooLarge { url: self.url_of(path), bytes, most: SMALL });
        }
        found.bytes().await.map_err(explain)
    }

    /// Some bytes of the object. A range that ends beyond the object is an error or comes back
    /// shorter, depending on the backend: callers check the length.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and those of the connection.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.backend
            .get_range(&self.full(path), range)
            .await
            .map_err(|error| self.context("read", path).explain(error))
    }

    /// Several ranges of one object; near ones are fetched with one request.
    ///
    /// # Errors
    /// As [`Store::get_range`].
    pub async fn get_ranges(
        &self,
        path: &str,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, StoreError> {
        self.backend
            .get_ranges(&self.full(path), ranges)
            .await
            .map_err(|error| self.context("read", path).explain(error))
    }

    /// Size of the object in bytes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and those of the connection.
    pub async fn size(&self, path: &str) -> Result<u64, StoreError> {
        match self.backend.head(&self.full(path)).await {
            Ok(meta) => Ok(meta.size),
            Err(error) => Err(self.context("look up", path).explain(error)),
        }
    }

    /// Whether there is such an object. In a missing bucket there is none.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn exists(&self, path: &str) -> Result<bool, StoreError> {
        match self.size(path).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the object, whether it exists or not.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn put(&self, path: &str, data: Bytes) -> Result<(), StoreError> {
        self.put_chunks(path, vec![data]).await
    }

    /// Writes the object from chunks that lie anywhere in memory, without joining them first.
    /// What is larger than [`PIECE`] goes to a remote store in several requests, and appears whole
    /// or not at all.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn put_chunks(&self, path: &str, chunks: Vec<Bytes>) -> Result<(), StoreError> {
        let total: usize = chunks.iter().map(Bytes::len).sum();
        let object = self.full(path);
        let written = match &self.bucket {
            Some(bucket) if total > PIECE => {
                let marker_of = |id: &str| self.full(&leftovers::marker(path, id));
                pieces::send(bucket, object, marker_of, chunks).await
            }
            _ => self.backend.put(&object, PutPayload::from_iter(chunks)).await.map(drop),
        };
        written.map_err(|error| self.context(WRITE, path).explain(error))
    }

    /// Writes the object only if there is none: of many writers exactly one succeeds.
    ///
    /// A request that is sent again after a lost answer meets its own object. So an object that
    /// holds exactly `data` counts as written by this call, which is right only if no two writers
    /// ever write the same: callers put a nonce, an owner or a digest of their own into `data`,
    /// or do not mind which of equal writers wrote.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if another's object is there, and those of the connection.
    pub async fn create(&self, path: &str, data: Bytes) -> Result<(), StoreError> {
        if !self.fenced {
            return match self.get(path).await {
                Ok(found) if found == data => Ok(()),
                Ok(_) => Err(StoreError::Exists { url: self.url_of(path) }),
                Err(StoreError::NotFound { .. }) => self.put(path, data).await,
                Err(error) => Err(error),
            };
        }
        let full = self.full(path);
        for _ in 0..CONFLICT_RETRIES {
            let payload = PutPayload::from(data.clone());
            let error = match self.backend.put_opts(&full, payload, PutMode::Create.into()).await {
                Ok(_) => return Ok(()),
                Err(error) => self.context("create", path).explain(error),
            };
            match error {
                StoreError::Exists { .. } => match self.get(path).await {
                    Ok(found) if found == data => return Ok(()),
                    Ok(_) => return Err(error),
                    Err(StoreError::NotFound { .. }) => {}
                    Err(other) => return Err(other),
                },
                StoreError::Other { source, .. } if source.to_string().contains("501 Not") => {
                    let reason = "it answers conditional writes with 501".to_owned();
                    return Err(StoreError::NotFenced { url: self.url.to_string(), reason });
                }
                other => return Err(other),
            }
        }
        Err(StoreError::Exists { url: self.url_of(path) })
    }

    /// All objects whose path starts with the folder `prefix` (empty: all), in order of path.
    ///
    /// # Errors
    /// Those of the connection; an absent folder is empty.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Stored>, StoreError> {
        let mut found = self.list_all(prefix).await?;
        found.retain(|it| leftovers::marked_object(&it.path).is_none());
        Ok(found)
    }

    /// With what stands for unfinished ones.
    async fn list_all(&self, prefix: &str) -> Result<Vec<Stored>, StoreError> {
        let found = self
            .backend
            .list(Some(&self.full(prefix)))
            .try_fold(Vec::new(), |mut found, meta| async move {
                if let Some(parts) = meta.location.prefix_match(&self.prefix) {
                    let parts: Vec<String> = parts.map(|it| it.as_ref().to_owned()).collect();
                    found.push(Stored { path: parts.join("/"), size: meta.size });
                }
                Ok(found)
            })
            .await;
        let mut found = found.map_err(|error| self.context("list", prefix).explain(error))?;
        found.sort();
        Ok(found)
    }

    /// Removes the object; one that does not exist is no error.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn delete(&self, path: &str) -> Result<(), StoreError> {
        match self.backend.delete(&self.full(path)).await {
            Ok(()) => Ok(()),
            Err(error) => match self.context("delete", path).explain(error) {
                StoreError::NotFound { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Where the object lies as a file, if the store is a folder of this machine.
    pub fn file_of(&self, path: &str) -> Option<PathBuf> {
        let folder = self.url.starts_with("file:").then(|| Url::parse(&self.url).ok())??;
        Some(folder.to_file_path().ok()?.join(path))
    }

    fn full(&self, path: &str) -> Path {
        let below = path.split('/').filter(|part| !part.is_empty()).map(PathPart::from);
        self.prefix.parts().chain(below).collect()
    }

    /// URL of an object of this store.
    pub fn url_of(&self, path: &str) -> String {
        if path.is_empty() { self.url.to_string() } else { format!("{}/{path}", self.url) }
    }

    fn context(&self, action: &'static str, path: &str) -> Context<'_> {
        Context { action, url: self.url_of(path), endpoint: self.endpoint.as_deref() }
    }
}
