//! `convoy checkpoints prune`: what a running job does after each checkpoint, by hand.

use convoy_common::checkpoint::Keep;
use convoy_common::ids::Lineage;
use serde_json::json;

use super::{Told, open};

pub(super) const EXAMPLES: &str = "Examples:
  convoy checkpoints prune runs/quickstart --keep-last 1 --dry-run
  convoy checkpoints prune s3://bucket/runs/a                 as the run's config says";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// URL or folder of the run.
    url: String,
    /// Of each lineage; without it, checkpoint.keep_last of the run's config.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_last: Option<u32>,
    /// Whether the one with the fewest errors stays, too; without it, checkpoint.keep_best of the
    /// run's config.
    #[arg(long, value_name = "BOOL")]
    keep_best: Option<bool>,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Prunes every lineage. Parts that living workers may be uploading are left alone.
pub(super) async fn prune(args: &Args) -> Told {
    let (checkpoints, record) = open(&args.url).await?;
    let keep = Keep {
        last: args.keep_last.unwrap_or(record.config.checkpoint.keep_last),
        best: args.keep_best.unwrap_or(record.config.checkpoint.keep_best),
    };
    let lineages: Vec<Lineage> =
        checkpoints.lineages().await?.into_iter().map(|it| it.lineage).collect();
    let (mut removed, mut swept) = (Vec::new(), 0);
    for lineage in lineages {
        if args.dry_run {
            removed.extend(checkpoints.prunable(lineage, keep).await?);
        } else {
            let pruned = checkpoints.prune_by_hand(lineage, keep).await?;
            removed.extend(pruned.removed);
            swept += pruned.swept;
        }
    }
    if args.json {
        let value = json!({ "removed": removed, "left_overs": swept, "dry_run": args.dry_run });
        return Ok((format!("{value}\n"), 0));
    }
    let word = if args.dry_run { "would go" } else { "removed" };
    let mut text: String = removed.iter().map(|path| format!("{word:<9} {path}\n")).collect();
    if swept > 0 {
        text += &format!("removed   {swept} left-over parts of former coordinators\n");
    }
    if text.is_empty() {
        text = "nothing to remove\n".to_owned();
    }
    Ok((text, 0))
}
