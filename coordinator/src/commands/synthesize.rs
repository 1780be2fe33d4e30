//! `convoy synthesize`: draws a data set of JPEG files.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use convoy_common::failure::Failure;

use crate::parallel::default_threads;
use crate::synthesize::{MOST_CLASSES, Plan, draw};

/// Draw a data set of JPEG files in ImageNet's layout, to try things out without photographs
///
/// Each class is a shape with a texture and a hue; every hue and every texture belongs to two
/// classes, so that none of the clues is enough alone. Position, size, rotation, light, background,
/// clutter and noise are random. Pictures are 200 to 500 pixels a side, in many aspect ratios. The
/// same arguments always draw the same files. Pack the result with `convoy prepare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy synthesize data/shapes
  convoy synthesize data/shapes20 --classes 20 --train 10000 --val 2000 --seed 7
  convoy synthesize data/shapes && convoy prepare data/shapes data/shapes-packed")]
pub(crate) struct Args {
    /// Folder to draw into: DEST/train/CLASS/NUMBER.jpg and DEST/val/CLASS/NUMBER.jpg
    #[arg(value_name = "DEST")]
    dest: PathBuf,
    /// Number of classes
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(2..=i64::from(MOST_CLASSES)))]
    classes: u32,
    /// Images to train on, in all; classes take turns
    #[arg(long, value_name = "N", default_value_t = 4000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    train: u64,
    /// Images to hold out, in all
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    val: u64,
    /// Another seed draws other images
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Threads to draw with [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// If DEST was drawn with the same arguments before, use it as it is
    #[arg(long)]
    reuse: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let plan = Plan::new(args.classes, args.train, args.val, args.seed);
    let threads = args.threads.map_or_else(default_threads, usize::from);
    let drawn = draw(&args.dest, &plan, threads, args.reuse)?;
    let dest = args.dest.display();
    let text = if drawn.reused {
        format!("{dest} holds this data set already; used as it is\n")
    } else {
        let images = plan.train + plan.validation;
        let seconds = drawn.elapsed.as_secs_f64();
        format!(
            "drew {} training and {} held-out images of {} classes into {dest}: \
             {:.1} MB in {seconds:.1} s, {:.0} images/s\n",
            plan.train,
            plan.validation,
            plan.classes,
            drawn.bytes as f64 / 1e6,
            images as f64 / seconds.max(1e-9),
        )
    };
    // A closed pipe is no reason to fail: the work is done.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}
