//! The pipeline as a whole: against sources in memory, some of which misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use convoy_common::dataset::{Encoded, Encoding, Split};
use convoy_common::exit;
use convoy_common::failure::{Explain, Failure};
use convoy_common::image::decode;
use convoy_common::random::{Random, Stream};
use convoy_common::sampling::{EvaluationGrid, SampleRef, Sampler};
use tokio::runtime::Runtime;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
const SIGMA: f64 = 0.1;
const SIDE: u32 = 227;
const IMAGE_VALUES: usize = (3 * SIDE * SIDE) as usize;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn settings(threads: u32) -> Settings {
    Settings {
        seed: 5,
        threads,
        prefetch: 3,
        side: SIDE,
        pixel_scale: 1.0,
        timeout: PATIENCE,
        colour_sigma: SIGMA,
    }
}

/// A picture of slopes with some noise, told apart by its number.
fn jpeg(number: u64, width: u16, height: u16) -> Bytes {
    let mut random = Random::new(number, Stream::Drawing, 0, 0, 0);
    let slopes: Vec<u32> = (0..6).map(|_| random.below(5)).collect();
    let mut noise = vec![0; usize::from(width) * usize::from(height)];
    random.fill_u32(&mut noise);
    let mut pixels = Vec::with_capacity(noise.len() * 3);
    for (i, noise) in noise.into_iter().enumerate() {
        let (x, y) = (i as u32 % u32::from(width), i as u32 / u32::from(width));
        for channel in 0..3 {
            let height = (x * slopes[channel] + y * slopes[channel + 3]) / 8 % 240;
            pixels.push((height + (noise >> (8 * channel)) % 16) as u8);
        }
    }
    let mut out = Vec::new();
    jpeg_encoder::Encoder::new(&mut out, 90)
        .encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb)
        .unwrap();
    out.into()
}

fn in_memory(images: u64) -> InMemory {
    let encoded = |number: u64| Encoded {
        bytes: jpeg(number, 256 + 8 * (number % 3) as u16, 256),
        label: number as u16 % 10,
        encoding: Encoding::Jpeg256,
    };
    InMemory {
        train: (0..images).map(encoded).collect(),
        validation: (1000..1000 + images).map(encoded).collect(),
        mean_image: (0..MEAN_VALUES).map(|i| 100.0 + (i % 77) as f32 / 7.0).collect(),
    }
}

/// The microbatches of one epoch.
fn epoch(samples: u64) -> Vec<Request> {
    let sampler = Sampler::new(5, samples, 8, 3);
    (0..sampler.steps_per_epoch())
        .flat_map(|step| (0..sampler.microbatches(step)).map(move |microbatch| (step, microbatch)))
        .map(|(step, microbatch)| Request {
            purpose: Purpose::Train,
            epoch: 4,
            step,
            microbatch,
            samples: sampler.microbatch(4, step, microbatch),
        })
        .collect()
}

fn evaluation(samples: u64) -> Vec<Request> {
    let grid = EvaluationGrid::new(samples, 4);
    (0..grid.microbatches())
        .map(|microbatch| Request {
            purpose: Purpose::Evaluate,
            epoch: 4,
            step: 0,
            microbatch,
            samples: grid.microbatch(microbatch),
        })
        .collect()
}

fn start(
    source: impl Source,
    settings: Settings,
    requests: Vec<Request>,
    on: &Runtime,
) -> Pipeline {
    Pipeline::start(Arc::new(source), settings, on.handle(), requests.into_iter()).unwrap()
}

fn drain(mut pipeline: Pipeline) -> Vec<Microbatch> {
    std::iter::from_fn(|| pipeline.next()).map(Result::unwrap).collect()
}

/// The input as its definition has it, for one sample, value by value.
fn reference(source: &InMemory, request: &Request, sample: u64, scale: f32) -> Vec<f32> {
    let images = match request.purpose {
        Purpose::Train => &source.train,
        Purpose::Evaluate | Purpose::EvaluateSquares => &source.validation,
    };
    let image = decode(&images[sample as usize].bytes).unwrap();
    let (mut x, mut y, mut flip, mut shift) = (14, 14, false, [0.0; 3]);
    if request.purpose == Purpose::Train {
        let mut crop = Random::new(5, Stream::Crop, request.epoch, request.step, sample);
        (x, y) = (crop.below(30) as usize, crop.below(30) as usize);
        flip = Random::new(5, Stream::Flip, request.epoch, request.step, sample).below(2) == 1;
        shift = colour::Axes::of(&memory::COVARIANCE).shift(SIGMA, 5, request, sample);
    }
    let margin = (image.width as usize - 256) / 2;
    let mut out = Vec::new();
    for (channel, shift) in shift.into_iter().enumerate() {
        for row in 0..227 {
            for column in 0..227 {
                let column = x + if flip { 226 - column } else { column };
                let at = (y + row) * image.width as usize + margin + column;
                let pixel = f32::from(image.pixels[at * 3 + channel]);
                let mean = source.mean_image[(channel * 256 + y + row) * 256 + column];
                out.push((pixel - mean + shift) * scale);
            }
        }
    }
    out
}

#[test]
fn microbatches_come_in_order_with_the_values_of_the_definition() {
    let on = runtime();
    let source = in_memory(19);
    for (requests, scale) in [(epoch(19), 1.0), (evaluation(19), 0.25)] {
        let settings = Settings { pixel_scale: scale, ..settings(2) };
        let microbatches = drain(start(source.clone(), settings, requests.clone(), &on));
        assert_eq!(microbatches.len(), requests.len());
        for (microbatch, request) in microbatches.iter().zip(&requests) {
            assert_eq!(microbatch.request, *request);
            let images = microbatch.pixels.chunks(IMAGE_VALUES);
            assert_eq!(images.len(), request.samples.len());
            for ((image, label), sample) in
                images.zip(&microbatch.labels).zip(request.samples.iter())
            {
                let expected = reference(&source, request, sample.index, scale as f32);
                assert!(image == expected, "sample {} of {request:?}", sample.index);
                let first = if request.purpose == Purpose::Train { 0 } else { 1000 };
                assert_eq!(*label, ((first + sample.index) % 10) as i64);
            }
        }
    }
}

#[test]
fn whole_squares_hold_the_centre_window_at_its_place() {
    let on = runtime();
    let source = in_memory(5);
    let squares = evaluation(5)
        .into_iter()
        .map(|request| Request { purpose: Purpose::EvaluateSquares, ..request })
        .collect();
    let squares = drain(start(source.clone(), settings(2), squares, &on));
    let windows = drain(start(source, settings(2), evaluation(5), &on));
    assert_eq!(squares.len(), windows.len());
    for (square, window) in squares.iter().zip(&windows) {
        assert_eq!(square.labels, window.labels);
        assert_eq!(square.pixels.len(), square.labels.len() * MEAN_VALUES);
        let rows = square.pixels.chunks(256).enumerate();
        let inside = rows.filter(|(row, _)| (14..241).contains(&(row % 256)));
        let cut: Vec<f32> = inside.flat_map(|(_, row)| row[14..241].to_vec()).collect();
        assert!(cut == *window.pixels);
    }
}

#[test]
fn the_number_of_threads_and_the_prefetch_change_nothing() {
    let on = runtime();
    let source = in_memory(19);
    let expected = drain(start(source.clone(), settings(1), epoch(19), &on));
    for (threads, prefetch) in [(2, 1), (3, 2), (8, 20)] {
        let settings = Settings { prefetch, ..settings(threads) };
        let got = drain(start(source.clone(), settings, epoch(19), &on));
        assert!(got == expected, "{threads} threads, {prefetch} ahead");
    }
}

#[test]
fn an_image_of_another_size_is_brought_to_256_first() {
    let on = runtime();
    let mut source = in_memory(1);
    source.validation = vec![
        Encoded { bytes: jpeg(1, 100, 140), label: 0, encoding: Encoding::Original },
        Encoded { bytes: jpeg(2, 700, 300), label: 1, encoding: Encoding::Original },
    ];
    let microbatches = drain(start(source, settings(1), evaluation(2), &on));
    assert_eq!(microbatches[0].pixels.len(), 2 * IMAGE_VALUES);
    assert!(microbatches[0].pixels.iter().all(|value| value.is_finite()));
}

#[test]
fn no_requests_give_no_microbatches_and_no_samples_an_empty_one() {
    let on = runtime();
    assert!(start(in_memory(1), settings(2), Vec::new(), &on).next().is_none());
    let empty =
        Request { purpose: Purpose::Train, epoch: 0, step: 0, microbatch: 0, samples: Vec::new() };
    let mut requests = vec![empty.clone()];
    requests.extend(epoch(3));
    let microbatches = drain(start(in_memory(3), settings(2), requests, &on));
    assert_eq!(microbatches[0].request, empty);
    assert!(microbatches[0].pixels.is_empty() && microbatches[0].labels.is_empty());
    assert_eq!(microbatches[1].labels.len(), 3);
}

#[test]
fn a_bad_image_is_named_with_the_reason_and_the_rest_goes_on() {
    let on = runtime();
    let whole = in_memory(8);
    let truncated = whole.train[5].bytes.slice(..whole.train[5].bytes.len() / 2);
    let bad = [(2, Bytes::new()), (5, truncated), (7, Bytes::from_static(b"no picture at all"))];
    for threads in [1, 4] {
        for (index, bytes) in &bad {
            let mut source = whole.clone();
            source.train[*index].bytes = bytes.clone();
            let samples = |range: std::ops::Range<u64>| -> Vec<SampleRef> {
                range.map(|index| SampleRef { index, slot: index as u32 }).collect()
            };
            let request = |microbatch, samples| Request {
                purpose: Purpose::Train,
                epoch: 1,
                step: 9,
                microbatch,
                samples,
            };
            let requests = vec![
                request(0, samples(0..2)),
                request(1, samples(2..8)),
                request(2, samples(0..2)),
            ];
            let mut pipeline = start(source, settings(threads), requests, &on);
            assert!(pipeline.next().unwrap().is_ok());
            let error = pipeline.next().unwrap().unwrap_err();
            assert_eq!(error.exit_code(), exit::BAD_INPUT);
            let text = Failure::from(error).to_string();
            let named = format!("cannot use image {index} of train (epoch 1 step 9): ");
            assert!(text.contains(&named) && text.contains("hint: "), "{text}");
            assert!(pipeline.next().unwrap().is_ok());
            assert!(pipeline.next().is_none());
        }
    }
}

#[test]
fn of_several_bad_images_the_first_is_named_whoever_was_faster() {
    let on = runtime();
    let mut source = in_memory(12);
    for index in [3, 4, 11] {
        source.validation[index].bytes = Bytes::from_static(&[0xff, 0xd8]);
    }
    for _ in 0..20 {
        let mut requests = evaluation(12);
        requests[0].samples = EvaluationGrid::new(12, 12).microbatch(0);
        requests.truncate(1);
        let error = start(source.clone(), settings(6), requests, &on).next().unwrap().unwrap_err();
        assert!(error.to_string().contains("image 3 of val"), "{error}");
    }
}

#[test]
fn a_mean_image_of_another_size_is_refused_at_the_start() {
    let on = runtime();
    let mut source = in_memory(1);
    source.mean_image.pop();
    let started = Pipeline::start(Arc::new(source), settings(1), on.handle(), std::iter::empty());
    assert!(matches!(started, Err(DataError::MeanImage { values: 196_607 })));
}

/// Counts reads, and never answers those from `stuck_from` on.
struct Watched {
    images: InMemory,
    reads: Arc<AtomicUsize>,
    stuck_from: usize,
}

#[async_trait]
impl Source for Watched {
    async fn read(&self, split: Split, indices: &[u64]) -> Result<Vec<Encoded>, SourceError> {
        if self.reads.fetch_add(1, Ordering::SeqCst) >= self.stuck_from {
            std::future::pending::<()>().await;
        }
        self.images.read(split, indices).await
    }

    fn mean_image(&self) -> &[f32] {
        &self.images.mean_image
    }

    fn covariance(&self) -> [f64; 9] {
        self.images.covariance()
    }
}

fn watched(images: u64, stuck_from: usize) -> (Watched, Arc<AtomicUsize>) {
    let reads = Arc::new(AtomicUsize::new(0));
    (Watched { images: in_memory(images), reads: Arc::clone(&reads), stuck_from }, reads)
}

/// Waits until the condition holds.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn no_more_is_read_ahead_than_allowed() {
    let on = runtime();
    let (source, reads) = watched(40, usize::MAX);
    let mut pipeline = start(source, settings(2), epoch(40), &on);
    for taken in 0..5 {
        eventually("reads ahead", || reads.load(Ordering::SeqCst) == taken + 3);
        // All three are decoded; with room for more, the reader would have gone on.
        eventually("decoded", || pipeline.decoded() == 3);
        assert_eq!(reads.load(Ordering::SeqCst), taken + 3);
        pipeline.next().unwrap().unwrap();
    }
}

#[test]
fn a_source_that_does_not_answer_meets_the_deadline() {
    let on = runtime();
    let (source, _) = watched(9, 1);
    let settings = Settings { timeout: Duration::from_millis(50), ..settings(2) };
    let mut pipeline = start(source, settings, epoch(9), &on);
    eventually("the first", || pipeline.decoded() == 1);
    assert!(pipeline.next().unwrap().is_ok());
    for _ in 0..2 {
        let error = pipeline.next().unwrap().unwrap_err();
        let DataError::Timeout { waited, stage: Stage::Reading } = error else {
            panic!("{error}");
        };
        assert!(waited >= Duration::from_millis(50));
        assert_eq!(error.exit_code(), exit::UNAVAILABLE);
    }
}

/// Gives one image too few, then an error of its own, then one image each.
struct Faulty(InMemory, AtomicUsize);

#[derive(Debug, thiserror::Error)]
#[error("the shard is gone")]
struct Gone;

impl Explain for Gone {
    fn hint(&self) -> Option<String> {
        Some("bring it back".to_owned())
    }

    fn exit_code(&self) -> u8 {
        exit::UNAVAILABLE
    }
}

#[async_trait]
impl Source for Faulty {
    async fn read(&self, split: Split, indices: &[u64]) -> Result<Vec<Encoded>, SourceError> {
        match self.1.fetch_add(1, Ordering::SeqCst) {
            0 => self.0.read(split, &indices[1..]).await,
            1 => Err(SourceError::new(Gone)),
            _ => self.0.read(split, indices).await,
        }
    }

    fn mean_image(&self) -> &[f32] {
        &self.0.mean_image
    }

    fn covariance(&self) -> [f64; 9] {
        self.0.covariance()
    }
}

#[test]
fn what_the_source_does_wrong_is_reported_in_its_place() {
    let on = runtime();
    let source = Faulty(in_memory(9), AtomicUsize::new(0));
    let mut pipeline = start(source, Settings { prefetch: 1, ..settings(1) }, epoch(9), &on);
    let error = pipeline.next().unwrap().unwrap_err();
    assert!(matches!(error, DataError::Count { wanted: 3, got: 2 }), "{error}");
    let error = pipeline.next().unwrap().unwrap_err();
    assert_eq!(error.exit_code(), exit::UNAVAILABLE);
    assert_eq!(
        Failure::from(error).to_string(),
        "error: cannot read microbatch 1 of epoch 4 step 0: the shard is gone\nhint: bring it back"
    );
    assert_eq!(pipeline.next().unwrap().unwrap().request.microbatch, 2);
}

#[test]
fn requests_that_panic_end_the_reading_and_what_was_read_still_comes() {
    let on = runtime();
    let first = epoch(9).remove(0);
    let requests = std::iter::once(first.clone()).chain(std::iter::from_fn(|| panic!("requests")));
    let mut pipeline =
        Pipeline::start(Arc::new(in_memory(9)), settings(2), on.handle(), requests).unwrap();
    // The panic may come before the first is through.
    match pipeline.next().unwrap() {
        Ok(microbatch) => {
            assert_eq!(microbatch.request, first);
            assert!(matches!(pipeline.next(), Some(Err(DataError::Stopped))));
        }
        Err(error) => assert!(matches!(error, DataError::Stopped), "{error}"),
    }
    assert!(pipeline.next().is_none());
}

#[test]
fn a_runtime_that_goes_away_ends_the_pipeline() {
    let on = runtime();
    let (source, _) = watched(9, 0);
    let mut pipeline = start(source, settings(2), epoch(9), &on);
    let handle = on.handle().clone();
    on.shutdown_background();
    assert!(matches!(pipeline.next(), Some(Err(DataError::Stopped))));
    assert!(pipeline.next().is_none());
    // One that is gone already never polls the reader.
    let requests = epoch(9).into_iter();
    let mut late = Pipeline::start(Arc::new(in_memory(9)), settings(1), &handle, requests).unwrap();
    assert!(matches!(late.next(), Some(Err(DataError::Stopped))));
}

#[test]
fn dropping_it_ends_its_threads_and_lets_go_of_the_source() {
    let on = runtime();
    let images = in_memory(20);
    // In all states: at work, full, waiting for a source that is stuck, and done.
    for (stuck_from, taken) in [(usize::MAX, 0), (usize::MAX, 2), (2, 2), (0, 0), (usize::MAX, 8)] {
        let images = images.clone();
        let source: Arc<dyn Source> =
            Arc::new(Watched { images, reads: Arc::default(), stuck_from });
        let mut pipeline =
            Pipeline::start(Arc::clone(&source), settings(3), on.handle(), epoch(20).into_iter())
                .unwrap();
        for _ in 0..taken {
            pipeline.next().unwrap().unwrap();
        }
        let parts = pipeline.parts();
        let begin = Instant::now();
        drop(pipeline);
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        // The threads are joined; the aborted task goes when the runtime gets to it.
        eventually("the reader's end", || Arc::strong_count(&source) == 1);
        eventually("nothing left", || parts.0.strong_count() + parts.1.strong_count() == 0);
    }
}

/// Prints images/s for one and two threads: `cargo test -p convoy-worker --release images_a_second
/// -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn images_a_second() {
    let on = runtime();
    let mut source = in_memory(64);
    source.train = (0..64)
        .map(|n| Encoded { bytes: jpeg(n, 256, 256), label: 0, encoding: Encoding::Original })
        .collect();
    let bytes: usize = source.train.iter().map(|image| image.bytes.len()).sum();
    for threads in [1, 2] {
        let sampler = Sampler::new(5, 64, 64, 32);
        let requests = (0..40).map(move |step| Request {
            purpose: Purpose::Train,
            epoch: step / 2,
            step: 0,
            microbatch: step % 2,
            samples: sampler.microbatch(step / 2, 0, step % 2),
        });
        let source = Arc::new(source.clone());
        let (begin, cpu) = (Instant::now(), cpu_seconds());
        let pipeline = Pipeline::start(source, settings(threads), on.handle(), requests).unwrap();
        let images = drain(pipeline).iter().map(|it| it.labels.len()).sum::<usize>() as f64;
        let rate = images / begin.elapsed().as_secs_f64();
        let of_core = images / (cpu_seconds() - cpu);
        println!(
            "{threads} threads: {rate:.0} images/s, {of_core:.0} per second of a core, {} bytes each",
            bytes / 64
        );
    }
}

/// What this process has used of the cores, by the system's count in hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).map(|it| it.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}
