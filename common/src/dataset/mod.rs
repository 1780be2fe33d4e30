//! The packed data set: many small pictures in few large objects, readable by range from any store.
//!
//! ```text
//! DEST/
//!   index.bin            written last, create-only: a data set exists when its index does
//!   names.bin            the pictures' file names, read only to name one in a message
//!   shards/00000.convoy  about 64 MiB of pictures, one behind the other
//!   shards/00001.convoy
//!   unfinished/          while it is being packed: what the next attempt needs to go on
//! ```
//!
//! The index holds what training needs at once (place, label and checksum of every picture, the
//! classes, the mean image) in 18 bytes a picture, so that 1.3 million of them are 24 MB. Every
//! byte is covered: each picture by a CRC-32C, each shard and the names by a BLAKE3 hash that the
//! index holds, and the index by a BLAKE3 hash at its end, which is the data set's digest.
//!
//! This module knows no decoder, no sampler and no tensor.

mod encoding;
mod error;
mod fetch;
mod index;
mod inspect;
mod journal;
mod names;
mod owner;
mod reader;
mod resume;
mod shard_file;
mod statistics;
mod tidy;
mod writer;

use serde::{Deserialize, Serialize};

pub use encoding::{Encoding, RAW_BYTES};
pub use error::DatasetError;
pub use reader::{Dataset, Encoded, Location, ShardEntry};
pub(crate) use shard_file::ShardFile;
pub use statistics::{PixelStatistics, PixelSums, Summary as PixelSummary};
pub use tidy::tidy;
pub use writer::{PackWriter, Packed, Sizes};

/// Width and height of what is seen of every picture, in pixels.
pub const SIDE: u32 = 256;

/// Where the index lies under the data set's URL.
pub const INDEX: &str = "index.bin";

/// Where the names lie under the data set's URL.
pub const NAMES: &str = "names.bin";

/// Where the list of left-out pictures lies under the data set's URL; absent if there are none.
pub const SKIPPED: &str = "skipped.txt";

/// Folder of the shards under the data set's URL.
pub const SHARDS: &str = "shards";

/// Path of a shard under the data set's URL.
pub fn shard_path(shard: usize) -> String {
    format!("{SHARDS}/{shard:05}.convoy")
}

/// The shard that lies there.
fn shard_number(path: &str) -> Option<usize> {
    numbered(path, SHARDS, ".convoy")
}

/// 12 of `FOLDER/00012EXTENSION`; nothing for another path.
fn numbered(path: &str, folder: &str, extension: &str) -> Option<usize> {
    let number = path.strip_prefix(folder)?.strip_prefix('/')?.strip_suffix(extension)?;
    let is_number = number.len() >= 5 && number.bytes().all(|it| it.is_ascii_digit());
    is_number.then(|| number.parse().ok())?
}

/// What a label stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// What classes are told apart by and ordered by: a WordNet id, or a folder's name.
    pub key: String,
    /// What people call it; empty if nothing said so.
    pub title: String,
}

impl Class {
    /// The key, and the title behind it if there is one.
    pub fn shown(&self) -> String {
        if self.title.is_empty() {
            self.key.clone()
        } else {
            format!("{} {}", self.key, self.title)
        }
    }
}

/// The two parts of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What is learnt from.
    Train,
    /// What is held out.
    Validation,
}

impl Split {
    /// Both, in the order in which they are packed.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];

    /// Its folder in ImageNet's layout.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "val",
        }
    }
}

/// What tells one data set from another; part of the run record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetIdentity {
    /// BLAKE3 over the index, and through it over every byte of the data set; hexadecimal.
    pub digest: String,
    /// Pictures to train on.
    pub train: u64,
    /// Pictures held out.
    pub validation: u64,
    /// Number of classes.
    pub classes: u32,
}

#[cfg(test)]
mod tests;
