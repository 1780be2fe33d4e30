//! A trained net as its user sees it: what it was trained on, and what it makes of a picture.
//!
//! ```text
//! RUN_URL, RUN_URL@best, one checkpoint --.
//!                                         +--> Trained --> export: FILE.safetensors
//! FILE.safetensors -----------------------'           '--> predict: names and probabilities
//! FILE.safetensors --> import: the checkpoint that a new run begins with
//! ```
//!
//! Training knows nothing of this; what is here only reads checkpoints, or writes the first one of
//! a run that has not begun.

mod error;
mod file;
pub mod start;

use convoy_common::checkpoint::{self, Located};
use convoy_common::dataset::Dataset;
use convoy_common::failure::Failure;
use convoy_common::store::Store;
use serde_json::json;

pub use error::TrainedError;
pub use file::{Facts, Weights, write};

use crate::model::{Device, Net, Spec};
use crate::state;

/// How a file is told from a run.
const EXTENSION: &str = ".safetensors";

/// A net with its weights, and what it needs besides.
#[derive(Debug)]
pub struct Trained {
    /// The weights; their momentum is of no use here.
    pub net: Net,
    /// The net's section of the config, classes, mean image, where it comes from.
    pub facts: Facts,
    /// Threads of one kernel, as in the run.
    pub threads_per_lane: u32,
}

impl Trained {
    /// Opens a checkpoint (see [`checkpoint::locate`]) or a file that was exported (a path or URL
    /// that ends with `.safetensors`).
    ///
    /// A checkpoint does not hold the mean image and the names of the classes: they are read from
    /// the run's data set, or from the copy of it at `data`.
    ///
    /// # Errors
    /// What is wrong with the checkpoint, the data set or the file.
    pub async fn open(source: &str, data: Option<&str>, device: Device) -> Result<Self, Failure> {
        if source.ends_with(EXTENSION) {
            let weights = Weights::read(source).await?;
            let facts = weights.facts()?;
            let spec = Spec::of(&facts.model, facts.class_names.len())?;
            let mut net = Net::zeroed(spec, device)?;
            weights.fill(&mut net, true)?;
            return Ok(Self { net, facts, threads_per_lane: 1 });
        }
        let found = checkpoint::locate(source).await?;
        Self::load(found, data, device).await
    }

    async fn load(found: Located, data: Option<&str>, device: Device) -> Result<Self, Failure> {
        let Located { checkpoints, record, path, manifest, .. } = found;
        let url = data.unwrap_or(&record.config.data.url);
        let dataset = Dataset::open(Store::open(url)?).await?;
        if dataset.identity() != record.dataset {
            return Err(TrainedError::OtherDataset { url: url.to_owned() }.into());
        }
        let classes = record.dataset.classes as usize;
        let mut net = Net::zeroed(Spec::of(&manifest.model, classes)?, device)?
            .with_precision(record.config.numerics.precision)?;
        let layout = state::layout(&net);
        state::load(&checkpoints, &manifest, &layout, &mut net).await?;
        let shared = &manifest.shared;
        let trained = json!({
            "run": record.config.run.name,
            "run_id": record.run_id,
            "checkpoint": path,
            "epoch": shared.position.epoch,
            "step": shared.global_step,
            "state_digest": manifest.state_digest,
            "dataset_digest": record.dataset.digest,
            "evaluation": shared.evaluations.here,
        });
        let facts = Facts {
            model: manifest.model.clone(),
            class_names: dataset.classes().to_vec(),
            mean_image: dataset.mean_image().to_vec(),
            trained,
        };
        Ok(Self { net, facts, threads_per_lane: record.config.numerics.threads_per_lane })
    }
}
