//! The packing itself: one thread feeds, many make, one writes, and the order never changes.
//!
//! ```text
//! Entries ──feeder──> chunks of entries ──threads──> chunks of pictures, sums ──> PackWriter
//!  (a tar is read here)                (files are read, all is decoded here)      (in order)
//! ```
//!
//! A chunk is a few consecutive entries. A shard is closed between two chunks, so that the pixel
//! sums of a shard are those of whole chunks, whichever threads made them.

use convoy_common::dataset::{Encoding, PackWriter, PixelSums, RAW_BYTES, Split};
use convoy_common::shutdown::Shutdown;
use tokio::runtime::Runtime;

use super::ledger::Ledger;
use super::picture::{Made, Recipe};
use super::source::{Content, Entries, Entry, Source};
use super::{OnBadImage, PrepareError, Settings};
use crate::parallel;
use crate::progress::Progress;

/// Entries of a chunk at most.
const CHUNK: u64 = 16;

/// Consecutive entries of one split; none when it ends.
struct Chunk {
    split: Split,
    entries: Vec<Entry>,
    /// Files passed over in that split so far.
    ignored: u64,
}

/// What became of a chunk.
struct MadeChunk {
    split: Split,
    entries: Vec<(Entry, Made)>,
    sums: PixelSums,
    ignored: u64,
}

/// How a packing ended.
pub(super) enum Ended {
    /// All is packed, and the last shard is open.
    Done,
    /// Somebody asked for the end.
    Stopped { reason: String },
}

/// Packs what the ledger says is left.
pub(super) fn run(
    runtime: &Runtime,
    source: &Source,
    settings: &Settings,
    writer: &mut PackWriter,
    ledger: &mut Ledger,
    shutdown: &Shutdown,
    progress: &mut Progress,
) -> Result<Ended, PrepareError> {
    let mut feeder = Feeder {
        source,
        split: Some(ledger.split),
        passed: ledger.entries,
        entries: None,
        chunk: chunk_entries(settings),
    };
    let recipe = Recipe { encoding: settings.encoding, quality: settings.quality };
    let mut consumer = Consumer { runtime, source, settings, writer, ledger, progress };
    let mut stopped = None;
    let outcome = parallel::pipeline(
        settings.threads,
        || feeder.next(),
        |chunk| make(recipe, chunk),
        |chunk| {
            if let Some(request) = shutdown.request() {
                stopped = Some(request.reason);
                return Err(None);
            }
            chunk.and_then(|chunk| consumer.take(chunk)).map_err(Some)
        },
    );
    match (outcome, stopped) {
        (Err(Some(error)), _) => Err(error),
        (Err(None), reason) => Ok(Ended::Stopped { reason: reason.unwrap_or_default() }),
        (Ok(()), _) => Ok(Ended::Done),
    }
}

/// Fewer entries for small shards, so that a shard has about the size that was asked for.
fn chunk_entries(settings: &Settings) -> u64 {
    let picture = match settings.encoding {
        Encoding::Jpeg256 => 30_000,
        Encoding::Original => 110_000,
        Encoding::Raw256 => RAW_BYTES as u64,
    };
    (settings.sizes.shard / (8 * picture)).clamp(1, CHUNK)
}

/// Makes chunks of what the source gives.
struct Feeder<'a> {
    source: &'a Source,
    split: Option<Split>,
    /// Entries of the first split that were packed before.
    passed: u64,
    entries: Option<Box<dyn Entries + 'a>>,
    chunk: u64,
}

impl Feeder<'_> {
    fn next(&mut self) -> Result<Option<Chunk>, PrepareError> {
        let Some(split) = self.split else { return Ok(None) };
        let entries = match &mut self.entries {
            Some(entries) => entries,
            None => {
                let mut entries = self.source.pictures(split).entries()?;
                for _ in 0..std::mem::take(&mut self.passed) {
                    entries.next(&|_| false)?;
                }
                self.entries.insert(entries)
            }
        };
        let mut chunk = Vec::with_capacity(self.chunk as usize);
        while (chunk.len() as u64) < self.chunk
            && let Some(entry) = entries.next(&|_| true)?
        {
            chunk.push(entry);
        }
        let ignored = entries.ignored();
        if chunk.is_empty() {
            self.entries = None;
            self.split = (split == Split::Train).then_some(Split::Validation);
        }
        Ok(Some(Chunk { split, entries: chunk, ignored }))
    }
}

fn make(recipe: Recipe, chunk: Chunk) -> Result<MadeChunk, PrepareError> {
    let Chunk { split, entries, ignored } = chunk;
    let mut sums = PixelSums::default();
    let entries = entries
        .into_iter()
        .map(|mut entry| {
            let content = std::mem::replace(&mut entry.content, Content::Passed);
            let sums = (split == Split::Train).then_some(&mut sums);
            let made = recipe.make(content, sums)?;
            Ok((entry, made))
        })
        .collect::<Result<Vec<_>, PrepareError>>()?;
    Ok(MadeChunk { split, entries, sums, ignored })
}

/// Takes chunks in order.
struct Consumer<'a> {
    runtime: &'a Runtime,
    source: &'a Source,
    settings: &'a Settings,
    writer: &'a mut PackWriter,
    ledger: &'a mut Ledger,
    progress: &'a mut Progress,
}

impl Consumer<'_> {
    fn take(&mut self, chunk: MadeChunk) -> Result<(), PrepareError> {
        if chunk.entries.is_empty() {
            self.ledger.ignored_here = chunk.ignored;
            return match chunk.split {
                Split::Train => self.ledger.check_classes(self.source),
                Split::Validation => Ok(()),
            };
        }
        let bytes: usize = chunk
            .entries
            .iter()
            .map(|(_, made)| match made {
                Made::Picture(bytes) => bytes.len(),
                Made::Unusable(_) => 0,
            })
            .sum();
        if self.writer.must_close(chunk.split, bytes as u64) {
            let note = self.ledger.note();
            self.runtime.block_on(self.writer.close(note))?;
        }
        self.ledger.enter(chunk.split);
        for (entry, made) in chunk.entries {
            self.ledger.see(&entry);
            match made {
                Made::Picture(bytes) => self.add(chunk.split, &entry, &bytes)?,
                Made::Unusable(why) if self.settings.on_bad_image == OnBadImage::Fail => {
                    return Err(PrepareError::BadImage { file: entry.shown, why });
                }
                Made::Unusable(why) => self.ledger.skip(&entry, why),
            }
            self.progress.advance(entry.weight);
        }
        self.writer.add_sums(&chunk.sums);
        Ok(())
    }

    fn add(&mut self, split: Split, entry: &Entry, bytes: &[u8]) -> Result<(), PrepareError> {
        if split == Split::Validation && !self.ledger.knows(&entry.class) {
            let (place, class) = (entry.shown.clone(), entry.class.to_string());
            return Err(PrepareError::UnknownClass { place, class });
        }
        let label = self.ledger.label(&entry.class)?;
        Ok(self.writer.push(split, label, &entry.name, bytes)?)
    }
}
