//! The ring: sums and gathers over all ranks, each of which sends to its right neighbour only.
//!
//! ```text
//!  trainer ──Vec<f32>──> Ring ──> engine ──> link ──> right neighbour's service ──> its engine ...
//!          <──Pending───────────── │ <── inbox <── service <── left neighbour
//! ```
//!
//! [`Ring`] is the trainer's handle; one engine task per generation owns all state. [`plan`] says
//! what goes where, [`operation`] does it to the data, [`outbox`] decides what is sent next, and
//! [`link`] is the seam to the wires: gRPC ([`grpc`] calls, [`service`] is called), or memory in
//! tests. Sums come in two orders: [`terms`] defines the canonical one, which does not depend on
//! the number of ranks, and [`fold`] does it; the fast one is a reduce-scatter and an all-gather.
//! The coordinator is on no one's path here, and no tensor is known: only numbers and bytes.

mod alone;
mod engine;
mod error;
mod farewell;
#[cfg(test)]
mod fault_tests;
mod fold;
mod grpc;
mod handle;
#[cfg(test)]
mod hostile;
mod link;
#[cfg(test)]
mod memory;
mod numbers;
mod operation;
mod outbox;
mod parcel;
mod plan;
mod service;
mod terms;
#[cfg(test)]
mod tests;

pub use self::error::RingError;
pub use self::handle::{Member, Pending, Ring, Settings};
pub use self::link::Inbox;
pub use self::service::RingServer;
pub use self::terms::{Order, Terms};
