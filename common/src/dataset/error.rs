//! What can be wrong with a packed data set.

use super::{INDEX, SHARDS};
use crate::exit;
use crate::failure::Explain;
use crate::store::StoreError;

/// Why a packed data set cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// No index where one should be.
    #[error("no data set at {url}: {INDEX} is not there")]
    Missing {
        /// Where it was looked for.
        url: String,
        /// Whether shards, or the plan of a packing, lie there without an index.
        unfinished: bool,
    },
    /// An index where a new data set should go.
    #[error("{url} holds a data set already")]
    Occupied {
        /// Where.
        url: String,
    },
    /// Another packing was begun there and not finished.
    #[error("{url} holds the beginning of another packing")]
    OtherPacking {
        /// Where.
        url: String,
        /// Its plan, as its packer wrote it.
        held: String,
    },
    /// Another packing was begun there while this one was at it.
    #[error("another packing has taken {url} over")]
    TakenOver {
        /// Where.
        url: String,
    },
    /// A shard is not what this packing wrote, so that no index was written.
    #[error("{shard} of {url} was changed while the data set was packed: {detail}")]
    Disturbed {
        /// Where.
        url: String,
        /// Path of the shard.
        shard: String,
        /// What differs.
        detail: String,
    },
    /// The index is not one, or was cut or altered.
    #[error("the index of {url} is unusable: {detail}")]
    BadIndex {
        /// The data set.
        url: String,
        /// What does not hold.
        detail: String,
    },
    /// An index of another format version.
    #[error("{url} is a data set of format version {found}; this program reads version {expected}")]
    Version {
        /// The data set.
        url: String,
        /// Its version.
        found: u32,
        /// The version read here.
        expected: u32,
    },
    /// A shard that the index lists is not what is there.
    #[error("{shard} of {url} does not belong to its index: {detail}")]
    ShardMismatch {
        /// The data set.
        url: String,
        /// Path of the shard.
        shard: String,
        /// What differs.
        detail: String,
    },
    /// A picture's bytes are not those that were packed.
    #[error("image {image} in {shard} of {url} was altered: its checksum does not match")]
    AlteredImage {
        /// The data set.
        url: String,
        /// Path of the shard.
        shard: String,
        /// Split, number and, where it can be had, the file's name.
        image: String,
    },
    /// A number beyond the end of the split.
    #[error("image {index} asked of {url}, whose {split} split holds {len}")]
    NoSuchImage {
        /// The data set.
        url: String,
        /// `train` or `val`.
        split: &'static str,
        /// What was asked for.
        index: u64,
        /// How many there are.
        len: u64,
    },
    /// More than the format can hold.
    #[error("cannot pack this: {detail}")]
    Unpackable {
        /// The limit that was met.
        detail: String,
    },
    /// The object store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Explain for DatasetError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Missing { unfinished: true, .. } => {
                "a packing was broken off there; run the same `convoy prepare` again to go on"
            }
            Self::Missing { .. } => "make one with `convoy prepare SRC DEST`",
            Self::Occupied { .. } => {
                "pass --reuse to use it as it is, or name another place (or remove it first)"
            }
            Self::OtherPacking { .. } => {
                "name another place, or pass --restart to remove what is there and begin anew"
            }
            Self::TakenOver { .. } => {
                "that one goes on; two at a time need two destinations. Once no packing is at it, \
                 the same `convoy prepare` goes on with what is there"
            }
            Self::Disturbed { .. } => {
                "see to it that nothing else writes there, then run the same `convoy prepare` \
                 again: it goes on behind the shards that are whole"
            }
            Self::BadIndex { .. } | Self::Version { .. } => {
                "pack the data set again with `convoy prepare`"
            }
            Self::ShardMismatch { .. } | Self::AlteredImage { .. } => {
                return Some(format!(
                    "copy the data set again from its source, {SHARDS}/ and {INDEX} together, or \
                     pack it again"
                ));
            }
            Self::NoSuchImage { .. } | Self::Unpackable { .. } => return None,
            Self::Store(error) => return error.hint(),
        };
        Some(text.to_owned())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            _ => exit::BAD_INPUT,
        }
    }
}
