//! `convoy prepare`: packs images into an object store.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use convoy_common::config::parse_size;
use convoy_common::dataset::{DatasetIdentity, Encoding, SKIPPED, Sizes};
use convoy_common::failure::Failure;
use convoy_common::store::Store;
use convoy_common::{exit, shutdown, telemetry};

use crate::parallel::default_threads;
use crate::prepare::{Format, OnBadImage, Outcome, Place, Report, Settings, Wanted, pack};

/// Skipped files that the summary names; the rest is counted.
const SHOWN: usize = 20;

/// Limits of `--shard-size`.
const SMALLEST_SHARD: u64 = 4 << 10;
const LARGEST_SHARD: u64 = 4 << 30;

/// Pack images into a data set for training
///
/// SRC is recognised by looking: class folders (train/CLASS/*.JPEG and val/CLASS/*.JPEG; one without
/// val, or bare CLASS/*.jpg, needs --val-fraction), Kaggle's tree (with LOC_val_solution.csv), a
/// folder with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar or the training tar itself with
/// --val, or .tar and .tar.gz archives of images named *_nXXXXXXXX.JPEG. All may lie on this machine
/// or in an object store. Archives are streamed; nothing is unpacked to disk. Classes are counted in
/// the order of their keys (WordNet ids, folder names).
///
/// Validation images without class folders get their classes from --val-labels, or from a label file
/// of a known name beside them: the development kit's ground truth, with a synset list that has ids;
/// a WordNet id a line; lines `NAME WNID` or `NAME NUMBER` (from 0, in the order of the keys); or
/// Kaggle's table. A synset list has lines `WNID TITLE`, `WNID ID TITLE` or `ID WNID TITLE`.
///
/// Training sees the central 256x256 pixels of each image scaled to a shorter side of 256. Images are
/// packed in a fixed mixed order, with an index last: what was broken off is no data set, and the
/// same command goes on behind its finished shards. The same images give the same bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy prepare /data/imagenet s3://datasets/imagenet-256
  convoy prepare photos packed/photos --val-fraction 0.1
  convoy prepare s3://raw/ILSVRC2012_img_train.tar s3://datasets/imagenet-256 \\
      --val s3://raw/ILSVRC2012_img_val.tar --val-labels truth.txt --synsets map_clsloc.txt
  convoy prepare kaggle/ file:///mnt/nas/imagenet --encoding original --on-bad-image fail")]
pub(crate) struct Args {
    /// Images: a folder, an archive, or the URL of either
    #[arg(value_name = "SRC")]
    src: String,
    /// Where the data set goes: file:///path, s3://bucket/prefix, or a plain path
    #[arg(value_name = "DEST")]
    dest: String,
    /// What SRC is, if looking is not to decide
    #[arg(long, value_name = "FORMAT", value_enum)]
    source_format: Option<Format>,
    /// Validation images, if they are not in SRC
    #[arg(long, value_name = "SRC")]
    val: Option<String>,
    /// Classes of the validation images
    #[arg(long, value_name = "FILE")]
    val_labels: Option<String>,
    /// Titles of the classes, and their ILSVRC ids
    #[arg(long, value_name = "FILE")]
    synsets: Option<String>,
    /// Hold out this share of the training images, chosen by hash of file name
    #[arg(long, value_name = "F", value_parser = fraction, conflicts_with = "val")]
    val_fraction: Option<f64>,
    /// How images are stored
    #[arg(long, value_name = "ENCODING", value_enum, default_value_t = Encoding::default())]
    encoding: Encoding,
    /// JPEG quality of jpeg256, 1 to 100 (4:2:0)
    #[arg(long, value_name = "Q", default_value_t = 90,
          value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// Size of a shard
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = shard_size)]
    shard_size: u64,
    /// What to do about a file that is not a whole, readable image
    #[arg(long, value_name = "ACTION", value_enum, default_value = "skip-and-log")]
    on_bad_image: OnBadImage,
    /// Threads to decode and encode with [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// If DEST holds a data set already, use it as it is, without a look at SRC
    #[arg(long)]
    reuse: bool,
    /// Remove what a broken-off packing left in DEST, and begin anew
    #[arg(long)]
    restart: bool,
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(fraction) if fraction > 0.0 && fraction < 1.0 => Ok(fraction),
        _ => Err("a number between 0 and 1 is wanted, such as 0.1".to_owned()),
    }
}

fn shard_size(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Some(size @ SMALLEST_SHARD..=LARGEST_SHARD) => Ok(size),
        Some(_) => Err("between 4KiB and 4GiB is wanted, such as 64MiB".to_owned()),
        None => {
            Err("a whole number and one of B, KiB, MiB, GiB is wanted, such as 64MiB".to_owned())
        }
    }
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    telemetry::warnings("prepare");
    let settings = Settings {
        encoding: args.encoding,
        quality: args.quality,
        on_bad_image: args.on_bad_image,
        val_fraction: args.val_fraction,
        threads: args.threads.map_or_else(default_threads, usize::from),
        sizes: Sizes { shard: args.shard_size },
        reuse: args.reuse,
        restart: args.restart,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FAILURE, error))?;
    let shutdown = {
        let _context = runtime.enter();
        let (_, shutdown) =
            shutdown::on_signals().map_err(|error| Failure::new(exit::FAILURE, error))?;
        let immediate = shutdown.clone();
        // The second signal waits for nothing; what is kept is whole at any moment.
        runtime.spawn(async move {
            immediate.immediate().await;
            std::process::exit(i32::from(exit::INTERRUPTED));
        });
        shutdown
    };
    let place = |text: &str| Place::parse(text, runtime.handle());
    let optional = |text: &Option<String>| text.as_deref().map(place).transpose();
    let wanted = Wanted {
        source: place(&args.src)?,
        format: args.source_format,
        validation: optional(&args.val)?,
        val_labels: optional(&args.val_labels)?,
        synsets: optional(&args.synsets)?,
        val_fraction: args.val_fraction,
    };
    let store = Store::open(&store_url(&args.dest)?)?;
    let text = match pack(&runtime, &wanted, &store, &settings, &shutdown)? {
        Outcome::Reused(held) => format!(
            "{} holds a data set already; used as it is ({} was not looked at)\n{}",
            store.url(),
            args.src,
            described(&held),
        ),
        Outcome::Packed(report) => summary(&store, &report),
        Outcome::Stopped { reason, kept } => {
            let stopped = format!("stopped by {reason}; {kept} images are packed and kept");
            let hint = format!("go on with: {}", command_line());
            return Err(Failure::new(exit::STOPPED, stopped).with_hint(hint));
        }
    };
    // A closed pipe is no reason to fail: the work is done.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// The command that was given, fit for a shell; without `--restart`, which would undo what is kept.
fn command_line() -> String {
    let plain = |it: char| it.is_ascii_alphanumeric() || "-_./:=@%+,".contains(it);
    let quoted = |word: std::ffi::OsString| {
        let word = word.to_string_lossy().into_owned();
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    let words: Vec<String> =
        std::env::args_os().filter(|word| word != "--restart").map(quoted).collect();
    words.join(" ")
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
    let Report { packed, format, skipped, ignored, resumed, elapsed } = report;
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
    line(format_args!("source     {}", format.describe()));
    line(format_args!(
        "time       {seconds:.1} s, {:.0} images/s",
        (images - resumed) as f64 / seconds.max(1e-9)
    ));
    if *resumed > 0 {
        line(format_args!("resumed    {resumed} images were there already"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_size_is_refused_for_what_is_wrong_with_it() {
        assert_eq!(shard_size("2MiB"), Ok(2 << 20));
        for (text, said) in
            [("2MB", "KiB, MiB, GiB"), ("64", "KiB, MiB, GiB"), ("1KiB", "between 4KiB and 4GiB")]
        {
            let error = shard_size(text).unwrap_err();
            assert!(error.contains(said), "{error} for {text}");
        }
    }
}
