//! `convoy checkpoint now`: a checkpoint of a running job, at once.

use std::process::ExitCode;

use convoy_common::failure::Failure;
use convoy_common::pb;
use pb::operate_request::What;

use crate::commands::operate::{self, Target};

pub(super) const HELP: &str = "Examples:
  convoy checkpoint now runs/quickstart
  convoy checkpoint now 127.0.0.1:7171 --timeout 5m --json

Exit codes: 0 it is published, 1 refused or abandoned, 64 no such run, 69 no job runs there, or it is not
published in time (it will be).";

/// Takes a checkpoint of a running job as soon as all workers can, and prints its name once it is
/// published.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
}

pub(super) fn now(args: &Args) -> Result<ExitCode, Failure> {
    operate::run(&args.target, What::Checkpoint(pb::CheckpointNow {}))
}
