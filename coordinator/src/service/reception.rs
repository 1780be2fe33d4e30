//! What callers find while a coordinator is still opening its run.
//!
//! Between the claim of a term and the first order lies the time in which the newest checkpoint is
//! verified. Another coordinator that is started then must learn that this one lives, and workers
//! that call are to call again.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use convoy_common::ids::Term;
use convoy_common::pb;
use tonic::Status;

use super::Facts;
use crate::engine::Handle;

/// The phase that a status tells until the job begins.
pub(super) const OPENING: &str = "opening";

/// Knows how far a coordinator has come with opening its run; clones know the same.
#[derive(Clone, Debug, Default)]
pub struct Reception {
    told: Arc<Mutex<pb::StatusReply>>,
    job: Arc<OnceLock<(Handle, Arc<Facts>)>>,
}

impl Reception {
    /// The run at that URL is about to be worked on.
    pub fn opens(&self, run: &str, url: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        (told.run, told.url, told.phase) = (run.to_owned(), url.to_owned(), OPENING.to_owned());
    }

    /// In this term.
    pub fn claimed(&self, term: Term) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).term = term.0;
    }

    /// The job begins. A second job is none.
    pub fn open(&self, engine: Handle, facts: Facts) {
        let _ = self.job.set((engine, Arc::new(facts)));
    }

    pub(super) fn job(&self) -> Result<(Handle, Arc<Facts>), Status> {
        let open = self.job.get().cloned();
        open.ok_or_else(|| Status::unavailable("the coordinator is still opening the run"))
    }

    pub(super) fn told(&self) -> pb::StatusReply {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
