//! `convoy-worker import`: a run that begins with given weights.

use std::path::PathBuf;
use std::process::ExitCode;

use convoy_common::dataset::Dataset;
use convoy_common::failure::Failure;
use convoy_common::store::Store;
use convoy_common::{config, exit};

use crate::model::{Device, Net, Spec};
use crate::trained::{Weights, start};

/// Creates a run that begins with the weights in a safetensors file.
///
/// The run's first checkpoint holds them, with zero momentum, and `convoy launch CONFIG` goes on
/// from it. It is never pruned, so the run can be repeated: `convoy launch CONFIG --from 1/0`.
///
/// Files of `convoy-worker export` fit, and any other with the same names and shapes: those of
/// torchvision's alexnet, saved as safetensors, for model.name = "alexnet-owt". Torchvision divides
/// pixels by 255 and by 0.225 or so, which is about pixel_scale = 0.0174 here.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convoy-worker import quickstart.safetensors configs/own-images.toml --new-classes
  convoy launch configs/own-images.toml")]
pub(crate) struct Args {
    /// The weights: a file, or a URL of an object store.
    #[arg(value_name = "FILE.safetensors")]
    file: String,
    /// The config of the new run.
    config: PathBuf,
    /// Sets one value of the config, whatever the file says; may be repeated.
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
    set: Vec<String>,
    /// Start the last layer afresh, for a data set with other classes than the file's.
    #[arg(long)]
    new_classes: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let config = config::load(&args.config, &args.set)?;
    let runtime = super::runtime()?;
    let (manifest, lineage) = runtime.block_on(async {
        let dataset = Dataset::open(Store::open(&config.data.url)?).await?;
        let weights = Weights::read(&args.file).await?;
        weights.check_pixel_scale(config.model.pixel_scale)?;
        let spec = Spec::of(&config.model, dataset.classes().len())?;
        // What the file does not give begins as in a run without it.
        let mut net = Net::initialised(spec, &config.model, config.run.seed, Device::CPU)?;
        weights.fill(&mut net, !args.new_classes)?;
        start::create(&config, &dataset.identity(), &net).await
    })?;
    #[expect(clippy::print_stdout, reason = "the command's result")]
    {
        println!(
            "the run at {} begins with {} (state {}), in lineage {}",
            config.run.url,
            manifest.path(),
            manifest.state_digest.get(..12).unwrap_or(&manifest.state_digest),
            lineage.lineage
        );
        let set: String = args.set.iter().map(|it| format!(" --set '{it}'")).collect();
        println!("convoy launch {}{set} goes on from there", args.config.display());
    }
    Ok(ExitCode::from(exit::OK))
}
