//! What a killed packing leaves in a folder beside its objects.
//!
//! The folder's store writes an object under its name with `#` and a number behind it, and renames it
//! when it is whole. A kill leaves such a file, which no listing shows and nobody takes for an object;
//! once the data set is there, these are garbage.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use convoy_common::dataset::SHARDS;
use convoy_common::store::Store;

/// Removes them; one that cannot be removed does no harm.
pub(super) fn remove(store: &Store) {
    let folder = url::Url::parse(store.url()).ok().and_then(|url| url.to_file_path().ok());
    let Some(folder) = folder else { return };
    for below in [folder.join(SHARDS), folder.join("unfinished")] {
        for entry in fs::read_dir(&below).into_iter().flatten().flatten() {
            let path = entry.path();
            if is_leftover(&path) {
                let _ = fs::remove_file(path);
            }
        }
    }
    // Empty, unless somebody keeps something of his own there.
    let _ = fs::remove_dir(folder.join("unfinished"));
}

/// `00012.convoy#1`, `00012.bin#3`, `plan#1` or `owner#1`.
fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let Some((object, number)) = name.rsplit_once('#') else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let is_ours = match object.rsplit_once('.') {
        Some((stem, "convoy" | "bin")) => stem.len() >= 5 && digits(stem),
        _ => object == "plan" || object == "owner",
    };
    is_ours && digits(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_written_objects_are_removed_and_nothing_else() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let shards = folder.path().join(SHARDS);
        fs::create_dir(&shards).unwrap();
        let kept = ["00001.convoy", "notes.txt#1", "1.convoy#1", "00001.convoy#x", "a.bin#1"];
        for name in kept.iter().chain(&["00001.convoy#1", "00002.bin#12", "plan#1", "owner#2"]) {
            fs::write(shards.join(name), "x").unwrap();
        }
        remove(&store);
        assert_eq!(fs::read_dir(&shards).unwrap().count(), kept.len());
        assert!(kept.iter().all(|name| shards.join(name).exists()));
    }
}
