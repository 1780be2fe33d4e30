//! The validated config: complete, in units, every value possible.
//!
//! Made only by [`super::load`]; what holds a [`RunConfig`] need not check it again. Its JSON form
//! is what the run record keeps and what workers are given, so field names are a file format.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::data::{CacheFolder, Shuffle, unsaid};
use super::model::Model;
use super::numerics::Numerics;
use super::train::{Schedule, Train};

/// One run, as its TOML file, its environment and its `--set` options resolve it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// What the run is called and where it keeps its state.
    pub run: Run,
    /// What it trains on.
    pub data: Data,
    /// The net.
    pub model: Model,
    /// The optimizer and its batch.
    pub train: Train,
    /// When the learning rate drops.
    pub schedule: Schedule,
    /// Every choice that touches bits and is not part of the recipe.
    pub numerics: Numerics,
    /// When the validation split is evaluated.
    pub evaluation: Evaluation,
    /// When checkpoints are taken and how many are kept.
    pub checkpoint: Checkpoint,
    /// Addresses, size and deadlines of the cluster.
    pub cluster: Cluster,
    /// How much is logged.
    pub log: Log,
}

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Shown in logs; 1 to 64 of `a-z A-Z 0-9 - _ .`.
    pub name: String,
    /// Object-store URL (`file://`, `s3://`) under which everything of the run lies.
    pub url: String,
    /// Everything random derives from it.
    pub seed: u64,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Object-store URL of the packed data set.
    pub url: String,
    /// Threads that decode images, per worker; 0: one per lane.
    pub decode_threads: u32,
    /// Microbatches decoded ahead, per worker.
    pub prefetch: u32,
    /// In training, colours are shifted along the principal axes of the data set's colours by draws
    /// from N(0, this), in standard deviations (section 4.1 of the paper: 0.1); 0 leaves them alone,
    /// as do records of older runs, which have no such field.
    #[serde(default)]
    pub colour_sigma: f64,
    /// Training images that a launch draws and packs at `url` if nothing is there; 0: none.
    #[serde(default)]
    pub draw: u32,
    /// The order of an epoch.
    #[serde(default)]
    pub shuffle: Shuffle,
    /// Shards open at once where [`Self::shuffle`] is [`Shuffle::Window`]: their images are mixed.
    #[serde(default = "unsaid::shuffle_window")]
    pub shuffle_window: u32,
    /// Where a worker keeps the shards of a remote data set.
    #[serde(default)]
    pub cache: CacheFolder,
    /// Bytes that the cache may take on a machine.
    #[serde(default = "unsaid::cache_size")]
    pub cache_size: u64,
    /// A read of the data set that has not succeeded by then, retries included, fails.
    #[serde(default = "unsaid::read_timeout", with = "super::duration")]
    pub read_timeout: Duration,
}

/// `[evaluation]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Evaluate after every so many epochs; 0: never.
    pub every_epochs: u32,
    /// Windows of an image that the net is shown: 1, the centre, or 10, the four corners and the
    /// centre and their mirror images, whose softmax outputs are averaged (section 4.1 of the paper).
    #[serde(default = "one_crop")]
    pub crops: u32,
}

/// What records from before there were several mean.
fn one_crop() -> u32 {
    1
}

/// `[checkpoint]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// After every so many steps (counted from the run's start); 0: not by steps.
    pub every_steps: u32,
    /// After every so many epochs; 0: not by epochs.
    pub every_epochs: u32,
    /// Older ones are removed, this many stay; at least 1.
    pub keep_last: u32,
    /// The one with the fewest top-1 errors of its lineage stays too, however old, and is taken when
    /// an evaluation finds fewer errors than ever before, due or not.
    #[serde(default)]
    pub keep_best: bool,
    /// How long the end of a run waits for its store to take the last checkpoint.
    #[serde(with = "super::duration", default = "final_timeout")]
    pub final_timeout: Duration,
}

/// What records from before it could be set mean.
fn final_timeout() -> Duration {
    Duration::from_secs(600)
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Steps between two progress lines.
    pub every_steps: u32,
    /// Folder for the log file of each process; `{run}` stands for the run's name.
    pub folder: String,
}
