//! Which settings may change when a run goes on.
//!
//! What decides bits may not; where a run lives, how it is spread over machines, how often it
//! reports and how long it goes on may. A setting that no rule names may not, so that a new one
//! is safe until somebody thought about it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::RunRecord;
use crate::config::{Decay, RunConfig, Schedule, Shuffle};
use crate::dataset::DatasetIdentity;

/// One setting that differs from the run record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// As in the config file, such as `train.batch`.
    pub field: String,
    /// As recorded.
    pub was: String,
    /// As given now.
    pub now: String,
    /// Whether the run may go on with it.
    pub allowed: bool,
}

/// `train.batch: was 128, now 256`
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: was {}, now {}", self.field, self.was, self.now)
    }
}

/// All differences between the record and what is given now, in order of field. The run's URL is
/// not compared: a run may be moved as a whole. Nor is a shuffle that is left to Convoy: that was
/// decided when the run was created.
pub fn changes(record: &RunRecord, config: &RunConfig, dataset: &DatasetIdentity) -> Vec<Change> {
    let was = flat(&record.config, &record.dataset);
    let mut now = flat(config, dataset);
    if config.data.shuffle == Shuffle::Auto
        && let Some(decided) = was.get(SHUFFLE)
    {
        now.insert(SHUFFLE.to_owned(), decided.clone());
    }
    let mut fields: Vec<&String> = was.keys().chain(now.keys()).collect();
    fields.sort();
    fields.dedup();
    let show = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "unset".to_owned(),
        Some(value) => value.to_string(),
    };
    fields
        .into_iter()
        .filter(|field| *field != "run.url" && was.get(*field) != now.get(*field))
        .map(|field| Change {
            was: show(was.get(field)),
            now: show(now.get(field)),
            allowed: may_change(field, &record.config.schedule),
            field: field.clone(),
        })
        .collect()
}

const SHUFFLE: &str = "data.shuffle";

fn may_change(field: &str, schedule: &Schedule) -> bool {
    let section = field.split('.').next().unwrap_or(field);
    match section {
        "cluster" | "log" | "checkpoint" => true,
        // Where the data lie and how they are read; what they are is in `dataset`.
        "data" => matches!(
            field,
            "data.url"
                | "data.decode_threads"
                | "data.prefetch"
                | "data.draw"
                | "data.cache"
                | "data.cache_size"
                | "data.read_timeout"
        ),
        // How long it goes on, where the schedule has no use for the end.
        "train" => {
            !schedule.depends_on_end() && matches!(field, "train.epochs" | "train.max_steps")
        }
        // Counts of errors are compared over the whole run, to find the best checkpoint.
        "evaluation" if field == "evaluation.crops" => false,
        // Plateau drops the rate by the history of evaluations.
        "evaluation" => match schedule.decay {
            Decay::Constant
            | Decay::Steps { .. }
            | Decay::Polynomial { .. }
            | Decay::Cosine { .. } => true,
            Decay::Plateau { .. } => false,
        },
        _ => false,
    }
}

/// Every leaf under its dotted name; a list is one leaf.
fn flat(config: &RunConfig, dataset: &DatasetIdentity) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    // Both are plain data, whose conversion cannot fail.
    let config = serde_json::to_value(config).unwrap_or_default();
    let dataset = serde_json::to_value(dataset).unwrap_or_default();
    gather("", config, &mut leaves);
    gather("dataset", dataset, &mut leaves);
    leaves
}

fn gather(name: &str, value: Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() { field } else { format!("{name}.{field}") };
                gather(&name, value, leaves);
            }
        }
        value => {
            leaves.insert(name.to_owned(), value);
        }
    }
}
