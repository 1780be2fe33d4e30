//! A shard as a file of this machine: of a local data set, or a copy of a remote one's.
//!
//! Everything here blocks, so it belongs on a thread that may.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::{Encoded, Location};

/// An open shard, which stays readable when its name is taken away.
#[derive(Debug)]
pub(crate) struct ShardFile {
    file: File,
}

impl ShardFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)? })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The image at its place; nothing if the bytes there are not its own, or are not there.
    pub(crate) fn read(&self, at: &Location) -> io::Result<Option<Encoded>> {
        let mut bytes = vec![0; at.length as usize];
        match self.file.read_exact_at(&mut bytes, at.offset) {
            Ok(()) => Ok(at.check(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}
