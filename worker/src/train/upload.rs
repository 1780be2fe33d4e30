//! One part's way into the store: encoded once, tried until it is there.
//!
//! A store that is away, full or refuses the keys is tried again with growing pauses for as long as
//! somebody wants the part: training does not wait for it. What cannot get better is an error at
//! once. Each failed try is told, so that the operator learns why checkpoints wait.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use convoy_common::checkpoint::{
    CheckpointError, Checkpoints, EncodedPart, PartEntry, SharedState, StateLayout, encode_part,
};
use convoy_common::failure::{self, Explain as _};
use convoy_common::ids::Position;
use convoy_common::store::Backoff;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

use super::fault::{Mishap, Moment};
use super::report::{Report, Reports};
use super::snapshot::{Place, Slot};

/// A snapshot and where it is to go.
pub(super) struct Upload {
    pub(super) catalogue: Arc<Checkpoints>,
    pub(super) layout: Arc<StateLayout>,
    pub(super) place: Place,
    /// Of the layout.
    pub(super) slices: Range<usize>,
    pub(super) data: Vec<Bytes>,
    pub(super) shared: SharedState,
    /// Of the whole state.
    pub(super) state_digest: String,
    pub(super) begun: std::time::Instant,
    /// How long the trainer stood still for it.
    pub(super) paused: Duration,
    pub(super) slot: Arc<Slot>,
    /// Rings when nobody wants the part any more.
    pub(super) give_up: Arc<Notify>,
    pub(super) reports: Reports,
    pub(super) mishap: Option<Mishap>,
}

impl Upload {
    /// To the end: the part is in the store, or nobody wants it any more, or it cannot be stored.
    pub(super) async fn run(mut self) {
        let Position { epoch, step } = self.shared.position;
        let outcome = self.store().await;
        let position = self.shared.position;
        let (state_digest, took) = (self.state_digest, self.begun.elapsed());
        let report = match outcome {
            Ok(part) => {
                info!(
                    epoch,
                    step,
                    bytes = part.size,
                    pause_ms = self.paused.as_millis() as u64,
                    seconds = took.as_secs_f64(),
                    "uploaded this rank's part of a checkpoint"
                );
                Report::PartUploaded { position, part, shared: self.shared, took, state_digest }
            }
            Err(error) => {
                warn!(epoch, step, error, "a checkpoint's part was not stored");
                Report::PartFailed { position, error, state_digest }
            }
        };
        // The slot is free before the report, so that a coordinator that has all parts of a
        // checkpoint never meets a worker that cannot take the next one.
        self.slot.free();
        if !self.reports.send(report).await {
            warn!("the worker ended before it could report a checkpoint's part");
        }
    }

    async fn store(&mut self) -> Result<PartEntry, String> {
        let part = self.encode().await?;
        self.meet(Moment::Upload);
        let give_up = Arc::clone(&self.give_up);
        let mut backoff = Backoff::default();
        let mut last = None;
        loop {
            let tried = tokio::select! {
                tried = self.try_once(&part) => tried,
                () = give_up.notified() => return Err(self.given_up(last)),
            };
            match tried {
                Ok(()) => {
                    self.meet(Moment::Uploaded);
                    return Ok(part.entry);
                }
                Err(error) if !error.may_pass() => return Err(failure::in_full(&error)),
                Err(error) => {
                    self.slot.fails();
                    let pause = backoff.pause();
                    self.tell(&error, backoff.tries(), pause).await;
                    last = Some(failure::in_full(&error));
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = give_up.notified() => return Err(self.given_up(last)),
                    }
                }
            }
        }
    }

    async fn try_once(&self, part: &EncodedPart) -> Result<(), CheckpointError> {
        let Place { lineage, .. } = self.place;
        self.catalogue.upload_part(lineage, self.shared.global_step, part).await
    }

    /// On a thread where it may block; the snapshot's buffers go into the part.
    async fn encode(&mut self) -> Result<EncodedPart, String> {
        let (layout, Place { term, rank, world, .. }) = (Arc::clone(&self.layout), self.place);
        let (slices, data) = (self.slices.clone(), std::mem::take(&mut self.data));
        let encode = move || encode_part(&layout, term, rank.0, world, slices, &data);
        match tokio::task::spawn_blocking(encode).await {
            Ok(encoded) => encoded.map_err(|error| error.to_string()),
            Err(_) => Err("encoding the part panicked".to_owned()),
        }
    }

    async fn tell(&self, error: &CheckpointError, tries: u32, pause: Duration) {
        let (text, hint) = (failure::in_full(error), error.hint());
        let position = self.shared.position;
        warn!(
            epoch = position.epoch,
            step = position.step,
            error = text,
            hint,
            tries,
            next_try_s = pause.as_secs_f64(),
            "a checkpoint's part cannot be stored for now; training goes on"
        );
        // Without anybody to tell it to, the upload is about to end as well.
        let _ = self.reports.send(Report::PartDelayed { position, error: text, hint }).await;
    }

    fn given_up(&self, last: Option<String>) -> String {
        let seconds = self.begun.elapsed().as_secs_f64();
        match last {
            Some(last) => format!("given up after {seconds:.0} s: {last}"),
            None => format!("given up after {seconds:.0} s without an answer of the store"),
        }
    }

    fn meet(&self, moment: Moment) {
        if let Some(mishap) = &self.mishap {
            mishap(moment, self.shared.position);
        }
    }
}
