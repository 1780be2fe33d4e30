//! The manifest: the one small object that makes a set of parts a checkpoint.
//!
//! It is written once, create-only, after all parts: a checkpoint exists when its manifest does.
//! It says everything that is needed to check the parts and to go on from them, and which run,
//! lineage and term it belongs to.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::best::Evaluations;
use super::layout::{StateLayout, TensorSpec, count_slices, state_digest};
use super::lineage::Parent;
use super::part::PartEntry;
use crate::config::Model;
use crate::dataset::DatasetIdentity;
use crate::ids::{Lineage, Position, Term};
use crate::schedule::ScheduleState;

/// Version of the manifest and of the parts.
pub const FORMAT: u32 = 2;

/// What every rank knows alike at a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedState {
    /// Before which step the state is.
    pub position: Position,
    /// Steps done since the run's start.
    pub global_step: u64,
    /// Of the learning rate.
    pub schedule: ScheduleState,
    /// Samples used since the run's start, with repetition.
    pub samples_seen: u64,
    /// Mean loss of the last step's global batch; none before the first step.
    pub last_loss: Option<f64>,
    /// Workers that wrote it.
    pub world: u32,
    /// What evaluations found so far.
    pub evaluations: Evaluations,
}

impl SharedState {
    /// Before the first step.
    pub fn at_the_start() -> Self {
        Self {
            position: Position::default(),
            global_step: 0,
            schedule: ScheduleState::default(),
            samples_seen: 0,
            last_loss: None,
            world: 0,
            evaluations: Evaluations::default(),
        }
    }
}

/// All of a manifest but what follows from the parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Of the run record.
    pub run_id: String,
    /// Of the run record.
    pub record_digest: String,
    /// Line of history.
    pub lineage: Lineage,
    /// Where that line began, if not at the seed.
    pub parent: Option<Parent>,
    /// Of the coordinator that publishes.
    pub term: Term,
    /// The net, so that the checkpoint can be evaluated by itself.
    pub model: Model,
    /// What it was trained on.
    pub dataset: DatasetIdentity,
    /// What every rank knows alike.
    pub shared: SharedState,
    /// All tensors of the state, in the layout's order.
    pub tensors: Vec<TensorSpec>,
}

/// A checkpoint. See [`Header`] for the fields of the same name.
#[expect(missing_docs, reason = "the same as in `Header`")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`]
    pub format: u32,
    /// Version of Convoy that wrote it.
    pub version: String,
    pub run_id: String,
    pub record_digest: String,
    pub lineage: Lineage,
    pub parent: Option<Parent>,
    pub term: Term,
    pub model: Model,
    pub dataset: DatasetIdentity,
    pub shared: SharedState,
    pub tensors: Vec<TensorSpec>,
    /// In order of their first slice.
    pub parts: Vec<PartEntry>,
    /// Of the whole state; equal for equal weights, momentum and statistics on any world size.
    pub state_digest: String,
    /// RFC 3339.
    pub created: String,
    /// Of all parts.
    pub bytes: u64,
    /// BLAKE3 of the manifest's JSON with this field empty.
    pub checksum: String,
}

/// Parts that do not make up a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// No part has this slice.
    #[error("slice {0} is in no part")]
    Absent(String),
    /// There are not enough slices for the tensors.
    #[error("{expected} slices make up its tensors, and its parts have {found}")]
    Few {
        /// By the tensors' shapes.
        expected: u64,
        /// In all parts.
        found: u64,
    },
    /// No machine could hold these tensors.
    #[error("the shapes of its tensors are impossible")]
    Immense,
    /// Two parts, or one twice, have this slice.
    #[error("slice {0} is in more than one place")]
    Twice(String),
    /// The layout has no such slice.
    #[error("slice {0} is not one of this state")]
    Foreign(String),
    /// Two tensors of one name.
    #[error("two tensors are called {0}")]
    SameName(String),
    /// A part's name would lead out of the checkpoint's folder.
    #[error("{0:?} is no name of a part")]
    Name(String),
    /// The digest does not follow from the slices' hashes.
    #[error("its state digest does not follow from the hashes of its slices")]
    Digest,
    /// A field is not what was written.
    #[error("it was altered: its checksum does not match")]
    Checksum,
}

impl Manifest {
    /// Puts the parts together.
    ///
    /// # Errors
    /// [`ManifestError`] unless every slice of the state is in exactly one part.
    pub fn assemble(header: Header, mut parts: Vec<PartEntry>) -> Result<Self, ManifestError> {
        bounded(&header.tensors, &parts)?;
        let layout = StateLayout::new(header.tensors.clone());
        let state_digest = digest_of(&layout, &parts)?;
        let order: HashMap<&str, usize> = layout
            .tensors()
            .iter()
            .enumerate()
            .map(|(index, tensor)| (tensor.name.as_str(), index))
            .collect();
        parts.sort_by_key(|part| {
            part.slices.first().map(|it| (order.get(it.tensor.as_str()).copied(), it.first_row))
        });
        let now = std::time::SystemTime::now();
        let mut manifest = Self {
            format: FORMAT,
            version: crate::VERSION.to_owned(),
            run_id: header.run_id,
            record_digest: header.record_digest,
            lineage: header.lineage,
            parent: header.parent,
            term: header.term,
            model: header.model,
            dataset: header.dataset,
            shared: header.shared,
            tensors: header.tensors,
            bytes: parts.iter().map(|part| part.size).sum(),
            parts,
            state_digest,
            created: humantime::format_rfc3339_seconds(now).to_string(),
            checksum: String::new(),
        };
        manifest.checksum = manifest.sum();
        Ok(manifest)
    }

    /// Where it lies below the run's URL.
    pub fn path(&self) -> String {
        format!("{}/manifest.json", self.folder())
    }

    /// The folder of manifest and parts, below the run's URL.
    pub fn folder(&self) -> String {
        super::folder_of(self.lineage, self.shared.global_step)
    }

    /// The layout of its tensors.
    pub fn layout(&self) -> StateLayout {
        StateLayout::new(self.tensors.clone())
    }

    /// Checks that what it says holds together; says nothing about the parts' bytes.
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        bounded(&self.tensors, &self.parts)?;
        if digest_of(&self.layout(), &self.parts)? != self.state_digest {
            return Err(ManifestError::Digest);
        }
        if self.sum() != self.checksum {
            return Err(ManifestError::Checksum);
        }
        Ok(())
    }

    /// What its checksum should be. Fields are written in the order of the struct, and numbers so
    /// that they come back as they were, hence what was read gives the bytes that were written.
    fn sum(&self) -> String {
        let bare = Self { checksum: String::new(), ..self.clone() };
        let text = serde_json::to_vec(&bare).expect("invariant: a manifest has only string keys");
        blake3::hash(&text).to_hex().to_string()
    }
}

/// Cutting tensors of absurd shapes would take the memory that they claim to need, so it is counted
/// first whether there can be a part with each slice.
fn bounded(tensors: &[TensorSpec], parts: &[PartEntry]) -> Result<(), ManifestError> {
    let found = parts.iter().map(|part| part.slices.len() as u64).sum();
    match count_slices(tensors) {
        None => Err(ManifestError::Immense),
        Some(expected) if expected > found => Err(ManifestError::Few { expected, found }),
        Some(_) => Ok(()),
    }
}

/// The state's digest from the slices' hashes, each slice being there once.
fn digest_of(layout: &StateLayout, parts: &[PartEntry]) -> Result<String, ManifestError> {
    for (index, tensor) in layout.tensors().iter().enumerate() {
        if layout.tensors()[..index].iter().any(|other| other.name == tensor.name) {
            return Err(ManifestError::SameName(tensor.name.clone()));
        }
    }
    let indices: HashMap<(&str, usize), usize> = layout
        .slices()
        .iter()
        .enumerate()
        .map(|(i, slice)| ((layout.tensors()[slice.tensor].name.as_str(), slice.rows.start), i))
        .collect();
    let mut hashes: Vec<Option<&str>> = vec![None; layout.slices().len()];
    for part in parts {
        if part.name.contains(['/', '\\']) || super::part::term_of(&part.name).is_none() {
            return Err(ManifestError::Name(part.name.clone()));
        }
        for slice in &part.slices {
            let name = || format!("{}/{:07}", slice.tensor, slice.first_row);
            let index = *indices
                .get(&(slice.tensor.as_str(), slice.first_row))
                .filter(|index| layout.slices()[**index].rows.len() == slice.rows)
                .ok_or_else(|| ManifestError::Foreign(name()))?;
            if hashes[index].replace(&slice.blake3).is_some() {
                return Err(ManifestError::Twice(name()));
            }
        }
    }
    let hashes: Result<Vec<&str>, _> = hashes
        .into_iter()
        .enumerate()
        .map(|(index, hash)| {
            hash.ok_or_else(|| ManifestError::Absent(layout.slice_name(&layout.slices()[index])))
        })
        .collect();
    Ok(state_digest(layout, &hashes?))
}
