//! The net and its arithmetic: what one worker computes, and the only place that knows tensors.
//!
//! ```text
//! microbatch -> lane: trunk forward -> head forward and backward -> [factors of fc6..fc8]
//!                                        -> trunk backward       -> [trunk's gradient]
//! reduced gradients of the whole batch -> commit: momentum and weights
//! ```
//!
//! [`spec`] is the net as data, [`net`] holds its parameters, [`lane`] computes one microbatch,
//! [`commit`] applies one step, [`evaluate`] counts errors. What leaves the module is plain data
//! (`Vec<f32>`, bytes), never a tensor, so that the trainer and the ring need no tensor library.
//!
//! It knows nothing of ranks, peers, files or time; what it computes is a function of the weights,
//! the microbatch and the position, whatever the number of lanes.

pub mod bf16_units;
pub mod commit;
mod cuda_load;
pub mod device;
mod dropout;
mod error;
pub mod evaluate;
mod fingerprint;
mod head;
mod host;
pub mod lane;
pub mod lars;
pub mod lrn;
pub mod net;
#[cfg(test)]
mod reference_tests;
pub mod spec;
mod state;
pub mod table;
pub mod threads;
mod trunk;
mod views;

pub use commit::{Hyper, Reduced};
pub use device::Device;
pub use error::ModelError;
pub use fingerprint::fingerprint;
pub use head::{Factors, HeadGradient};
pub use lane::{Dropout, Input, Lane, Place};
pub use net::Net;
pub use spec::Spec;

/// Results of the model.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
