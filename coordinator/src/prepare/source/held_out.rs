//! A share of a stream's pictures for validation, chosen by the hash of their names.
//!
//! The stream is gone over twice, once for each split; what belongs to the other is passed over.

use std::sync::Arc;

use super::super::PrepareError;
use super::{Entries, Entry, Pictures, digest_of};

/// Those pictures of a stream that belong to one split.
pub(super) struct Share {
    all: Arc<dyn Pictures>,
    /// Names whose hash, as a fraction of all hashes, lies below are held out.
    fraction: f64,
    held_out: bool,
}

impl Share {
    /// Training and validation.
    pub(super) fn of(all: Arc<dyn Pictures>, fraction: f64) -> (Self, Self) {
        let share = |held_out| Self { all: Arc::clone(&all), fraction, held_out };
        (share(false), share(true))
    }

    fn takes(&self, name: &str) -> bool {
        let [a, b, c, d, ..] = *blake3::hash(name.as_bytes()).as_bytes();
        let place = f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0);
        (place < self.fraction) == self.held_out
    }
}

impl Pictures for Share {
    fn classes(&self) -> Option<&[String]> {
        self.all.classes()
    }

    fn bytes(&self) -> u64 {
        self.all.bytes()
    }

    fn fingerprint(&self, hasher: &mut blake3::Hasher) {
        digest_of(hasher, &[&self.fraction.to_le_bytes(), &[u8::from(self.held_out)]]);
        self.all.fingerprint(hasher);
    }

    fn entries(&self) -> Result<Box<dyn Entries + '_>, PrepareError> {
        Ok(Box::new(Chosen { share: self, all: self.all.entries()?, passed: 0 }))
    }
}

struct Chosen<'a> {
    share: &'a Share,
    all: Box<dyn Entries + 'a>,
    /// Weight of the other split's entries since the last of this.
    passed: u64,
}

impl Entries for Chosen<'_> {
    fn next(&mut self, wanted: &dyn Fn(&str) -> bool) -> Result<Option<Entry>, PrepareError> {
        let both = |name: &str| self.share.takes(name) && wanted(name);
        while let Some(mut entry) = self.all.next(&both)? {
            if self.share.takes(&entry.name) {
                entry.weight += std::mem::take(&mut self.passed);
                return Ok(Some(entry));
            }
            self.passed += entry.weight;
        }
        Ok(None)
    }

    fn ignored(&self) -> u64 {
        // Each file is passed over twice, and counted once.
        if self.share.held_out { 0 } else { self.all.ignored() }
    }
}
