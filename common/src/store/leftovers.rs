//! What a store keeps of writers that were killed, and of objects that were removed.
//!
//! In a folder, an object is written to a file beside it, named like it with `#` and a number behind,
//! and renamed when it is whole. In a bucket, a large object is an upload in pieces, which nobody
//! sees and somebody pays for; so each has a marker beside its object, an object named like it with
//! a checksum of the upload's id and `.uploading` behind, which holds that id. Both stay where a writer
//! did not live to finish. Listings leave both out.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Store, StoreError, pieces};

const MARKER: &str = ".uploading";
/// Digits of the checksum.
const DIGITS: usize = 16;

/// An object of which a writer has sent only a part, so far or for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The path of the object that it was to become.
    pub object: String,
    /// How long ago a file was written to last; nothing is known of an upload.
    pub age: Option<Duration>,
    left: Left,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Left {
    File(PathBuf),
    Marker(String),
}

impl Store {
    /// What is unfinished below the folder `prefix`. Whether its writer still lives is for the caller
    /// to know.
    ///
    /// # Errors
    /// Those of the connection; [`StoreError::Other`] if a folder cannot be read. An absent one is empty.
    pub async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, StoreError> {
        let (Some(root), Some(folder)) = (self.file_of(""), self.file_of(prefix)) else {
            let all = self.list_all(prefix).await?.into_iter();
            let marked = all.filter_map(|it| {
                let object = marked_object(&it.path)?.to_owned();
                Some(Unfinished { object, age: None, left: Left::Marker(it.path) })
            });
            return Ok(marked.collect());
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

    /// Removes what there is of an unfinished object. Gives whether something was there: its writer may
    /// have come to its end by now, or somebody else may have removed it.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn take_back(&self, unfinished: &Unfinished) -> Result<bool, StoreError> {
        let marker = match &unfinished.left {
            Left::File(file) => return Ok(tokio::fs::remove_file(file).await.is_ok()),
            Left::Marker(marker) => marker,
        };
        let Some(bucket) = &self.bucket else { return Ok(false) };
        let id = match self.get_small(marker).await {
            Ok(id) => String::from_utf8_lossy(&id).into_owned(),
            Err(StoreError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let object = self.full(&unfinished.object);
        let Err(error) = pieces::take_back(bucket, &object, &id, &self.full(marker)).await else {
            return Ok(true);
        };
        let explain = |error| self.context("take back", &unfinished.object).explain(error);
        let error = explain(error);
        if !matches!(error, StoreError::Denied { .. } | StoreError::Other { .. }) {
            return Err(error);
        }
        match pieces::offer(bucket, &object, &id).await.map_err(explain) {
            // It is open, and may not be taken back.
            Ok(()) => Err(error),
            Err(offered) if offered.is_away() => Err(offered),
            Err(_) => self.delete(marker).await.map(|()| true),
        }
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

/// Where the marker of the upload with that id lies.
pub(super) fn marker(object: &str, id: &str) -> String {
    let checksum = blake3::hash(id.as_bytes()).to_hex();
    format!("{object}.{}{MARKER}", &checksum[..DIGITS])
}

/// `a/b` of `a/b.0123456789abcdef.uploading`; nothing for a path that is no marker's.
pub(super) fn marked_object(path: &str) -> Option<&str> {
    let (object, checksum) = path.strip_suffix(MARKER)?.rsplit_once('.')?;
    let is_ours = checksum.len() == DIGITS && checksum.bytes().all(|it| it.is_ascii_hexdigit());
    is_ours.then_some(object)
}

/// Goes through a folder and those in it; follows no links.
fn walk(root: &Path, folder: &Path, found: &mut Vec<Unfinished>) -> io::Result<()> {
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
            let written = entry.metadata().and_then(|it| it.modified()).ok();
            let age = written.and_then(|it| it.elapsed().ok());
            found.push(Unfinished { object, age, left: Left::File(path) });
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
        let found = store.unfinished("a").await.unwrap();
        let objects: Vec<&str> = found.iter().map(|it| &*it.object).collect();
        assert_eq!(objects, ["a/1/part", "a/1/part"]);
        for it in &found {
            assert!(store.take_back(it).await.unwrap());
            assert!(!store.take_back(it).await.unwrap(), "it is gone");
        }
        assert!(store.unfinished("a").await.unwrap().is_empty());
        assert!(folder.path().join("a/1/part").exists() && folder.path().join("b#1").exists());
    }

    #[test]
    fn a_marker_is_told_from_objects() {
        let marker = marker("a/part-1.safetensors", "2~an id/of any+kind=");
        assert_eq!(marked_object(&marker), Some("a/part-1.safetensors"));
        for other in ["a/x.uploading", "a/x.12.uploading", "a/x", "x.0123456789abcdeg.uploading"] {
            assert_eq!(marked_object(other), None, "{other}");
        }
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
