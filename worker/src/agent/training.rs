//! The trainer's thread: made of what was prepared, and what becomes of it.

use std::sync::Arc;

use convoy_common::checkpoint::StateLayout;
use convoy_common::dataset::Split;
use tokio::runtime::Handle;

use super::prepare::{Job, Prepared};
use crate::data;
use crate::state;
use crate::train::{
    Cause, Control, Ending, PartPlace, Parts, Remains, Reports, TrainError, Trainer, Uploader,
};

/// What became of a generation on this worker.
pub(super) struct Ended {
    /// The ending that all ranks agreed on with the digest of the state, or what broke.
    pub(super) outcome: Result<(Ending, String), TrainError>,
    /// The state; none where the trainer could not begin, or panicked.
    pub(super) remains: Option<Remains>,
    /// What may still be on its way to the store; dropping it gives that up.
    pub(super) uploader: Option<Uploader>,
}

/// Trains on a thread of its own; `ended` is called there at the end, whatever happens.
pub(super) fn start(
    job: Arc<Job>,
    prepared: Prepared,
    remains: Remains,
    control: Arc<Control>,
    reports: Reports,
    ended: impl FnOnce(Ended) + Send + 'static,
) {
    let runtime = Handle::current();
    std::thread::spawn(move || {
        let work = std::panic::AssertUnwindSafe(|| {
            train(&job, prepared, remains, control, reports, runtime)
        });
        let lost = || Ended { outcome: Err(TrainError::Panicked), remains: None, uploader: None };
        ended(std::panic::catch_unwind(work).unwrap_or_else(|_| lost()));
    });
}

fn train(
    job: &Job,
    prepared: Prepared,
    remains: Remains,
    control: Arc<Control>,
    reports: Reports,
    runtime: Handle,
) -> Ended {
    let Prepared { assignment, ring, redo, .. } = prepared;
    let world = assignment.roster.len() as u32;
    let place = PartPlace {
        lineage: assignment.lineage,
        term: assignment.generation.term,
        rank: assignment.rank,
        world,
    };
    let layout = Arc::new(state::layout(&remains.net));
    let uploader = Uploader::new(
        Arc::clone(&job.catalogue),
        Arc::clone(&layout),
        place,
        reports.clone(),
        runtime.clone(),
    )
    .with_patience(job.config.checkpoint.final_timeout)
    .with_mishap(job.mishap.clone());
    let config = &job.config;
    let settings = data::Settings::of(config, job.lanes);
    let trainer = Trainer::new(Parts {
        config: config.clone(),
        images: (job.dataset.len(Split::Train), job.dataset.len(Split::Validation)),
        shard_starts: job.dataset.shard_starts(Split::Train),
        source: Arc::new(job.source.clone()),
        rank: assignment.rank,
        world,
        remains,
        redo,
        owes_checkpoint: assignment.owes_checkpoint,
        stop: assignment.stop,
        lanes: job.lanes,
        settings,
        ring,
        uploader,
        control,
        runtime,
        reports,
        fault: job.fault.clone(),
    });
    match trainer {
        Ok(mut trainer) => {
            let outcome = to_the_end(&mut trainer, &layout);
            let (remains, uploader) = trainer.into_remains();
            Ended { outcome, remains: Some(remains), uploader: Some(uploader) }
        }
        Err(error) => Ended { outcome: Err(error), remains: None, uploader: None },
    }
}

fn to_the_end(trainer: &mut Trainer, layout: &StateLayout) -> Result<(Ending, String), TrainError> {
    let ending = trainer.run()?;
    if ending.cause == Cause::Regroup {
        // Nobody is to wait for a hash.
        trainer.leave_ring();
        return Ok((ending, String::new()));
    }
    trainer.finish_uploads()?;
    let digest = state::digest(trainer.net(), layout)?;
    Ok((ending, digest))
}
