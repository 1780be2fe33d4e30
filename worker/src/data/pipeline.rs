//! The pipeline's life: what is started, who waits for whom, and how it ends.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use convoy_common::config::RunConfig;
use futures::StreamExt;
use futures::stream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::augment::{MEAN_VALUES, Recipe, STORED_SIDE};
use super::buffers::{Pixels, Pool};
use super::colour::Axes;
use super::delivery::{Delivered, Delivery};
use super::error::DataError;
use super::queue::{Job, Queue};
use super::source::Source;
use super::{Microbatch, Request};

/// What decoding may take beyond the longest read.
const GRACE: Duration = Duration::from_secs(5);

/// How a pipeline works; only `seed`, `side`, `pixel_scale` and
/// `colour_sigma` touch bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Of the run; keys crops, flips and colours.
    pub seed: u64,
    /// Threads that decode; 0 is taken as 1.
    pub threads: u32,
    /// Microbatches that are read, decoded or waiting at a time, at most; 0 is taken as 1.
    pub prefetch: u32,
    /// Height and width of the net's input; at most [`STORED_SIDE`].
    pub side: u32,
    /// What mean-subtracted pixels are multiplied by.
    pub pixel_scale: f64,
    /// How long [`Pipeline::next`] waits.
    pub timeout: Duration,
    /// Spread of the colour shift in training, in standard deviations of the data set's colours.
    pub colour_sigma: f64,
}

impl Settings {
    /// Those of a run, for a worker with so many lanes.
    pub fn of(config: &RunConfig, lanes: u32) -> Self {
        let threads = config.data.decode_threads;
        Self {
            seed: config.run.seed,
            threads: if threads == 0 { lanes } else { threads },
            prefetch: config.data.prefetch,
            side: config.model.name.input_side(),
            pixel_scale: config.model.pixel_scale,
            // A read that is given up says more than a microbatch that does not come.
            timeout: config.cluster.ring_timeout.max(config.data.read_timeout + GRACE),
            colour_sigma: config.data.colour_sigma,
        }
    }
}

/// Microbatches in the order of their requests, prepared ahead.
///
/// Holds at most `prefetch` of them, about 0.6 MB an image, or 0.8 MB where whole squares are asked
/// for. Dropping it ends its threads: each finishes the image that it holds, a few milliseconds, and
/// reads under way are dropped.
pub struct Pipeline {
    delivery: Arc<Delivery>,
    queue: Arc<Queue>,
    reader: AbortHandle,
    threads: Vec<JoinHandle<()>>,
    timeout: Duration,
    /// Number of the microbatch that the trainer gets next.
    number: u64,
    stopped: bool,
}

impl Pipeline {
    /// Starts the reader on `runtime` and the decode threads.
    ///
    /// `requests` is asked for one at a time, in the runtime, only when there is room for it; it
    /// must not block.
    ///
    /// # Errors
    /// [`DataError::MeanImage`] if the source's mean image has another size, [`DataError::Thread`]
    /// if the system has no thread left.
    pub fn start(
        source: Arc<dyn Source>,
        settings: Settings,
        runtime: &Handle,
        requests: impl Iterator<Item = Request> + Send + 'static,
    ) -> Result<Self, DataError> {
        let values = source.mean_image().len();
        if values != MEAN_VALUES {
            return Err(DataError::MeanImage { values });
        }
        let side = (settings.side as usize).min(STORED_SIDE);
        let delivery = Arc::new(Delivery::default());
        let queue = Arc::new(Queue::default());
        let prefetch = settings.prefetch.max(1) as usize;
        let reader = Reader {
            source: Arc::clone(&source),
            queue: Arc::clone(&queue),
            delivery: Arc::clone(&delivery),
            // Those in flight, and a few that lanes compute on.
            pool: Arc::new(Pool::new(prefetch + 2)),
            prefetch,
            side,
        };
        let mut pipeline = Self {
            delivery,
            queue,
            reader: runtime.spawn(reader.run(requests)).abort_handle(),
            threads: Vec::new(),
            timeout: settings.timeout,
            number: 0,
            stopped: false,
        };
        let recipe = Recipe {
            seed: settings.seed,
            side,
            pixel_scale: settings.pixel_scale as f32,
            colour_sigma: settings.colour_sigma,
            axes: Axes::of(&source.covariance()),
        };
        for number in 0..settings.threads.max(1) {
            // On failure, dropping the pipeline ends what has been started.
            pipeline.add_thread(number, Arc::clone(&source), recipe)?;
        }
        Ok(pipeline)
    }

    /// The next microbatch, or nothing after the last.
    ///
    /// Blocks, so not for async code. An error belongs to one microbatch: the next call goes on
    /// with the one after it, except that after [`DataError::Timeout`] it waits for the same one
    /// again, and that after [`DataError::Stopped`] there are no more.
    #[expect(clippy::should_implement_trait, reason = "a caller must look at each error")]
    pub fn next(&mut self) -> Option<Result<Microbatch, DataError>> {
        if self.stopped {
            return None;
        }
        let next = self.delivery.take(self.number, self.timeout);
        match &next {
            Some(Err(DataError::Timeout { .. })) => {}
            None | Some(Err(DataError::Stopped)) => self.stopped = true,
            Some(_) => self.number += 1,
        }
        next
    }

    fn add_thread(
        &mut self,
        number: u32,
        source: Arc<dyn Source>,
        recipe: Recipe,
    ) -> Result<(), DataError> {
        let (queue, delivery) = (Arc::clone(&self.queue), Arc::clone(&self.delivery));
        let thread = thread::Builder::new()
            .name(format!("decode-{number}"))
            .spawn(move || queue.work(source.as_ref(), recipe, &delivery))
            .map_err(|source| DataError::Thread { source })?;
        self.threads.push(thread);
        Ok(())
    }
}

#[cfg(test)]
impl Pipeline {
    /// How many microbatches are complete and wait for the trainer.
    pub(super) fn decoded(&self) -> usize {
        self.delivery.waiting()
    }

    /// What must not outlive it.
    pub(super) fn parts(&self) -> (std::sync::Weak<Delivery>, std::sync::Weak<Queue>) {
        (Arc::downgrade(&self.delivery), Arc::downgrade(&self.queue))
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.reader.abort();
        self.queue.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a decode thread panicked");
            }
        }
    }
}

/// The task that reads ahead.
///
/// However it ends, aborted before its first poll or by a panic, the trainer hears that no more
/// will come.
struct Reader {
    source: Arc<dyn Source>,
    queue: Arc<Queue>,
    delivery: Arc<Delivery>,
    pool: Arc<Pool>,
    prefetch: usize,
    side: usize,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.delivery.end(false);
    }
}

impl Reader {
    /// Reads up to `prefetch` microbatches at once and queues them in order.
    ///
    /// A request takes a permit before it is made, and its microbatch gives the permit back when
    /// the trainer takes it: so there are never more than `prefetch`.
    async fn run(self, requests: impl Iterator<Item = Request> + Send + 'static) {
        let room = Arc::new(Semaphore::new(self.prefetch));
        let admitted = stream::unfold((requests, room), |(mut requests, room)| async move {
            let permit = Arc::clone(&room).acquire_owned().await.ok()?;
            let request = requests.next()?;
            Some(((request, permit), (requests, room)))
        });
        let read = admitted
            .map(|(request, permit)| self.read(request, permit))
            .buffered(self.prefetch)
            .enumerate();
        let mut read = std::pin::pin!(read);
        while let Some((number, Read { request, permit, result })) = read.next().await {
            let number = number as u64;
            self.delivery.announce();
            match result {
                Ok(encoded) if !encoded.is_empty() => {
                    let (side, pool) = (self.side, &self.pool);
                    self.queue.push(Job::new(number, request, encoded, side, pool, permit));
                }
                Ok(_) => {
                    let (pixels, labels) = (Pixels::default(), Vec::new());
                    let empty = Microbatch { request, pixels, labels };
                    self.delivery.put(number, Delivered { result: Ok(empty), permit });
                }
                Err(error) => self.delivery.put(number, Delivered { result: Err(error), permit }),
            }
        }
        self.delivery.end(true);
    }

    async fn read(&self, request: Request, permit: OwnedSemaphorePermit) -> Read {
        let indices: Vec<u64> = request.samples.iter().map(|sample| sample.index).collect();
        let result = if indices.is_empty() {
            Ok(Vec::new())
        } else {
            self.source.read(request.purpose.split(), &indices).await
        };
        let result = match result {
            Ok(encoded) if encoded.len() == indices.len() => Ok(encoded),
            Ok(encoded) => Err(DataError::Count { wanted: indices.len(), got: encoded.len() }),
            Err(source) => {
                let Request { epoch, step, microbatch, .. } = request;
                Err(DataError::Read { epoch, step, microbatch, source })
            }
        };
        Read { request, permit, result }
    }
}

/// What came of a request.
struct Read {
    request: Request,
    permit: OwnedSemaphorePermit,
    result: Result<Vec<convoy_common::dataset::Encoded>, DataError>,
}
