//! One shard on its way into the cache.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::error::CacheError;
use super::folder::{Folder, present};
use super::lock::{Mode, has_name, lock_at};
use crate::dataset::ShardEntry;

/// How long the folder's lock is waited for at the end: the work of a shard would be lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// A shard that this process fetches, and no other on the machine: it holds the lock of the part.
///
/// The part has the shard's whole size from the start, so that the space is there and counts.
/// Dropping it before [`Self::finish`] removes the part; a process that is killed leaves it, and
/// whoever looks at the folder next finds its lock free and removes it.
#[derive(Debug)]
pub struct Download {
    folder: Folder,
    shard: usize,
    expected: ShardEntry,
    file: File,
    hasher: Box<blake3::Hasher>,
    written: u64,
}

impl Download {
    /// `file` is the part, locked and of the shard's size.
    pub(super) fn start(
        folder: Folder,
        shard: usize,
        expected: ShardEntry,
        file: File,
    ) -> Result<Self, CacheError> {
        let download = Self { folder, shard, expected, file, hasher: Box::default(), written: 0 };
        download.reserve().map_err(|error| download.failed("write", error))?;
        Ok(download)
    }

    /// Number of the shard.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// Takes the next bytes of the shard.
    ///
    /// # Errors
    /// [`CacheError::Folder`]; [`CacheError::Altered`] if there are more than the shard has.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        let end = self.written + bytes.len() as u64;
        if end > self.expected.bytes {
            return Err(CacheError::Altered { shard: self.shard });
        }
        self.hasher.update(bytes);
        let written = self.file.write_all_at(bytes, self.written);
        written.map_err(|error| self.failed("write", error))?;
        self.written = end;
        Ok(())
    }

    /// Makes it an entry, if its bytes are those of the shard.
    ///
    /// It is not forced to the disk: after a power cut, an entry may hold other bytes than these,
    /// which shows in the checksum of each image that is read from it.
    ///
    /// # Errors
    /// [`CacheError::Altered`], [`CacheError::Folder`]
    pub fn finish(self) -> Result<(), CacheError> {
        let whole = self.written == self.expected.bytes;
        if !whole || *self.hasher.finalize().as_bytes() != self.expected.hash {
            return Err(CacheError::Altered { shard: self.shard });
        }
        // Whoever counts meanwhile would find it under both names, or under none.
        let path = self.folder.lock();
        let lock = lock_at(&path, Mode::Exclusive, PATIENCE)
            .and_then(|lock| lock.ok_or_else(|| io::ErrorKind::TimedOut.into()));
        let _lock = lock.map_err(|error| CacheError::folder("lock", &path, error))?;
        let (part, entry) = (self.folder.part(self.shard), self.folder.entry(self.shard));
        // In a folder that was removed and made anew, the name may be that of another's part.
        let named = has_name(&self.file, &part).and_then(|own| match own {
            true => fs::rename(part, entry),
            false => Err(io::ErrorKind::NotFound.into()),
        });
        named.map_err(|error| self.failed("name", error))
    }

    fn reserve(&self) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::empty(), 0, self.expected.bytes) {
            // Not every file system can promise space.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn failed(&self, action: &'static str, error: io::Error) -> CacheError {
        CacheError::folder(action, &self.folder.part(self.shard), error)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let part = self.folder.part(self.shard);
        // After `finish` the file has another name. A part that cannot be removed is swept later.
        if has_name(&self.file, &part).unwrap_or(false) {
            let _ = present(fs::remove_file(part));
        }
    }
}
