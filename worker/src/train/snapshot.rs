//! Checkpoints on the worker's side: one slot, filled at a step boundary, emptied by an upload.
//!
//! ```text
//! trainer: hash the whole state, copy this rank's slices -> slot -> upload: encode, put -> report
//! ```
//!
//! Training goes on while a part is uploaded. There is one slot, so memory is bounded; a checkpoint
//! that falls due while a slot is taken is skipped on every rank alike. A store that fails is tried
//! for as long as the generation lives ([`upload`](super::upload)) and never stops training: a
//! checkpoint that cannot wait for it, the last one of a run or a best one, takes the slot of an older
//! one that the store has refused so far.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use convoy_common::checkpoint::{Checkpoints, SharedState, StateLayout};
use convoy_common::ids::{Lineage, Rank, Term};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::TrainError;
use super::control::Control;
use super::fault::Mishap;
use super::report::Reports;
use super::upload::Upload;
use crate::model::{ModelError, Net};
use crate::state;

/// Unless [`Uploader::with_patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(600);
/// For an upload that is given up to say so.
const LAST_WORD: Duration = Duration::from_secs(10);
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
pub struct Uploader {
    catalogue: Arc<Checkpoints>,
    layout: Arc<StateLayout>,
    place: Place,
    slot: Arc<Slot>,
    reports: Reports,
    runtime: Handle,
    /// The upload on its way, or the last one.
    upload: Mutex<Option<OnItsWay>>,
    patience: Duration,
    /// Since when somebody waits for the store.
    waits: Option<Instant>,
    mishap: Option<Mishap>,
}

/// The way to an upload.
struct OnItsWay {
    task: AbortHandle,
    give_up: Arc<Notify>,
}

/// What is still on its way belongs to a generation that is over: nobody waits for it.
impl Drop for Uploader {
    fn drop(&mut self) {
        let upload = self.upload.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(upload) = upload.filter(|_| !self.slot.is_free()) {
            upload.task.abort();
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
            slot: Arc::default(),
            reports,
            runtime,
            upload: Mutex::default(),
            patience: PATIENCE,
            waits: None,
            mishap: None,
        }
    }

    /// The same that waits so long for the store where somebody has to wait for it.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The same with what a test has planted.
    #[must_use]
    pub fn with_mishap(mut self, mishap: Option<Mishap>) -> Self {
        self.mishap = mishap;
        self
    }

    /// Whether a snapshot can be taken without waiting.
    pub(super) fn is_free(&self) -> bool {
        self.slot.is_free()
    }

    /// Waits until the upload before is done, unless the store has refused it so far: then the state
    /// that is to come takes its place.
    pub(super) fn make_room(&mut self, control: &Control) -> Result<(), TrainError> {
        let start = Instant::now();
        self.waits = Some(start);
        self.wait(control, |slot| slot.is_failing() || start.elapsed() > self.patience)
    }

    /// Waits until the last upload is done, or has been tried for long enough.
    pub(super) fn finish(&mut self, control: &Control) -> Result<(), TrainError> {
        let start = self.waits.take().unwrap_or_else(Instant::now);
        self.wait(control, |_| start.elapsed() > self.patience)
    }

    /// Waits for a free slot; from when the upload in it is to be given up `enough` says.
    fn wait(&self, control: &Control, enough: impl Fn(&Slot) -> bool) -> Result<(), TrainError> {
        let mut given_up = None;
        while !self.slot.is_free() {
            if control.is_abandoned() {
                return Err(TrainError::Abandoned);
            }
            match given_up {
                None if enough(&self.slot) => {
                    self.upload(|it| it.give_up.notify_one());
                    given_up = Some(Instant::now());
                }
                // It is stuck where it cannot hear that.
                Some(since) if Instant::now() > since + LAST_WORD => {
                    self.upload(|it| it.task.abort());
                    self.slot.free();
                }
                _ => {}
            }
            std::thread::sleep(SLOT_POLL);
        }
        Ok(())
    }

    fn upload(&self, tell: impl FnOnce(&OnItsWay)) {
        let upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        upload.as_ref().map(tell);
    }

    /// Hashes the state, copies this rank's part of it and starts the upload.
    ///
    /// Each rank hashes all of it, and not only its part: that is how a state that is another than
    /// those of the other ranks shows.
    pub(super) fn take(&self, net: &Net, shared: SharedState) -> Result<(), TrainError> {
        let begun = Instant::now();
        let state_digest = state::digest(net, &self.layout)?;
        let slices = self.layout.share(self.place.rank.0, self.place.world);
        let data: Vec<Bytes> = self.layout.slices()[slices.clone()]
            .iter()
            .map(|slice| Ok(Bytes::from(net.read_rows(slice.tensor, slice.rows.clone())?)))
            .collect::<Result<_, ModelError>>()?;
        self.slot.fill();
        let give_up = Arc::<Notify>::default();
        let upload = Upload {
            catalogue: Arc::clone(&self.catalogue),
            layout: Arc::clone(&self.layout),
            place: self.place,
            slices,
            data,
            shared,
            state_digest,
            begun,
            paused: begun.elapsed(),
            slot: Arc::clone(&self.slot),
            give_up: Arc::clone(&give_up),
            reports: self.reports.clone(),
            mishap: self.mishap.clone(),
        };
        let task = self.runtime.spawn(upload.run()).abort_handle();
        let upload = Some(OnItsWay { task, give_up });
        *self.upload.lock().unwrap_or_else(PoisonError::into_inner) = upload;
        Ok(())
    }
}

/// Room for one snapshot.
#[derive(Debug, Default)]
pub(super) struct Slot {
    content: AtomicU8,
}

const FREE: u8 = 0;
/// By an upload that has not failed so far.
const TAKEN: u8 = 1;
/// By one that the store has refused at least once.
const REFUSED: u8 = 2;

impl Slot {
    fn is_free(&self) -> bool {
        self.content.load(Ordering::Acquire) == FREE
    }

    fn is_failing(&self) -> bool {
        self.content.load(Ordering::Acquire) == REFUSED
    }

    fn fill(&self) {
        self.content.store(TAKEN, Ordering::Release);
    }

    /// The store does not take what is in it.
    pub(super) fn fails(&self) {
        self.content.store(REFUSED, Ordering::Release);
    }

    pub(super) fn free(&self) {
        self.content.store(FREE, Ordering::Release);
    }
}
