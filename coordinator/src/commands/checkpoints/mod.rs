//! `convoy checkpoints`: what a run has saved, whether it is whole, and what may go.

mod list;
mod now;
mod prune;
mod show;
mod verify;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Subcommand;
use convoy_common::checkpoint::{CheckpointError, Checkpoints, Tally};
use convoy_common::failure::Failure;
use convoy_common::run_record::{self, RunRecord};
use convoy_common::store::Store;
use convoy_common::telemetry;

/// Lists, shows, verifies, removes and takes the checkpoints of a run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    convoy checkpoints list runs/quickstart\n  \
    convoy checkpoints show s3://bucket/runs/a --json\n  \
    convoy checkpoints show runs/a@best               the fewest errors of the newest lineage\n  \
    convoy checkpoints verify runs/a/checkpoints/1/000000000120\n  \
    convoy checkpoints prune runs/a --keep-last 1 --dry-run\n  \
    convoy checkpoint now runs/a                      of the running job")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All checkpoints of a run, newest first, with the share of first guesses that were wrong
    /// (ERRORS) where it was evaluated; `best` marks the fewest of a lineage.
    #[command(after_help = "Example:\n  convoy checkpoints list runs/quickstart --json")]
    List {
        /// URL or folder of the run.
        url: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
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
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Removes older checkpoints of a run; the newest good one and those that another lineage began
    /// with always stay.
    #[command(after_help = prune::EXAMPLES)]
    Prune(prune::Args),
    #[command(after_help = now::HELP)]
    Now(now::Args),
}

/// What is printed, and the exit code.
type Told = Result<(String, u8), CheckpointError>;

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    telemetry::warnings("checkpoints");
    if let Command::Now(args) = &args.command {
        return now::now(args);
    }
    let runtime = super::job::runtime()?;
    let (text, code) = runtime.block_on(async {
        match args.command {
            Command::List { url, json } => list::list(&url, json).await,
            Command::Show { url, json } => show::show(&url, json).await,
            Command::Verify { url, json } => verify::verify(&url, json).await,
            Command::Prune(args) => prune::prune(&args).await,
            Command::Now(_) => unreachable!("invariant: handled above"),
        }
    })?;
    // A reader that closed the pipe has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::from(code))
}

async fn open(url: &str) -> Result<(Checkpoints, RunRecord), CheckpointError> {
    let store = Store::open(url)?;
    // A mistyped URL is no empty run.
    let record = run_record::read(&store).await?;
    Ok((Checkpoints::new(store), record))
}

/// `41.11 %` of the images with a wrong first guess.
fn share(tally: &Tally) -> String {
    format!("{:.2} %", 100.0 * tally.top1_errors as f64 / tally.images.max(1) as f64)
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
    use serde_json::json;

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
        let (text, _) = list::list(url, false).await.unwrap();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert!(lines[0].contains("27.50 %") && !lines[0].contains("best"), "{text}");
        assert!(lines[1].contains("22.50 % best"), "{text}");
        assert!(lines[2].contains("50.00 %") && !lines[2].contains("best"), "{text}");
        let (shown, _) = show::show(&format!("{url}@best"), false).await.unwrap();
        assert!(shown.contains("9 of 40 images (22.50 %)"), "{shown}");
        let (json, _) = show::show(&format!("{url}@best"), true).await.unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (json["step"].as_u64(), json["evaluation"]["top1_errors"].as_u64()),
            (Some(20), Some(9))
        );
    }

    fn parsed(text: &str) -> serde_json::Value {
        serde_json::from_str(text).unwrap()
    }

    #[tokio::test]
    async fn pruning_by_hand_says_first_what_would_go_and_keeps_what_the_config_says() {
        let folder = tempfile::TempDir::new().unwrap();
        let url = folder.path().to_str().unwrap();
        run_with(url, &[(10, 20), (20, 9), (30, 11), (40, 12), (50, 13)]).await;
        let prune = |arguments: &[&str]| {
            #[derive(clap::Parser)]
            struct Line {
                #[command(flatten)]
                args: prune::Args,
            }
            let words = ["prune", url, "--json"].into_iter().chain(arguments.iter().copied());
            let Line { args } = clap::Parser::try_parse_from(words).unwrap();
            async move { parsed(&prune::prune(&args).await.unwrap().0) }
        };
        let path = |step: u64| format!("checkpoints/1/{step:012}/manifest.json");
        let would = prune(&["--dry-run", "--keep-last", "1", "--keep-best", "false"]).await;
        assert_eq!(would["removed"].as_array().unwrap().len(), 4);
        // The config keeps three and the best.
        assert_eq!(prune(&[]).await["removed"], json!([path(10)]));
        assert_eq!(prune(&["--keep-last", "1"]).await["removed"], json!([path(40), path(30)]));
        let left = parsed(&list::list(url, true).await.unwrap().0);
        let steps: Vec<_> = left["checkpoints"].as_array().unwrap().iter().collect();
        assert_eq!(
            (steps[0]["global_step"].as_u64(), steps[0]["best"].as_bool()),
            (Some(50), Some(false))
        );
        assert_eq!(
            (steps[1]["global_step"].as_u64(), steps[1]["best"].as_bool()),
            (Some(20), Some(true))
        );
        assert_eq!(prune(&["--keep-last", "1"]).await["removed"], json!([]));
    }

    #[tokio::test]
    async fn verifying_names_every_bad_one_as_json_too() {
        let folder = tempfile::TempDir::new().unwrap();
        let url = folder.path().to_str().unwrap();
        run_with(url, &[(10, 20), (20, 9)]).await;
        let store = Store::open(url).unwrap();
        let objects = store.list("checkpoints/1/000000000010").await.unwrap();
        let part = objects.iter().find(|it| it.path.contains("/part-")).unwrap();
        store.put(&part.path, vec![0; part.size as usize].into()).await.unwrap();
        let (text, code) = verify::verify(url, true).await.unwrap();
        let told = parsed(&text);
        assert_eq!(code, convoy_common::exit::BAD_INPUT);
        assert_eq!(told["checkpoints"][0]["good"], json!(true));
        assert_eq!(told["checkpoints"][1]["good"], json!(false));
        assert!(told["checkpoints"][1]["problem"].as_str().unwrap().contains("was altered"));
    }

    #[tokio::test]
    async fn a_folder_without_a_run_is_no_empty_run() {
        let folder = tempfile::TempDir::new().unwrap();
        let error = list::list(folder.path().to_str().unwrap(), false).await.unwrap_err();
        assert!(error.to_string().contains("there is no run at"), "{error}");
    }
}
