//! The config of a run: read, merged, checked, and printed again.
//!
//! Four layers make one [`RunConfig`], later ones winning field by field:
//!
//! ```text
//! default (the paper's recipe) < TOML file < CONVOY_<SECTION>_<FIELD> < --set section.field=value
//! ```
//!
//! The layers are merged as raw values that remember where they came from, and only the outcome is
//! checked, so that every problem is told at once with its line. One table ([`fields`]) names each
//! field, its form, its default and its meaning; reading, printing and error texts derive from it.
//!
//! This module does not know what a value is for, opens no store and resolves no host name.

mod address;
mod cluster;
mod data;
mod deadlines;
mod duration;
mod error;
mod fields;
mod layers;
mod model;
mod numerics;
mod print;
mod rates;
mod raw;
mod reader;
mod run_config;
mod size;
mod source;
mod suggest;
mod toml_file;
mod train;
mod validate;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use cluster::{Cluster, Straggler};
pub use data::{CacheFolder, Shuffle};
pub use deadlines::HEARTBEAT_INTERVAL;
pub use error::{ConfigError, Origin, Problem};
pub use model::{Init, Model, ModelName};
pub use numerics::{HeadExchange, Numerics, Precision, Reduction, Wire};
pub use run_config::{Checkpoint, Data, Evaluation, Log, Run, RunConfig};
pub use size::parse as parse_size;
pub use source::{Resolved, Source};
pub use train::{Decay, Optimizer, RateDrop, Schedule, Train};

/// Reads the file at `path`, with the process's environment and `overrides` (`key=value`) on top.
///
/// # Errors
///
/// [`ConfigError`] holds every problem of every layer.
pub fn load(path: &Path, overrides: &[String]) -> Result<RunConfig, ConfigError> {
    Source::new(path, overrides).resolve().map(|resolved| resolved.config)
}
