//! `convoy checkpoints show`

use convoy_common::checkpoint::{Located, locate};
use serde_json::json;

use super::{Told, age, share, size};

pub(super) async fn show(url: &str, as_json: bool) -> Told {
    let Located { checkpoints, record, path, manifest, skipped } = locate(url).await?;
    let shared = &manifest.shared;
    if as_json {
        let value = json!({
            "run_id": record.run_id,
            "url": checkpoints.store().url_of(&path),
            "path": path,
            "lineage": manifest.lineage,
            "term": manifest.term,
            "step": shared.global_step,
            "epoch": shared.position.epoch,
            "step_in_epoch": shared.position.step,
            "samples_seen": shared.samples_seen,
            "last_loss": shared.last_loss,
            "world": shared.world,
            "state_digest": manifest.state_digest,
            "bytes": manifest.bytes,
            "parts": manifest.parts.len(),
            "created": manifest.created,
            "evaluation": shared.evaluations.here,
            "skipped": skipped.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(),
        });
        return Ok((format!("{value}\n"), 0));
    }
    let mut text = String::new();
    for it in skipped {
        text += &format!("skipped: {}: {}\n", it.path, it.reason);
    }
    let loss = shared.last_loss.map_or("none".to_owned(), |loss| format!("{loss:.4}"));
    let errors = shared.evaluations.here.map_or_else(
        || "not evaluated".to_owned(),
        |it| format!("{} of {} images ({})", it.top1_errors, it.images, share(&it)),
    );
    let parent = manifest.parent.as_ref().map_or("the seed", |it| it.checkpoint.as_str());
    for (name, value) in [
        ("run", format!("{} ({})", record.config.run.name, record.run_id)),
        ("checkpoint", checkpoints.store().url_of(&path)),
        ("lineage", format!("{}, from {parent}", manifest.lineage)),
        ("step", format!("{} ({})", shared.global_step, shared.position)),
        ("loss", loss),
        ("errors", errors),
        ("size", format!("{} in {} parts", size(manifest.bytes), manifest.parts.len())),
        ("created", format!("{} ({} ago)", manifest.created, age(&manifest.created))),
        ("state", manifest.state_digest),
    ] {
        text += &format!("{name:<11} {value}\n");
    }
    Ok((text, 0))
}
