//! The command line of `convoy-worker`: what there is, and how it ends.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use convoy_common::failure::Failure;

use crate::commands::{bench, bench_ring, evaluate, export, import, join, model, predict};

/// Trains on one device as part of a job; `convoy launch` starts workers on this machine by itself.
#[derive(Debug, Parser)]
#[command(name = "convoy-worker", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Join(join::Args),
    Evaluate(evaluate::Args),
    Predict(predict::Args),
    Export(export::Args),
    Import(import::Args),
    Model(model::Args),
    Bench(bench::Args),
    #[command(hide = true)]
    BenchRing(bench_ring::Args),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Join(args) => join::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Export(args) => export::run(args),
        Command::Import(args) => import::run(args),
        Command::Model(args) => model::run(args),
        Command::Bench(args) => bench::run(args),
        Command::BenchRing(args) => bench_ring::run(args),
    };
    outcome.unwrap_or_else(|failure: Failure| ExitCode::from(told(failure)))
}

/// Tells the user what failed, and gives the exit code for it.
pub(crate) fn told(failure: Failure) -> u8 {
    #[expect(clippy::print_stderr, reason = "the one place where a failure reaches the user")]
    {
        eprintln!("{failure}");
    }
    failure.code()
}
