//! One folder per class: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`, or bare `CLASS/*.jpg`.
//!
//! Classes are the folders of the training split, sorted by name, as torchvision counts them.
//! Hidden entries are passed over. Folders below class folders are not entered, so a symbolic link
//! that leads back up does no harm; links to files are followed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::super::PrepareError;
use super::is_picture;
use super::labels::Labels;
use super::listing::Listing;
use super::place::{Place, Remote};

/// A folder's entries, whether it lies on this machine or in a store.
pub(super) struct Folder {
    pub(super) place: Place,
    /// Folders below, sorted, with the files of each.
    pub(super) folders: BTreeMap<String, Files>,
    /// Files that lie in it.
    pub(super) files: Files,
}

/// Names and sizes of files, sorted by name.
#[derive(Default)]
pub(super) struct Files {
    pub(super) pictures: Vec<(Vec<u8>, u64)>,
    pub(super) others: u64,
}

impl Folder {
    /// Lists two levels.
    pub(super) fn list(place: &Place) -> Result<Self, PrepareError> {
        match place {
            Place::Local(path) => Self::list_local(place, path),
            Place::Remote(remote) => Self::list_remote(place, remote),
        }
    }

    fn list_local(place: &Place, path: &Path) -> Result<Self, PrepareError> {
        let mut found =
            Self { place: place.clone(), folders: BTreeMap::new(), files: Files::default() };
        for name in entries(place, path)? {
            let below = path.join(&name);
            if below.is_dir() {
                let bad_name =
                    |_| PrepareError::BadName { place: Place::Local(below.clone()).shown() };
                let name = name.into_string().map_err(bad_name)?;
                let mut files = Files::default();
                for name in entries(&Place::Local(below.clone()), &below)? {
                    files.add(name.as_bytes(), || size_of(&below.join(&name)));
                }
                found.folders.insert(name, files);
            } else {
                found.files.add(name.as_bytes(), || size_of(&below));
            }
        }
        Ok(found)
    }

    fn list_remote(place: &Place, remote: &Remote) -> Result<Self, PrepareError> {
        let mut found =
            Self { place: place.clone(), folders: BTreeMap::new(), files: Files::default() };
        for stored in remote.runtime.block_on(remote.store.list(""))? {
            if stored.path.split('/').any(|part| part.starts_with('.')) {
                continue;
            }
            match stored.path.split_once('/') {
                None => found.files.add(stored.path.as_bytes(), || stored.size),
                Some((_, deeper)) if deeper.contains('/') => {}
                Some((folder, name)) => {
                    let files = found.folders.entry(folder.to_owned()).or_default();
                    files.add(name.as_bytes(), || stored.size);
                }
            }
        }
        Ok(found)
    }

    /// The pictures of all class folders; `classes` are those that there may be, or else those that
    /// there are.
    pub(super) fn by_class(&self, classes: Option<&[String]>) -> Result<Listing, PrepareError> {
        if self.folders.is_empty() {
            let loose = self.files.pictures.len() as u64;
            return Err(PrepareError::NoClasses { place: self.place.shown(), loose });
        }
        let keys = match classes {
            Some(classes) => classes.to_vec(),
            None => self.folders.keys().cloned().collect(),
        };
        if keys.len() > usize::from(u16::MAX) {
            return Err(PrepareError::TooMany { place: self.place.shown() });
        }
        let mut listing = Listing::new(self.place.clone(), keys.clone(), self.files.others);
        for (class, files) in &self.folders {
            let Ok(label) = keys.binary_search(class) else {
                let (place, class) = (self.place.shown(), class.clone());
                return Err(PrepareError::UnknownClass { place, class });
            };
            if files.pictures.is_empty() {
                let place = self.place.join(class).shown();
                return Err(PrepareError::EmptyClass { place, example: None });
            }
            listing.enter(class);
            listing.ignore(files.others);
            for (name, size) in &files.pictures {
                listing.add(label as u16, name, *size)?;
            }
        }
        Ok(listing)
    }

    /// The pictures that lie in the folder itself, with the classes that a label file gives.
    pub(super) fn labelled(
        &self,
        labels: Labels,
        classes: &[String],
    ) -> Result<Listing, PrepareError> {
        let mut listing = Listing::new(self.place.clone(), classes.to_vec(), self.files.others);
        let mut matching = labels.matching();
        listing.enter("");
        for (name, size) in &self.files.pictures {
            if let Some(class) = matching.class_of(&String::from_utf8_lossy(name)) {
                let label = classes.binary_search(&class.to_string()).unwrap_or_default();
                listing.add(label as u16, name, *size)?;
            }
        }
        matching.finish()?;
        Ok(listing)
    }
}

impl Files {
    fn add(&mut self, name: &[u8], size: impl FnOnce() -> u64) {
        if is_picture(name) {
            self.pictures.push((name.to_vec(), size()));
        } else {
            self.others += 1;
        }
    }
}

/// 0 if it cannot be had: then reading will say why.
fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |about| about.len())
}

/// Names in a folder, sorted, without hidden ones.
fn entries(place: &Place, folder: &Path) -> Result<Vec<OsString>, PrepareError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| place.unreadable(source))? {
        let name = entry.map_err(|source| place.unreadable(source))?.file_name();
        if !name.as_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
