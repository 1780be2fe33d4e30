//! Where pictures come from: the seam between the packing and the forms in which people have data.
//!
//! ```text
//!                       recognise ──> Source { training Pictures, validation Pictures, titles }
//! folders   one folder per class                   ─┐
//! kaggle    ILSVRC/Data/CLS-LOC, labels in a table  ├─> Listing: files in a fixed random order
//! labelled  a flat folder and a label file         ─┘
//! tars      class tars within a tar, or pictures  ───> Tars: many streams at once, taking turns
//! ```
//!
//! Whatever the form, a split is a sequence of entries in an order that depends on nothing but its
//! names, and a shard of it is a fair sample of the classes. Nothing is ever unpacked to disk, and
//! no name of a source is ever written to.

mod folders;
mod held_out;
mod kaggle;
mod labels;
mod listing;
mod place;
mod recognise;
mod stream;
mod synsets;
mod tar_walk;
mod tars;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use convoy_common::dataset::Split;

use super::PrepareError;
pub(crate) use labels::Problems;
pub(crate) use place::{Place, Remote, one_line};
pub(crate) use recognise::{Format, Wanted};

/// What is to be packed.
pub(crate) struct Source {
    /// What it was taken for.
    pub(crate) format: Format,
    train: Arc<dyn Pictures>,
    validation: Arc<dyn Pictures>,
    /// What classes are called, by their keys.
    pub(crate) titles: BTreeMap<String, String>,
}

impl Source {
    /// Looks at what is there, and prepares to read it.
    pub(crate) fn open(wanted: &Wanted) -> Result<Self, PrepareError> {
        recognise::open(wanted)
    }

    /// The pictures of a split.
    pub(crate) fn pictures(&self, split: Split) -> &dyn Pictures {
        match split {
            Split::Train => self.train.as_ref(),
            Split::Validation => self.validation.as_ref(),
        }
    }

    /// Hash over all that is known before the pictures are read: names and sizes.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for split in Split::ALL {
            hasher.update(split.folder().as_bytes());
            self.pictures(split).fingerprint(&mut hasher);
        }
        for (key, title) in &self.titles {
            digest_of(&mut hasher, &[key.as_bytes(), title.as_bytes()]);
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// The pictures of one split.
pub(crate) trait Pictures: Send + Sync {
    /// The keys of all classes, in order, where they are known before the pictures are read.
    fn classes(&self) -> Option<&[String]>;

    /// Bytes to go through, for the progress.
    fn bytes(&self) -> u64;

    /// Adds what is known of it beforehand.
    fn fingerprint(&self, hasher: &mut blake3::Hasher);

    /// Begins at the first entry.
    fn entries(&self) -> Result<Box<dyn Entries + '_>, PrepareError>;
}

/// Goes over a split's entries in their fixed order.
pub(crate) trait Entries: Send {
    /// The next entry. Its content is there only if `wanted` says so of its name: passing over an
    /// entry costs little.
    fn next(&mut self, wanted: &dyn Fn(&str) -> bool) -> Result<Option<Entry>, PrepareError>;

    /// Files passed over so far that are not named as pictures.
    fn ignored(&self) -> u64;
}

/// A picture to be, before anybody has looked into it.
pub(crate) struct Entry {
    /// Key of its class.
    pub(crate) class: Arc<str>,
    /// Name of its file.
    pub(crate) name: String,
    /// Path below the source, on one line.
    pub(crate) shown: String,
    /// In bytes, as the source lists it.
    pub(crate) size: u64,
    /// Bytes of the source that were gone through for it, for the progress.
    pub(crate) weight: u64,
    pub(crate) content: Content,
}

/// Where an entry's bytes are.
pub(crate) enum Content {
    /// Not wanted.
    Passed,
    Local(PathBuf),
    Remote(Remote),
    Bytes(Vec<u8>),
    /// Nowhere, for this reason.
    Unusable(String),
}

/// Adds parts to a hash so that no two lists of parts give the same bytes.
pub(crate) fn digest_of(hasher: &mut blake3::Hasher, parts: &[&[u8]]) {
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
}

/// Whether a name is a picture's; its content has the last word.
fn is_picture(name: &[u8]) -> bool {
    let extension = name.iter().rposition(|&byte| byte == b'.').map(|dot| &name[dot + 1..]);
    extension.is_some_and(|extension| {
        ["jpeg", "jpg", "png"].iter().any(|known| extension.eq_ignore_ascii_case(known.as_bytes()))
    })
}

/// A file's name without the extension of a picture.
fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, _)) if is_picture(name.as_bytes()) => stem,
        _ => name,
    }
}

/// Whether a word is a WordNet id as ImageNet uses them: `n` and eight digits.
fn is_wnid(word: &str) -> bool {
    word.len() == 9
        && word.starts_with('n')
        && word.bytes().skip(1).all(|byte| byte.is_ascii_digit())
}
