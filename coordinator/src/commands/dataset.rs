//! `convoy dataset`: what a packed data set holds, and whether it is whole.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use bytes::Bytes;
use clap::Subcommand;
use convoy_common::dataset::{Dataset, DatasetError, Split};
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::store::Store;
use futures::{StreamExt as _, stream};
use serde_json::json;

use crate::prepare::one_line;
use crate::progress::Progress;

/// Classes that are shown unless all are asked for.
const SHOWN: usize = 20;

/// Shards that are verified at a time; each is held in memory whole.
const AT_ONCE: usize = 4;

/// Shows and verifies packed data sets.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy dataset show data/mine
  convoy dataset show s3://datasets/imagenet-256 --json
  convoy dataset verify s3://datasets/imagenet-256")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What it holds: images, classes, encoding, size, colours and digest.
    #[command(after_help = "Example:\n  convoy dataset show data/mine --all-classes")]
    Show {
        /// URL or folder of the data set.
        url: String,
        /// Print all as one JSON object.
        #[arg(long)]
        json: bool,
        /// List every class, and not the first twenty alone.
        #[arg(long)]
        all_classes: bool,
    },
    /// Reads every byte and compares every shard's hash and every image's checksum; all that does
    /// not hold is listed. Exit code 64 if anything is damaged.
    #[command(after_help = "Example:\n  convoy dataset verify s3://datasets/imagenet-256")]
    Verify {
        /// URL or folder of the data set.
        url: String,
        /// Print what was compared and all problems as one JSON object.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FAILURE, error))?;
    let (text, code) = runtime.block_on(async {
        match args.command {
            Command::Show { url, json, all_classes } => show(&url, json, all_classes).await,
            Command::Verify { url, json } => verify(&url, json).await,
        }
    })?;
    // A reader that closed the pipe has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::from(code))
}

/// Mean and standard deviation of R, G and B over the training split, 0 to 255.
fn colours(dataset: &Dataset) -> ([f64; 3], [f64; 3]) {
    let mean = dataset.mean_image();
    let pixels = mean.len() / 3;
    let channel = |channel: usize| {
        let values = &mean[channel * pixels..(channel + 1) * pixels];
        values.iter().map(|&value| f64::from(value)).sum::<f64>() / pixels as f64
    };
    let deviation = |channel: usize| dataset.covariance()[channel * 4].max(0.0).sqrt();
    ([0, 1, 2].map(channel), [0, 1, 2].map(deviation))
}

fn bytes_of_shards(dataset: &Dataset) -> u64 {
    (0..dataset.shards()).map(|shard| dataset.shard_bytes(shard)).sum()
}

async fn show(url: &str, as_json: bool, all_classes: bool) -> Result<(String, u8), DatasetError> {
    let dataset = Dataset::open(Store::open(url)?).await?;
    let identity = dataset.identity();
    let (mean, deviation) = colours(&dataset);
    let bytes = bytes_of_shards(&dataset);
    let [train, validation] = Split::ALL.map(|split| dataset.counts(split));
    let classes = dataset.classes().iter().zip(train.iter().zip(&validation));
    if as_json {
        let classes: Vec<_> = classes
            .map(|(name, (train, validation))| {
                json!({ "name": name, "train": train, "validation": validation })
            })
            .collect();
        let value = json!({
            "url": dataset.url(),
            "train": identity.train,
            "validation": identity.validation,
            "encoding": dataset.encoding().name(),
            "shards": dataset.shards(),
            "bytes": bytes,
            "mean": mean,
            "deviation": deviation,
            "digest": identity.digest,
            "classes": classes,
        });
        return Ok((format!("{value}\n"), exit::OK));
    }
    let images = identity.train + identity.validation;
    let three = |values: [f64; 3]| values.map(|value| format!("{value:.2}")).join(" ");
    let mut text = String::new();
    for (name, value) in [
        ("data set", dataset.url().to_owned()),
        ("images", format!("{} to train on, {} held out", identity.train, identity.validation)),
        ("encoding", dataset.encoding().name().to_owned()),
        (
            "size",
            format!(
                "{:.1} MB in {} shards, {:.1} kB an image",
                bytes as f64 / 1e6,
                dataset.shards(),
                bytes as f64 / 1e3 / images.max(1) as f64,
            ),
        ),
        ("colours", format!("mean {}, deviation {} (R G B)", three(mean), three(deviation))),
        ("digest", identity.digest),
        ("classes", identity.classes.to_string()),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<10} {value}");
    }
    let _ = writeln!(text, "{:>5} {:>9} {:>9}  NAME", "LABEL", "TRAIN", "HELD OUT");
    let shown = if all_classes { usize::MAX } else { SHOWN };
    for (label, (name, (train, validation))) in classes.enumerate().take(shown) {
        let _ = writeln!(text, "{label:>5} {train:>9} {validation:>9}  {}", one_line(name));
    }
    if dataset.classes().len() > shown {
        let more = dataset.classes().len() - shown;
        let _ = writeln!(text, "and {more} more, which --all-classes lists");
    }
    Ok((text, exit::OK))
}

async fn verify(url: &str, as_json: bool) -> Result<(String, u8), DatasetError> {
    let dataset = Dataset::open_index(Store::open(url)?).await?;
    let mut problems = Vec::new();
    let names = match dataset.names().await {
        Ok(names) => names,
        Err(problem @ DatasetError::BadIndex { .. }) => {
            problems.push(problem);
            Bytes::new()
        }
        Err(error) => return Err(error),
    };
    let bytes = bytes_of_shards(&dataset);
    let mut progress = Progress::over_bytes("verifying", bytes, 0).counting("shards");
    let mut inspected = stream::iter(0..dataset.shards())
        .map(|shard| dataset.inspect(shard, &names))
        .buffered(AT_ONCE);
    let mut shard = 0;
    while let Some(found) = inspected.next().await {
        problems.extend(found?);
        progress.advance(dataset.shard_bytes(shard));
        shard += 1;
    }
    drop(inspected);
    progress.finish();
    let code = if problems.is_empty() { exit::OK } else { exit::BAD_INPUT };
    let identity = dataset.identity();
    let images = identity.train + identity.validation;
    if as_json {
        let value = json!({
            "url": dataset.url(),
            "digest": identity.digest,
            "shards": dataset.shards(),
            "images": images,
            "bytes": bytes,
            "good": problems.is_empty(),
            "problems": problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        return Ok((format!("{value}\n"), code));
    }
    let mut text = String::new();
    for problem in &problems {
        // Names of pictures and classes hold whatever they held at the source.
        let problem = one_line(&problem.to_string());
        let _ = writeln!(text, "damaged  {problem}");
    }
    let state = if problems.is_empty() { "good" } else { "damaged" };
    let _ = writeln!(
        text,
        "{state:<8} {}: {images} images in {} shards, {:.1} MB, {} problems",
        dataset.url(),
        dataset.shards(),
        bytes as f64 / 1e6,
        problems.len(),
    );
    Ok((text, code))
}

#[cfg(test)]
mod tests {
    use convoy_common::dataset::{PackWriter, PixelStatistics, Sizes, shard_path};

    use super::*;

    /// Four pictures in four shards.
    async fn packed(folder: &tempfile::TempDir) -> String {
        let url = folder.path().to_str().unwrap().to_owned();
        let store = Store::open(&url).unwrap();
        let mut writer = PackWriter::start(store, Sizes { shard: 30 }).await.unwrap();
        for (split, name) in [
            (Split::Train, "a"),
            (Split::Train, "b"),
            (Split::Train, "c"),
            (Split::Validation, "d"),
        ] {
            writer.append(split, u16::from(name == "b"), name, b"0123456789").await.unwrap();
        }
        let classes = ["crow".to_owned(), "wren".to_owned()];
        writer.finish(&classes, &PixelStatistics::default().summary()).await.unwrap();
        url
    }

    #[tokio::test]
    async fn what_a_data_set_holds_is_shown_in_words_and_as_json() {
        let folder = tempfile::TempDir::new().unwrap();
        let url = packed(&folder).await;
        let (text, code) = show(&url, false, false).await.unwrap();
        assert_eq!(code, exit::OK);
        for line in
            ["3 to train on, 1 held out", "encoding   jpeg256", "    0         2         1  crow"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
        let (json, _) = show(&url, true, false).await.unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((json["train"].as_u64(), json["shards"].as_u64()), (Some(3), Some(4)));
        assert_eq!(json["classes"][1]["train"], 1);
        assert_eq!(json["bytes"], 4 * 26);
    }

    #[tokio::test]
    async fn names_of_any_characters_are_shown_on_one_line_each() {
        let folder = tempfile::TempDir::new().unwrap();
        let url = folder.path().to_str().unwrap().to_owned();
        let store = Store::open(&url).unwrap();
        let mut writer = PackWriter::start(store, Sizes::default()).await.unwrap();
        writer.append(Split::Train, 0, "a\n\u{1b}[2J", b"0123456789").await.unwrap();
        let classes = ["crow\n\u{1b}[31m".to_owned()];
        writer.finish(&classes, &PixelStatistics::default().summary()).await.unwrap();
        let (shown, _) = show(&url, false, false).await.unwrap();
        assert!(shown.contains("crow\\n\\u{1b}[31m\n"), "{shown:?}");
        let path = folder.path().join(shard_path(0));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (verified, _) = verify(&url, false).await.unwrap();
        for text in [shown, verified] {
            assert!(text.lines().all(|line| !line.contains(char::is_control)), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_whole_data_set_is_good_and_of_a_damaged_one_every_damage_is_named() {
        let folder = tempfile::TempDir::new().unwrap();
        let url = packed(&folder).await;
        let (text, code) = verify(&url, false).await.unwrap();
        assert_eq!(code, exit::OK);
        assert!(text.starts_with("good"), "{text}");
        let path = |shard| folder.path().join(shard_path(shard));
        std::fs::remove_file(path(0)).unwrap();
        let mut bytes = std::fs::read(path(1)).unwrap();
        bytes[20] ^= 1;
        std::fs::write(path(1), &bytes).unwrap();
        std::fs::write(path(3), &bytes[..22]).unwrap();
        std::fs::write(folder.path().join("names.bin"), b"others").unwrap();
        let (json, code) = verify(&url, true).await.unwrap();
        assert_eq!(code, exit::BAD_INPUT);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let problems: Vec<&str> =
            json["problems"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        let expected = [
            "names.bin does not belong",
            "shards/00000.convoy of",
            "shards/00001.convoy of",
            "image train/wren/ (number 1) in shards/00001.convoy",
            "22 bytes where the index says 26",
            "image val/crow/ (number 0) in shards/00003.convoy",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.contains(expected), "{expected} in {problem}");
        }
        let (text, _) = verify(&url, false).await.unwrap();
        assert_eq!(text.lines().count(), 7, "{text}");
    }
}
