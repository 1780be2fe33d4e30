//! What lies where in a cache folder, and what a look into it finds.
//!
//! ```text
//! CACHE/                     shared by all data sets and all workers of the machine
//!   lock                     held while entries are counted, removed, or get their name
//!   5f0c...e1/               a data set, by its digest
//!     users                  locked, shared, by every process that reads the data set
//!     00012.convoy           a whole shard that was verified; its mtime says when it was used
//!     00013.part             one on its way, locked by the process that fetches it
//! ```
//!
//! Nothing else in the folder is looked at, counted or removed.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::lock::{Mode, has_name, try_lock};

const ENTRY: &str = "convoy";
const PART: &str = "part";

/// The room of one data set in a cache folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) root: PathBuf,
    digest: String,
}

impl Folder {
    pub(super) fn new(root: &Path, digest: &str) -> Self {
        Self { root: root.to_owned(), digest: digest.to_owned() }
    }

    /// Makes it, and those above it, where they are not there.
    pub(super) fn make(&self) -> io::Result<()> {
        fs::create_dir_all(self.path())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.root.join(&self.digest)
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn users(&self) -> PathBuf {
        self.path().join("users")
    }

    pub(super) fn entry(&self, shard: usize) -> PathBuf {
        self.path().join(format!("{shard:05}.{ENTRY}"))
    }

    pub(super) fn part(&self, shard: usize) -> PathBuf {
        self.path().join(format!("{shard:05}.{PART}"))
    }

    /// Numbers of the shards that have an entry.
    pub(super) fn entries(&self) -> io::Result<BTreeSet<usize>> {
        let mut shards = BTreeSet::new();
        for file in present(fs::read_dir(self.path()))?.into_iter().flatten() {
            shards.extend(shard_of(&file?.path(), ENTRY));
        }
        Ok(shards)
    }
}

/// All that a cache folder holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) entries: Vec<FoundEntry>,
    /// Bytes that are promised to shards on their way, those of `except` left out.
    pub(super) reserved: u64,
    /// Folders of data sets, and whether a process other than this one's [`Folder`] uses them.
    pub(super) sets: Vec<(PathBuf, bool)>,
}

#[derive(Debug)]
pub(super) struct FoundEntry {
    /// Place of its data set in [`Found::sets`].
    pub(super) set: usize,
    pub(super) shard: usize,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) used: SystemTime,
}

/// Looks at everything under `root`, and removes what a killed process left on its way. To be called
/// with the folder's lock; `except` is a part that the caller holds.
pub(super) fn scan(root: &Path, except: Option<&Path>) -> io::Result<Found> {
    let mut found = Found::default();
    for folder in present(fs::read_dir(root))?.into_iter().flatten() {
        let folder = folder?.path();
        if !is_digest(&folder) {
            continue;
        }
        let set = found.sets.len();
        found.sets.push((folder.clone(), in_use(&folder.join("users"))?));
        for file in present(fs::read_dir(&folder))?.into_iter().flatten() {
            let path = file?.path();
            // Readers may remove a damaged entry at any time.
            let Some(facts) = present(fs::metadata(&path))? else { continue };
            if let Some(shard) = shard_of(&path, ENTRY) {
                let (bytes, used) = (facts.len(), facts.modified()?);
                found.entries.push(FoundEntry { set, shard, path, bytes, used });
            } else if shard_of(&path, PART).is_some()
                && Some(path.as_path()) != except
                && !swept(&path)?
            {
                found.reserved += facts.len();
            }
        }
    }
    Ok(found)
}

/// Removes a part that nobody holds.
fn swept(path: &Path) -> io::Result<bool> {
    let Some(file) = present(OpenOptions::new().read(true).open(path))? else { return Ok(true) };
    if !(try_lock(&file, Mode::Exclusive)? && has_name(&file, path)?) {
        return Ok(false);
    }
    present(fs::remove_file(path))?;
    Ok(true)
}

/// Whether some process has locked it.
fn in_use(users: &Path) -> io::Result<bool> {
    let Some(file) = present(OpenOptions::new().read(true).open(users))? else { return Ok(false) };
    Ok(!try_lock(&file, Mode::Exclusive)?)
}

fn shard_of(path: &Path, extension: &str) -> Option<usize> {
    let (stem, found) = path.file_name()?.to_str()?.split_once('.')?;
    let digits = stem.len() >= 5 && stem.bytes().all(|it| it.is_ascii_digit());
    (digits && found == extension).then(|| stem.parse().ok())?
}

fn is_digest(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 64 && name.bytes().all(|it| it.is_ascii_hexdigit())
}

/// Nothing where nothing is.
pub(super) fn present<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(it) => Ok(Some(it)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
