//! `convoy prepare`: packs a folder of images into an object store.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use convoy_common::dataset::{DatasetIdentity, Sizes};
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::store::Store;

use crate::parallel::default_threads;
use crate::prepare::{OnBadImage, Outcome, Report, SKIPPED, Settings, pack};

/// Skipped files that the summary names; the rest is counted.
const SHOWN: usize = 20;

/// Pack a folder of images into a data set for training
///
/// SRC is laid out as ImageNet is: train/CLASS/*.JPEG and val/CLASS/*.JPEG (.jpg, .jpeg and .png
/// too). Classes are counted in the order of their folders' names. A folder without val, or one
/// that holds CLASS/*.jpg at once, needs --val-fraction.
///
/// Each image is scaled to a shorter side of 256 pixels, its central 256x256 pixels are kept, and
/// they are written as JPEG (4:2:0) into shards of about 64 MiB, with an index last: a packing that
/// was broken off leaves no data set, and can be run again. The same images give the same bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy prepare /data/imagenet s3://datasets/imagenet-256
  convoy prepare photos packed/photos --val-fraction 0.1
  convoy prepare data/shapes file:///mnt/nas/shapes --quality 95 --on-bad-image fail")]
pub(crate) struct Args {
    /// Folder with the images
    #[arg(value_name = "SRC")]
    src: PathBuf,
    /// Where the data set goes: file:///path, s3://bucket/prefix, or a plain path
    #[arg(value_name = "DEST")]
    dest: String,
    /// JPEG quality of the packed images, 1 to 100
    #[arg(long, value_name = "Q", default_value_t = 90,
          value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// What to do about a file that is not a whole, readable image
    #[arg(long, value_name = "ACTION", value_enum, default_value = "skip-and-log")]
    on_bad_image: OnBadImage,
    /// Hold out this share of each class, chosen by hash of file name; for a SRC without val
    #[arg(long, value_name = "F", value_parser = fraction)]
    val_fraction: Option<f64>,
    /// Threads to decode and encode with [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// If DEST holds a data set already, use it as it is, without a look at SRC
    #[arg(long)]
    reuse: bool,
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(fraction) if fraction > 0.0 && fraction < 1.0 => Ok(fraction),
        _ => Err("a number between 0 and 1 is wanted, such as 0.1".to_owned()),
    }
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let settings = Settings {
        quality: args.quality,
        on_bad_image: args.on_bad_image,
        val_fraction: args.val_fraction,
        threads: args.threads.map_or_else(default_threads, usize::from),
        sizes: Sizes::default(),
        reuse: args.reuse,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FAILURE, error))?;
    let store = Store::open(&store_url(&args.dest)?)?;
    let text = match pack(&runtime, &args.src, &store, &settings)? {
        Outcome::Reused(held) => format!(
            "{} holds a data set already; used as it is ({} was not looked at)\n{}",
            store.url(),
            args.src.display(),
            described(&held),
        ),
        Outcome::Packed(report) => summary(&store, &report),
    };
    // A closed pipe is no reason to fail: the work is done.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// A URL as it is; a plain path as the `file://` URL of where it leads from here.
fn store_url(dest: &str) -> Result<String, Failure> {
    if dest.contains("://") {
        return Ok(dest.to_owned());
    }
    let bad = |error: io::Error| {
        Failure::new(exit::BAD_INPUT, format!("DEST {dest:?} is no path: {error}"))
    };
    let path = std::path::absolute(Path::new(dest)).map_err(bad)?;
    match url::Url::from_file_path(&path) {
        Ok(url) => Ok(url.into()),
        Err(()) => Err(bad(io::ErrorKind::InvalidInput.into())),
    }
}

fn described(identity: &DatasetIdentity) -> String {
    format!(
        "images     {} to train on, {} held out\nclasses    {}\ndigest     {}\n",
        identity.train, identity.validation, identity.classes, identity.digest,
    )
}

fn summary(store: &Store, report: &Report) -> String {
    let Report { packed, skipped, ignored, elapsed } = report;
    let images = packed.identity.train + packed.identity.validation;
    let seconds = elapsed.as_secs_f64();
    let mut text = format!("packed {}\n{}", store.url(), described(&packed.identity));
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    };
    line(format_args!(
        "size       {:.1} MB in {} shards, {:.1} kB an image",
        packed.bytes as f64 / 1e6,
        packed.shards,
        packed.bytes as f64 / 1e3 / images.max(1) as f64,
    ));
    line(format_args!(
        "time       {seconds:.1} s, {:.0} images/s",
        images as f64 / seconds.max(1e-9)
    ));
    if *ignored > 0 {
        line(format_args!("ignored    {ignored} files that are not named as JPEG or PNG"));
    }
    line(format_args!("skipped    {}", skipped.len()));
    for skipped in skipped.iter().take(SHOWN) {
        line(format_args!("  {}: {}", skipped.file, skipped.why));
    }
    if skipped.len() > SHOWN {
        line(format_args!("  and {} more, all in {SKIPPED} there", skipped.len() - SHOWN));
    }
    text
}
