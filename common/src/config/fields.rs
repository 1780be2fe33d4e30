//! The one table of fields: name, form, default, meaning.
//!
//! A default is written as in TOML and passes the same checks as what a user writes. Defaults are
//! the recipe of the paper (Krizhevsky, Sutskever, Hinton 2012), where it has one.

/// How a field is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// One of a few words.
    Word,
    Integer,
    Number,
    Flag,
    /// `"30s"`.
    Duration,
    /// `"256KiB"`, or bytes as a whole number.
    Size,
    /// `[{ epoch = 30, factor = 0.1 }]`.
    Drops,
}

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    /// `section.field`.
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    /// As in TOML; none: the field is required, or may be left out.
    pub(super) default: Option<&'static str>,
    /// For hints, as in TOML.
    pub(super) example: &'static str,
    /// One line for the reader of a printed config.
    pub(super) meaning: &'static str,
}

impl Field {
    /// The section's name.
    pub(super) fn section(&self) -> &'static str {
        self.key.split_once('.').map_or("", |(section, _)| section)
    }

    /// The name within the section.
    pub(super) fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The environment variable that sets it.
    pub(super) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.key.replace('.', "_").to_ascii_uppercase())
    }
}

/// What the environment variables of fields start with.
pub(super) const PREFIX: &str = "CONVOY_";

/// Variables that start like a section's but are options of the command line.
pub(super) const OTHER_VARIABLES: [&str; 2] = ["CONVOY_LOG_FORMAT", "CONVOY_LOG_LEVEL"];

/// The field of that key.
pub(super) fn find(key: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.key == key)
}

/// The sections in the table's order.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = FIELDS.iter().map(Field::section).collect();
    sections.dedup();
    sections
}

const fn field(
    key: &'static str,
    kind: Kind,
    default: &'static str,
    meaning: &'static str,
) -> Field {
    Field { key, kind, default: Some(default), example: default, meaning }
}

const fn without_default(
    key: &'static str,
    kind: Kind,
    example: &'static str,
    meaning: &'static str,
) -> Field {
    Field { key, kind, default: None, example, meaning }
}

/// Every field, in the order in which a config is printed.
pub(super) const FIELDS: &[Field] = &[
    field("run.name", Kind::Text, r#""alexnet""#, "shown in logs"),
    without_default(
        "run.url",
        Kind::Text,
        r#""runs/alexnet""#,
        "where the run keeps its state: a folder, file:// or s3://bucket/prefix",
    ),
    field("run.seed", Kind::Integer, "0", "everything random derives from it"),
    without_default(
        "data.url",
        Kind::Text,
        r#""data/imagenet""#,
        "the packed data set: a folder, file:// or s3://bucket/prefix",
    ),
    field(
        "data.decode_threads",
        Kind::Integer,
        "0",
        "threads that decode, per worker; 0: one per lane",
    ),
    field("data.prefetch", Kind::Integer, "4", "microbatches decoded ahead, per worker"),
    field(
        "data.colour_sigma",
        Kind::Number,
        "0.1",
        "spread of the colour shift in training, in deviations of the data's colours (paper, 4.1); 0: none",
    ),
    field(
        "data.draw",
        Kind::Integer,
        "0",
        "training images that a launch draws and packs if nothing is at data.url; 0: none",
    ),
    field(
        "data.shuffle",
        Kind::Word,
        r#""auto""#,
        "full: any image may follow any other; window: within open shards; auto: by where data lie",
    ),
    field("data.shuffle_window", Kind::Integer, "16", "shards open at once with window"),
    field(
        "data.cache",
        Kind::Text,
        r#""auto""#,
        "folder for shards of a remote data set; auto: ~/.cache/convoy/data; none: no cache",
    ),
    field(
        "data.cache_size",
        Kind::Size,
        r#""64GiB""#,
        "bytes that the cache may take on a machine",
    ),
    field(
        "data.read_timeout",
        Kind::Duration,
        r#""30s""#,
        "a read of the data set that has not succeeded by then, retries included, fails",
    ),
    field(
        "model.name",
        Kind::Word,
        r#""alexnet""#,
        "alexnet: the net of 2012; alexnet-owt: torchvision's; alexnet-bn: batch normalisation",
    ),
    without_default(
        "model.groups",
        Kind::Integer,
        "2",
        "groups of conv2, conv4, conv5: 2 (paper, 3.5) unless given, or 1; alexnet-owt has 1",
    ),
    field(
        "model.narrow",
        Kind::Integer,
        "1",
        "divides all widths: 1 is the paper's net, more is for tests",
    ),
    field("model.dropout", Kind::Number, "0.5", "of fc6 and fc7 (paper, 4.2)"),
    field(
        "model.init",
        Kind::Word,
        r#""gaussian""#,
        "gaussian: N(0, 0.01) (paper, 5); kaiming: He et al. 2015",
    ),
    field("model.conv_bias", Kind::Number, "1.0", "initial bias of conv2, conv4, conv5 (paper, 5)"),
    field("model.fc_bias", Kind::Number, "1.0", "initial bias of fc6 and fc7 (paper, 5)"),
    field(
        "model.pixel_scale",
        Kind::Number,
        "1.0",
        "factor on mean-subtracted 0-255 pixels (paper, 2: none)",
    ),
    field(
        "train.epochs",
        Kind::Integer,
        "90",
        "passes over the training split (paper, 5: roughly 90)",
    ),
    without_default("train.max_steps", Kind::Integer, "1000", "ends the run after so many steps"),
    field("train.batch", Kind::Integer, "128", "samples of one step, over all workers (paper, 5)"),
    field("train.lr", Kind::Number, "0.01", "initial learning rate (paper, 5)"),
    field("train.momentum", Kind::Number, "0.9", "of SGD (paper, 5)"),
    field(
        "train.weight_decay",
        Kind::Number,
        "0.0005",
        "L2 penalty on weights and biases (paper, 5)",
    ),
    without_default(
        "train.lr_base_batch",
        Kind::Integer,
        "256",
        "scales the rate: lr * batch / lr_base_batch (Goyal et al. 2017, 2.1)",
    ),
    field(
        "train.optimizer",
        Kind::Word,
        r#""sgd""#,
        "sgd: with momentum (paper, 5); lars: You et al. 2017, for large batches",
    ),
    field(
        "train.lars_trust",
        Kind::Number,
        "0.001",
        "trust coefficient of lars (You et al. 2017); sgd does not read it",
    ),
    field(
        "schedule.kind",
        Kind::Word,
        r#""plateau""#,
        "constant, steps, plateau (paper, 5), polynomial or cosine",
    ),
    without_default(
        "schedule.drops",
        Kind::Drops,
        "[{ epoch = 30, factor = 0.1 }]",
        "at each epoch's first step the rate is multiplied by its factor",
    ),
    field(
        "schedule.min_delta",
        Kind::Integer,
        "1",
        "validation errors fewer than the best that count as better",
    ),
    field("schedule.patience", Kind::Integer, "3", "evaluations without improvement before a drop"),
    field("schedule.divide_by", Kind::Number, "10.0", "what a drop divides the rate by (paper, 5)"),
    field(
        "schedule.max_drops",
        Kind::Integer,
        "3",
        "the run ends when one more would be due (paper, 5)",
    ),
    field("schedule.power", Kind::Number, "2.0", "of the part of the run that is left; 1: a line"),
    field("schedule.end_lr", Kind::Number, "0.0", "rate at the end of the run"),
    field(
        "schedule.warmup_epochs",
        Kind::Integer,
        "0",
        "epochs in which the rate grows to its full size (Goyal et al. 2017, 2.2)",
    ),
    field("schedule.warmup_steps", Kind::Integer, "0", "the same in steps; not both"),
    field("schedule.warmup_from", Kind::Number, "0.1", "part of the rate that the first step has"),
    field("numerics.microbatch", Kind::Integer, "32", "samples of one unit of work"),
    field("numerics.threads_per_lane", Kind::Integer, "1", "intra-op threads of one lane"),
    field(
        "numerics.head_exchange",
        Kind::Word,
        r#""auto""#,
        "fc gradients travel as factors, gradients, or what is fewer bytes",
    ),
    field(
        "numerics.reduction",
        Kind::Word,
        r#""canonical""#,
        "canonical: the same bits on any number of workers; fast: fewer hops",
    ),
    field(
        "numerics.block",
        Kind::Integer,
        "1",
        "microbatches that canonical sums before it adds them to the rest",
    ),
    field(
        "numerics.wire",
        Kind::Word,
        r#""fp32""#,
        "fp32, or bf16 with fast: summed gradients on the ring",
    ),
    field(
        "numerics.precision",
        Kind::Word,
        r#""fp32""#,
        "arithmetic of a lane: fp32 or bf16; weights are fp32 in both",
    ),
    field("evaluation.every_epochs", Kind::Integer, "1", "epochs between evaluations; 0: never"),
    field(
        "evaluation.crops",
        Kind::Integer,
        "1",
        "views of an image: 1, the centre; 10, corners, centre and mirrored (paper, 4.1)",
    ),
    field(
        "checkpoint.every_steps",
        Kind::Integer,
        "1000",
        "steps between checkpoints; 0: not by steps",
    ),
    field(
        "checkpoint.every_epochs",
        Kind::Integer,
        "1",
        "epochs between checkpoints; 0: not by epochs",
    ),
    field("checkpoint.keep_last", Kind::Integer, "3", "older checkpoints are removed"),
    field(
        "checkpoint.keep_best",
        Kind::Flag,
        "true",
        "also keep the one with the fewest top-1 errors on the validation split",
    ),
    field(
        "checkpoint.final_timeout",
        Kind::Duration,
        r#""10m""#,
        "how long the end of a run waits for the store to take the last checkpoint",
    ),
    field("cluster.workers", Kind::Integer, "1", "training starts when so many have joined"),
    field(
        "cluster.min_workers",
        Kind::Integer,
        "1",
        "with fewer left, training waits until enough are back",
    ),
    field(
        "cluster.max_workers",
        Kind::Integer,
        "0",
        "with so many there is no place for more; 0: as many as a batch has microbatches",
    ),
    field(
        "cluster.bind",
        Kind::Text,
        r#""127.0.0.1:7171""#,
        "where the coordinator listens; port 0: any free one",
    ),
    field(
        "cluster.insecure",
        Kind::Flag,
        "false",
        "allow a bind beyond loopback; nothing is encrypted or authenticated",
    ),
    field(
        "cluster.join_timeout",
        Kind::Duration,
        r#""2m""#,
        "how long the job waits for its workers",
    ),
    field(
        "cluster.prepare_timeout",
        Kind::Duration,
        r#""2m""#,
        "to load state and open the ring; more than liveness_timeout",
    ),
    field(
        "cluster.liveness_timeout",
        Kind::Duration,
        r#""3s""#,
        "a worker silent for so long is lost; more than the heartbeat, 1s",
    ),
    field(
        "cluster.ring_timeout",
        Kind::Duration,
        r#""30s""#,
        "how long a step waits for a neighbour; more than liveness_timeout",
    ),
    field(
        "cluster.coordinator_timeout",
        Kind::Duration,
        r#""10m""#,
        "workers go on so long without a coordinator, then stop; more than liveness_timeout",
    ),
    field(
        "cluster.drain_grace",
        Kind::Duration,
        r#""30s""#,
        "a worker that was asked to leave goes after so long at the latest",
    ),
    field(
        "cluster.straggler",
        Kind::Word,
        r#""warn""#,
        "what is done about a worker that the others wait for: warn, or evict after straggler_limit",
    ),
    field(
        "cluster.straggler_limit",
        Kind::Duration,
        r#""60s""#,
        "how long the others wait for it until then; more than liveness_timeout",
    ),
    field("cluster.ring_chunk", Kind::Size, r#""256KiB""#, "one message on the ring, 4KiB to 4MiB"),
    field(
        "cluster.allow_mixed_numerics",
        Kind::Flag,
        "false",
        "let in workers that compute other bits than the run's first one",
    ),
    field("log.every_steps", Kind::Integer, "10", "steps between progress lines"),
    field(
        "log.folder",
        Kind::Text,
        r#""runs/{run}/logs""#,
        "a file for each process; {run} is the run's name",
    ),
];
