//! A data set whose images come from the cache where it has them, and from the store where not.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;

use super::filler::Filler;
use super::tally::{Filled, Tally};
use super::{Cache, CacheError, Damaged};
use crate::dataset::{Dataset, DatasetError, Encoded, Split};
use crate::failure::Explain as _;
use crate::ids::Position;

/// Which shards will be needed from a position on, in that order and for ever; a shard may come
/// more than once. It is asked often and should be quick about its first items.
pub type Order = Arc<dyn Fn(Position) -> Box<dyn Iterator<Item = usize> + Send> + Send + Sync>;

/// How often an entry may turn out damaged before its shard is left in the store: by then it is the
/// disk that does it.
const DAMAGES: u32 = 2;

/// Where the cache is, and how large it may become.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder; none: images come from the store whenever they are needed.
    pub folder: Option<PathBuf>,
    /// Bytes of all data sets together.
    pub limit: u64,
    /// Shards that this process fetches at a time.
    pub downloads: usize,
}

/// The data set, and the filling of its cache, which ends with the last clone.
#[derive(Clone)]
pub struct CachedDataset {
    dataset: Dataset,
    kept: Option<Arc<Kept>>,
}

struct Kept {
    cache: Arc<Cache>,
    shared: Arc<Shared>,
    filler: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.filler.abort();
    }
}

/// What readers and the filler know of each other.
pub(super) struct Shared {
    pub(super) order: Order,
    pub(super) tally: Tally,
    heading: AtomicU64,
    off: AtomicBool,
    /// How often each shard's entry was found damaged.
    damages: Mutex<HashMap<usize, u32>>,
}

impl CachedDataset {
    /// Opens the cache and begins to fill it. A data set in a folder of this machine needs none; a
    /// cache that cannot be opened is done without, with a warning.
    ///
    /// To be called within a tokio runtime, where the filling goes on.
    pub async fn open(dataset: Dataset, settings: Settings, order: Order) -> Self {
        let Settings { folder, limit, downloads } = settings;
        let url = dataset.url().to_owned();
        if dataset.is_local() {
            return Self { dataset, kept: None };
        }
        let Some(folder) = folder else {
            tracing::info!(data = url, "no cache: images are read from the store one by one");
            return Self { dataset, kept: None };
        };
        let (root, digest) = (folder.clone(), dataset.identity().digest);
        let opened = tokio::task::spawn_blocking(move || {
            let cache = Cache::open(&root, &digest, limit)?;
            let contents = cache.contents()?;
            Ok::<_, CacheError>((cache, contents))
        });
        let shared = Arc::new(Shared {
            order,
            tally: Tally::default(),
            heading: AtomicU64::new(0),
            off: AtomicBool::new(false),
            damages: Mutex::default(),
        });
        match opened.await {
            Ok(Ok((cache, contents))) => {
                let cache = Arc::new(cache);
                tracing::info!(
                    folder = %folder.display(),
                    limit_mb = limit >> 20,
                    shards = format!("{}/{}", contents.shards, dataset.shards()),
                    mb = contents.bytes >> 20,
                    of_all_mb = contents.all_bytes >> 20,
                    "caching the data set"
                );
                let filler = Filler::new(
                    dataset.clone(),
                    Arc::clone(&cache),
                    limit,
                    Arc::clone(&shared),
                    downloads,
                );
                let filler = tokio::spawn(filler.run()).abort_handle();
                Self { dataset, kept: Some(Arc::new(Kept { cache, shared, filler })) }
            }
            Ok(Err(error)) => {
                shared.switch_off(&error);
                Self { dataset, kept: None }
            }
            Err(panicked) => {
                tracing::error!(error = %panicked, "the cache could not be opened");
                Self { dataset, kept: None }
            }
        }
    }

    /// The data set itself.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Training will go on from here: what is fetched next depends on it.
    pub fn heading_for(&self, position: Position) {
        if let Some(kept) = &self.kept {
            let packed = u64::from(position.epoch) << 32 | u64::from(position.step);
            kept.shared.heading.store(packed, Ordering::Relaxed);
        }
    }

    /// What the cache did so far; nothing where there is none.
    pub fn filled(&self) -> Option<Filled> {
        self.kept.as_ref().map(|kept| kept.shared.tally.so_far())
    }

    /// Reads pictures of a split, in the order asked for.
    ///
    /// # Errors
    /// As [`Dataset::read`]: a damaged entry is none, it is dropped and passed by.
    pub async fn read(&self, split: Split, indices: &[u64]) -> Result<Vec<Encoded>, DatasetError> {
        let wanted = self.dataset.locate(split, indices)?;
        let Some(kept) = &self.kept else { return self.dataset.read_at(wanted).await };
        let looking = tokio::task::spawn_blocking({
            let (cache, dataset, wanted) =
                (Arc::clone(&kept.cache), self.dataset.clone(), wanted.clone());
            move || cache.read(&wanted, |shard| dataset.shard(shard))
        });
        // A disk that does not answer is as good as none.
        let (mut images, damaged) =
            match tokio::time::timeout(self.dataset.read_timeout(), looking).await {
                Ok(Ok(looked)) => looked,
                Ok(Err(_)) | Err(_) => (vec![None; wanted.len()], Vec::new()),
            };
        damaged.iter().for_each(|it| kept.shared.note(it));
        let missing: Vec<usize> =
            (0..images.len()).filter(|&place| images[place].is_none()).collect();
        kept.shared.tally.read((images.len() - missing.len()) as u64, missing.len() as u64);
        if !missing.is_empty() {
            let there = missing.iter().map(|&place| wanted[place]).collect();
            let fetched = self.dataset.read_at(there).await?;
            for (place, image) in missing.into_iter().zip(fetched) {
                images[place] = Some(image);
            }
        }
        let all: Option<Vec<Encoded>> = images.into_iter().collect();
        Ok(all.expect("invariant: what was missing was read from the store"))
    }
}

impl Shared {
    /// Where training is.
    pub(super) fn heading(&self) -> Position {
        let packed = self.heading.load(Ordering::Relaxed);
        Position { epoch: (packed >> 32) as u32, step: packed as u32 }
    }

    /// Nothing more is fetched; what is there is still read. Told once.
    pub(super) fn switch_off(&self, error: &CacheError) {
        if !self.off.swap(true, Ordering::Relaxed) {
            let source = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(
                error = %error,
                reason = source,
                hint = error.hint(),
                "the cache is switched off; images are read from the store one by one"
            );
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    /// Whether its entries have been damaged so often that another would be in vain.
    pub(super) fn is_given_up(&self, shard: usize) -> bool {
        let damages = self.damages.lock().unwrap_or_else(PoisonError::into_inner);
        damages.get(&shard).is_some_and(|times| *times > DAMAGES)
    }

    fn note(&self, Damaged { shard, detail }: &Damaged) {
        let mut damages = self.damages.lock().unwrap_or_else(PoisonError::into_inner);
        let times = damages.entry(*shard).or_default();
        *times += 1;
        let (shard, times) = (*shard, *times);
        drop(damages);
        if times <= DAMAGES {
            tracing::warn!(shard, reason = detail, "a damaged shard in the cache is fetched again");
        } else if times == DAMAGES + 1 {
            tracing::warn!(
                shard,
                reason = detail,
                times,
                hint = "check the disk of data.cache",
                "a shard in the cache was damaged again; it stays in the store"
            );
        }
    }
}
