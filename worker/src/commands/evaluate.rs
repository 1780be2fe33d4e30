//! `convoy-worker evaluate`: top-1 and top-5 of a checkpoint over a validation split.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use convoy_common::checkpoint;
use convoy_common::dataset::{Dataset, Split};
use convoy_common::failure::Failure;
use convoy_common::sampling::EvaluationGrid;
use convoy_common::store::Store;
use convoy_common::{exit, telemetry};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::data::{self, Pipeline};
use crate::model::device::DeviceChoice;
use crate::model::{Device, Dropout, Net, Spec};
use crate::state;
use crate::train::evaluation;
use crate::train::head_plan::HeadPlan;
use crate::train::lanes::Lanes;

/// Evaluates a checkpoint on the validation split of a data set.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convoy-worker evaluate --checkpoint runs/quickstart
  convoy-worker evaluate --checkpoint runs/quickstart@best --crops 10
  convoy-worker evaluate --checkpoint s3://bucket/run/checkpoints/1/000000001200 --json")]
pub(crate) struct Args {
    /// URL of a run (its newest good checkpoint is taken), RUN@best, or of one checkpoint in it.
    #[arg(long, value_name = "URL")]
    checkpoint: String,
    /// URL of a packed data set [default: the one that the run was trained on].
    #[arg(long, value_name = "URL")]
    data: Option<String>,
    /// Views of each image: 1, the centre, or 10, corners, centre and mirror images (section 4.1 of
    /// the paper) [default: evaluation.crops of the run].
    #[arg(long, value_name = "1|10", value_parser = super::crops)]
    crops: Option<u32>,
    /// What computes.
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto", env = "CONVOY_DEVICE")]
    device: DeviceChoice,
    /// Microbatches that compute at once [default: one per core on a CPU, 1 on a GPU].
    #[arg(long, value_name = "N")]
    lanes: Option<u32>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    log: telemetry::Args,
}

/// What the command prints; the fields of `--json`.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The checkpoint's manifest.
    checkpoint: String,
    /// Where it was taken.
    epoch: u32,
    step: u32,
    global_step: u64,
    state_digest: String,
    /// The data set.
    data: String,
    images: u64,
    /// Views of each image.
    crops: u32,
    top1_correct: u64,
    top5_correct: u64,
    /// Shares of the images, 0 to 1.
    top1: f64,
    top5: f64,
    /// Mean cross-entropy, nats.
    loss: f64,
    seconds: f64,
    images_per_second: f64,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    telemetry::start(args.log.settings("evaluate"))?;
    let device = Device::find(args.device)?;
    let lanes = super::lanes(args.lanes, device)?;
    let runtime = super::runtime()?;
    let outcome = evaluate(&args, device, lanes, runtime.handle())?;
    runtime.shutdown_background();
    print(&outcome, args.json);
    Ok(ExitCode::from(exit::OK))
}

fn evaluate(
    args: &Args,
    device: Device,
    lanes: u32,
    runtime: &tokio::runtime::Handle,
) -> Result<Outcome, Failure> {
    let found = runtime.block_on(checkpoint::locate(&args.checkpoint))?;
    let config = &found.record.config;
    let data = args.data.as_deref().unwrap_or(&config.data.url);
    let dataset = runtime
        .block_on(async { Ok::<_, Failure>(Dataset::open(Store::open(data)?).await?) })?
        .with_read_timeout(config.data.read_timeout);
    let classes = found.record.dataset.classes as usize;
    if dataset.classes().len() != classes {
        let have = dataset.classes().len();
        return Err(Failure::new(
            exit::BAD_INPUT,
            format!("the data set at {data} has {have} classes, and the checkpoint was trained on {classes}"),
        )
        .with_hint("evaluate on a data set with the same classes"));
    }
    let images = dataset.len(Split::Validation);
    let start = Instant::now();
    let mut net = Net::zeroed(Spec::of(&config.model, classes)?, device)?
        .with_precision(config.numerics.precision)?;
    let layout = state::layout(&net);
    runtime.block_on(state::load(&found.checkpoints, &found.manifest, &layout, &mut net))?;

    let grid = EvaluationGrid::new(images, config.numerics.microbatch);
    let expected = grid.microbatches();
    let bar = progress_bar(images);
    let settings = data::Settings::of(config, lanes);
    let crops = args.crops.unwrap_or(config.evaluation.crops);
    let wanted = (0..expected).map(move |number| evaluation::request(&grid, number, crops));
    let pipeline = Pipeline::start(Arc::new(dataset), settings, runtime, wanted)?;
    // Dropout and the exchange of gradients play no part here.
    let dropout = Dropout { seed: config.run.seed, probability: 0.0 };
    let plan =
        HeadPlan::new(config.numerics.head_exchange, config.train.batch, net.spec().linears());
    let lanes = Lanes::start(&net, dropout, &plan, lanes, config.numerics.threads_per_lane)?;
    let counts = evaluation::count(&lanes, pipeline, expected as usize, |done| {
        bar.set_position((done as u64 * u64::from(config.numerics.microbatch)).min(images));
        Ok(())
    })?;
    bar.finish_and_clear();
    let total = evaluation::fold(&counts);
    let seconds = start.elapsed().as_secs_f64();
    let share = |count: u64| count as f64 / total.samples.max(1) as f64;
    let manifest = &found.manifest;
    Ok(Outcome {
        checkpoint: found.checkpoints.store().url_of(&found.path),
        epoch: manifest.shared.position.epoch,
        step: manifest.shared.position.step,
        global_step: manifest.shared.global_step,
        state_digest: manifest.state_digest.clone(),
        data: data.to_owned(),
        images: total.samples,
        crops,
        top1_correct: total.top1,
        top5_correct: total.top5,
        top1: share(total.top1),
        top5: share(total.top5),
        loss: total.loss_sum / total.samples.max(1) as f64,
        seconds,
        images_per_second: total.samples as f64 / seconds,
    })
}

fn progress_bar(images: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("evaluating {bar:30} {pos}/{len} images, {eta} left")
        .expect("invariant: the template is well formed");
    ProgressBar::with_draw_target(Some(images), target).with_style(style)
}

#[expect(clippy::print_stdout, reason = "the command's result goes to standard output")]
fn print(outcome: &Outcome, json: bool) {
    if json {
        let text = serde_json::to_string(outcome).expect("invariant: plain data has a JSON form");
        println!("{text}");
        return;
    }
    println!("checkpoint  {} (epoch {}, step {})", outcome.checkpoint, outcome.epoch, outcome.step);
    let views = if outcome.crops == 1 { "by their centres" } else { "by ten views each" };
    println!("images      {} of {}, {views}", outcome.images, outcome.data);
    println!("top-1       {:.2} %  ({} correct)", 100.0 * outcome.top1, outcome.top1_correct);
    println!("top-5       {:.2} %  ({} correct)", 100.0 * outcome.top5, outcome.top5_correct);
    println!("loss        {:.4}", outcome.loss);
    println!("time        {:.1} s, {:.0} images/s", outcome.seconds, outcome.images_per_second);
}
