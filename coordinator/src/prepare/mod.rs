//! Packs pictures, in any of the forms in which people have them, into a data set that any object
//! store can serve.
//!
//! ```text
//! SRC -> source: entries in a fixed mixed order -> packing: read, decode, shorter side 256, centre
//!        256x256, encode, on all cores -> in order: PackWriter -> DEST (shards, names, index last)
//! ```
//!
//! Memory holds the files' names, a few pictures per thread and two shards, however large the data
//! set is. Mean image and covariance are those of the pictures before they are encoded again, summed
//! in integers; so the same source makes the same bytes on any number of threads, and also if it was
//! broken off on the way and gone on with ([`ledger`], [`plan`]).

mod error;
mod ledger;
mod packing;
mod picture;
mod plan;
mod source;

use std::time::Duration;

use convoy_common::dataset::{
    Dataset, DatasetError, DatasetIdentity, Encoding, INDEX, PackWriter, Packed, SKIPPED, Sizes,
    Split, tidy,
};
use convoy_common::shutdown::Shutdown;
use convoy_common::store::Store;
use tokio::runtime::Runtime;

use crate::progress::Progress;
pub(crate) use error::PrepareError;
use ledger::Ledger;
pub(crate) use ledger::Skipped;
use packing::Ended;
use source::Source;
pub(crate) use source::{Format, Place, Wanted, one_line};

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
    pub(crate) encoding: Encoding,
    /// JPEG quality of the packed pictures, 1 to 100.
    pub(crate) quality: u8,
    pub(crate) on_bad_image: OnBadImage,
    /// As in [`Wanted::val_fraction`], for the plan.
    pub(crate) val_fraction: Option<f64>,
    pub(crate) threads: usize,
    pub(crate) sizes: Sizes,
    /// Use a data set that is there already as it is.
    pub(crate) reuse: bool,
    /// Remove what a broken-off packing left instead of going on with it.
    pub(crate) restart: bool,
}

/// What came of it.
pub(crate) enum Outcome {
    /// It was packed now.
    Packed(Report),
    /// It was there already, and the source was not looked at.
    Reused(DatasetIdentity),
    /// Somebody asked for the end; finished shards are kept.
    Stopped {
        reason: String,
        /// Pictures in finished shards.
        kept: u64,
    },
}

/// What was packed.
pub(crate) struct Report {
    pub(crate) packed: Packed,
    /// What the source was taken for.
    pub(crate) format: Format,
    pub(crate) skipped: Vec<Skipped>,
    /// Files that are not pictures by their names.
    pub(crate) ignored: u64,
    /// Pictures that an earlier packing had finished.
    pub(crate) resumed: u64,
    pub(crate) elapsed: Duration,
}

/// Packs what is wanted into `store`. Blocks; `runtime` carries the stores' work.
pub(crate) fn pack(
    runtime: &Runtime,
    wanted: &Wanted,
    store: &Store,
    settings: &Settings,
    shutdown: &Shutdown,
) -> Result<Outcome, PrepareError> {
    if runtime.block_on(store.exists(INDEX))? {
        // One that was killed behind its index could not.
        clean(runtime, store);
        if settings.reuse {
            let held = runtime.block_on(Dataset::open(store.clone()))?;
            return Ok(Outcome::Reused(held.identity()));
        }
        return Err(DatasetError::Occupied { url: store.url().to_owned() }.into());
    }
    let sources = [Some(&wanted.source), wanted.validation.as_ref()];
    if sources.into_iter().flatten().any(|place| place.holds(store)) {
        return Err(PrepareError::SamePlace { url: store.url().to_owned() });
    }
    let source = Source::open(wanted)?;
    let plan = plan::text(settings, &source);
    let begun = runtime.block_on(PackWriter::resume(
        store.clone(),
        settings.sizes,
        settings.encoding,
        &plan,
        settings.restart,
    ));
    let (mut writer, notes) = match begun {
        Ok(begun) => begun,
        Err(DatasetError::OtherPacking { url, held }) => {
            let differences = plan::differences(&held, &plan);
            return Err(PrepareError::OtherPlan { url, differences });
        }
        Err(error) => return Err(error.into()),
    };
    let mut ledger = Ledger::recall(&notes, &source)?;
    if let (OnBadImage::Fail, Some(bad)) = (settings.on_bad_image, ledger.skipped.first()) {
        return Err(PrepareError::BadImage { file: bad.file.clone(), why: bad.why.clone() });
    }
    let resumed = writer.images();
    let bytes: u64 = Split::ALL.iter().map(|&split| source.pictures(split).bytes()).sum();
    let left = bytes.saturating_sub(ledger.passed_bytes);
    let mut progress = Progress::over_bytes("packing", left, resumed);
    let ended = packing::run(
        runtime,
        &source,
        settings,
        &mut writer,
        &mut ledger,
        shutdown,
        &mut progress,
    )?;
    if let Ended::Stopped { reason } = ended {
        runtime.block_on(writer.settle())?;
        progress.finish();
        return Ok(Outcome::Stopped { reason, kept: writer.finished_images() });
    }
    runtime.block_on(list_skipped(store, &ledger.skipped))?;
    let (classes, labels) = ledger.sorted(&source);
    let note = ledger.note();
    let packed = runtime.block_on(writer.finish_as(&classes, &labels, note))?;
    clean(runtime, store);
    let elapsed = progress.finish();
    let (ignored, skipped) = (ledger.ignored(), ledger.skipped);
    Ok(Outcome::Packed(Report {
        packed,
        format: source.format,
        skipped,
        ignored,
        resumed,
        elapsed,
    }))
}

/// The data set is there; what cannot be cleaned up does it no harm.
fn clean(runtime: &Runtime, store: &Store) {
    if let Err(error) = runtime.block_on(tidy(store)) {
        tracing::warn!(%error, "what a killed packing may have left was not looked for");
    }
}

/// Leaves the complete list with the data set, since the summary shows only its beginning.
async fn list_skipped(store: &Store, skipped: &[Skipped]) -> Result<(), DatasetError> {
    if skipped.is_empty() {
        return Ok(());
    }
    let lines: String = skipped.iter().map(|it| format!("{}: {}\n", it.file, it.why)).collect();
    Ok(store.put(SKIPPED, lines.into()).await?)
}

#[cfg(test)]
mod tests;
