//! Raw values to a [`Schedule`], and what the fields of the learning rate must keep among them.

use super::error::Origin;
use super::raw::{Raw, Value};
use super::reader::{LARGEST_INTEGER, Reader, as_number};
use super::run_config::RunConfig;
use super::train::{Decay, RateDrop, Schedule};
use super::validate::{MANY, positive};

/// Which kinds of schedule each of their fields belongs to.
const SCHEDULE_FIELDS: [(&str, &[&str]); 7] = [
    ("schedule.drops", &["steps"]),
    ("schedule.min_delta", &["plateau"]),
    ("schedule.patience", &["plateau"]),
    ("schedule.divide_by", &["plateau"]),
    ("schedule.max_drops", &["plateau"]),
    ("schedule.power", &["polynomial"]),
    ("schedule.end_lr", &["polynomial", "cosine"]),
];

pub(super) fn schedule(reader: &mut Reader<'_>) -> Schedule {
    let schedule = Schedule {
        decay: decay(reader),
        warmup_epochs: reader.integer("schedule.warmup_epochs", 0..=MANY),
        warmup_steps: reader.integer("schedule.warmup_steps", 0..=MANY * 1000),
        warmup_from: reader
            .number("schedule.warmup_from", "0 to 1", |it| (0.0..=1.0).contains(&it)),
    };
    if reader.good(&["schedule.warmup_epochs", "schedule.warmup_steps"])
        && schedule.warmup_epochs > 0
        && schedule.warmup_steps > 0
    {
        let hint = "write warmup_epochs or warmup_steps, not both".to_owned();
        reader.wrong("schedule.warmup_steps", "is given besides warmup_epochs", hint);
    }
    schedule
}

fn decay(reader: &mut Reader<'_>) -> Decay {
    let kind = reader.word(
        "schedule.kind",
        ("constant", "constant"),
        &[
            ("steps", "steps"),
            ("plateau", "plateau"),
            ("polynomial", "polynomial"),
            ("cosine", "cosine"),
        ],
    );
    if !reader.good(&["schedule.kind"]) {
        return Decay::Constant;
    }
    for (key, of) in SCHEDULE_FIELDS {
        if !of.contains(&kind) && reader.has(key) && reader.origin(key) != Origin::Default {
            let kinds: Vec<String> = of.iter().map(|it| format!("kind = {it:?}")).collect();
            let hint = format!("remove it, or write {}", kinds.join(" or "));
            reader.wrong(key, format!("has no meaning with kind = {kind:?}"), hint);
        }
    }
    match kind {
        "steps" => Decay::Steps { drops: drops(reader) },
        "plateau" => Decay::Plateau {
            min_delta: reader.integer("schedule.min_delta", 1..=LARGEST_INTEGER),
            patience: reader.integer("schedule.patience", 1..=MANY),
            divide_by: reader.number("schedule.divide_by", "more than 1 and at most 1000", |it| {
                it > 1.0 && it <= 1000.0
            }),
            max_drops: reader.integer("schedule.max_drops", 0..=20),
        },
        "polynomial" => Decay::Polynomial {
            power: reader.number("schedule.power", "more than 0 and at most 100", |it| {
                it > 0.0 && it <= 100.0
            }),
            end_lr: end_lr(reader),
        },
        "cosine" => Decay::Cosine { end_lr: end_lr(reader) },
        _ => Decay::Constant,
    }
}

fn end_lr(reader: &mut Reader<'_>) -> f64 {
    reader.number("schedule.end_lr", "0 to 1000", |it| (0.0..=1000.0).contains(&it))
}

fn drops(reader: &mut Reader<'_>) -> Vec<RateDrop> {
    const KEY: &str = "schedule.drops";
    let mut drops: Vec<RateDrop> = Vec::new();
    let items = reader.list(KEY);
    if items.is_empty() && reader.good(&[KEY]) {
        reader.wrong(KEY, "must list at least one drop", EXAMPLE.to_owned());
    }
    for (index, item) in items.iter().enumerate() {
        let shown = format!("{KEY}[{index}]");
        let Some(drop) = drop(reader, &shown, item) else { continue };
        if drops.last().is_some_and(|last| last.epoch >= drop.epoch) {
            let hint = "list drops in ascending order of epoch, one for an epoch".to_owned();
            let what = format!("epoch {} does not come after the one before", drop.epoch);
            reader.wrong_at(KEY, &shown, item.origin.clone(), what, hint);
        }
        drops.push(drop);
    }
    drops
}

const EXAMPLE: &str = "write drops = [{ epoch = 30, factor = 0.1 }]";

fn drop(reader: &mut Reader<'_>, shown: &str, item: &Raw) -> Option<RateDrop> {
    const KEY: &str = "schedule.drops";
    let mut wrong = |origin: &Origin, what: String| {
        reader.wrong_at(KEY, shown, origin.clone(), what, EXAMPLE.to_owned());
    };
    let Value::Table(parts) = &item.value else {
        wrong(&item.origin, format!("must be a table, is {}", item.value.describe()));
        return None;
    };
    let (mut epoch, mut factor) = (None, None);
    for (name, raw) in parts {
        match (name.as_str(), &raw.value) {
            ("epoch", Value::Integer(number)) if (0..=i128::from(MANY)).contains(number) => {
                epoch = u32::try_from(*number).ok();
            }
            ("epoch", value) => {
                let what = format!("epoch must be 0 to {MANY}, is {}", value.describe());
                wrong(&raw.origin, what);
                return None;
            }
            ("factor", value) => {
                match as_number(value).filter(|it| it.is_finite() && positive(*it)) {
                    Some(number) => factor = Some(number),
                    None => {
                        let is = value.describe();
                        wrong(
                            &raw.origin,
                            format!("factor must be more than 0 and at most 1000, is {is}"),
                        );
                        return None;
                    }
                }
            }
            (other, _) => wrong(&raw.origin, format!("{other:?} is not part of a drop")),
        }
    }
    let drop = epoch.zip(factor).map(|(epoch, factor)| RateDrop { epoch, factor });
    if drop.is_none() {
        wrong(&item.origin, "must have an epoch and a factor".to_owned());
    }
    drop
}

/// What the fields of the learning rate must keep among them.
pub(super) fn between(config: &RunConfig, reader: &mut Reader<'_>) {
    const RATE: [&str; 3] = ["train.lr", "train.batch", "train.lr_base_batch"];
    let peak = config.train.peak_rate();
    if reader.good(&RATE) && !positive(peak) {
        let hint = "the rate is lr * batch / lr_base_batch; write a smaller lr".to_owned();
        let what = format!("makes a rate of {peak}; it must be more than 0 and at most 1000");
        reader.wrong("train.lr_base_batch", what, hint);
    }
    if let Decay::Polynomial { end_lr, .. } | Decay::Cosine { end_lr } = config.schedule.decay
        && reader.good(&["schedule.end_lr", "schedule.kind"])
        && reader.good(&RATE)
        && end_lr > peak
    {
        let hint = "the rate falls from lr to end_lr; write a smaller end_lr".to_owned();
        let what = format!("must be at most the initial rate, {peak}, is {end_lr}");
        reader.wrong("schedule.end_lr", what, hint);
    }
    let warmup = config.schedule.warmup_epochs;
    if reader.good(&["schedule.warmup_epochs", "train.epochs"]) && warmup > config.train.epochs {
        let (epochs, hint) = (config.train.epochs, "the run would end before its full rate");
        let what = format!("must be at most train.epochs, {epochs}, is {warmup}");
        reader.wrong("schedule.warmup_epochs", what, hint.to_owned());
    }
    let warmup = u64::from(config.schedule.warmup_steps);
    if let Some(max) = config.train.max_steps
        && reader.good(&["schedule.warmup_steps", "train.max_steps"])
        && warmup > max
    {
        let hint = "the run would end before its full rate".to_owned();
        let what = format!("must be at most train.max_steps, {max}, is {warmup}");
        reader.wrong("schedule.warmup_steps", what, hint);
    }
}
