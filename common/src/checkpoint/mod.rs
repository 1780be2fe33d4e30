//! Checkpoints: the state of training in an object store, verified before it is used.
//!
//! ```text
//! RUN_URL/run.json                                        the run record
//! RUN_URL/terms/<n>.json                                  lives of coordinators
//! RUN_URL/ended/<n>.json                                  those that ended their job on purpose
//! RUN_URL/lineages/<n>.json                               lines of history
//! RUN_URL/overrides/<lineage>/                            what operators ordered meanwhile
//! RUN_URL/checkpoints/<lineage>/<global step, 12 digits>/
//!     part-<term>-<rank>of<world>-<hash>.safetensors      written by each rank
//!     manifest.json                                       written last, by the coordinator
//! ```
//!
//! Workers call [`encode_part`] and [`Checkpoints::upload_part`]; the coordinator assembles a
//! [`Manifest`] of what they report and publishes it. Terms, lineages and manifests are
//! create-only, so no two processes ever believe to have written the same one; nothing else
//! fences. What loads has been hashed before the first byte of it is used.
//!
//! The module knows names, shapes and bytes; what the numbers mean is the worker's business.

mod best;
mod catalogue;
mod error;
mod integrity;
mod layout;
mod lineage;
mod locate;
mod manifest;
mod overrides;
mod part;
mod prune;
mod term;

pub use best::{Evaluations, Tally};
pub use catalogue::{Checkpoints, Listing, Search, Skipped, Summary};
pub use error::{CheckpointError, PartProblem};
pub use layout::{SLICE_BYTES, Slice, StateLayout, TensorSpec, state_digest};
pub use lineage::{LineageRecord, Parent};
pub use locate::{Located, locate, locate_with};
pub use manifest::{FORMAT, Header, Manifest, ManifestError, SharedState};
pub use overrides::{DropRecord, LoggedDrop};
pub use part::{EncodedPart, PartEntry, PartError, SliceEntry, encode_part, slice_hash};
pub use prune::{Keep, Pruned};
pub use term::{Claim, EndRecord, TermRecord};

use crate::ids::Lineage;

/// Whether a path of a run is that of one of its records, which are kept for good.
pub fn is_record(path: &str) -> bool {
    const FOLDERS: [&str; 4] = ["terms/", "ended/", "lineages/", "overrides/"];
    matches!(path, "run.json" | "fingerprint.json")
        || path.ends_with(".json") && FOLDERS.iter().any(|it| path.starts_with(it))
}

/// The folder of one lineage's checkpoints.
fn lineage_folder(lineage: Lineage) -> String {
    format!("checkpoints/{lineage}")
}

/// The folder of one checkpoint; the digits make order of name and order of step agree.
fn folder_of(lineage: Lineage, global_step: u64) -> String {
    format!("{}/{global_step:012}", lineage_folder(lineage))
}

fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}
