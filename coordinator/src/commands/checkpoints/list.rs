//! `convoy checkpoints list`

use std::collections::BTreeSet;

use convoy_common::checkpoint::{CheckpointError, Checkpoints, Listing};
use convoy_common::ids::Lineage;
use serde_json::json;

use super::{Told, age, open, share, size};

pub(super) async fn list(url: &str, as_json: bool) -> Told {
    let (checkpoints, _) = open(url).await?;
    let listing = checkpoints.list().await?;
    let best = best_of_each(&checkpoints, &listing).await?;
    if as_json {
        return Ok((told_as_json(&listing, &best), 0));
    }
    if listing.checkpoints.is_empty() && listing.skipped.is_empty() {
        return Ok(("no checkpoints yet\n".to_owned(), 0));
    }
    let mut text = format!(
        "{:>7} {:>9} {:>6} {:>9} {:>10} {:>8}  {:<12}  {:<12}  {}\n",
        "LINEAGE", "STEP", "EPOCH", "IN EPOCH", "SIZE", "AGE", "STATE", "ERRORS", "PATH"
    );
    for it in listing.checkpoints {
        let errors = it.evaluation.map_or_else(|| "-".to_owned(), |tally| share(&tally));
        let mark = if best.contains(&it.path) { " best" } else { "" };
        text += &format!(
            "{:>7} {:>9} {:>6} {:>9} {:>10} {:>8}  {:<12}  {:<12}  {}\n",
            it.lineage.0,
            it.global_step,
            it.position.epoch,
            it.position.step,
            size(it.bytes),
            age(&it.created),
            &it.state_digest[..12.min(it.state_digest.len())],
            errors + mark,
            it.path
        );
    }
    for it in listing.skipped {
        text += &format!("unusable: {}: {}\n", it.path, it.reason);
    }
    Ok((text, 0))
}

/// The best checkpoint of every lineage that has one.
async fn best_of_each(
    checkpoints: &Checkpoints,
    listing: &Listing,
) -> Result<BTreeSet<String>, CheckpointError> {
    let lineages: BTreeSet<Lineage> = listing.checkpoints.iter().map(|it| it.lineage).collect();
    let mut best = BTreeSet::new();
    for lineage in lineages {
        best.extend(checkpoints.best(lineage).await?.map(|(path, _)| path));
    }
    Ok(best)
}

fn told_as_json(listing: &Listing, best: &BTreeSet<String>) -> String {
    let checkpoints: Vec<_> = listing
        .checkpoints
        .iter()
        .map(|it| {
            let mut value = json!(it);
            value["best"] = best.contains(&it.path).into();
            value
        })
        .collect();
    let unusable: Vec<_> = listing
        .skipped
        .iter()
        .map(|it| json!({ "path": it.path, "reason": it.reason.to_string() }))
        .collect();
    format!("{}\n", json!({ "checkpoints": checkpoints, "unusable": unusable }))
}
