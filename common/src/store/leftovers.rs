//! What a folder that is a store keeps of writers that were killed, and of objects that were removed.
//!
//! A write to a folder goes to a file beside its object, named like it with `#` and a number behind,
//! and is renamed when it is whole. Listings leave these files out, so those of a writer that did
//! not live to rename its own would stay for ever. Buckets have no folders, and show nothing of an
//! upload in pieces that was cut off: those need a lifecycle rule of the bucket's.

use std::io;
use std::path::{Path, PathBuf};

use super::{Store, StoreError};

impl Store {
    /// The unfinished files below the folder `prefix`: the path of the object that each was to become,
    /// and the file. Whether its writer still lives is for the caller to know.
    ///
    /// # Errors
    /// [`StoreError::Other`] if a folder cannot be read; an absent one is empty.
    pub async fn unfinished(&self, prefix: &str) -> Result<Vec<(String, PathBuf)>, StoreError> {
        let (Some(root), Some(folder)) = (self.file_of(""), self.file_of(prefix)) else {
            return Ok(Vec::new());
        };
        let found = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            walk(&root, &folder, &mut found).map(|()| found)
        });
        let found = found.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        found.map_err(|error| StoreError::Other {
            action: "list",
            url: self.url_of(prefix),
            source: Box::new(error),
        })
    }

    /// Removes the folder of objects that are gone, if it is one on this machine and empty. One that
    /// is not, or that a writer fills at this moment, stays.
    pub async fn remove_empty_folder(&self, path: &str) {
        if let Some(folder) = self.file_of(path) {
            // The operating system decides whether it is empty.
            let _ = tokio::fs::remove_dir(folder).await;
        }
    }
}

/// Goes through a folder and those in it; follows no links.
fn walk(root: &Path, folder: &Path, found: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        // It may have been removed since it was found.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            walk(root, &path, found)?;
        } else if let Some(object) = object_of(root, &path) {
            found.push((object, path));
        }
    }
    Ok(())
}

/// `a/b` of `ROOT/a/b#7`.
fn object_of(root: &Path, file: &Path) -> Option<String> {
    let (object, number) = file.strip_prefix(root).ok()?.to_str()?.rsplit_once('#')?;
    let numbered = !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit());
    numbered.then(|| object.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unfinished_files_are_found_with_the_object_that_they_were_to_become() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        assert!(store.unfinished("checkpoints").await.unwrap().is_empty());
        for path in ["a/1/part#1", "a/1/part#23", "a/1/part", "a/x#y", "b#1", "a/#"] {
            let file = folder.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "half").unwrap();
        }
        let mut found: Vec<String> =
            store.unfinished("a").await.unwrap().into_iter().map(|it| it.0).collect();
        found.sort();
        assert_eq!(found, ["a/1/part", "a/1/part"]);
    }

    #[tokio::test]
    async fn only_empty_folders_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        store.put("a/1/x", "1".into()).await.unwrap();
        store.put("a/2/x", "2".into()).await.unwrap();
        store.delete("a/1/x").await.unwrap();
        for path in ["a/1", "a/2", "a/3"] {
            store.remove_empty_folder(path).await;
        }
        assert!(!folder.path().join("a/1").exists());
        assert_eq!(store.get("a/2/x").await.unwrap(), "2");
    }
}
