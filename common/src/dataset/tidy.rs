//! What killed packings have left in a place where there is a data set now.

use super::journal::{self, OWNER, PLAN};
use super::{INDEX, NAMES, SKIPPED, shard_number};
use crate::failure::Explain as _;
use crate::store::{Store, StoreError};

/// Removes what packings that were killed have left in a data set that has its index: objects that are
/// not whole, and pages. What cannot be removed is logged, and does no harm.
///
/// The name of the last packing stays, since its owner may be about to look for it.
///
/// # Errors
/// Those of the store, of a listing.
pub async fn tidy(store: &Store) -> Result<(), StoreError> {
    for unfinished in store.unfinished("").await? {
        if !is_ours(&unfinished.object) {
            continue;
        }
        if let Err(error) = store.take_back(&unfinished).await {
            let object = store.url_of(&unfinished.object);
            tracing::warn!(object, %error, hint = error.hint(), "an unfinished object stays");
        }
    }
    journal::remove_pages(store).await;
    // If it is empty: somebody may keep something of his own there.
    store.remove_empty_folder(journal::FOLDER).await;
    Ok(())
}

/// `index.bin` and its like, `shards/00012.convoy`, `unfinished/00012.bin`, `unfinished/plan` or
/// `unfinished/owner`.
fn is_ours(object: &str) -> bool {
    [INDEX, NAMES, SKIPPED, PLAN, OWNER].contains(&object)
        || shard_number(object).is_some()
        || journal::page_number(object).is_some()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn half_written_objects_and_pages_are_removed_and_nothing_else() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let write = |name: &&str| {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
        };
        let gone = [
            "shards/00001.convoy#1",
            "unfinished/00002.bin#12",
            "unfinished/00002.bin",
            "unfinished/plan#1",
            "unfinished/owner#2",
            "names.bin#3",
            "index.bin#1",
            "skipped.txt#1",
        ];
        let kept = [
            "shards/00001.convoy",
            "shards/notes.txt#1",
            "shards/1.convoy#1",
            "shards/00001.convoy#x",
            "unfinished/owner",
            "unfinished/a.bin",
            "a.bin#1",
            "index.bin",
        ];
        gone.iter().chain(&kept).for_each(write);
        tidy(&store).await.unwrap();
        assert!(kept.iter().all(|name| folder.path().join(name).exists()));
        assert!(!gone.iter().any(|name| folder.path().join(name).exists()));
    }
}
