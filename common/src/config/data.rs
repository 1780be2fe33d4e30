//! How images are shuffled, and where those of a remote data set are kept.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address;
use super::reader::Reader;

/// `data.shuffle`: the order in which an epoch shows the training images.
///
/// A run record never says [`Shuffle::Auto`]: who creates the run decides, once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shuffle {
    /// [`Shuffle::Full`] where any image is near, else [`Shuffle::Window`].
    Auto,
    /// Any image may follow any other; so it is in records of older runs, which have no such field.
    #[default]
    Full,
    /// Shards in random order, a few open at once, and the images of those in random order.
    Window,
}

impl Shuffle {
    /// As it is written in a config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Full => "full",
            Self::Window => "window",
        }
    }
}

/// `data.cache`: where the shards of a remote data set are kept on a worker's machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum CacheFolder {
    /// `$XDG_CACHE_HOME/convoy/data`, or `~/.cache/convoy/data`.
    #[default]
    Auto,
    /// Nowhere: every image is read from the store whenever it is needed.
    Off,
    /// In this folder, an absolute path.
    Folder(String),
}

impl From<String> for CacheFolder {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => Self::Auto,
            "none" => Self::Off,
            _ => Self::Folder(text),
        }
    }
}

impl From<CacheFolder> for String {
    fn from(cache: CacheFolder) -> Self {
        match cache {
            CacheFolder::Auto => "auto".to_owned(),
            CacheFolder::Off => "none".to_owned(),
            CacheFolder::Folder(path) => path,
        }
    }
}

impl CacheFolder {
    /// The folder on a machine with these environment variables; none where the cache is off, or
    /// where [`CacheFolder::Auto`] finds neither variable set to an absolute path (which alone
    /// counts, by the XDG base directory specification).
    pub fn path(&self, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        let absolute = |name: &str| {
            variable(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute())
        };
        match self {
            Self::Off => None,
            Self::Folder(path) => Some(PathBuf::from(path)),
            Self::Auto => absolute("XDG_CACHE_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
                .map(|base| base.join("convoy").join("data")),
        }
    }
}

/// What older run records, which lack the fields, mean.
pub(super) mod unsaid {
    use std::time::Duration;

    pub(in crate::config) const fn shuffle_window() -> u32 {
        16
    }

    pub(in crate::config) const fn cache_size() -> u64 {
        64 << 30
    }

    pub(in crate::config) const fn read_timeout() -> Duration {
        Duration::from_secs(30)
    }
}

pub(super) fn shuffle(reader: &mut Reader<'_>) -> Shuffle {
    reader.word(
        "data.shuffle",
        ("auto", Shuffle::Auto),
        &[("full", Shuffle::Full), ("window", Shuffle::Window)],
    )
}

/// The cache's folder; a relative path counts from `folder`.
pub(super) fn cache(reader: &mut Reader<'_>, folder: Option<&Path>) -> CacheFolder {
    const KEY: &str = "data.cache";
    match CacheFolder::from(reader.text(KEY)) {
        CacheFolder::Folder(text) if reader.good(&[KEY]) => {
            match address::local_folder(&text, folder) {
                Ok(path) => CacheFolder::Folder(path),
                Err(wrong) => {
                    reader.wrong(KEY, wrong.what, wrong.hint);
                    CacheFolder::Auto
                }
            }
        }
        cache => cache,
    }
}

/// From one small shard to more than a machine has.
pub(super) fn cache_size(reader: &mut Reader<'_>) -> u64 {
    reader.size("data.cache_size", 1 << 10..=1 << 50)
}

pub(super) fn read_timeout(reader: &mut Reader<'_>) -> Duration {
    reader.duration("data.read_timeout", Duration::from_millis(1)..=Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_lies_where_the_user_keeps_caches() {
        let path = |cache: &CacheFolder, xdg: Option<&str>, home: Option<&str>| {
            cache
                .path(|name| match name {
                    "XDG_CACHE_HOME" => xdg.map(OsString::from),
                    "HOME" => home.map(OsString::from),
                    _ => None,
                })
                .map(|path| path.display().to_string())
        };
        for (xdg, home, expected) in [
            (Some("/xdg"), Some("/home/me"), Some("/xdg/convoy/data")),
            (Some("relative"), Some("/home/me"), Some("/home/me/.cache/convoy/data")),
            (Some(""), Some("/home/me"), Some("/home/me/.cache/convoy/data")),
            (None, Some("/home/me"), Some("/home/me/.cache/convoy/data")),
            (None, None, None),
        ] {
            assert_eq!(path(&CacheFolder::Auto, xdg, home).as_deref(), expected);
        }
        let folder = CacheFolder::from("/fast/disk".to_owned());
        assert_eq!(path(&folder, Some("/xdg"), None).as_deref(), Some("/fast/disk"));
        assert_eq!(path(&CacheFolder::from("none".to_owned()), Some("/xdg"), None), None);
    }
}
