//! The trainer's thread: made of what was prepared, and what becomes of it.

use std::sync::Arc;

use convoy_common::dataset::Split;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::prepare::{Job, Prepared};
use crate::data;
use crate::state;
use crate::train::{Control, Ending, PartPlace, Parts, Report, TrainError, Trainer, Uploader};

/// What became of a generation on this worker.
pub(super) struct Ended {
    /// The ending that all ranks agreed on with the digest of the state, or what broke.
    pub(super) outcome: Result<(Ending, String), TrainError>,
}

/// Trains on a thread of its own; `ended` is called there at the end, whatever happens.
pub(super) fn start(
    job: Arc<Job>,
    prepared: Prepared,
    control: Arc<Control>,
    reports: mpsc::Sender<Report>,
    ended: impl FnOnce(Ended) + Send + 'static,
) {
    let runtime = Handle::current();
    std::thread::spawn(move || {
        let work =
            std::panic::AssertUnwindSafe(|| train(&job, prepared, control, reports, runtime));
        let outcome = std::panic::catch_unwind(work).unwrap_or(Err(TrainError::Panicked));
        ended(Ended { outcome });
    });
}

fn train(
    job: &Job,
    prepared: Prepared,
    control: Arc<Control>,
    reports: mpsc::Sender<Report>,
    runtime: Handle,
) -> Result<(Ending, String), TrainError> {
    let Prepared { assignment, net, layout, shared, ring, .. } = prepared;
    let world = assignment.roster.len() as u32;
    let place = PartPlace {
        lineage: assignment.lineage,
        term: assignment.generation.term,
        rank: assignment.rank,
        world,
    };
    let uploader = Uploader::new(
        Arc::clone(&job.catalogue),
        Arc::clone(&layout),
        place,
        reports.clone(),
        runtime.clone(),
    );
    let config = &job.config;
    let settings = data::Settings::of(config, job.lanes);
    let mut trainer = Trainer::new(Parts {
        config: config.clone(),
        images: (job.dataset.len(Split::Train), job.dataset.len(Split::Validation)),
        shard_starts: job.dataset.shard_starts(Split::Train),
        source: Arc::new(job.source.clone()),
        rank: assignment.rank,
        world,
        net,
        lanes: job.lanes,
        settings,
        shared,
        ring,
        uploader,
        control,
        runtime,
        reports,
        fault: None,
    })?;
    let ending = trainer.run()?;
    trainer.finish_uploads()?;
    let digest = state::digest(trainer.net(), &layout)?;
    Ok((ending, digest))
}
