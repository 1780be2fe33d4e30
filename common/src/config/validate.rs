//! Raw values to a [`RunConfig`]: every bound that a value must keep, and those between values.

use std::path::Path;
use std::time::Duration;

use super::address;
use super::cluster::{Cluster, Straggler};
use super::data;
use super::deadlines::{HEARTBEAT_INTERVAL, ORDERS};
use super::error::Problem;
use super::model::{Init, Model, ModelName};
use super::numerics::{HeadExchange, Numerics, Precision, Reduction, Wire};
use super::rates;
use super::raw::Entries;
use super::reader::{LARGEST_INTEGER, Reader};
use super::run_config::{Checkpoint, Data, Evaluation, Log, Run, RunConfig};
use super::train::{Decay, Optimizer, Train};

const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

/// The config that the values make, or all that is wrong with them. Relative paths count from
/// `folder`.
pub(super) fn validate(
    entries: &Entries,
    folder: Option<&Path>,
) -> Result<RunConfig, Vec<Problem>> {
    let reader = &mut Reader::new(entries);
    let config = RunConfig {
        run: run(reader, folder),
        data: data(reader, folder),
        model: model(reader),
        train: train(reader),
        schedule: rates::schedule(reader),
        numerics: numerics(reader),
        evaluation: evaluation(reader),
        checkpoint: checkpoint(reader),
        cluster: cluster(reader),
        log: log(reader),
    };
    between_sections(&config, reader);
    let problems = std::mem::replace(reader, Reader::new(entries)).into_problems();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// More than anyone wants of anything that is counted, and far from overflow.
pub(super) const MANY: u32 = 1_000_000;

fn run(reader: &mut Reader<'_>, folder: Option<&Path>) -> Run {
    let name = reader.text("run.name");
    if reader.good(&["run.name"])
        && let Err(wrong) = address::name(&name)
    {
        reader.wrong("run.name", wrong.what, wrong.hint);
    }
    Run {
        name,
        url: url(reader, "run.url", folder),
        seed: reader.integer("run.seed", 0..=LARGEST_INTEGER),
    }
}

fn data(reader: &mut Reader<'_>, folder: Option<&Path>) -> Data {
    Data {
        url: url(reader, "data.url", folder),
        decode_threads: reader.integer("data.decode_threads", 0..=256),
        prefetch: reader.integer("data.prefetch", 1..=1024),
        colour_sigma: reader.number("data.colour_sigma", "at least 0 and at most 10", |it| {
            (0.0..=10.0).contains(&it)
        }),
        draw: reader.integer("data.draw", 0..=MANY),
        shuffle: data::shuffle(reader),
        shuffle_window: reader.integer("data.shuffle_window", 1..=MANY),
        cache: data::cache(reader, folder),
        cache_size: data::cache_size(reader),
        read_timeout: data::read_timeout(reader),
    }
}

fn url(reader: &mut Reader<'_>, key: &'static str, folder: Option<&Path>) -> String {
    let text = reader.text(key);
    if !reader.good(&[key]) {
        return text;
    }
    address::store_url(&text, folder).unwrap_or_else(|wrong| {
        reader.wrong(key, wrong.what, wrong.hint);
        text
    })
}

/// The divisor of all widths, which has to divide them and leave two groups.
fn narrow(reader: &mut Reader<'_>) -> u32 {
    const KEY: &str = "model.narrow";
    let divisor: u32 = reader.integer(KEY, 1..=16);
    if reader.good(&[KEY]) && !divisor.is_power_of_two() {
        reader.wrong(
            KEY,
            format!("must be 1, 2, 4, 8 or 16, is {divisor}"),
            "1 is the paper's net".to_owned(),
        );
    }
    divisor
}

/// The groups of conv2, conv4 and conv5, which are the net's own where nobody chose.
fn groups(reader: &mut Reader<'_>, name: ModelName) -> u32 {
    const KEY: &str = "model.groups";
    if !reader.has(KEY) {
        return name.default_groups();
    }
    let groups = reader.integer(KEY, 1..=2);
    if name == ModelName::AlexnetOwt && reader.good(&[KEY, "model.name"]) && groups != 1 {
        let hint = "write groups = 1, or another name".to_owned();
        reader.wrong(KEY, format!("must be 1 with name = \"{name}\", is {groups}"), hint);
    }
    groups
}

fn model(reader: &mut Reader<'_>) -> Model {
    let name = reader.word(
        "model.name",
        ("alexnet", ModelName::Alexnet),
        &[("alexnet-owt", ModelName::AlexnetOwt), ("alexnet-bn", ModelName::AlexnetBn)],
    );
    Model {
        name,
        groups: groups(reader, name),
        narrow: narrow(reader),
        dropout: reader
            .number("model.dropout", "at least 0 and less than 1", |it| (0.0..1.0).contains(&it)),
        init: reader.word(
            "model.init",
            ("gaussian", Init::Gaussian),
            &[("kaiming", Init::Kaiming)],
        ),
        conv_bias: reader.number("model.conv_bias", "-1000 to 1000", |it| it.abs() <= 1000.0),
        fc_bias: reader.number("model.fc_bias", "-1000 to 1000", |it| it.abs() <= 1000.0),
        pixel_scale: reader.number("model.pixel_scale", "more than 0 and at most 1000", positive),
    }
}

fn train(reader: &mut Reader<'_>) -> Train {
    Train {
        epochs: reader.integer("train.epochs", 1..=MANY),
        max_steps: reader
            .has("train.max_steps")
            .then(|| reader.integer("train.max_steps", 1..=LARGEST_INTEGER)),
        batch: reader.integer("train.batch", 1..=MANY),
        lr: reader.number("train.lr", "more than 0 and at most 1000", positive),
        momentum: reader
            .number("train.momentum", "at least 0 and less than 1", |it| (0.0..1.0).contains(&it)),
        weight_decay: reader.number("train.weight_decay", "0 to 1", |it| (0.0..=1.0).contains(&it)),
        lr_base_batch: reader
            .has("train.lr_base_batch")
            .then(|| reader.integer("train.lr_base_batch", 1..=MANY)),
        optimizer: reader.word(
            "train.optimizer",
            ("sgd", Optimizer::Sgd),
            &[("lars", Optimizer::Lars)],
        ),
        lars_trust: reader
            .number("train.lars_trust", "more than 0 and at most 1", |it| it > 0.0 && it <= 1.0),
    }
}

pub(super) fn positive(number: f64) -> bool {
    number > 0.0 && number <= 1000.0
}

fn numerics(reader: &mut Reader<'_>) -> Numerics {
    Numerics {
        microbatch: reader.integer("numerics.microbatch", 1..=MANY),
        threads_per_lane: reader.integer("numerics.threads_per_lane", 1..=256),
        head_exchange: reader.word(
            "numerics.head_exchange",
            ("auto", HeadExchange::Auto),
            &[("factors", HeadExchange::Factors), ("gradients", HeadExchange::Gradients)],
        ),
        reduction: reader.word(
            "numerics.reduction",
            ("canonical", Reduction::Canonical),
            &[("fast", Reduction::Fast)],
        ),
        block: reader.integer("numerics.block", 1..=MANY),
        wire: reader.word("numerics.wire", ("fp32", Wire::Fp32), &[("bf16", Wire::Bf16)]),
        precision: reader.word(
            "numerics.precision",
            ("fp32", Precision::Fp32),
            &[("bf16", Precision::Bf16)],
        ),
    }
}

fn evaluation(reader: &mut Reader<'_>) -> Evaluation {
    const CROPS: &str = "evaluation.crops";
    let evaluation = Evaluation {
        every_epochs: reader.integer("evaluation.every_epochs", 0..=MANY),
        crops: reader.integer(CROPS, 1..=10),
    };
    if reader.good(&[CROPS]) && !matches!(evaluation.crops, 1 | 10) {
        let what = format!("must be 1 or 10, is {}", evaluation.crops);
        reader.wrong(CROPS, what, "1 is the centre, 10 are the paper's".to_owned());
    }
    evaluation
}

fn checkpoint(reader: &mut Reader<'_>) -> Checkpoint {
    Checkpoint {
        every_steps: reader.integer("checkpoint.every_steps", 0..=MANY * 1000),
        every_epochs: reader.integer("checkpoint.every_epochs", 0..=MANY),
        keep_last: reader.integer("checkpoint.keep_last", 1..=MANY),
        keep_best: reader.flag("checkpoint.keep_best"),
        final_timeout: reader.duration("checkpoint.final_timeout", MILLISECOND..=7 * 24 * HOUR),
    }
}

fn cluster(reader: &mut Reader<'_>) -> Cluster {
    let cluster = Cluster {
        workers: reader.integer("cluster.workers", 1..=1024),
        min_workers: reader.integer("cluster.min_workers", 1..=1024),
        max_workers: reader.integer("cluster.max_workers", 0..=1024),
        bind: reader.text("cluster.bind"),
        insecure: reader.flag("cluster.insecure"),
        join_timeout: reader.duration("cluster.join_timeout", MILLISECOND..=24 * HOUR),
        prepare_timeout: reader.duration("cluster.prepare_timeout", MILLISECOND..=24 * HOUR),
        liveness_timeout: reader.duration("cluster.liveness_timeout", MILLISECOND..=HOUR),
        ring_timeout: reader.duration("cluster.ring_timeout", MILLISECOND..=24 * HOUR),
        coordinator_timeout: reader
            .duration("cluster.coordinator_timeout", MILLISECOND..=24 * HOUR),
        drain_grace: reader.duration("cluster.drain_grace", MILLISECOND..=24 * HOUR),
        straggler: reader.word(
            "cluster.straggler",
            ("warn", Straggler::Warn),
            &[("evict", Straggler::Evict)],
        ),
        straggler_limit: reader.duration("cluster.straggler_limit", MILLISECOND..=24 * HOUR),
        ring_chunk: reader.size("cluster.ring_chunk", 4096..=4 << 20),
        allow_mixed_numerics: reader.flag("cluster.allow_mixed_numerics"),
    };
    if reader.good(&["cluster.workers", "cluster.min_workers"])
        && cluster.min_workers > cluster.workers
    {
        let (min, all) = (cluster.min_workers, cluster.workers);
        let hint = "training begins with cluster.workers, so it could never begin".to_owned();
        reader.wrong("cluster.min_workers", format!("must be at most {all}, is {min}"), hint);
    }
    if reader.good(&["cluster.workers", "cluster.max_workers"])
        && (1..cluster.workers).contains(&cluster.max_workers)
    {
        let (max, all) = (cluster.max_workers, cluster.workers);
        let hint = "training begins with cluster.workers, so it could never begin".to_owned();
        let what = format!("must be at least {all}, or 0, is {max}");
        reader.wrong("cluster.max_workers", what, hint);
    }
    if reader.good(&["cluster.bind"]) {
        match address::bind(&cluster.bind) {
            Err(wrong) => reader.wrong("cluster.bind", wrong.what, wrong.hint),
            Ok(bind)
                if !bind.loopback && !cluster.insecure && reader.good(&["cluster.insecure"]) =>
            {
                let hint = "bind to 127.0.0.1, or, on a network where everyone may be trusted, \
                            write insecure = true under [cluster]";
                let what = format!(
                    "{:?} can be reached from other machines, and nothing is encrypted or \
                     authenticated",
                    cluster.bind
                );
                reader.wrong("cluster.bind", what, hint.to_owned());
            }
            Ok(_) => {}
        }
    }
    deadlines(reader, &cluster);
    cluster
}

fn deadlines(reader: &mut Reader<'_>, cluster: &Cluster) {
    const LIVENESS: &str = "cluster.liveness_timeout";
    const LIMIT: &str = "cluster.straggler_limit";
    if reader.good(&[LIVENESS]) && cluster.liveness_timeout <= HEARTBEAT_INTERVAL {
        let (is, heartbeat) = (show(cluster.liveness_timeout), show(HEARTBEAT_INTERVAL));
        let hint = format!("a worker is heard of every {heartbeat}; write \"3s\" or more");
        reader.wrong(LIVENESS, format!("must exceed {heartbeat}, is {is}"), hint);
    }
    let of = |key: &str| match key {
        LIVENESS => cluster.liveness_timeout,
        "cluster.prepare_timeout" => cluster.prepare_timeout,
        "cluster.coordinator_timeout" => cluster.coordinator_timeout,
        LIMIT => cluster.straggler_limit,
        _ => cluster.ring_timeout,
    };
    for order in &ORDERS {
        // Where nobody is evicted the limit means nothing.
        if order.longer == LIMIT && cluster.straggler == Straggler::Warn {
            continue;
        }
        let (longer, shorter) = (of(order.longer), of(order.shorter));
        if reader.good(&[order.longer, order.shorter]) && longer <= shorter {
            let (longer, shorter) = (show(longer), show(shorter));
            let what = format!("must exceed {}, {shorter}, is {longer}", order.shorter);
            reader.wrong(order.longer, what, order.because.to_owned());
        }
    }
}

fn show(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn log(reader: &mut Reader<'_>) -> Log {
    let log = Log {
        every_steps: reader.integer("log.every_steps", 1..=MANY),
        folder: reader.text("log.folder"),
    };
    if reader.good(&["log.folder"]) && (log.folder.is_empty() || log.folder.contains('\0')) {
        reader.wrong("log.folder", "must name a folder", "write \"runs/{run}/logs\"".to_owned());
    }
    log
}

/// The canonical sum is exact; rounding it on the way would make it depend on the ring again.
fn sums(config: &RunConfig, reader: &mut Reader<'_>) {
    let numerics = &config.numerics;
    if !reader.good(&["numerics.reduction", "numerics.wire", "numerics.block"]) {
        return;
    }
    if numerics.wire == Wire::Bf16 && numerics.reduction != Reduction::Fast {
        let hint = "write reduction = \"fast\" under [numerics], or wire = \"fp32\"";
        let what = "can be \"bf16\" only with numerics.reduction = \"fast\"";
        reader.wrong("numerics.wire", what, hint.to_owned());
    }
    if numerics.block != 1 && numerics.reduction != Reduction::Canonical {
        let hint = "remove it, or write reduction = \"canonical\" under [numerics]";
        let what = "has no meaning with numerics.reduction = \"fast\"";
        reader.wrong("numerics.block", what, hint.to_owned());
    }
}

fn between_sections(config: &RunConfig, reader: &mut Reader<'_>) {
    sums(config, reader);
    let (microbatch, batch) = (config.numerics.microbatch, config.train.batch);
    if reader.good(&["numerics.microbatch", "train.batch"]) && microbatch > batch {
        let hint = format!("a batch is made of microbatches; write microbatch = {batch} or less");
        let what = format!("must be at most train.batch, {batch}, is {microbatch}");
        reader.wrong("numerics.microbatch", what, hint);
    }
    if matches!(config.schedule.decay, Decay::Plateau { .. })
        && reader.good(&["schedule.kind", "evaluation.every_epochs"])
        && config.evaluation.every_epochs == 0
    {
        let hint = "write every_epochs = 1 under [evaluation], or another kind of schedule";
        let what = "must be at least 1 with schedule.kind = \"plateau\", is 0";
        reader.wrong("evaluation.every_epochs", what, hint.to_owned());
    }
    rates::between(config, reader);
}
