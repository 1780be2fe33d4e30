//! `convoy-worker bench`: what this machine makes of the net, without data, peers or files; and, in
//! files of their own, what it makes of a data set and of an index.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use convoy_common::config::{Init, Model, ModelName, Optimizer, Precision};
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::random::{Random, Stream};

use super::{bench_data, bench_index};
use crate::model::device::DeviceChoice;
use crate::model::{
    Device, Dropout, Factors, HeadGradient, Hyper, Input, Lane, ModelError, Net, Place, Reduced,
    Spec, threads,
};

/// Measures the speed of this machine: of training, of a data set, of a data set's index.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy-worker bench step
  convoy-worker bench data --data data/imagenet --threads 2
  convoy-worker bench step --batch 128 --microbatch 32 --lanes 2")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Whole steps of one worker: forward, backward, update; on random pixels in memory.
    Step(StepArgs),
    Data(bench_data::Args),
    Index(bench_index::Args),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy-worker bench step --lanes 2
  convoy-worker bench step --batch 128 --microbatch 32 --lanes 2 --bf16")]
struct StepArgs {
    /// Samples of one step.
    #[arg(long, default_value_t = 32, value_name = "N")]
    batch: u32,
    /// Samples of one microbatch.
    #[arg(long, default_value_t = 16, value_name = "N")]
    microbatch: u32,
    /// Microbatches computed at once, each on a thread of its own.
    #[arg(long, default_value_t = 1, value_name = "N")]
    lanes: u32,
    /// Threads inside each kernel.
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads_per_lane: u32,
    /// Steps measured, after two that are not.
    #[arg(long, default_value_t = 8, value_name = "N")]
    steps: u32,
    /// Number of classes.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    classes: usize,
    /// Which net: alexnet, alexnet-owt or alexnet-bn.
    #[arg(long, default_value_t = ModelName::Alexnet, value_name = "NAME")]
    model: ModelName,
    /// Groups of conv2, conv4 and conv5: 1 or 2 [default: the net's own].
    #[arg(long, value_name = "N")]
    groups: Option<u32>,
    /// Compute in bf16 instead of fp32.
    #[arg(long)]
    bf16: bool,
    /// Update by LARS instead of SGD.
    #[arg(long)]
    lars: bool,
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let args = match args.what {
        What::Step(args) => args,
        What::Data(args) => return bench_data::run(args),
        What::Index(args) => return bench_index::run(args),
    };
    if [args.batch, args.microbatch, args.lanes, args.steps].contains(&0) {
        let text = "batch, microbatch, lanes and steps must be at least 1";
        return Err(Failure::new(exit::USAGE, text));
    }
    let report = measure(&args)?;
    let written = std::io::stdout().write_all(report.as_bytes());
    written.map_err(|error| Failure::new(exit::FAILURE, error))?;
    Ok(ExitCode::SUCCESS)
}

/// Time of one lane in each part.
#[derive(Clone, Copy, Debug, Default)]
struct Split {
    forward_and_head: Duration,
    trunk_backward: Duration,
}

fn measure(args: &StepArgs) -> Result<String, ModelError> {
    threads::use_on_this_thread(args.threads_per_lane);
    let device = Device::find(args.device)?;
    let settings = Model {
        name: args.model,
        narrow: 1,
        groups: args.groups.unwrap_or(args.model.default_groups()),
        dropout: 0.5,
        init: Init::Kaiming,
        conv_bias: 0.0,
        fc_bias: 0.0,
        pixel_scale: 1.0,
    };
    let precision = if args.bf16 { Precision::Bf16 } else { Precision::Fp32 };
    let mut net = Net::initialised(Spec::of(&settings, args.classes)?, &settings, 1, device)?
        .with_precision(precision)?;
    let dropout = Dropout { seed: 1, probability: settings.dropout };
    let lanes: Vec<Lane> = (0..args.lanes).map(|_| Lane::new(&net, dropout)).collect();
    let samples: Vec<u64> = (0..u64::from(args.batch)).collect();
    let labels: Vec<i64> = samples.iter().map(|&s| (s % args.classes as u64) as i64).collect();
    let pixel_len = net.spec().input_len();
    let mut pixels = vec![0f32; samples.len() * pixel_len];
    Random::new(1, Stream::Drawing, 0, 0, 0).fill_normal(&mut pixels, 1.0);
    let hyper = Hyper {
        lr: 0.001,
        momentum: 0.9,
        weight_decay: 0.0005,
        optimizer: if args.lars { Optimizer::Lars } else { Optimizer::Sgd },
        lars_trust: 0.001,
    };

    let (mut steps, mut updates, mut splits) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..args.steps + 2 {
        let place = Place { epoch: 0, step, batch: args.batch };
        let started = Instant::now();
        let (parts, split) = compute(&lanes, args, &pixels, &labels, &samples, pixel_len, place)?;
        let reduced = sum(parts);
        let before_update = Instant::now();
        net.commit(&reduced, hyper, args.lanes)?;
        // The first steps find caches, allocator and kernels cold.
        if step >= 2 {
            updates.push(before_update.elapsed());
            steps.push(started.elapsed());
            splits.push(split);
        }
    }
    let step = median(&steps);
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    Ok(format!(
        "{}, {}, device {device}, batch {}, microbatch {}, lanes {}, threads per lane {}\n\
         {:.1} images/s, {:.0} ms a step (median of {})\n\
         forward and head {:.0} ms, trunk backward {:.0} ms (of the slowest lane), update {:.0} ms\n",
        args.model,
        if args.bf16 { "bf16" } else { "fp32" },
        args.batch,
        args.microbatch,
        args.lanes,
        args.threads_per_lane,
        f64::from(args.batch) / step.as_secs_f64(),
        ms(step),
        args.steps,
        ms(median(&splits.iter().map(|s| s.forward_and_head).collect::<Vec<_>>())),
        ms(median(&splits.iter().map(|s| s.trunk_backward).collect::<Vec<_>>())),
        ms(median(&updates)),
    ))
}

type Part = ([Factors; 3], Vec<f32>);

/// All microbatches of one step, in order, and the slowest lane's times.
fn compute(
    lanes: &[Lane],
    args: &StepArgs,
    pixels: &[f32],
    labels: &[i64],
    samples: &[u64],
    pixel_len: usize,
    place: Place,
) -> Result<(Vec<Part>, Split), ModelError> {
    let size = args.microbatch as usize;
    let starts: Vec<usize> = (0..samples.len()).step_by(size).collect();
    let count = lanes.len();
    let barrier = Barrier::new(count);
    let work = |number: usize, lane: Lane| -> Result<(Vec<(usize, Part)>, Split), ModelError> {
        threads::use_on_this_thread(args.threads_per_lane);
        barrier.wait();
        let (mut parts, mut split) = (Vec::new(), Split::default());
        for index in (number..starts.len()).step_by(count) {
            let range = starts[index]..(starts[index] + size).min(samples.len());
            let input = Input {
                pixels: &pixels[range.start * pixel_len..range.end * pixel_len],
                labels: &labels[range.clone()],
                samples: &samples[range],
            };
            let started = Instant::now();
            let (head, pending) = lane.forward_and_head(input, place)?;
            let between = Instant::now();
            let trunk = pending.backward()?;
            split.forward_and_head += between - started;
            split.trunk_backward += between.elapsed();
            parts.push((index, (head.factors, trunk)));
        }
        Ok((parts, split))
    };
    let done: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .iter()
            .map(Lane::share)
            .enumerate()
            .map(|(number, lane)| {
                let work = &work;
                scope.spawn(move || work(number, lane))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let (mut parts, mut slowest) = (Vec::new(), Split::default());
    for lane in done {
        let (mine, split) = lane?;
        parts.extend(mine);
        slowest.forward_and_head = slowest.forward_and_head.max(split.forward_and_head);
        slowest.trunk_backward = slowest.trunk_backward.max(split.trunk_backward);
    }
    parts.sort_by_key(|(index, _)| *index);
    Ok((parts.into_iter().map(|(_, part)| part).collect(), slowest))
}

/// The step's gradient: factors one after the other, the trunk's summed.
fn sum(parts: Vec<Part>) -> Reduced {
    let mut all: [Factors; 3] = Default::default();
    let mut trunk: Vec<f32> = Vec::new();
    for (factors, gradient) in parts {
        all.iter_mut().zip(&factors).for_each(|(all, factors)| all.append(factors));
        if trunk.is_empty() {
            trunk = gradient;
        } else {
            trunk.iter_mut().zip(&gradient).for_each(|(sum, value)| *sum += value);
        }
    }
    Reduced { trunk, head: all.map(HeadGradient::Factors) }
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
