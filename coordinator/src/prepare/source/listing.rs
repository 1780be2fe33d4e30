//! Files that are known by name before any is read, in a fixed random order.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use convoy_common::sampling::Permutation;

use super::super::PrepareError;
use super::place::{Place, one_line};
use super::{Content, Entries, Entry, Pictures, digest_of};

/// Key of the order; another one would give other bytes for the same source.
const ORDER: u64 = 0x0063_6f6e_766f_7921;

/// The files of one split.
pub(super) struct Listing {
    root: Place,
    classes: Vec<Arc<str>>,
    keys: Vec<String>,
    /// Paths below the root; empty for the root itself.
    folders: Vec<String>,
    files: Vec<File>,
    /// All file names, one behind the other.
    names: Vec<u8>,
    ignored: u64,
}

/// 24 bytes and its name, which 1.3 million files can afford.
#[derive(Clone, Copy)]
struct File {
    name: u32,
    name_length: u16,
    class: u16,
    folder: u32,
    size: u64,
}

impl Listing {
    /// An empty one; `classes` are all that a file may have, in order.
    pub(super) fn new(root: Place, classes: Vec<String>, ignored: u64) -> Self {
        Self {
            root,
            classes: classes.iter().map(|key| key.as_str().into()).collect(),
            keys: classes,
            folders: Vec::new(),
            files: Vec::new(),
            names: Vec::new(),
            ignored,
        }
    }

    /// The next [`Self::add`]s are of this folder below the root.
    pub(super) fn enter(&mut self, folder: &str) {
        self.folders.push(folder.to_owned());
    }

    /// Adds a file of the folder that was entered last.
    ///
    /// # Errors
    /// [`PrepareError::TooMany`] beyond 4 GiB of names or 65,535 bytes of one.
    pub(super) fn add(&mut self, class: u16, name: &[u8], size: u64) -> Result<(), PrepareError> {
        let too_many = |_| PrepareError::TooMany { place: self.root.shown() };
        let file = File {
            name: u32::try_from(self.names.len()).map_err(too_many)?,
            name_length: u16::try_from(name.len()).map_err(too_many)?,
            class,
            folder: self.folders.len().saturating_sub(1) as u32,
            size,
        };
        self.files.push(file);
        self.names.extend_from_slice(name);
        Ok(())
    }

    /// Files that are no pictures by their names, which are counted and left.
    pub(super) fn ignore(&mut self, files: u64) {
        self.ignored += files;
    }

    /// Takes a share of each class's files out, for the other split: those whose names hash lowest,
    /// at least one and not all. A class with a single picture keeps it.
    pub(super) fn hold_out(&mut self, fraction: f64) -> Self {
        let mut held_out = vec![false; self.files.len()];
        for class in 0..self.classes.len() as u16 {
            let mut hashed: Vec<([u8; 32], usize)> = self
                .files
                .iter()
                .enumerate()
                .filter(|(_, file)| file.class == class)
                .map(|(at, file)| (*blake3::hash(self.name(file)).as_bytes(), at))
                .collect();
            if hashed.len() >= 2 {
                let wanted = (hashed.len() as f64 * fraction).round() as usize;
                hashed.sort_unstable();
                let wanted = wanted.clamp(1, hashed.len() - 1);
                hashed.iter().take(wanted).for_each(|&(_, at)| held_out[at] = true);
            }
        }
        let files = |kept: bool| {
            let mut chosen = held_out.iter();
            self.files.iter().copied().filter(|_| chosen.next() == Some(&kept)).collect::<Vec<_>>()
        };
        let (kept, held_out) = (files(false), files(true));
        let other = Self {
            root: self.root.clone(),
            classes: self.classes.clone(),
            keys: self.keys.clone(),
            folders: self.folders.clone(),
            files: held_out,
            names: self.names.clone(),
            ignored: 0,
        };
        self.files = kept;
        other
    }

    fn name(&self, file: &File) -> &[u8] {
        &self.names[file.name as usize..][..usize::from(file.name_length)]
    }

    fn entry(&self, file: &File, wanted: &dyn Fn(&str) -> bool) -> Entry {
        let bytes = self.name(file);
        let name = String::from_utf8_lossy(bytes).into_owned();
        let folder = &self.folders[file.folder as usize];
        let content = match (&self.root, wanted(&name)) {
            (_, false) => Content::Passed,
            (Place::Local(root), true) => {
                Content::Local(root.join(folder).join(Path::new(OsStr::from_bytes(bytes))))
            }
            (Place::Remote(_), true) => match self.root.join(&format!("{folder}/{name}")) {
                Place::Remote(object) => Content::Remote(object),
                Place::Local(path) => Content::Local(path),
            },
        };
        let root = self.root.name();
        let shown = if folder.is_empty() {
            format!("{root}/{name}")
        } else {
            format!("{root}/{folder}/{name}")
        };
        Entry {
            class: Arc::clone(&self.classes[usize::from(file.class)]),
            shown: one_line(&shown),
            name,
            size: file.size,
            weight: file.size,
            content,
        }
    }
}

impl Pictures for Listing {
    fn classes(&self) -> Option<&[String]> {
        Some(&self.keys)
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    fn fingerprint(&self, hasher: &mut blake3::Hasher) {
        for file in &self.files {
            let class = &self.keys[usize::from(file.class)];
            let folder = &self.folders[file.folder as usize];
            let size = file.size.to_le_bytes();
            digest_of(hasher, &[class.as_bytes(), folder.as_bytes(), self.name(file), &size]);
        }
    }

    fn entries(&self) -> Result<Box<dyn Entries + '_>, PrepareError> {
        let order = Permutation::new(ORDER, 0, self.files.len() as u64);
        Ok(Box::new(InOrder { listing: self, order, next: 0 }))
    }
}

struct InOrder<'a> {
    listing: &'a Listing,
    order: Permutation,
    next: u64,
}

impl Entries for InOrder<'_> {
    fn next(&mut self, wanted: &dyn Fn(&str) -> bool) -> Result<Option<Entry>, PrepareError> {
        if self.next >= self.listing.files.len() as u64 {
            return Ok(None);
        }
        let file = &self.listing.files[self.order.at(self.next) as usize];
        self.next += 1;
        Ok(Some(self.listing.entry(file, wanted)))
    }

    fn ignored(&self) -> u64 {
        self.listing.ignored
    }
}
