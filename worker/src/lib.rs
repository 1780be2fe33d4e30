//! A worker: one device that trains, one link of the ring.
//!
//! The way of the data: [`data`] decodes microbatches, [`model`] turns them into gradients,
//! [`ring`] sums those over all ranks, and [`train`] commits the step. [`peer`] carries state from one
//! worker to another between two generations.

pub mod agent;
pub mod allocator;
#[cfg(test)]
#[path = "../../common/tests/support/bytes.rs"]
mod bytes;
pub mod cli;
mod commands;
pub mod data;
mod leave;
pub mod model;
pub mod peer;
pub mod ring;
pub mod session;
pub mod state;
pub mod train;
pub mod trained;
