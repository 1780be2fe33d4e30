//! The coordinator and the commands around it.
//!
//! It forms generations, gives out positions, publishes manifests and tells the operator what goes
//! on. It is on no step's path and links no tensor library, so that it starts at once.

pub mod cli;
mod commands;
mod launch;
mod parallel;
mod prepare;
mod progress;
mod synthesize;
