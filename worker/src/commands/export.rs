//! `convoy-worker export`: a checkpoint as one file for other programs.

use std::path::PathBuf;
use std::process::ExitCode;

use convoy_common::exit;
use convoy_common::failure::Failure;

use crate::model::Device;
use crate::trained::{self, Trained};

/// Writes a trained net into one safetensors file.
///
/// The file holds the parameters under the net's own names in PyTorch's layout (conv1.weight to
/// fc8.bias; alexnet-owt: torchvision's names), the mean image, and as metadata the net, the names
/// of the classes and how pixels are made. deploy/python/convoy_alexnet.py loads it into PyTorch,
/// `convoy-worker predict` and `convoy-worker import` read it too.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convoy-worker export --checkpoint runs/quickstart@best --output quickstart.safetensors
  python -c 'from safetensors import safe_open as o; print(o(\"quickstart.safetensors\", \"pt\").metadata())'")]
pub(crate) struct Args {
    /// URL of a run (its newest good checkpoint is taken), RUN@best, or of one checkpoint in it.
    #[arg(long, value_name = "URL")]
    checkpoint: String,
    /// The file to write.
    #[arg(long, value_name = "FILE.safetensors")]
    output: PathBuf,
    /// URL of the data set that the run was trained on, if it has moved.
    #[arg(long, value_name = "URL")]
    data: Option<String>,
    /// Replace the file if there is one.
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let runtime = super::runtime()?;
    let opening = Trained::open(&args.checkpoint, args.data.as_deref(), Device::CPU);
    let trained = runtime.block_on(opening)?;
    let bytes = trained::write(&args.output, &trained.net, &trained.facts, args.force)?;
    let place = |key: &str| trained.facts.trained.get(key).cloned().unwrap_or_default();
    #[expect(clippy::print_stdout, reason = "the command's result")]
    {
        println!(
            "wrote {}: {:.1} MB, epoch {}, step {}, {} classes",
            args.output.display(),
            bytes as f64 / 1e6,
            place("epoch"),
            place("step"),
            trained.facts.class_names.len()
        );
    }
    Ok(ExitCode::from(exit::OK))
}
