//! `convoy-worker bench data`: how fast a data set becomes the net's input on this machine.
//!
//! ```text
//! read      images in training order from the store, as many reads at once as in training
//! decode    \
//! resize     > one thread, on images that are in memory
//! augment   /
//! whole     the pipeline of training: all of it at once, --threads decode threads
//! ```

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use convoy_common::config::ModelName;
use convoy_common::dataset::{Dataset, Encoded, Split, shard_path};
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::sampling::Sampler;
use convoy_common::store::Store;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use crate::data::{Pipeline, Purpose, Request, Settings, Source, Spent, Workbench};

/// Samples of a step, as in the paper.
const BATCH: u32 = 128;
/// The default of `numerics.microbatch`.
const MICROBATCH: u32 = 32;
/// Bytes of images that are held in memory to measure the parts of the work on them.
const HELD: u64 = 128 << 20;

/// How fast a data set is read, decoded and augmented, each alone and all at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy-worker bench data --data data/imagenet --threads 2
  convoy-worker bench data --data s3://bucket/imagenet --feed 2000
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
    /// Microbatches of 32 that are read and decoded ahead.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    prefetch: u32,
    /// Shuffle within a window of so many shards [default: a full shuffle].
    #[arg(long, value_name = "SHARDS", value_parser = clap::value_parser!(u32).range(1..))]
    window: Option<u32>,
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

/// What was measured.
struct Report {
    url: String,
    encoding: &'static str,
    threads: u32,
    images: u64,
    bytes_per_image: f64,
    /// Images a second.
    read: f64,
    spent: Spent,
    /// Images a second.
    whole: f64,
    feed: Option<f64>,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    if let Some(feed) = args.feed
        && !(feed.is_finite() && feed > 0.0)
    {
        return Err(Failure::new(exit::USAGE, "--feed must be more than 0 images a second"));
    }
    let runtime = super::runtime()?;
    let dataset = runtime.block_on(open(&args.data))?;
    let report = measure(&args, &runtime, dataset)?;
    runtime.shutdown_background();
    let text = if args.json { format!("{}\n", report.as_json()) } else { report.as_text() };
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::new(exit::FAILURE, error))?;
    Ok(ExitCode::SUCCESS)
}

async fn open(url: &str) -> Result<Dataset, Failure> {
    let dataset = Dataset::open(Store::open(url)?).await?;
    if dataset.is_empty(Split::Train) {
        let text = format!("the data set at {url} has no training images");
        return Err(Failure::new(exit::BAD_INPUT, text));
    }
    Ok(dataset)
}

fn measure(
    args: &Args,
    runtime: &tokio::runtime::Runtime,
    dataset: Dataset,
) -> Result<Report, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, |it| it.get() as u32);
    let settings = Settings {
        seed: 0,
        threads: args.threads.unwrap_or(cores),
        prefetch: args.prefetch,
        side: ModelName::Alexnet.input_side(),
        pixel_scale: 1.0,
        timeout: Duration::from_secs(60),
        colour_sigma: 0.1,
    };
    let starts = dataset.shard_starts(Split::Train);
    let sampler = Sampler::new(settings.seed, dataset.len(Split::Train), BATCH, MICROBATCH)
        .in_shards(&starts);
    let sampler = args.window.into_iter().fold(sampler, Sampler::with_window);
    let (url, encoding) = (dataset.url().to_owned(), dataset.encoding().name());

    forget(args.cold, &dataset)?;
    let source: Arc<dyn Source> = Arc::new(dataset.clone());
    let wanted = requests(&sampler, 0, args.images);
    let read = runtime.block_on(read(source.as_ref(), wanted, args.prefetch as usize))?;

    let mut spent = Spent::default();
    let mut workbench = Workbench::default();
    for (request, images) in &read.held {
        spent.add(source.as_ref(), &settings, &mut workbench, (request, images))?;
    }
    drop(read.held);

    forget(args.cold, &dataset)?;
    // Other epochs than those before, so that nothing is in the same order.
    let wanted = requests(&sampler, 1_000_000, args.images);
    let whole = whole(Pipeline::start(source, settings, runtime.handle(), wanted)?)?;
    Ok(Report {
        url,
        encoding,
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

impl Report {
    /// Images a second of one thread that does nothing else; none where there is nothing to do.
    fn rate(&self, spent: Duration) -> Option<f64> {
        (!spent.is_zero()).then(|| self.spent.images as f64 / spent.as_secs_f64())
    }

    fn parts(&self) -> [(&'static str, Option<f64>); 3] {
        let Spent { decode, resize, augment, .. } = self.spent;
        // What is timed where nothing was resized is the clock.
        let resize = Some(resize).filter(|it| *it > decode / 1000).unwrap_or_default();
        [
            ("decode", self.rate(decode)),
            ("resize", self.rate(resize)),
            ("augment", self.rate(augment)),
        ]
    }

    /// Decode threads that feed so many images a second.
    fn threads_for(&self, feed: f64) -> u64 {
        (feed * self.spent.an_image().as_secs_f64()).ceil().max(1.0) as u64
    }

    fn as_json(&self) -> Value {
        let rate = |rate: f64| json!({ "images_per_second": rate });
        let mut stages = serde_json::Map::new();
        let bytes = self.read * self.bytes_per_image;
        let read = json!({ "images_per_second": self.read, "bytes_per_second": bytes });
        stages.insert("read".to_owned(), read);
        for (name, images) in self.parts() {
            stages.insert(name.to_owned(), images.map_or(Value::Null, rate));
        }
        json!({
            "data": self.url,
            "encoding": self.encoding,
            "threads": self.threads,
            "images": self.images,
            "bytes_per_image": self.bytes_per_image,
            "images_per_second": self.whole,
            "bytes_per_second": self.whole * self.bytes_per_image,
            "microseconds_per_image_and_thread": self.spent.an_image().as_secs_f64() * 1e6,
            "stages": stages,
            "feed": self.feed.map(|feed| {
                json!({ "images_per_second": feed, "threads": self.threads_for(feed) })
            }),
        })
    }

    fn as_text(&self) -> String {
        let Self { url, encoding, threads, images, whole, .. } = self;
        let (kilobytes, megabytes) = (self.bytes_per_image / 1e3, self.bytes_per_image / 1e6);
        let mut text = format!(
            "{url}: {encoding}, {images} images of {kilobytes:.1} kB\n\
             read     {:>9.0} images/s, {:.0} MB/s\n",
            self.read,
            self.read * megabytes
        );
        for (name, rate) in self.parts() {
            text.push_str(&match rate {
                Some(rate) => {
                    let microseconds = 1e6 / rate;
                    format!(
                        "{name:8} {rate:>9.0} images/s of one thread, {microseconds:.0} us each\n"
                    )
                }
                None => format!("{name:8} {:>9}\n", "-"),
            });
        }
        text.push_str(&format!(
            "whole    {whole:>9.0} images/s, {:.0} MB/s with {threads} decode threads\n",
            whole * megabytes
        ));
        if let Some(feed) = self.feed {
            let needed = self.threads_for(feed);
            text.push_str(&format!("{feed} images/s need {needed} decode threads\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use convoy_common::dataset::{Encoding, PackWriter, PixelStatistics, Sizes};
    use convoy_common::image::{Chroma, Rgb8, encode_jpeg};

    use super::*;

    fn report() -> Report {
        Report {
            url: "file:///data".to_owned(),
            encoding: "jpeg256",
            threads: 2,
            images: 1000,
            bytes_per_image: 20_000.0,
            read: 50_000.0,
            spent: Spent {
                images: 100,
                decode: Duration::from_millis(40),
                resize: Duration::from_nanos(3_000),
                augment: Duration::from_millis(10),
            },
            whole: 3_000.0,
            feed: Some(4_100.0),
        }
    }

    #[test]
    fn threads_are_what_the_work_on_one_image_makes_necessary() {
        // 500 us an image: 2,000 images a second of one thread.
        for (feed, threads) in [(1.0, 1), (1_990.0, 1), (2_100.0, 2), (4_100.0, 3)] {
            assert_eq!(report().threads_for(feed), threads, "{feed}");
        }
    }

    #[test]
    fn both_forms_name_the_whole_and_every_part() {
        let json = report().as_json();
        assert_eq!(json["images_per_second"], 3_000.0);
        assert_eq!(json["bytes_per_second"], 60e6);
        assert_eq!(json["stages"]["read"]["bytes_per_second"], 1e9);
        assert_eq!(json["stages"]["decode"]["images_per_second"], 2_500.0);
        assert_eq!(json["stages"]["resize"], Value::Null);
        assert_eq!(json["feed"]["threads"], 3);
        let text = report().as_text();
        for part in ["read", "decode", "resize", "augment", "whole"] {
            assert!(text.lines().any(|line| line.starts_with(part)), "{part} is not in\n{text}");
        }
        assert!(text.ends_with("4100 images/s need 3 decode threads\n"), "{text}");
    }

    /// A data set of a few pictures in that form.
    async fn packed(folder: &tempfile::TempDir, encoding: Encoding) -> Dataset {
        let store = Store::open(&folder.path().display().to_string()).unwrap();
        let sizes = Sizes { shard: 300_000 };
        let (mut writer, _) =
            PackWriter::resume(store.clone(), sizes, encoding, "a test", false).await.unwrap();
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
        Dataset::open(store).await.unwrap()
    }

    #[test]
    fn every_encoding_is_measured_by_the_work_that_it_makes() {
        let runtime = super::super::runtime().unwrap();
        for encoding in [Encoding::Jpeg256, Encoding::Original, Encoding::Raw256] {
            let folder = tempfile::tempdir().unwrap();
            let dataset = runtime.block_on(packed(&folder, encoding));
            let args = Args {
                data: String::new(),
                threads: Some(2),
                images: 40,
                prefetch: 2,
                window: Some(2),
                feed: Some(1e6),
                cold: true,
                json: true,
            };
            let report = measure(&args, &runtime, dataset).unwrap();
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
    fn requests_go_on_over_epochs_until_there_are_enough_images() {
        let sampler = Sampler::new(0, 100, BATCH, MICROBATCH);
        let all: Vec<Request> = requests(&sampler, 3, 250).collect();
        let images: usize = all.iter().map(|request| request.samples.len()).sum();
        assert!((250..282).contains(&images), "{images}");
        assert_eq!((all[0].epoch, all.last().unwrap().epoch), (3, 5));
    }
}
