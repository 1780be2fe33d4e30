//! The coordinator and the commands around it.
//!
//! It forms generations, gives out positions, publishes manifests and tells the operator what goes
//! on. It is on no step's path and links no tensor library, so that it starts at once.
//!
//! [`machine`] decides, [`engine`] owns it and carries out what it decides, [`service`] is the door to
//! workers, and [`ledger`] is what outlives the process.

#[cfg(test)]
#[path = "../../common/tests/support/bytes.rs"]
mod bytes;
pub mod cli;
mod commands;
mod drill;
pub mod engine;
mod launch;
pub mod ledger;
pub mod machine;
mod parallel;
mod prepare;
mod progress;
pub mod service;
mod synthesize;
