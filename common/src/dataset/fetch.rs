//! How images come out of a data set's shards; every byte is checked before it is handed out.
//!
//! From a folder of this machine they are read where they lie, on threads that may block; from any
//! other store with a deadline, tried again as long as that lasts.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::shard_file::ShardFile;
use super::{Dataset, DatasetError, Encoded, Location, shard_path};
use crate::store::{READ_PIECE, StoreError};

/// Shards that are read from at a time for one call.
const CONCURRENT_SHARDS: usize = 16;

/// Pieces of a whole shard that are under way: one arrives while the next is asked for.
const PIECES_AT_ONCE: usize = 2;

/// Threads that read files for one call.
const CONCURRENT_FILES: usize = 4;

/// How often an image is read whose bytes come wrong: once for an accident on the way.
const READINGS: u32 = 3;

impl Dataset {
    /// Reads pictures, in the order given: where they lie, or with few requests for each shard.
    ///
    /// # Errors
    /// [`DatasetError::AlteredImage`] with the picture's name, or what the store says.
    pub async fn read_at(&self, wanted: Vec<Location>) -> Result<Vec<Encoded>, DatasetError> {
        let count = wanted.len();
        let mut places: Vec<Place> =
            wanted.into_iter().enumerate().map(|(slot, at)| Place { slot, at }).collect();
        places.sort_by_key(|place| (place.at.shard, place.at.offset));
        let parts: Vec<Vec<(usize, Encoded)>> = if self.is_local() {
            let share = count.div_ceil(CONCURRENT_FILES).max(1);
            let shares: Vec<Vec<Place>> = places.chunks(share).map(<[Place]>::to_vec).collect();
            stream::iter(shares)
                .map(|share| self.read_files(share))
                .buffer_unordered(CONCURRENT_FILES)
                .try_collect()
                .await?
        } else {
            let mut by_shard: BTreeMap<usize, Vec<Place>> = BTreeMap::new();
            for place in places {
                by_shard.entry(place.at.shard).or_default().push(place);
            }
            stream::iter(by_shard)
                .map(|(shard, places)| self.read_shard(shard, places))
                .buffer_unordered(CONCURRENT_SHARDS)
                .try_collect()
                .await?
        };
        let mut found: HashMap<usize, Encoded> = parts.into_iter().flatten().collect();
        let in_order: Option<Vec<Encoded>> = (0..count).map(|slot| found.remove(&slot)).collect();
        Ok(in_order.expect("invariant: every slot was asked of one shard"))
    }

    /// A whole shard in pieces, in order; nobody has compared them with its hash.
    pub fn shard_pieces(
        &self,
        shard: usize,
    ) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + use<> {
        let (store, within) = (self.store.clone(), self.read_timeout());
        let size = self.shard(shard).map_or(0, |shard| shard.bytes);
        let pieces = size.div_ceil(READ_PIECE);
        stream::iter(0..pieces)
            .map(move |piece| {
                let store = store.clone();
                async move {
                    let start = piece * READ_PIECE;
                    let range = start..(start + READ_PIECE).min(size);
                    store.read_range(&shard_path(shard), range, within).await
                }
            })
            .buffered(PIECES_AT_ONCE)
    }

    /// Reads a whole shard and compares its hash with the index.
    ///
    /// # Errors
    /// [`DatasetError::ShardMismatch`], or what the store says.
    pub async fn verify_shard(&self, shard: usize) -> Result<(), DatasetError> {
        let Some(expected) = self.shard(shard) else {
            return Err(self.mismatch(shard, "the index does not list it"));
        };
        let mut hasher = blake3::Hasher::new();
        let mut pieces = std::pin::pin!(self.shard_pieces(shard));
        while let Some(piece) = pieces.try_next().await? {
            hasher.update(&piece);
        }
        if *hasher.finalize().as_bytes() != expected.hash {
            return Err(self.mismatch(shard, "its hash differs"));
        }
        Ok(())
    }

    async fn read_shard(
        &self,
        shard: usize,
        mut missing: Vec<Place>,
    ) -> Result<Vec<(usize, Encoded)>, DatasetError> {
        let path = shard_path(shard);
        let mut encoded = Vec::with_capacity(missing.len());
        for _ in 0..READINGS {
            let ranges: Vec<Range<u64>> = missing.iter().map(|place| place.at.range()).collect();
            let data = self.store.read_ranges(&path, &ranges, self.read_timeout()).await?;
            let mut wrong = Vec::new();
            for (place, bytes) in missing.into_iter().zip(data) {
                match place.at.check(bytes) {
                    Some(image) => encoded.push((place.slot, image)),
                    None => wrong.push(place),
                }
            }
            if wrong.is_empty() {
                return Ok(encoded);
            }
            missing = wrong;
        }
        Err(self.altered(shard, missing[0].at.image).await)
    }

    /// `places` by shard.
    async fn read_files(&self, places: Vec<Place>) -> Result<Vec<(usize, Encoded)>, DatasetError> {
        let (this, first) = (self.clone(), places.first().map_or(0, |place| place.at.shard));
        let reading = tokio::task::spawn_blocking(move || this.read_files_here(&places));
        let (shard, image) = match tokio::time::timeout(self.read_timeout(), reading).await {
            Ok(Ok(Ok(encoded))) => return Ok(encoded),
            Ok(Ok(Err(Unread::Altered(at)))) => (at.shard, at.image),
            Ok(Ok(Err(Unread::Failed(shard, error)))) => return Err(self.unreadable(shard, error)),
            Ok(Err(panicked)) => return Err(self.unreadable(first, panicked)),
            Err(_) => {
                let waited = self.read_timeout().as_secs_f64();
                return Err(
                    self.unreadable(first, format!("the disk did not answer for {waited} s"))
                );
            }
        };
        Err(self.altered(shard, image).await)
    }

    fn read_files_here(&self, places: &[Place]) -> Result<Vec<(usize, Encoded)>, Unread> {
        let mut encoded = Vec::with_capacity(places.len());
        for places in places.chunk_by(|one, next| one.at.shard == next.at.shard) {
            let shard = places[0].at.shard;
            let failed = |error| Unread::Failed(shard, error);
            let path: PathBuf = self.store.file_of(&shard_path(shard)).unwrap_or_default();
            let file = ShardFile::open(&path).map_err(failed)?;
            for place in places {
                let image = file.read(&place.at).map_err(failed)?;
                encoded.push((place.slot, image.ok_or(Unread::Altered(place.at))?));
            }
        }
        Ok(encoded)
    }

    fn unreadable(
        &self,
        shard: usize,
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> DatasetError {
        let url = self.store.url_of(&shard_path(shard));
        StoreError::Other { action: "read", url, source: error.into() }.into()
    }
}

/// A picture that was asked for.
#[derive(Clone, Copy)]
struct Place {
    /// Its place in the answer.
    slot: usize,
    at: Location,
}

/// Why files were not read.
enum Unread {
    /// The bytes are not the image's.
    Altered(Location),
    /// The system says so, of that shard.
    Failed(usize, std::io::Error),
}
