//! What outlives this process, as the engine sees it: checkpoints are published and old ones
//! removed.
//!
//! [`StoreLedger`] keeps them in the run's object store; [`open`] opens a run. Nothing here
//! decides when anything is written.

mod error;
mod fence;
mod opening;
mod start;
mod tensors;

use std::future::Future;

use convoy_common::checkpoint::{
    CheckpointError, Checkpoints, Header, Keep, Manifest, ManifestError, Parent, Pruned, TensorSpec,
};
use convoy_common::config::Model;
use convoy_common::exit;
use convoy_common::failure::{self, Explain};
use convoy_common::ids::{Lineage, Position, Term};
use convoy_common::run_record::{self, RecordError, RunRecord};
use convoy_common::schedule::ManualDrop;

pub use error::OpenError;
pub use fence::{Fence, Tenure};
pub use opening::{Fencing, Opened, Origin, Run, open};
pub use tensors::TensorsError;

use crate::machine::{Kept, Publication};

/// Where a job keeps its checkpoints.
pub trait Ledger: Send + 'static {
    /// Makes a checkpoint exist, all of whose parts are in the store.
    fn publish(
        &mut self,
        publication: Publication,
    ) -> impl Future<Output = Result<Kept, LedgerError>> + Send;

    /// Writes an order into the override log.
    fn log_drop(
        &mut self,
        drop: ManualDrop,
        reason: &str,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Writes down where an order took effect; gives what the log says.
    fn record_drop(
        &mut self,
        number: u32,
        position: Position,
    ) -> impl Future<Output = Result<Position, LedgerError>> + Send;

    /// Removes checkpoints beyond those to be kept, and parts of terms below `living` that belong to
    /// none.
    fn prune(&mut self, living: Term) -> impl Future<Output = Result<Pruned, LedgerError>> + Send;

    /// Keeps what the run's first worker computed, unless something is kept already.
    fn record_fingerprint(
        &mut self,
        fingerprint: &str,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Keeps that the job has ended on purpose, so that nobody waits for its workers.
    fn record_end(&mut self, outcome: &str)
    -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// An entry could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The catalogue or its store refused it.
    #[error("{}", failure::in_full(.0))]
    Checkpoint(#[from] CheckpointError),
    /// The parts do not make up the state.
    #[error("the parts do not make up a checkpoint: {0}")]
    Parts(#[from] ManifestError),
    /// The parts do not say what the state consists of.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
    /// The parts hold another state than the workers did.
    #[error("the parts hold a state of digest {parts}, the workers one of {workers}")]
    State {
        /// Of what the parts make up.
        parts: String,
        /// As every worker computed it.
        workers: String,
    },
    /// The record of the run's numerics.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl LedgerError {
    /// Whether the same entry may be made later, because only the store stood in its way.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Checkpoint(error) => error.may_pass(),
            Self::Record(RecordError::Store(error)) => error.may_pass(),
            Self::Tensors(TensorsError::Store { source, .. }) => source.may_pass(),
            _ => false,
        }
    }
}

impl Explain for LedgerError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Checkpoint(error) => error.hint(),
            Self::Record(error) => error.hint(),
            Self::Tensors(TensorsError::Store { source, .. }) => source.hint(),
            _ => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Checkpoint(error) => error.exit_code(),
            Self::Record(error) => error.exit_code(),
            _ => exit::FAILURE,
        }
    }
}

/// Checkpoints in the run's object store.
#[derive(Debug)]
pub struct StoreLedger {
    checkpoints: Checkpoints,
    record: RunRecord,
    model: Model,
    lineage: Lineage,
    parent: Option<Parent>,
    term: Term,
    keep: Keep,
    /// What the state consists of; the same for the whole run, so read once.
    tensors: Option<Vec<TensorSpec>>,
}

impl Ledger for StoreLedger {
    async fn publish(&mut self, publication: Publication) -> Result<Kept, LedgerError> {
        let Publication { shared, parts, state_digest, .. } = publication;
        let tensors = match &self.tensors {
            Some(tensors) => tensors.clone(),
            None => {
                let store = self.checkpoints.store();
                let tensors =
                    tensors::read(store, self.lineage, shared.global_step, &parts).await?;
                self.tensors.insert(tensors).clone()
            }
        };
        let position = shared.position;
        let header = Header {
            run_id: self.record.run_id.clone(),
            record_digest: self.record.digest(),
            lineage: self.lineage,
            parent: self.parent.clone(),
            term: self.term,
            model: self.model.clone(),
            dataset: self.record.dataset.clone(),
            shared,
            tensors,
        };
        let manifest = Manifest::assemble(header, parts)?;
        if manifest.state_digest != state_digest {
            let (parts, workers) = (manifest.state_digest, state_digest);
            return Err(LedgerError::State { parts, workers });
        }
        self.checkpoints.publish(&manifest).await?;
        Ok(Kept { position, path: manifest.path(), bytes: manifest.bytes, took: None })
    }

    async fn log_drop(&mut self, drop: ManualDrop, reason: &str) -> Result<(), LedgerError> {
        Ok(self.checkpoints.log_drop(self.lineage, self.term, drop, reason).await?)
    }

    async fn record_drop(
        &mut self,
        number: u32,
        position: Position,
    ) -> Result<Position, LedgerError> {
        self.checkpoints.still_in(self.term).await?;
        Ok(self.checkpoints.record_effect(self.lineage, number, position).await?)
    }

    async fn prune(&mut self, living: Term) -> Result<Pruned, LedgerError> {
        Ok(self.checkpoints.prune_below(self.lineage, self.keep, self.term, living).await?)
    }

    async fn record_fingerprint(&mut self, fingerprint: &str) -> Result<(), LedgerError> {
        Ok(run_record::record_fingerprint(self.checkpoints.store(), fingerprint).await?)
    }

    async fn record_end(&mut self, outcome: &str) -> Result<(), LedgerError> {
        Ok(self.checkpoints.end_term(self.term, outcome).await?)
    }
}
