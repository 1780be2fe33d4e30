//! Draws a data set: coloured, textured shapes before backgrounds that say nothing about them.
//!
//! It is a small vision problem of the usual kind, for trying things out where no photographs are
//! at hand. A class is a shape with a texture and a hue. Each hue and each texture belongs to two
//! classes, in different pairs, so that no single clue is enough; position, size, rotation, light,
//! background, clutter and noise are drawn independently of the class.
//!
//! ```text
//! (seed, split, number) -> scene: size, background, clutter, object -> pixels -> JPEG file
//! ```
//!
//! Every picture is a function of (seed, split, number) alone, so the same arguments make the same
//! files on any number of threads.

mod background;
mod classes;
mod colour;
mod error;
mod scene;
mod shapes;
mod textures;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use convoy_common::dataset::Split;
use serde::{Deserialize, Serialize};

use crate::parallel;
use crate::progress::Progress;
pub(crate) use classes::MOST_CLASSES;
use classes::NAMES;
pub(crate) use error::SynthesizeError;

/// Written last: what the folder holds. Whoever finds it finds a whole data set.
const RECORD: &str = "synthesize.json";

/// Raised whenever the same arguments would draw other pictures.
const VERSION: u32 = 1;

/// What to draw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    version: u32,
    pub(crate) classes: u32,
    pub(crate) train: u64,
    pub(crate) validation: u64,
    pub(crate) seed: u64,
}

impl Plan {
    pub(crate) fn new(classes: u32, train: u64, validation: u64, seed: u64) -> Self {
        Self { version: VERSION, classes, train, validation, seed }
    }

    fn images(&self) -> u64 {
        self.train + self.validation
    }
}

/// What came of it.
pub(crate) struct Drawn {
    /// Size of all files.
    pub(crate) bytes: u64,
    /// Time it took.
    pub(crate) elapsed: Duration,
    /// Whether the folder held it already.
    pub(crate) reused: bool,
}

/// Draws the data set into `folder`, as `train/CLASS/NUMBER.jpg` and `val/CLASS/NUMBER.jpg`.
///
/// With `reuse`, a folder that holds exactly this already is left as it is.
pub(crate) fn draw(
    folder: &Path,
    plan: &Plan,
    threads: usize,
    reuse: bool,
) -> Result<Drawn, SynthesizeError> {
    if holds(folder, plan, reuse)? {
        return Ok(Drawn { bytes: 0, elapsed: Duration::ZERO, reused: true });
    }
    for split in Split::ALL {
        for name in &NAMES[..plan.classes as usize] {
            let class = folder.join(split.folder()).join(name);
            fs::create_dir_all(&class)
                .map_err(|source| SynthesizeError::Write { path: class, source })?;
        }
    }
    let mut progress = Progress::start("drawing", plan.images());
    let mut bytes = 0;
    parallel::in_order(
        threads,
        plan.images() as usize,
        || (),
        |(), image| write(folder, plan, image as u64),
        |_, written: Result<u64, SynthesizeError>| {
            bytes += written?;
            progress.advance(0);
            Ok(())
        },
    )?;
    let elapsed = progress.finish();
    let path = folder.join(RECORD);
    let json = serde_json::to_string_pretty(plan).expect("invariant: a plan is plain data");
    fs::write(&path, json + "\n").map_err(|source| SynthesizeError::Write { path, source })?;
    Ok(Drawn { bytes, elapsed, reused: false })
}

/// Whether the folder holds this data set; an error if it must not be drawn into.
fn holds(folder: &Path, plan: &Plan, reuse: bool) -> Result<bool, SynthesizeError> {
    let folder_path = || folder.to_owned();
    match fs::read_to_string(folder.join(RECORD)) {
        Ok(text)
            if reuse && serde_json::from_str::<Plan>(&text).is_ok_and(|held| held == *plan) =>
        {
            return Ok(true);
        }
        Ok(_) if reuse => return Err(SynthesizeError::Differs { folder: folder_path() }),
        Ok(_) => return Err(SynthesizeError::Occupied { folder: folder_path() }),
        Err(_) => {}
    }
    // Without its record a folder is empty, broken off by us, or somebody's own pictures.
    let strangers = fs::read_dir(folder).map(|entries| {
        entries.flatten().any(|entry| !["train", "val"].iter().any(|own| entry.file_name() == *own))
    });
    if strangers.unwrap_or(false) || has_other_classes(folder, plan) {
        return Err(SynthesizeError::Occupied { folder: folder_path() });
    }
    Ok(false)
}

fn has_other_classes(folder: &Path, plan: &Plan) -> bool {
    let ours = &NAMES[..plan.classes as usize];
    Split::ALL.iter().any(|split| {
        fs::read_dir(folder.join(split.folder())).is_ok_and(|entries| {
            entries.flatten().any(|entry| !ours.iter().any(|name| entry.file_name() == *name))
        })
    })
}

fn write(folder: &Path, plan: &Plan, image: u64) -> Result<u64, SynthesizeError> {
    let (split, number) = match image.checked_sub(plan.train) {
        None => (Split::Train, image),
        Some(number) => (Split::Validation, number),
    };
    let class = (number % u64::from(plan.classes)) as usize;
    let path: PathBuf =
        folder.join(split.folder()).join(NAMES[class]).join(format!("{number:06}.jpg"));
    let jpeg = scene::draw(plan.seed, split, number, class)
        .map_err(|source| SynthesizeError::Encode { path: path.clone(), source })?;
    fs::write(&path, &jpeg).map_err(|source| SynthesizeError::Write { path, source })?;
    Ok(jpeg.len() as u64)
}

#[cfg(test)]
mod tests;
