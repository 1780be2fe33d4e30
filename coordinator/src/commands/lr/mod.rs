//! `convoy lr`: the learning rate of a config, and of a running job.

mod drop;
mod plot;
mod show;

use std::process::ExitCode;

use clap::Subcommand;
use convoy_common::failure::Failure;

/// Shows the learning rate over a run, or drops that of a running job
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy lr show configs/quickstart.toml
  convoy lr drop runs/quickstart")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(show::Args),
    Drop(drop::Args),
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Show(args) => show::run(args),
        Command::Drop(args) => drop::run(args),
    }
}
