//! What Convoy's coordinator and workers share.
//!
//! This crate knows no tensor library and no role: ids and positions, the config, the random
//! generator and the sampler, the learning-rate schedule, the data set's format, the object store,
//! the checkpoint protocol, and the wire types with their settings.

pub mod cache;
pub mod checkpoint;
pub mod config;
pub mod dataset;
pub mod exit;
pub mod failure;
pub mod ids;
pub mod image;
pub mod nonce;
pub mod processor;
pub mod random;
pub mod rpc;
pub mod run_record;
pub mod sampling;
pub mod schedule;
pub mod shutdown;
pub mod store;
pub mod telemetry;

/// The wire types; they stop at the doors of the services.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    unused_qualifications,
    reason = "generated code"
)]
pub mod pb {
    tonic::include_proto!("convoy.v1");
}

/// Version of Convoy; coordinator and workers must be of one version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Version of the wire protocol.
pub const PROTOCOL: u32 = 2;
