//! `convoy-worker bench data`: how fast a data set becomes the net's input on this machine.
//!
//! ```text
//! read      images in training order from the store, as many reads at once as in training
//! decode    \
//! resize     > one thread, on images that are in memory
//! augment   /
//! whole     the pipeline of training: all of it at once, --threads decode threads
//! ```

mod report;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use convoy_common::config::{RunConfig, Source as ConfigSource};
use convoy_common::dataset::{Dataset, Encoded, Split, shard_path};
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::ids::Position;
use convoy_common::run_record;
use convoy_common::sampling::Sampler;
use convoy_common::store::Store;
use convoy_common::telemetry;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use self::report::Report;
use crate::data::{self, Pipeline, Purpose, Request, Settings, Source, Spent, Workbench};

/// Bytes of images that are held in memory to measure the parts of the work on them.
const HELD: u64 = 128 << 20;

/// How fast a data set is read, decoded and augmented, each alone and all at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy-worker bench data --data data/imagenet --threads 2
  convoy-worker bench data --data s3://bucket/imagenet --feed 2000
  convoy-worker bench data --data s3://bucket/imagenet --set data.cache=none
  convoy-worker bench data --data data/imagenet --cold --json | jq .images_per_second")]
pub(crate) struct Args {
    /// The packed data set: a folder, file:// or s3://bucket/prefix.
    #[arg(long, value_name = "URL")]
    data: String,
    /// Decode threads [default: one per core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Images to go through, more than once if the training split has fewer.
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = clap::value_parser!(u64).range(256..))]
    images: u64,
    /// Sets one value of a run's config that bears on data, such as data.cache; may be repeated.
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
    set: Vec<String>,
    /// Say how many decode threads feed so many images a second.
    #[arg(long, value_name = "IMAGES_PER_SECOND")]
    feed: Option<f64>,
    /// Make the system forget the data set's shards first, so that they are read from the disk.
    #[arg(long)]
    cold: bool,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    telemetry::warnings("bench");
    if let Some(feed) = args.feed
        && !(feed.is_finite() && feed > 0.0)
    {
        return Err(Failure::new(exit::USAGE, "--feed must be more than 0 images a second"));
    }
    let runtime = super::runtime()?;
    let report = measure(&args, &runtime)?;
    runtime.shutdown_background();
    let text = if args.json { format!("{}\n", report.as_json()) } else { report.as_text() };
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::new(exit::FAILURE, error))?;
    Ok(ExitCode::SUCCESS)
}

/// What bears on the measurement outside of `data`: the sampler's batches and seed, and what the net
/// takes in.
const BEARING: [&str; 6] = [
    "run.seed",
    "train.batch",
    "numerics.microbatch",
    "model.name",
    "model.pixel_scale",
    "evaluation.every_epochs",
];

/// Refuses what would be set without an effect.
fn check_set(set: &[String]) -> Result<(), Failure> {
    for text in set {
        let key = text.split_once('=').map_or(text.as_str(), |(key, _)| key).trim();
        if key == "data.url" {
            let text = "--set data.url is not for bench data, which takes --data";
            return Err(Failure::new(exit::USAGE, text));
        }
        if !key.starts_with("data.") && !BEARING.contains(&key) {
            let text = format!("--set {key} does not bear on how data is read");
            let hint = format!("fields of [data] may be set, and {}", BEARING.join(", "));
            return Err(Failure::new(exit::USAGE, text).with_hint(hint));
        }
    }
    Ok(())
}

/// The config of a run on this data set that says nothing else but what the arguments set.
fn config(args: &Args) -> Result<RunConfig, Failure> {
    // No run is created.
    let mut set = vec!["run.url=bench".to_owned(), format!("data.url={}", args.data)];
    set.extend(args.set.iter().cloned());
    let source = ConfigSource::new(Path::new("bench data"), &set);
    // What is no field at all is said first.
    let config = source.resolve_text("")?.config;
    check_set(&args.set)?;
    Ok(config)
}

/// The data set, and how a new run would shuffle it.
async fn open(config: &mut RunConfig) -> Result<Dataset, Failure> {
    let store = Store::open(&config.data.url)?;
    let dataset = Dataset::open(store.clone()).await?.with_read_timeout(config.data.read_timeout);
    if dataset.is_empty(Split::Train) {
        let text = format!("the data set at {} has no training images", dataset.url());
        return Err(Failure::new(exit::BAD_INPUT, text));
    }
    config.data.shuffle = run_record::decide_shuffle(&config.data, &store).await?.shuffle;
    Ok(dataset)
}

fn measure(args: &Args, runtime: &tokio::runtime::Runtime) -> Result<Report, Failure> {
    let mut config = config(args)?;
    let dataset = runtime.block_on(open(&mut config))?;
    let cores = std::thread::available_parallelism().map_or(1, |it| it.get() as u32);
    let mut settings = Settings::of(&config, cores);
    settings.threads = args.threads.unwrap_or(settings.threads);
    let images = dataset.len(Split::Train);
    let sampler = Sampler::of(&config, images, &dataset.shard_starts(Split::Train));

    forget(args.cold, &dataset)?;
    let source: Arc<dyn Source> =
        Arc::new(runtime.block_on(data::cached(dataset.clone(), &config)));
    let wanted = requests(&sampler, 0, args.images);
    let read = runtime.block_on(read(source.as_ref(), wanted, settings.prefetch as usize))?;

    let mut spent = Spent::default();
    let mut workbench = Workbench::default();
    for (request, images) in &read.held {
        spent.add(source.as_ref(), &settings, &mut workbench, (request, images))?;
    }
    drop(read.held);

    forget(args.cold, &dataset)?;
    // The epochs behind those of before, as training would go on.
    let epoch = u32::try_from(args.images.div_ceil(images)).unwrap_or(u32::MAX);
    source.heading_for(Position { epoch, step: 0 });
    let wanted = requests(&sampler, epoch, args.images);
    let whole = whole(Pipeline::start(source, settings, runtime.handle(), wanted)?)?;
    Ok(Report {
        url: dataset.url().to_owned(),
        encoding: dataset.encoding().name(),
        threads: settings.threads,
        images: args.images,
        bytes_per_image: read.bytes as f64 / read.images.max(1) as f64,
        read: read.images as f64 / read.took.as_secs_f64(),
        spent,
        whole,
        feed: args.feed,
    })
}

/// What training would ask for from an epoch on, until there are so many images.
fn requests(
    sampler: &Sampler,
    first_epoch: u32,
    images: u64,
) -> impl Iterator<Item = Request> + Send + 'static {
    let sampler = sampler.clone();
    let mut left = images;
    (first_epoch..)
        .flat_map(move |epoch| {
            let (sampler, order) = (sampler.clone(), sampler.epoch(epoch));
            let steps = 0..sampler.steps_per_epoch();
            steps
                .flat_map({
                    let sampler = sampler.clone();
                    move |step| {
                        (0..sampler.microbatches(step)).map(move |microbatch| (step, microbatch))
                    }
                })
                .map(move |(step, microbatch)| Request {
                    purpose: Purpose::Train,
                    epoch,
                    step,
                    microbatch,
                    samples: sampler.microbatch_in(&order, step, microbatch),
                })
        })
        .take_while(move |request| {
            let more = left > 0;
            left = left.saturating_sub(request.samples.len() as u64);
            more
        })
}

/// What came of reading alone.
struct Read {
    images: u64,
    bytes: u64,
    took: Duration,
    /// The first of them.
    held: Vec<(Request, Vec<Encoded>)>,
}

async fn read(
    source: &dyn Source,
    requests: impl Iterator<Item = Request>,
    at_once: usize,
) -> Result<Read, Failure> {
    let begin = Instant::now();
    let mut all = Read { images: 0, bytes: 0, took: Duration::ZERO, held: Vec::new() };
    let reads = stream::iter(requests).map(|request| async move {
        let indices: Vec<u64> = request.samples.iter().map(|sample| sample.index).collect();
        let images = source.read(Split::Train, &indices).await.map_err(Failure::from)?;
        Ok::<_, Failure>((request, images))
    });
    let mut reads = std::pin::pin!(reads.buffered(at_once));
    while let Some((request, images)) = reads.try_next().await? {
        all.images += images.len() as u64;
        all.bytes += images.iter().map(|image| image.bytes.len() as u64).sum::<u64>();
        if all.bytes <= HELD || all.held.is_empty() {
            all.held.push((request, images));
        }
    }
    all.took = begin.elapsed();
    Ok(all)
}

/// Images a second of the whole pipeline, from its first microbatch on: what it does before that is
/// done once in training.
fn whole(mut pipeline: Pipeline) -> Result<f64, Failure> {
    let (mut images, mut since) = (0, None);
    while let Some(microbatch) = pipeline.next() {
        let microbatch = microbatch?;
        match since {
            None => since = Some(Instant::now()),
            Some(_) => images += microbatch.labels.len(),
        }
    }
    let took = since.map_or(Duration::ZERO, |since| since.elapsed());
    Ok(images as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE))
}

/// Drops the shards' pages from the system's memory.
fn forget(cold: bool, dataset: &Dataset) -> Result<(), Failure> {
    if !cold {
        return Ok(());
    }
    let Some(folder) = dataset.url().strip_prefix("file://") else {
        let text = format!("--cold is for data sets in folders, and this is {}", dataset.url());
        return Err(Failure::new(exit::USAGE, text));
    };
    // The URL of a folder with odd characters is escaped; then the folder is not found, and says so.
    let folder = PathBuf::from(folder);
    for shard in 0..dataset.shards() {
        let path = folder.join(shard_path(shard));
        let failed = |error: std::io::Error| {
            Failure::new(exit::FAILURE, format!("cannot forget {}: {error}", path.display()))
        };
        let file = std::fs::File::open(&path).map_err(failed)?;
        // Pages that were never written stay.
        file.sync_all().map_err(failed)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use convoy_common::dataset::{Encoding, PackWriter, PixelStatistics, Sizes};
    use convoy_common::image::{Chroma, Rgb8, encode_jpeg};

    use super::*;

    /// A data set of a few pictures in that form.
    async fn packed(folder: &tempfile::TempDir, encoding: Encoding) {
        let store = Store::open(&folder.path().display().to_string()).unwrap();
        let sizes = Sizes { shard: 300_000 };
        let (mut writer, _) =
            PackWriter::resume(store, sizes, encoding, "a test", false).await.unwrap();
        for number in 0..9_u32 {
            let (width, height) =
                if encoding == Encoding::Original { (341, 300) } else { (256, 256) };
            let value = |at: u32| (at / 7 + number * 20) as u8;
            let pixels = (0..width * height * 3).map(value).collect();
            let picture = Rgb8 { width, height, pixels };
            let bytes = match encoding {
                Encoding::Raw256 => picture.pixels,
                Encoding::Jpeg256 | Encoding::Original => {
                    encode_jpeg(&picture, 90, Chroma::Quarter).unwrap()
                }
            };
            writer.append(Split::Train, 0, "a.jpg", &bytes).await.unwrap();
        }
        let pixels = PixelStatistics::default().summary();
        writer.finish(&["a".to_owned()], &pixels).await.unwrap();
    }

    #[test]
    fn every_encoding_is_measured_by_the_work_that_it_makes() {
        let runtime = super::super::runtime().unwrap();
        for encoding in [Encoding::Jpeg256, Encoding::Original, Encoding::Raw256] {
            let folder = tempfile::tempdir().unwrap();
            runtime.block_on(packed(&folder, encoding));
            let args = Args {
                data: folder.path().display().to_string(),
                threads: Some(2),
                images: 40,
                set: vec!["data.shuffle=window".to_owned(), "data.shuffle_window=2".to_owned()],
                feed: Some(1e6),
                cold: true,
                json: true,
            };
            let report = measure(&args, &runtime).unwrap();
            // Epochs of nine images: five of them are begun.
            assert_eq!(report.spent.images, 45, "{encoding:?}");
            assert!(report.whole > 0.0 && report.read > 0.0 && report.threads_for(1e6) > 1);
            let json = report.as_json();
            assert_eq!(json["encoding"], encoding.name());
            let does = |part: &str| !json["stages"][part].is_null();
            let work = [does("decode"), does("resize"), does("augment")];
            let expected = match encoding {
                Encoding::Jpeg256 => [true, false, true],
                Encoding::Original => [true, true, true],
                Encoding::Raw256 => [false, false, true],
            };
            assert_eq!(work, expected, "{encoding:?}");
        }
    }

    #[test]
    fn only_what_bears_on_data_may_be_set() {
        for good in ["data.cache=none", "data.decode_threads = 2", "train.batch=64"] {
            assert!(check_set(&[good.to_owned()]).is_ok(), "{good}");
        }
        for bad in
            ["schedule.epochs=3", "data.url=elsewhere", "train.momentum=0.5", "cluster.size=2"]
        {
            assert!(check_set(&["data.cache=none".to_owned(), bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_go_on_over_epochs_until_there_are_enough_images() {
        let sampler = Sampler::new(0, 100, 128, 32);
        let all: Vec<Request> = requests(&sampler, 3, 250).collect();
        let images: usize = all.iter().map(|request| request.samples.len()).sum();
        assert!((250..282).contains(&images), "{images}");
        assert_eq!((all[0].epoch, all.last().unwrap().epoch), (3, 5));
    }
}
