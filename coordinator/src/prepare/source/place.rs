//! Where a source lies: a path on this machine or an object store, read alike.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use convoy_common::store::{Store, StoreError, while_away};
use tokio::runtime::Handle;

use super::super::PrepareError;

/// How long a source's store may be out of reach.
const PATIENCE: Duration = Duration::from_secs(60);

/// Text files beyond this size are no label files.
const MOST_TEXT_BYTES: u64 = 64 << 20;

/// A file or folder on this machine, or an object or prefix of a store.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Local(PathBuf),
    /// The store's root is the place itself.
    Remote(Remote),
}

/// A place in an object store, with the runtime that carries its requests.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(super) store: Store,
    pub(super) runtime: Handle,
}

impl Remote {
    /// The whole object. A store that is out of reach for a while is tried again.
    pub(crate) fn get(&self) -> Result<Bytes, StoreError> {
        let get = while_away(PATIENCE, StoreError::is_away, || self.store.get(""));
        self.runtime.block_on(get)
    }

    /// A part of it, in the same way.
    pub(super) async fn fetch(self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let fetch = || self.store.get_range("", range.clone());
        while_away(PATIENCE, StoreError::is_away, fetch).await
    }
}

/// What is found at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// With its size in bytes.
    File(u64),
    Folder,
}

impl Place {
    /// From a path, a `file://` URL, or the URL of an object store.
    pub(crate) fn parse(text: &str, runtime: &Handle) -> Result<Self, PrepareError> {
        let bad = |reason: String| PrepareError::BadPlace { place: text.to_owned(), reason };
        if text.starts_with("file:") {
            let url = url::Url::parse(text).map_err(|error| bad(error.to_string()))?;
            let path = url.to_file_path().map_err(|()| bad("it holds no absolute path".into()))?;
            return Ok(Self::Local(path));
        }
        if text.contains("://") {
            let store = Store::open(text)?;
            return Ok(Self::Remote(Remote { store, runtime: runtime.clone() }));
        }
        let path = std::path::absolute(text).map_err(|error| bad(error.to_string()))?;
        Ok(Self::Local(path))
    }

    /// What lies below.
    pub(super) fn join(&self, below: &str) -> Self {
        match self {
            Self::Local(path) => Self::Local(path.join(below)),
            Self::Remote(remote) => Self::Remote(Remote {
                store: remote.store.within(below),
                runtime: remote.runtime.clone(),
            }),
        }
    }

    /// Whether a store's root is this very place or lies within it, by whatever path.
    pub(crate) fn holds(&self, store: &Store) -> bool {
        match self {
            Self::Local(path) => {
                let root = store.file_of("").map(|root| real(&root));
                root.is_some_and(|root| root.starts_with(real(path)))
            }
            Self::Remote(remote) => {
                let (outer, inner) = (remote.store.url(), store.url());
                inner.strip_prefix(outer).is_some_and(|it| it.is_empty() || it.starts_with('/'))
            }
        }
    }

    /// Path or URL, for messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Local(path) => shown_path(path),
            Self::Remote(remote) => remote.store.url().to_owned(),
        }
    }

    /// The last part of the path.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Local(path) => {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
            Self::Remote(remote) => {
                remote.store.url().rsplit('/').next().unwrap_or_default().to_owned()
            }
        }
    }

    /// What is there. Pipes and devices are refused, since reading one may never end.
    ///
    /// In a store, what has the name of a file is one: a prefix cannot be told from nothing.
    pub(super) fn kind(&self) -> Result<Kind, PrepareError> {
        match self {
            Self::Local(path) => {
                let about = fs::metadata(path).map_err(|source| self.unreadable(source))?;
                if about.is_dir() {
                    Ok(Kind::Folder)
                } else if about.is_file() {
                    Ok(Kind::File(about.len()))
                } else {
                    Err(PrepareError::Special { place: self.shown() })
                }
            }
            Self::Remote(remote) => {
                let name = self.name().to_ascii_lowercase();
                let file = [".tar", ".tar.gz", ".tgz", ".txt", ".csv", ".mat"];
                if file.iter().any(|extension| name.ends_with(extension)) {
                    let size = remote.runtime.block_on(remote.store.size(""))?;
                    Ok(Kind::File(size))
                } else {
                    Ok(Kind::Folder)
                }
            }
        }
    }

    /// The whole of a small file as text; bytes that are no UTF-8 are replaced.
    pub(super) fn text(&self) -> Result<String, PrepareError> {
        match self.kind()? {
            Kind::File(size) if size <= MOST_TEXT_BYTES => {}
            Kind::File(_) => {
                let reason = format!("more than {MOST_TEXT_BYTES} bytes are no text file");
                return Err(PrepareError::BadPlace { place: self.shown(), reason });
            }
            Kind::Folder => {
                let reason = "it is a folder".to_owned();
                return Err(PrepareError::BadPlace { place: self.shown(), reason });
            }
        }
        let bytes = match self {
            Self::Local(path) => fs::read(path).map_err(|source| self.unreadable(source))?,
            Self::Remote(remote) => remote.runtime.block_on(remote.store.get(""))?.to_vec(),
        };
        if bytes.starts_with(b"MATLAB ") {
            return Err(PrepareError::Matlab { place: self.shown() });
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned))
    }

    /// Opens a local file that is one; nothing else is ever opened.
    pub(crate) fn open_local(path: &Path) -> io::Result<File> {
        let file = File::open(path)?;
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"))
        }
    }

    pub(super) fn unreadable(&self, source: io::Error) -> PrepareError {
        // What a store said stays what it is on its way through a reader.
        match source.downcast::<StoreError>() {
            Ok(error) => error.into(),
            Err(source) => PrepareError::Unreadable { place: self.shown(), source },
        }
    }
}

/// A path for messages: one line, whatever the path holds.
pub(super) fn shown_path(path: &Path) -> String {
    one_line(&path.to_string_lossy())
}

/// Text with its control characters escaped and no more than 300 characters.
pub(crate) fn one_line(text: &str) -> String {
    const MOST: usize = 300;
    let mut line = String::with_capacity(text.len().min(MOST));
    for (count, character) in text.chars().enumerate() {
        if count == MOST {
            line.push_str("...");
            break;
        }
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Where a path leads, links followed as far as it exists.
fn real(path: &Path) -> PathBuf {
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Ok(real), ..) => real,
        (Err(_), Some(parent), Some(name)) => real(parent).join(name),
        (Err(_), ..) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_characters_is_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m\u{fffd} c"), "a\\nb\\u{1b}[31m\u{fffd} c");
        assert_eq!(one_line(&"x".repeat(5000)).len(), 303);
    }
}
