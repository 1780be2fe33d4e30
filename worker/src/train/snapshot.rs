//! Checkpoints on the worker's side: one slot, filled at a step boundary, emptied by an upload.
//!
//! ```text
//! trainer: hash the whole state, copy this rank's slices -> slot -> uploader: encode, put -> report
//! ```
//!
//! Training goes on while the uploader works. There is one slot, so memory is bounded; a checkpoint
//! that falls due while a slot is taken is skipped on every rank alike. An upload that fails is
//! reported and never stops training.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use convoy_common::checkpoint::{Checkpoints, SharedState, StateLayout, encode_part};
use convoy_common::ids::{Lineage, Rank, Term};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::TrainError;
use super::control::Control;
use super::report::{Report, Reports};
use crate::model::{ModelError, Net};
use crate::state;

/// How long the last checkpoint of a run waits for the one before to be uploaded.
const SLOT_DEADLINE: Duration = Duration::from_secs(600);
const SLOT_POLL: Duration = Duration::from_millis(10);

/// What names this rank's parts.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The line of history.
    pub lineage: Lineage,
    /// The coordinator's term.
    pub term: Term,
    /// This worker's place in the roster.
    pub rank: Rank,
    /// Workers in the roster.
    pub world: u32,
}

/// Takes snapshots and uploads them in the background.
#[derive(Debug)]
pub struct Uploader {
    catalogue: Arc<Checkpoints>,
    layout: Arc<StateLayout>,
    place: Place,
    busy: Arc<AtomicBool>,
    reports: Reports,
    runtime: Handle,
    /// The upload on its way, or the last one.
    upload: Mutex<Option<AbortHandle>>,
}

/// What is still on its way belongs to a generation that is over: nobody waits for it.
impl Drop for Uploader {
    fn drop(&mut self) {
        let upload = self.upload.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(upload) = upload.filter(|_| self.busy.load(Ordering::Acquire)) {
            upload.abort();
        }
    }
}

impl Uploader {
    /// An uploader with a free slot.
    pub fn new(
        catalogue: Arc<Checkpoints>,
        layout: Arc<StateLayout>,
        place: Place,
        reports: Reports,
        runtime: Handle,
    ) -> Self {
        Self {
            catalogue,
            layout,
            place,
            busy: Arc::default(),
            reports,
            runtime,
            upload: Mutex::default(),
        }
    }

    /// Whether a snapshot can be taken without waiting.
    pub(super) fn is_free(&self) -> bool {
        !self.busy.load(Ordering::Acquire)
    }

    /// Waits until the upload before is done, or the generation is.
    pub(super) fn wait_until_free(&self, control: &Control) -> Result<(), TrainError> {
        let start = Instant::now();
        while !self.is_free() {
            if control.is_abandoned() {
                return Err(TrainError::Abandoned);
            }
            if start.elapsed() > SLOT_DEADLINE {
                return Err(TrainError::UploadStuck { after: SLOT_DEADLINE });
            }
            std::thread::sleep(SLOT_POLL);
        }
        Ok(())
    }

    /// Hashes the state, copies this rank's part of it and starts the upload.
    ///
    /// Each rank hashes all of it, and not only its part: that is how a state that is another than
    /// those of the other ranks shows.
    pub(super) fn take(&self, net: &Net, shared: SharedState) -> Result<(), TrainError> {
        let start = Instant::now();
        let state_digest = state::digest(net, &self.layout)?;
        let Place { lineage, term, rank, world } = self.place;
        let slices = self.layout.share(rank.0, world);
        let data: Vec<Bytes> = self.layout.slices()[slices.clone()]
            .iter()
            .map(|slice| Ok(Bytes::from(net.read_rows(slice.tensor, slice.rows.clone())?)))
            .collect::<Result<_, ModelError>>()?;
        self.busy.store(true, Ordering::Release);
        let paused = start.elapsed();

        let (catalogue, layout) = (Arc::clone(&self.catalogue), Arc::clone(&self.layout));
        let (busy, reports) = (Arc::clone(&self.busy), self.reports.clone());
        let upload = self.runtime.spawn(async move {
            let position = shared.position;
            let encode = move || encode_part(&layout, term, rank.0, world, slices, &data);
            let encoded = tokio::task::spawn_blocking(encode).await;
            let outcome = match encoded {
                Ok(Ok(part)) => {
                    match catalogue.upload_part(lineage, shared.global_step, &part).await {
                        Ok(()) => Ok(part.entry),
                        Err(error) => Err(error.to_string()),
                    }
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("encoding the part panicked".to_owned()),
            };
            let took = start.elapsed();
            let report = match outcome {
                Ok(part) => {
                    info!(
                        epoch = position.epoch,
                        step = position.step,
                        bytes = part.size,
                        pause_ms = paused.as_millis() as u64,
                        seconds = took.as_secs_f64(),
                        "uploaded this rank's part of a checkpoint"
                    );
                    Report::PartUploaded { position, part, shared, took, state_digest }
                }
                Err(error) => {
                    warn!(
                        epoch = position.epoch,
                        step = position.step,
                        error,
                        "a checkpoint's part was not stored"
                    );
                    Report::PartFailed { position, error, state_digest }
                }
            };
            // The slot is free before the report, so that a coordinator that has all parts of a
            // checkpoint never meets a worker that cannot take the next one.
            busy.store(false, Ordering::Release);
            if !reports.send(report).await {
                warn!("the worker ended before it could report a checkpoint's part");
            }
        });
        *self.upload.lock().unwrap_or_else(PoisonError::into_inner) = Some(upload.abort_handle());
        Ok(())
    }
}
