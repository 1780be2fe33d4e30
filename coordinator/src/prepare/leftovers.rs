//! What a killed packing leaves beside its objects: half-written files, or uploads in pieces. No
//! listing shows them and nobody takes them for objects; once the data set is there, they are garbage.

use convoy_common::dataset::SHARDS;
use convoy_common::store::{Store, StoreError};

const JOURNAL: &str = "unfinished";

/// Removes them.
///
/// # Errors
/// Those of the store.
pub(super) async fn remove(store: &Store) -> Result<(), StoreError> {
    for folder in [SHARDS, JOURNAL] {
        for unfinished in store.unfinished(folder).await? {
            if is_ours(&unfinished.object) {
                store.take_back(&unfinished).await?;
            }
        }
    }
    // If it is empty: somebody may keep something of his own there.
    store.remove_empty_folder(JOURNAL).await;
    Ok(())
}

/// `shards/00012.convoy`, `unfinished/00012.bin`, `unfinished/plan` or `unfinished/owner`.
fn is_ours(object: &str) -> bool {
    let Some((SHARDS | JOURNAL, name)) = object.split_once('/') else { return false };
    match name.rsplit_once('.') {
        Some((stem, "convoy" | "bin")) => {
            stem.len() >= 5 && stem.bytes().all(|it| it.is_ascii_digit())
        }
        _ => name == "plan" || name == "owner",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn half_written_objects_are_removed_and_nothing_else() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let shards = folder.path().join(SHARDS);
        fs::create_dir(&shards).unwrap();
        let kept = ["00001.convoy", "notes.txt#1", "1.convoy#1", "00001.convoy#x", "a.bin#1"];
        for name in kept.iter().chain(&["00001.convoy#1", "00002.bin#12", "plan#1", "owner#2"]) {
            fs::write(shards.join(name), "x").unwrap();
        }
        remove(&store).await.unwrap();
        assert_eq!(fs::read_dir(&shards).unwrap().count(), kept.len());
        assert!(kept.iter().all(|name| shards.join(name).exists()));
    }
}
