//! The command line of `convoy`: what there is, and how it ends.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use convoy_common::failure::Failure;

use crate::commands::{
    check, checkpoints, dataset, drill, launch, lr, pause, prepare, resume, serve, status, stop,
    synthesize, workers,
};

/// Trains AlexNet on a cluster: the same weights, bit for bit, on any number of workers.
#[derive(Debug, Parser)]
#[command(name = "convoy", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Launch(launch::Args),
    Drill(drill::Args),
    Serve(serve::Args),
    Prepare(prepare::Args),
    Dataset(dataset::Args),
    Synthesize(synthesize::Args),
    Check(check::Args),
    #[command(alias = "checkpoint")]
    Checkpoints(checkpoints::Args),
    Status(status::Args),
    Workers(workers::Args),
    Pause(pause::Args),
    Resume(resume::Args),
    Stop(stop::Args),
    Lr(lr::Args),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Launch(args) => launch::run(args),
        Command::Drill(args) => drill::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Prepare(args) => prepare::run(args),
        Command::Dataset(args) => dataset::run(args),
        Command::Synthesize(args) => synthesize::run(args),
        Command::Check(args) => check::run(args),
        Command::Checkpoints(args) => checkpoints::run(args),
        Command::Status(args) => status::run(args),
        Command::Workers(args) => workers::run(args),
        Command::Pause(args) => pause::run(args),
        Command::Resume(args) => resume::run(args),
        Command::Stop(args) => stop::run(args),
        Command::Lr(args) => lr::run(args),
    };
    outcome.unwrap_or_else(|failure: Failure| {
        #[expect(clippy::print_stderr, reason = "the one place where a failure reaches the user")]
        {
            eprintln!("{failure}");
        }
        ExitCode::from(failure.code())
    })
}
