//! `convoy checkpoints`: what a run has saved, and whether it is whole.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Subcommand;
use convoy_common::checkpoint::{CheckpointError, Checkpoints, Listing, Located, Tally, locate};
use convoy_common::failure::{Explain as _, Failure};
use convoy_common::ids::Lineage;
use convoy_common::run_record;
use convoy_common::store::Store;
use serde_json::json;

/// Lists, shows and verifies the checkpoints of a run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    convoy checkpoints list runs/quickstart\n  \
    convoy checkpoints show s3://bucket/runs/a --json\n  \
    convoy checkpoints show runs/a@best               the fewest errors of the newest lineage\n  \
    convoy checkpoints verify runs/a/checkpoints/1/000000000120")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All checkpoints of a run, newest first, with the share of first guesses that were wrong
    /// (ERRORS) where it was evaluated; `best` marks the fewest of a lineage.
    List {
        /// URL or folder of the run.
        url: String,
    },
    /// One checkpoint: a run's newest good one, or the one that the URL names.
    #[command(after_help = "Examples:\n  convoy checkpoints show runs/quickstart@best\n  \
        convoy checkpoints show s3://bucket/runs/a --json")]
    Show {
        /// URL or folder of a run, RUN_URL@best, or RUN_URL/checkpoints/LINEAGE/STEP.
        url: String,
        /// Print step, epoch, state digest and more as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Reads every byte of all checkpoints of a run, or of the one that the URL names, and
    /// compares hashes.
    #[command(after_help = "Example:\n  convoy checkpoints verify runs/quickstart")]
    Verify {
        /// URL or folder of a run, or RUN_URL/checkpoints/LINEAGE/STEP.
        url: String,
    },
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(convoy_common::exit::FAILURE, error))?;
    let (text, code) = runtime.block_on(async {
        match args.command {
            Command::List { url } => list(&url).await,
            Command::Show { url, json } => show(&url, json).await,
            Command::Verify { url } => verify(&url).await,
        }
    })?;
    // A reader that closed the pipe has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::from(code))
}

async fn open(url: &str) -> Result<(Checkpoints, Listing), CheckpointError> {
    let store = Store::open(url)?;
    // A mistyped URL is no empty run.
    run_record::read(&store).await?;
    let checkpoints = Checkpoints::new(store);
    let listing = checkpoints.list().await?;
    Ok((checkpoints, listing))
}

async fn list(url: &str) -> Result<(String, u8), CheckpointError> {
    let (checkpoints, listing) = open(url).await?;
    if listing.checkpoints.is_empty() && listing.skipped.is_empty() {
        return Ok(("no checkpoints yet\n".to_owned(), 0));
    }
    let mut text = format!(
        "{:>7} {:>9} {:>6} {:>9} {:>10} {:>8}  {:<12}  {:<12}  {}\n",
        "LINEAGE", "STEP", "EPOCH", "IN EPOCH", "SIZE", "AGE", "STATE", "ERRORS", "PATH"
    );
    let best = best_of_each(&checkpoints, &listing).await?;
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

/// `41.11 %` of the images with a wrong first guess.
fn share(tally: &Tally) -> String {
    format!("{:.2} %", 100.0 * tally.top1_errors as f64 / tally.images.max(1) as f64)
}

async fn show(url: &str, as_json: bool) -> Result<(String, u8), CheckpointError> {
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

async fn verify(url: &str) -> Result<(String, u8), CheckpointError> {
    if url.trim_end_matches('/').rsplit('/').nth(2) == Some("checkpoints")
        || url.ends_with("/manifest.json")
    {
        let found = locate(url).await?;
        found.checkpoints.verify(&found.manifest).await?;
        return Ok((format!("good      {}\n", found.path), 0));
    }
    let (checkpoints, listing) = open(url).await?;
    let (mut text, mut code) = (String::new(), 0);
    for it in listing.checkpoints {
        let manifest = checkpoints.read(&it.path).await?;
        match checkpoints.verify(&manifest).await {
            Ok(()) => text += &format!("good      {}\n", it.path),
            Err(CheckpointError::Store(error)) => return Err(error.into()),
            Err(error) => {
                code = error.exit_code();
                text += &format!("unusable  {}: {error}\n", it.path);
            }
        }
    }
    for it in listing.skipped {
        code = it.reason.exit_code();
        text += &format!("unusable  {}: {}\n", it.path, it.reason);
    }
    Ok((text, code))
}

/// `488.1 MB`
fn size(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// `3h 2m`, rounded down to two units.
fn age(created: &str) -> String {
    let Some(age) = humantime::parse_rfc3339(created)
        .ok()
        .and_then(|created| SystemTime::now().duration_since(created).ok())
    else {
        return "-".to_owned();
    };
    let text = humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use convoy_common::checkpoint::{
        Evaluations, Header, Manifest, SharedState, StateLayout, TensorSpec, encode_part,
    };
    use convoy_common::config::Source;
    use convoy_common::dataset::DatasetIdentity;
    use convoy_common::ids::Term;
    use convoy_common::run_record::Opening;

    use super::*;

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!(size(488_123_456), "488.1 MB");
        let before = SystemTime::now() - Duration::from_secs(7384);
        assert_eq!(age(&humantime::format_rfc3339_seconds(before).to_string()), "2h 3m");
        assert_eq!(age("nonsense"), "-");
    }

    /// A run with a checkpoint for each pair of step and errors of 40.
    async fn run_with(url: &str, checkpoints: &[(u64, u64)]) {
        let store = Store::open(url).unwrap();
        let text = "[run]\nurl = 'run'\n[data]\nurl = 'data'\n";
        let source = Source::new("a.toml".as_ref(), &[]).with_environment(vec![]);
        let config = source.with_folder(url).resolve_text(text).unwrap().config;
        let dataset =
            DatasetIdentity { digest: "d".to_owned(), train: 9, validation: 40, classes: 2 };
        run_record::open_or_create(&store, &config, &dataset, Opening::Fresh).await.unwrap();
        let catalogue = Checkpoints::new(store);
        let lineage = catalogue.new_lineage(None).await.unwrap().lineage;
        let tensors = vec![TensorSpec { name: "w".to_owned(), shape: vec![4] }];
        let layout = StateLayout::new(tensors.clone());
        for &(step, top1_errors) in checkpoints {
            let data = [vec![step as u8; 16].into()];
            let part = encode_part(&layout, Term(1), 0, 1, 0..1, &data).unwrap();
            catalogue.upload_part(lineage, step, &part).await.unwrap();
            let tally = Tally { images: 40, top1_errors, top5_errors: 0 };
            let shared = SharedState {
                global_step: step,
                evaluations: Evaluations::default().with(tally),
                ..SharedState::at_the_start()
            };
            let header = Header {
                run_id: String::new(),
                record_digest: String::new(),
                lineage,
                parent: None,
                term: Term(1),
                model: config.model.clone(),
                dataset: dataset.clone(),
                shared,
                tensors: tensors.clone(),
            };
            let manifest = Manifest::assemble(header, vec![part.entry]).unwrap();
            catalogue.publish(&manifest).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_list_names_the_best_and_it_can_be_shown() {
        let folder = tempfile::TempDir::new().unwrap();
        let url = folder.path().to_str().unwrap();
        run_with(url, &[(10, 20), (20, 9), (30, 11)]).await;
        let (text, _) = list(url).await.unwrap();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert!(lines[0].contains("27.50 %") && !lines[0].contains("best"), "{text}");
        assert!(lines[1].contains("22.50 % best"), "{text}");
        assert!(lines[2].contains("50.00 %") && !lines[2].contains("best"), "{text}");
        let (shown, _) = show(&format!("{url}@best"), false).await.unwrap();
        assert!(shown.contains("9 of 40 images (22.50 %)"), "{shown}");
        let (json, _) = show(&format!("{url}@best"), true).await.unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (json["step"].as_u64(), json["evaluation"]["top1_errors"].as_u64()),
            (Some(20), Some(9))
        );
    }

    #[tokio::test]
    async fn a_folder_without_a_run_is_no_empty_run() {
        let folder = tempfile::TempDir::new().unwrap();
        let error = list(folder.path().to_str().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("there is no run at"), "{error}");
    }
}
