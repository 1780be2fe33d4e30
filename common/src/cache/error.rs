//! What can go wrong with a cache folder; none of it stops training.

use std::io;
use std::path::{Path, PathBuf};

use crate::failure::Explain;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder or a file in it.
    #[error("cannot {action} {}", path.display())]
    Folder {
        /// `read`, `write`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Bytes that are free on its disk, where the disk is full.
        free: Option<u64>,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What came from the store is not the shard.
    #[error("shard {shard} came from the store with other bytes than were packed")]
    Altered {
        /// Its number.
        shard: usize,
    },
}

impl CacheError {
    /// An error of the system about that path.
    pub(super) fn folder(action: &'static str, path: &Path, source: io::Error) -> Self {
        let full =
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let space = || {
            let folder = path.ancestors().skip(1).find(|it| it.exists())?;
            let disk = rustix::fs::statvfs(folder).ok()?;
            Some(disk.f_bavail.saturating_mul(disk.f_frsize))
        };
        let free = if full { space() } else { None };
        Self::Folder { action, path: path.to_owned(), free, source }
    }

    /// Whether the folder, or what was in it, is not there any more: to remove it is anybody's right.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Folder { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Explain for CacheError {
    fn hint(&self) -> Option<String> {
        let Self::Folder { path, free, source, .. } = self else {
            return Some("compare the data set with its source, or copy it again".to_owned());
        };
        let folder = path.parent().unwrap_or(path).display();
        Some(match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let free =
                    free.map_or_else(String::new, |it| format!(" ({} MiB are left)", it >> 20));
                format!(
                    "free some space on the disk of {folder}{free}, lower data.cache_size, or name \
                     another folder as data.cache"
                )
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                format!("make {folder} writable, or name another folder as data.cache")
            }
            _ => "name another folder as data.cache, or write data.cache = \"none\"".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_what_is_left_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set").join("00001.part");
        let hint = |number| {
            let error = io::Error::from_raw_os_error(number);
            CacheError::folder("write", &path, error).hint().unwrap()
        };
        let [full, quota] = [28, 122].map(hint);
        assert!(full.contains("MiB are left") && full.contains("data.cache_size"), "{full}");
        assert_eq!(full, quota);
        assert!(full.contains(folder.path().to_str().unwrap()), "{full}");
        assert!(hint(30).contains("writable"));
        assert!(hint(5).contains("data.cache = \"none\""));
    }
}
