//! The validated config: complete, in units, every value possible.
//!
//! Made only by [`super::load`]; what holds a [`RunConfig`] need not check it again. Its JSON form
//! is what the run record keeps and what workers are given, so field names are a file format.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::data::{CacheFolder, Shuffle, unsaid};

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

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Which net.
    pub name: ModelName,
    /// Groups of conv2, conv4 and conv5: 2 as in the paper (its two GPUs), or 1.
    pub groups: u32,
    /// What all widths are divided by: 1 is the net of the paper, more are small nets for tests.
    pub narrow: u32,
    /// Probability of dropping a unit of fc6 and fc7 (section 4.2 of the paper: 0.5).
    pub dropout: f64,
    /// Initial weights.
    pub init: Init,
    /// Initial bias of conv2, conv4 and conv5 (section 5 of the paper: 1).
    pub conv_bias: f64,
    /// Initial bias of fc6 and fc7 (section 5 of the paper: 1).
    pub fc_bias: f64,
    /// What mean-subtracted 0-255 pixels are multiplied by (the paper: 1).
    pub pixel_scale: f64,
}

/// The net's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelName {
    /// AlexNet as published in 2012.
    Alexnet,
    /// The net of "One weird trick" (Krizhevsky 2014) in torchvision's form: one group, no
    /// response normalisation, torchvision's widths and parameter names.
    AlexnetOwt,
    /// AlexNet with batch normalisation (Ioffe, Szegedy 2015) where it had response normalisation.
    AlexnetBn,
}

impl ModelName {
    /// Every net.
    pub const ALL: [Self; 3] = [Self::Alexnet, Self::AlexnetOwt, Self::AlexnetBn];

    /// Height and width of the net's input, pixels: the one source for the net and for the data.
    ///
    /// The paper says 224; 227 is what its table of layers needs (55 = (227 - 11) / 4 + 1).
    pub const fn input_side(self) -> u32 {
        match self {
            Self::Alexnet | Self::AlexnetBn => 227,
            Self::AlexnetOwt => 224,
        }
    }

    /// Groups of conv2, conv4 and conv5 where the config says nothing.
    pub const fn default_groups(self) -> u32 {
        match self {
            Self::Alexnet | Self::AlexnetBn => 2,
            Self::AlexnetOwt => 1,
        }
    }

    /// As it is written in a config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alexnet => "alexnet",
            Self::AlexnetOwt => "alexnet-owt",
            Self::AlexnetBn => "alexnet-bn",
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ModelName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = Self::ALL.map(Self::as_str);
        let found = Self::ALL.into_iter().find(|name| name.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no net; there are {}", names.join(", ")))
    }
}

/// How weights start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// N(0, 0.01) everywhere (section 5 of the paper).
    Gaussian,
    /// N(0, sqrt(2 / fan_in)) (He et al. 2015, equation 10); the last layer N(0, 0.01).
    Kaiming,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Passes over the training split.
    pub epochs: u32,
    /// Ends the run after this many steps, if given; for short runs and tests.
    pub max_steps: Option<u64>,
    /// Samples of one step over all workers (the global batch).
    pub batch: u32,
    /// Initial learning rate.
    pub lr: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// L2 penalty, added to the gradient of every weight and bias.
    pub weight_decay: f64,
    /// The batch that `lr` is meant for; none: this one's.
    pub lr_base_batch: Option<u32>,
    /// How gradients become updates.
    pub optimizer: Optimizer,
    /// The trust coefficient of LARS; no other optimizer reads it.
    pub lars_trust: f64,
}

impl Train {
    /// The rate that the schedule starts from: `lr`, scaled with the batch if a base is given
    /// (Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.1).
    pub fn peak_rate(&self) -> f64 {
        match self.lr_base_batch {
            Some(base) => self.lr * f64::from(self.batch) / f64::from(base),
            None => self.lr,
        }
    }

    /// Steps of the whole run, unless a schedule ends it before.
    pub fn total_steps(&self, steps_per_epoch: u32) -> u64 {
        let all = u64::from(self.epochs) * u64::from(steps_per_epoch);
        self.max_steps.map_or(all, |max| all.min(max))
    }
}

/// How gradients become updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum (section 5 of the paper).
    Sgd,
    /// Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017), for large batches.
    Lars,
}

/// `[schedule]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// How the rate falls. What this kind does not know is refused there.
    #[serde(flatten)]
    pub decay: Decay,
    /// Epochs of linear warm-up; 0: none, or [`Self::warmup_steps`].
    pub warmup_epochs: u32,
    /// The same in steps; not both.
    pub warmup_steps: u32,
    /// The part of the rate that the first step has.
    pub warmup_from: f64,
}

/// Without warm-up.
impl From<Decay> for Schedule {
    fn from(decay: Decay) -> Self {
        Self { decay, warmup_epochs: 0, warmup_steps: 0, warmup_from: 0.1 }
    }
}

impl Schedule {
    /// Whether rates depend on where the run ends, so that it cannot be made longer or shorter.
    pub fn depends_on_end(&self) -> bool {
        match self.decay {
            Decay::Constant | Decay::Steps { .. } | Decay::Plateau { .. } => false,
            Decay::Polynomial { .. } | Decay::Cosine { .. } => true,
        }
    }
}

/// `schedule.kind` and its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Decay {
    /// The initial rate throughout.
    Constant,
    /// Multiplied by `factor` at the start of each listed epoch.
    Steps {
        /// In ascending order of epoch.
        drops: Vec<RateDrop>,
    },
    /// Divided when the top-1 error count on the validation split stalls.
    Plateau {
        /// An evaluation improves on the best if it has at least this many errors fewer.
        min_delta: u64,
        /// Evaluations without improvement before a drop.
        patience: u32,
        /// The rate is divided by this at a drop.
        divide_by: f64,
        /// The run ends when one more drop than this would be due.
        max_drops: u32,
    },
    /// Falls to `end_lr` at the end of the run, as a power of the part of the run that is left.
    Polynomial {
        /// 1 is a straight line.
        power: f64,
        /// At the end of the run.
        end_lr: f64,
    },
    /// Falls to `end_lr` at the end of the run along half a cosine.
    Cosine {
        /// At the end of the run.
        end_lr: f64,
    },
}

/// One entry of a step list.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateDrop {
    /// Takes effect at this epoch's first step.
    pub epoch: u32,
    /// What the rate is multiplied by.
    pub factor: f64,
}

/// `[numerics]`: what decides bits. None of it may change within a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numerics {
    /// Samples of one microbatch, the unit of work and of numerics.
    pub microbatch: u32,
    /// Intra-op threads of one lane.
    pub threads_per_lane: u32,
    /// How gradients of the fully connected layers are exchanged.
    pub head_exchange: HeadExchange,
    /// How the trunk's gradients are summed.
    pub reduction: Reduction,
    /// Microbatches of one block of the canonical sum.
    #[serde(default = "one")]
    pub block: u32,
    /// How summed gradients are written on the ring.
    #[serde(default)]
    pub wire: Wire,
    /// Number format of activations and of the weights that they meet.
    pub precision: Precision,
}

/// What a run record from before there were blocks means.
fn one() -> u32 {
    1
}

/// The number format of a lane's arithmetic. Weights, momentum and sums are fp32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// IEEE single precision.
    Fp32,
    /// bfloat16: the range of single precision with 8 bits of significand.
    Bf16,
}

/// How the gradient of a fully connected layer reaches every rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadExchange {
    /// Factors where they are fewer bytes than the gradient, by batch and dimensions alone.
    Auto,
    /// Activations and deltas are gathered and multiplied by every rank.
    Factors,
    /// Each rank multiplies its own rows; gradients are summed in the ring.
    Gradients,
}

/// The order in which gradients are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// Reduce-scatter, then all-gather: the order depends on the number of workers.
    Fast,
    /// In the order of microbatches, whoever computed them: the same bits on any number of workers.
    Canonical,
}

/// How summed gradients are written on the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wire {
    /// As they are.
    #[default]
    Fp32,
    /// Rounded to the nearest bfloat16, every partial sum anew.
    Bf16,
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

/// What records from before workers could outlive a coordinator mean.
fn coordinator_timeout() -> Duration {
    Duration::from_secs(600)
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

/// `[cluster]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Workers that make up the job; training starts when so many have joined.
    pub workers: u32,
    /// With fewer left, training waits until enough are back; at most `workers`.
    #[serde(default = "one")]
    pub min_workers: u32,
    /// With so many there is no place for more, at least `workers`; 0: as many as a batch has
    /// microbatches, or `workers` if that is more.
    #[serde(default)]
    pub max_workers: u32,
    /// host:port on which the coordinator listens; port 0 takes a free one.
    pub bind: String,
    /// Allow a bind beyond loopback although nothing is encrypted or authenticated.
    pub insecure: bool,
    /// How long the job waits for its workers to join.
    #[serde(with = "super::duration")]
    pub join_timeout: Duration,
    /// How long a worker may take to load its state and open its ring.
    #[serde(with = "super::duration")]
    pub prepare_timeout: Duration,
    /// A worker not heard of for so long is lost.
    #[serde(with = "super::duration")]
    pub liveness_timeout: Duration,
    /// How long a step may wait for a neighbour in the ring.
    #[serde(with = "super::duration")]
    pub ring_timeout: Duration,
    /// How long workers go on without a coordinator before they stop.
    #[serde(default = "coordinator_timeout", with = "super::duration")]
    pub coordinator_timeout: Duration,
    /// A worker that was asked to leave goes after so long at the latest.
    #[serde(with = "super::duration", default = "half_a_minute")]
    pub drain_grace: Duration,
    /// What is done about a worker that the others wait for.
    #[serde(default)]
    pub straggler: Straggler,
    /// How long the others wait for it before it is evicted, where it is.
    #[serde(with = "super::duration", default = "a_minute")]
    pub straggler_limit: Duration,
    /// Bytes of one chunk on the ring.
    pub ring_chunk: u64,
    /// Let workers in that compute other bits than the run's first one.
    #[serde(default)]
    pub allow_mixed_numerics: bool,
}

/// What is done about a worker that the others wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Straggler {
    /// It is named.
    #[default]
    Warn,
    /// It is named, and counts as lost after [`Cluster::straggler_limit`].
    Evict,
}

impl Cluster {
    /// The most workers that the job has places for, with batches of so many microbatches.
    pub fn places(&self, microbatches: u32) -> u32 {
        match self.max_workers {
            0 => self.workers.max(microbatches),
            most => most.max(self.workers),
        }
    }
}

// What records mean from before there were these.
fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

fn a_minute() -> Duration {
    Duration::from_secs(60)
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
