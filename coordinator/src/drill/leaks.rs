//! What a drilled job must not leave behind: processes, temporary files, and objects in its store that
//! belong to no checkpoint.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use convoy_common::checkpoint::{CheckpointError, Checkpoints, Claim, Keep, is_record};

/// Takes the run over as the next coordinator would, and sweeps what it would: parts of checkpoints
/// that a worker's loss or the store's kept from being finished. Gives their number.
pub(super) async fn sweep(checkpoints: &Checkpoints, keep: Keep) -> Result<usize, CheckpointError> {
    let (Claim::Won(record) | Claim::Lost(record)) = checkpoints.claim_next("a drill").await?;
    // Of coordinators that were killed during theirs.
    let mut swept =
        checkpoints.store().sweep_probes(Duration::ZERO).await.map_err(CheckpointError::from)?;
    for lineage in checkpoints.lineages().await? {
        swept += checkpoints.prune(lineage.lineage, keep, record.term).await?.swept;
    }
    Ok(swept)
}

/// Objects below the run's URL that belong neither to a checkpoint nor to the run's own records, and
/// files of a store on disk that are no objects.
pub(super) async fn in_store(checkpoints: &Checkpoints) -> Result<Vec<String>, CheckpointError> {
    let listing = checkpoints.list().await?;
    let mut belongs: BTreeSet<String> = BTreeSet::new();
    for summary in &listing.checkpoints {
        let manifest = checkpoints.read(&summary.path).await?;
        let folder = summary.path.trim_end_matches("manifest.json").to_owned();
        belongs.extend(manifest.parts.iter().map(|part| format!("{folder}{}", part.name)));
        belongs.insert(summary.path.clone());
    }
    let objects = checkpoints.store().list("").await?;
    let objects: BTreeSet<String> = objects.into_iter().map(|it| it.path).collect();
    let mut leaks: Vec<String> = objects
        .iter()
        .filter(|path| !belongs.contains(*path) && !is_record(path))
        .map(|path| format!("object {path}"))
        .collect();
    match checkpoints.store().file_of("") {
        // On disk there may be more than a store would list.
        Some(folder) => {
            let files = files_below(&folder).into_iter().filter(|path| !objects.contains(path));
            leaks.extend(files.map(|path| format!("file {path}")));
        }
        None => {
            let unfinished = checkpoints.store().unfinished("").await?.into_iter();
            leaks.extend(unfinished.map(|it| format!("unfinished object {}", it.object)));
        }
    }
    Ok(leaks)
}

/// Files below the folder, relative to it.
pub(super) fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|it| it.is_dir()) {
                folders.push(path);
            } else if let Ok(relative) = path.strip_prefix(folder) {
                found.push(relative.display().to_string());
            }
        }
    }
    found.sort();
    found
}
