//! To be written.

mod duration;
mod run_config;

pub use run_config::*;
