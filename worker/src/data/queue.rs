//! The images that wait to be decoded, and what a decode thread does with them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use convoy_common::dataset::Encoded;
use tokio::sync::OwnedSemaphorePermit;

use super::augment::{Recipe, image_values};
use super::buffers::{Pixels, Pool};
use super::delivery::{Delivered, Delivery};
use super::disjoint::Disjoint;
use super::error::{DataError, Unusable};
use super::source::Source;
use super::workbench::Workbench;
use super::{Microbatch, Request};

/// One microbatch that has been read.
pub(super) struct Job {
    number: u64,
    request: Request,
    encoded: Vec<Encoded>,
    pixels: Disjoint,
    /// Where their memory comes from.
    pool: Weak<Pool>,
    /// Of the first image, by its place in the microbatch, that cannot be used.
    failure: Mutex<Option<(usize, Unusable)>>,
    permit: OwnedSemaphorePermit,
}

impl Job {
    /// `encoded` are the images of the request's samples, in their order, and at least one; `side`
    /// is that of the net's input. The buffer comes from `pool` and goes back there.
    pub(super) fn new(
        number: u64,
        request: Request,
        encoded: Vec<Encoded>,
        side: usize,
        pool: &Arc<Pool>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let (parts, width) = (encoded.len(), image_values(request.purpose.side(side)));
        let pixels = Disjoint::new(pool.take(parts * width), parts, width);
        let (pool, failure) = (Arc::downgrade(pool), Mutex::new(None));
        Self { number, request, encoded, pixels, pool, failure, permit }
    }

    /// Decodes one image into its place. The image that is reported does not depend on which
    /// thread was faster: it is the first of those that fail.
    fn decode(&self, place: usize, recipe: Recipe, mean: &[f32], workbench: &mut Workbench) {
        let (Some(encoded), Some(sample), Some(out)) =
            (self.encoded.get(place), self.request.samples.get(place), self.pixels.take(place))
        else {
            return;
        };
        let treatment = recipe.treatment(&self.request, sample.index);
        let write = || workbench.write(encoded, treatment, mean, out, |_| ());
        let written = catch_unwind(AssertUnwindSafe(write)).unwrap_or(Err(Unusable::Panicked));
        if let Err(reason) = written {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            if failure.as_ref().is_none_or(|(first, _)| place < *first) {
                *failure = Some((place, reason));
            }
        }
    }

    fn deliver(self, source: &dyn Source, delivery: &Delivery) {
        let Self { number, request, encoded, pixels, pool, failure, permit } = self;
        let pixels = Pixels::new(pixels.into_vec(), pool);
        let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        let result = match failure {
            None => Ok(Microbatch {
                request,
                pixels,
                labels: encoded.iter().map(|image| i64::from(image.label)).collect(),
            }),
            Some((place, reason)) => Err(DataError::Image {
                image: source.name(request.purpose.split(), request.samples[place].index),
                epoch: request.epoch,
                step: request.step,
                source: reason,
            }),
        };
        delivery.put(number, Delivered { result, permit });
    }
}

/// Jobs in order, shared by the reader, which adds them, and the decode threads.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Arc<Job>>,
    /// Images of the first job that have been claimed.
    claimed: usize,
    closed: bool,
}

impl Queue {
    /// Adds a job; a closed queue drops it.
    pub(super) fn push(&self, job: Job) {
        let mut state = self.lock();
        if !state.closed {
            state.jobs.push_back(Arc::new(job));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Lets go of everything: no image is claimed after this, and threads end when they have
    /// finished the one they hold.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.changed.notify_all();
        drop(jobs);
    }

    /// The life of a decode thread.
    pub(super) fn work(&self, source: &dyn Source, recipe: Recipe, delivery: &Delivery) {
        let mut workbench = Workbench::default();
        while let Some((job, place)) = self.claim() {
            job.decode(place, recipe, source.mean_image(), &mut workbench);
            // All images are claimed once the queue has let go of the job; so the last thread that
            // does as well finds it complete.
            if let Some(job) = Arc::into_inner(job) {
                job.deliver(source, delivery);
            }
        }
    }

    /// The next image, in order of jobs, as soon as there is one; nothing when closed.
    fn claim(&self) -> Option<(Arc<Job>, usize)> {
        let mut state = self.lock();
        while !state.closed {
            if let Some(job) = state.jobs.front() {
                let (place, images) = (state.claimed, job.encoded.len());
                if place + 1 < images {
                    let job = Arc::clone(job);
                    state.claimed += 1;
                    return Some((job, place));
                }
                state.claimed = 0;
                return state.jobs.pop_front().map(|job| (job, place));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// The state is whole between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
