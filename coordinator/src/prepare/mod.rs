//! Packs a folder of pictures into a data set that any object store can serve.
//!
//! ```text
//! SRC -> source: classes and files in order -> threads: read, decode, shorter side 256,
//!        centre 256x256, encode -> in order: PackWriter -> DEST (shards, names, index last)
//! ```
//!
//! Memory holds the files' names, a few pictures per thread and two shards, however large the data
//! set is. Mean image and covariance are those of the pictures before they are encoded again, summed
//! in integers by the threads; so the same folder makes the same bytes on any number of them.

mod error;
mod source;

use std::fs;
use std::path::Path;
use std::time::Duration;

use convoy_common::dataset::{
    Dataset, DatasetError, DatasetIdentity, PackWriter, Packed, PixelStatistics, SIDE, Sizes, Split,
};
use convoy_common::image::{
    Chroma, ImageError, Rgb8, centre_crop, decode, encode_jpeg, shorter_side_256,
};
use convoy_common::store::Store;

use crate::parallel;
use crate::progress::Progress;
pub(crate) use error::PrepareError;
use source::Source;

/// Files beyond this size are not read; the largest pictures of ImageNet have 15 MB.
const MOST_FILE_BYTES: u64 = 256 << 20;

/// Where the list of left-out pictures lies under the data set's URL; absent if there are none.
pub(crate) const SKIPPED: &str = "skipped.txt";

/// What to do about a picture that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnBadImage {
    /// Stop at the first
    Fail,
    /// Leave it out and list it in the summary
    SkipAndLog,
}

/// How to pack.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// JPEG quality of the packed pictures, 1 to 100.
    pub(crate) quality: u8,
    pub(crate) on_bad_image: OnBadImage,
    /// Share of each class to hold out, where the source has no `val`.
    pub(crate) val_fraction: Option<f64>,
    pub(crate) threads: usize,
    pub(crate) sizes: Sizes,
    /// Use a data set that is there already as it is.
    pub(crate) reuse: bool,
}

/// A picture that was left out.
#[derive(Clone, Debug)]
pub(crate) struct Skipped {
    /// Path below the source.
    pub(crate) file: String,
    pub(crate) why: String,
}

/// What came of it.
pub(crate) enum Outcome {
    /// It was packed now.
    Packed(Report),
    /// It was there already, and the source was not looked at.
    Reused(DatasetIdentity),
}

/// What was packed.
pub(crate) struct Report {
    pub(crate) packed: Packed,
    pub(crate) skipped: Vec<Skipped>,
    /// Files below class folders that are not pictures by their names.
    pub(crate) ignored: u64,
    pub(crate) elapsed: Duration,
}

/// Packs `source` into `store`. Blocks; `runtime` carries the store's work.
pub(crate) fn pack(
    runtime: &tokio::runtime::Runtime,
    source: &Path,
    store: &Store,
    settings: &Settings,
) -> Result<Outcome, PrepareError> {
    let mut writer = match runtime.block_on(PackWriter::start(store.clone(), settings.sizes)) {
        Ok(writer) => writer,
        Err(DatasetError::Occupied { .. }) if settings.reuse => {
            let held = runtime.block_on(Dataset::open(store.clone()))?;
            return Ok(Outcome::Reused(held.identity()));
        }
        Err(error) => return Err(error.into()),
    };
    let source = Source::scan(source, settings.val_fraction)?;
    let mut progress = Progress::start("packing", source.files() as u64);
    let mut skipped = Vec::new();
    let mut used = 0_u64;
    let statistics = parallel::in_order(
        settings.threads,
        source.files(),
        PixelStatistics::default,
        |statistics, file| {
            let (group, name) = source.file(file);
            let image = read_image(&group.folder.join(name))?;
            let jpeg = encode_jpeg(&image, settings.quality, Chroma::Quarter)?;
            if group.split == Split::Train {
                statistics.add(&image);
            }
            Ok(jpeg)
        },
        |file, made: Result<Vec<u8>, Unusable>| {
            let (group, name) = source.file(file);
            match made {
                Ok(jpeg) => {
                    let name = name.to_string_lossy();
                    runtime.block_on(writer.append(group.split, group.label, &name, &jpeg))?;
                    used += 1;
                }
                Err(unusable) if settings.on_bad_image == OnBadImage::Fail => {
                    return Err(PrepareError::BadImage {
                        path: group.folder.join(name),
                        why: unusable.why,
                    });
                }
                Err(unusable) => {
                    let file = source.shown(group, name);
                    skipped.push(Skipped { file, why: unusable.why });
                }
            }
            if source.ends_group(file) {
                if used == 0 {
                    let example = skipped.last().map(|it| format!("{}: {}", it.file, it.why));
                    return Err(PrepareError::EmptyClass { folder: group.folder.clone(), example });
                }
                used = 0;
            }
            progress.advance();
            Ok(())
        },
    )?;
    let mut total = PixelStatistics::default();
    statistics.iter().for_each(|part| total.merge(part));
    runtime.block_on(list_skipped(store, &skipped))?;
    let packed = runtime.block_on(writer.finish(&source.classes, &total.summary()))?;
    let elapsed = progress.finish();
    Ok(Outcome::Packed(Report { packed, skipped, ignored: source.ignored, elapsed }))
}

/// Leaves the complete list with the data set, since the summary shows only its beginning.
async fn list_skipped(store: &Store, skipped: &[Skipped]) -> Result<(), DatasetError> {
    if skipped.is_empty() {
        return Ok(());
    }
    let lines: String = skipped.iter().map(|it| format!("{}: {}\n", it.file, it.why)).collect();
    Ok(store.put(SKIPPED, lines.into()).await?)
}

/// Why a file gives no picture.
struct Unusable {
    why: String,
}

impl From<ImageError> for Unusable {
    fn from(error: ImageError) -> Self {
        Self { why: error.to_string() }
    }
}

impl From<std::io::Error> for Unusable {
    fn from(error: std::io::Error) -> Self {
        Self { why: format!("cannot be read: {error}") }
    }
}

fn read_image(path: &Path) -> Result<Rgb8, Unusable> {
    let about = fs::metadata(path)?;
    if !about.is_file() {
        // A pipe would never end.
        return Err(Unusable { why: "is no regular file".to_owned() });
    }
    let size = about.len();
    if size > MOST_FILE_BYTES {
        let why = format!("a file of {size} bytes is too large (at most {MOST_FILE_BYTES})");
        return Err(Unusable { why });
    }
    let image = shorter_side_256(decode(&fs::read(path)?)?)?;
    Ok(centre_crop(&image, SIDE)?)
}

#[cfg(test)]
mod tests;
