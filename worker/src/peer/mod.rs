//! What workers of one generation give each other before it begins to train.
//!
//! ```text
//!  donor:  vault --slice--> service ~~gRPC~~> client --slice--> staging, hashed --digest ok--> vault
//!  ahead:  vault --unit---> service ~~gRPC~~> client ------------------------------> trainer: again
//! ```
//!
//! The [`Vault`] holds what a worker keeps between two generations. The service reads it for
//! peers, one slice at a time, so a transfer takes a few slices of memory on either side and never
//! keeps the state from its own worker. Nothing here decides who gives what to whom: assignments
//! do. The service shares the address of the ring's.

mod client;
mod error;
#[cfg(test)]
mod hostile;
mod intake;
mod probe;
mod service;
mod vault;

pub use self::client::Donor;
pub use self::error::PeerError;
pub use self::probe::unreachable;
pub use self::service::routes;
pub use self::vault::Vault;
