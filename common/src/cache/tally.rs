//! What the cache did so far, for log lines.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that readers and the filler share.
#[derive(Debug, Default)]
pub(super) struct Tally {
    hits: AtomicU64,
    misses: AtomicU64,
    fetched: AtomicU64,
    shards: AtomicU64,
    of: AtomicU64,
}

/// What the cache did since it was opened, and how full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Images that came from the cache.
    pub hits: u64,
    /// Images that came from the store.
    pub misses: u64,
    /// Bytes of whole shards that this process fetched.
    pub fetched: u64,
    /// Shards that are here, of those that should be.
    pub shards: u64,
    /// Shards that should be here: all that fit, from the position on.
    pub of: u64,
}

impl Tally {
    pub(super) fn read(&self, hits: u64, misses: u64) {
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(misses, Ordering::Relaxed);
    }

    pub(super) fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn holds(&self, shards: u64, of: u64) {
        self.shards.store(shards, Ordering::Relaxed);
        self.of.store(of, Ordering::Relaxed);
    }

    pub(super) fn so_far(&self) -> Filled {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Filled {
            hits: of(&self.hits),
            misses: of(&self.misses),
            fetched: of(&self.fetched),
            shards: of(&self.shards),
            of: of(&self.of),
        }
    }
}

impl Filled {
    /// What happened since `before`; how full it is stays as it is.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            hits: self.hits - before.hits,
            misses: self.misses - before.misses,
            fetched: self.fetched - before.fetched,
            ..self
        }
    }

    /// Share of the images that came from the cache, 0 to 1; 1 where there were none.
    pub fn hit_rate(self) -> f64 {
        let images = self.hits + self.misses;
        if images == 0 { 1.0 } else { self.hits as f64 / images as f64 }
    }

    /// Whether shards are missing that should be here.
    pub fn is_filling(self) -> bool {
        self.shards < self.of
    }
}
