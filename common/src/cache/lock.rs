//! Locks that end with their holder: the kernel lets go of them when a process ends, however it
//! ends, so that none is ever left behind.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// Between two looks at a lock that another holds.
const LOOK: Duration = Duration::from_millis(5);

/// Who may hold a lock at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Any number of these.
    Shared,
    /// One, and no other.
    Exclusive,
}

/// Opens the file, makes it if it is not there, and locks it; gives up when another holds the lock
/// for all of `patience`. The lock lasts until the file is closed.
///
/// What is locked is the file that has the name: one whose name was taken away while its lock was
/// waited for would protect nothing.
pub(super) fn lock_at(path: &Path, mode: Mode, patience: Duration) -> io::Result<Option<File>> {
    let begin = Instant::now();
    loop {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if try_lock(&file, mode)? && has_name(&file, path)? {
            return Ok(Some(file));
        }
        if begin.elapsed() >= patience {
            return Ok(None);
        }
        sleep(LOOK);
    }
}

/// Locks an open file, unless another holds a lock that does not allow that.
pub(super) fn try_lock(file: &File, mode: Mode) -> io::Result<bool> {
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the name still leads to this file.
pub(super) fn has_name(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
