//! `convoy-worker bench index`: what the index of a large data set costs.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use convoy_common::dataset::{Dataset, PackWriter, PixelStatistics, Sizes, Split};
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::store::Store;
use serde_json::json;

/// Shards of the data set that is made.
const SHARDS: u64 = 400;
/// Bytes that stand for an image: the index knows only how many there are.
const IMAGE: [u8; 16] = [7; 16];
const OPENINGS: usize = 5;

/// Makes a data set of so many images without pixels, and measures how its index is loaded.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy-worker bench index
  convoy-worker bench index --images 14197122 --json")]
pub(crate) struct Args {
    /// Images of the data set.
    #[arg(long, default_value_t = 1_281_167, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    images: u64,
    /// Number of classes.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    classes: u16,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    let folder = std::env::temp_dir().join(format!("convoy-bench-index-{}", std::process::id()));
    let runtime = super::runtime()?;
    let measured = runtime.block_on(measure(&args, &folder));
    // Whatever came of it, nothing is left behind.
    let removed = std::fs::remove_dir_all(&folder);
    let (seconds, index_bytes) = measured?;
    removed.map_err(|error| Failure::new(exit::FAILURE, error))?;
    let (fastest, median, slowest) =
        (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    let images = args.images;
    let text = if args.json {
        let report = json!({
            "images": images,
            "seconds": median,
            "index_bytes": index_bytes,
            "index_bytes_per_image": index_bytes as f64 / images as f64,
        });
        format!("{report}\n")
    } else {
        format!(
            "{images} images: index of {:.1} MB, {:.1} bytes an image, opened in {:.3} s \
             (median of {OPENINGS}, {:.3} to {:.3})\n",
            index_bytes as f64 / 1e6,
            index_bytes as f64 / images as f64,
            median,
            fastest,
            slowest,
        )
    };
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::new(exit::FAILURE, error))?;
    Ok(ExitCode::SUCCESS)
}

/// Seconds of each opening, ascending, and the bytes of the index.
async fn measure(args: &Args, folder: &Path) -> Result<(Vec<f64>, u64), Failure> {
    let store = Store::open(&folder.display().to_string())?;
    make(args, store.clone()).await?;
    let mut seconds = Vec::new();
    for _ in 0..OPENINGS {
        let begin = Instant::now();
        let dataset = Dataset::open(store.clone()).await?;
        seconds.push(begin.elapsed().as_secs_f64());
        if dataset.len(Split::Train) != args.images {
            return Err(Failure::new(exit::FAILURE, "the index lost images"));
        }
    }
    seconds.sort_by(f64::total_cmp);
    let bytes = std::fs::metadata(folder.join(convoy_common::dataset::INDEX))
        .map_err(|error| Failure::new(exit::FAILURE, error))?
        .len();
    Ok((seconds, bytes))
}

async fn make(args: &Args, store: Store) -> Result<(), Failure> {
    let shard = args.images.div_ceil(SHARDS) * IMAGE.len() as u64 + 16;
    let mut writer = PackWriter::start(store, Sizes { shard }).await?;
    for image in 0..args.images {
        let label = (image % u64::from(args.classes)) as u16;
        writer.append(Split::Train, label, &format!("n{label:08}_{image}.JPEG"), &IMAGE).await?;
    }
    let classes: Vec<String> = (0..args.classes).map(|class| format!("n{class:08}")).collect();
    writer.finish(&classes, &PixelStatistics::default().summary()).await?;
    Ok(())
}
