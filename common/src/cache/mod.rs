//! Shards of remote data sets on the local disk, shared by all workers of a machine.
//!
//! ```text
//!            images
//!   pipeline <────── CachedDataset ── the shard is here: read from its file
//!                         │      └─── it is not: read by range from the store, at once
//!                         v
//!                      filler ──── whole shards, in the order in which they will be needed
//!                                  ──> CACHE/<digest>/00012.part ──verified──> 00012.convoy
//! ```
//!
//! Everything that counts is in the folder itself, and its locks are the kernel's: processes that
//! share it know nothing of each other, and one that is killed leaves neither a lock nor an entry
//! that is not whole. Bytes are compared twice: with the shard's hash when they come, with each
//! image's checksum when it is read; what does not fit is dropped and fetched again.
//!
//! A cache that cannot be used is switched off with a warning, and training goes on without it.
//! This module knows no order of images: it is told which shards come next.

mod cached;
mod download;
mod error;
mod eviction;
mod filler;
mod folder;
mod lock;
mod tally;

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

pub use cached::{CachedDataset, Order, Settings};
pub use download::Download;
pub use error::CacheError;
pub use tally::Filled;

use self::eviction::{Resident, Standing, victims};
use self::folder::{Folder, Found, present, scan};
use self::lock::{Mode, has_name, lock_at};
use crate::dataset::{Encoded, Location, ShardEntry, ShardFile};

/// How long the folder's lock is waited for; it is held for milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// How old an entry's time of use becomes before it is written again.
const USED_ABOUT: Duration = Duration::from_secs(20);

/// The room of one data set in a cache folder. All of it blocks.
#[derive(Debug)]
pub struct Cache {
    folder: Folder,
    limit: u64,
    /// Shows other processes that the data set is in use.
    _users: Option<File>,
}

/// What became of the wish to fetch a shard.
#[derive(Debug)]
pub enum Begun {
    /// It is there.
    Present,
    /// Another process fetches it, or holds the folder.
    Busy,
    /// All that could make room for it is needed before it.
    NoRoom,
    /// It is for the caller to fetch.
    Fetch(Download),
}

/// How much a cache folder holds of one data set, and of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Shards of the data set.
    pub shards: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of all data sets.
    pub all_bytes: u64,
}

impl Cache {
    /// Opens the room of the data set with that digest (64 hexadecimal digits) in a folder, which is
    /// made if it is not there. Removes what killed processes left, and what passes the limit.
    ///
    /// # Errors
    /// [`CacheError::Folder`]
    pub fn open(root: &Path, digest: &str, limit: u64) -> Result<Self, CacheError> {
        let folder = Folder::new(root, digest);
        let failed = |action, error| CacheError::folder(action, &folder.lock(), error);
        folder.make().map_err(|error| CacheError::folder("make", &folder.path(), error))?;
        let users = lock_at(&folder.users(), Mode::Shared, PATIENCE)
            .map_err(|error| CacheError::folder("lock", &folder.users(), error))?;
        if let Some(_lock) = lock_at(&folder.lock(), Mode::Exclusive, PATIENCE)
            .map_err(|error| failed("lock", error))?
        {
            let found = scan(root, None).map_err(|error| failed("look around", error))?;
            // What others use stays, even if the limit was higher before.
            if let Some(victims) = found.victims(&folder, &HashSet::new(), 0, limit) {
                found.remove(&victims).map_err(|error| failed("make room at", error))?;
            }
        }
        Ok(Self { folder, limit, _users: users })
    }

    /// What is there now.
    ///
    /// # Errors
    /// [`CacheError::Folder`]
    pub fn contents(&self) -> Result<Contents, CacheError> {
        let lock = lock_at(&self.folder.lock(), Mode::Exclusive, PATIENCE);
        let _lock = lock.map_err(|error| self.failed("lock", error))?;
        let found = scan(&self.folder.root, None).map_err(|error| self.failed("read", error))?;
        let own = self.folder.path();
        let mut contents = Contents::default();
        for entry in &found.entries {
            contents.all_bytes += entry.bytes;
            if found.sets[entry.set].0 == own {
                contents.shards += 1;
                contents.bytes += entry.bytes;
            }
        }
        Ok(contents)
    }

    /// Numbers of the shards that are there.
    ///
    /// # Errors
    /// [`CacheError::Folder`]
    pub fn entries(&self) -> Result<BTreeSet<usize>, CacheError> {
        self.folder.entries().map_err(|error| self.failed("read", error))
    }

    /// Makes room for a shard and gives the way to fill it, unless that is not for the caller to do.
    ///
    /// # Errors
    /// [`CacheError::Folder`]
    pub fn begin(
        &self,
        shard: usize,
        expected: ShardEntry,
        wanted: &HashSet<usize>,
    ) -> Result<Begun, CacheError> {
        let outcome = match self.try_begin(shard, expected, wanted) {
            // Somebody has removed the folder: that is their right.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.folder.make().and_then(|()| self.try_begin(shard, expected, wanted))
            }
            outcome => outcome,
        };
        match outcome.map_err(|error| self.failed("write to", error))? {
            Granted::Part(file) => {
                let folder = self.folder.clone();
                Ok(Begun::Fetch(Download::start(folder, shard, expected, file)?))
            }
            Granted::Nothing(begun) => Ok(begun),
        }
    }

    fn try_begin(
        &self,
        shard: usize,
        expected: ShardEntry,
        wanted: &HashSet<usize>,
    ) -> io::Result<Granted> {
        let Some(_lock) = lock_at(&self.folder.lock(), Mode::Exclusive, PATIENCE)? else {
            return Ok(Granted::Nothing(Begun::Busy));
        };
        let entry = self.folder.entry(shard);
        match present(fs::metadata(&entry))? {
            Some(facts) if facts.len() == expected.bytes => {
                return Ok(Granted::Nothing(Begun::Present));
            }
            Some(_) => drop(present(fs::remove_file(&entry))?),
            None => {}
        }
        let part = self.folder.part(shard);
        let Some(file) = lock_at(&part, Mode::Exclusive, Duration::ZERO)? else {
            return Ok(Granted::Nothing(Begun::Busy));
        };
        let found = scan(&self.folder.root, Some(&part))?;
        match found.victims(&self.folder, wanted, expected.bytes, self.limit) {
            Some(victims) => {
                found.remove(&victims)?;
                // Its size is what others will count for it; the space is taken without the lock.
                file.set_len(0)?;
                file.set_len(expected.bytes)?;
                Ok(Granted::Part(file))
            }
            None => {
                fs::remove_file(&part)?;
                Ok(Granted::Nothing(Begun::NoRoom))
            }
        }
    }

    /// The images that are here, in the order given, and the shards that were found damaged and were
    /// dropped. `expected` gives a shard's size.
    pub fn read(
        &self,
        wanted: &[Location],
        expected: impl Fn(usize) -> Option<ShardEntry>,
    ) -> (Vec<Option<Encoded>>, Vec<Damaged>) {
        let mut images: Vec<Option<Encoded>> = vec![None; wanted.len()];
        let mut damaged = Vec::new();
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_by_key(|&at| (wanted[at].shard, wanted[at].offset));
        for places in order.chunk_by(|&one, &next| wanted[one].shard == wanted[next].shard) {
            let shard = wanted[places[0]].shard;
            let bytes = expected(shard).map_or(0, |it| it.bytes);
            if let Err(detail) = self.read_entry(shard, bytes, places, wanted, &mut images) {
                damaged.push(Damaged { shard, detail });
            }
        }
        (images, damaged)
    }

    fn read_entry(
        &self,
        shard: usize,
        bytes: u64,
        places: &[usize],
        wanted: &[Location],
        images: &mut [Option<Encoded>],
    ) -> Result<(), String> {
        let path = self.folder.entry(shard);
        let file = match ShardFile::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let outcome = read_open(&file, bytes, places, wanted, images);
        if outcome.is_err() && has_name(file.file(), &path).unwrap_or(false) {
            // One that cannot be removed is passed by all the same.
            let _ = fs::remove_file(&path);
        }
        outcome
    }

    fn failed(&self, action: &'static str, error: io::Error) -> CacheError {
        CacheError::folder(action, &self.folder.path(), error)
    }
}

/// An entry that was found damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its number.
    pub shard: usize,
    /// What was wrong.
    pub detail: String,
}

enum Granted {
    Part(File),
    Nothing(Begun),
}

fn read_open(
    file: &ShardFile,
    bytes: u64,
    places: &[usize],
    wanted: &[Location],
    images: &mut [Option<Encoded>],
) -> Result<(), String> {
    let facts = file.file().metadata().map_err(|error| error.to_string())?;
    if facts.len() != bytes {
        return Err(format!("it has {} bytes instead of {bytes}", facts.len()));
    }
    for &at in places {
        match file.read(&wanted[at]).map_err(|error| error.to_string())? {
            Some(image) => images[at] = Some(image),
            None => return Err("the checksum of an image does not match".to_owned()),
        }
    }
    let now = SystemTime::now();
    let used = facts.modified().unwrap_or(now);
    if now.duration_since(used).is_ok_and(|age| age >= USED_ABOUT) {
        // A folder that belongs to another user cannot be told; then its order is that of fetching.
        let _ = file.file().set_modified(now);
    }
    Ok(())
}

impl Found {
    fn victims(
        &self,
        own: &Folder,
        wanted: &HashSet<usize>,
        need: u64,
        limit: u64,
    ) -> Option<Vec<usize>> {
        let own = own.path();
        let resident = |entry: &folder::FoundEntry| {
            let (path, in_use) = &self.sets[entry.set];
            let standing = match (*path == own, in_use) {
                (true, _) if wanted.contains(&entry.shard) => Standing::Wanted,
                (false, true) => Standing::OfOthers(entry.set),
                _ => Standing::Free,
            };
            Resident { bytes: entry.bytes, used: entry.used, standing }
        };
        let residents: Vec<Resident> = self.entries.iter().map(resident).collect();
        victims(&residents, self.reserved, need, limit)
    }

    /// Those that read an entry go on reading it.
    fn remove(&self, victims: &[usize]) -> io::Result<()> {
        victims
            .iter()
            .try_for_each(|&at| present(fs::remove_file(&self.entries[at].path)).map(drop))
    }
}
